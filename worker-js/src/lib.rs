//! The js worker of Menagerie: bundles in JavaScript, as ES modules, on the
//! engine of `deno_core`.
//!
//! [`JsLoader`] gives every generation of a bundle an engine of its own, on its
//! lane's thread; the engine is dropped there with the generation.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arity;
mod bootstrap;
mod borrowed;
mod bytes;
mod call;
mod decode;
mod encode;
mod engine;
mod event_loop;
mod exports;
mod failure;
mod guest_error;
#[cfg(feature = "quickjs")]
mod heap;
#[cfg(not(feature = "quickjs"))]
#[path = "no_heap.rs"]
mod heap;
mod hooks;
mod immutable;
mod instance;
mod interrupt;
mod lane;
mod list;
mod loader;
mod modules;
mod natives;
mod rejections;
mod sources;
mod timers;
mod waiting;

pub use engine::version;
pub use loader::JsLoader;
