//! Native bundles: shared libraries with the C interface of `menagerie.h`.
//!
//! [`NativeLoader`] loads each generation from a private copy of the file, and
//! unmaps it when the generation's thread has ended.

mod call;
mod cursor;
mod elf;
mod errors;
mod host;
mod image;
mod instance;
mod keys;
mod library;
mod loader;
mod params;
mod registrar;
mod stack;
mod whose;

pub use loader::NativeLoader;
pub use stack::tell_stacks;
