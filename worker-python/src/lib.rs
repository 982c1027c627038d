//! The Python worker of Menagerie: [`PythonLoader`] loads bundles into the one
//! CPython interpreter of its process.
//!
//! `load` builds a generation, `instance` answers its calls. The parts that no
//! call waits for are Python themselves, in `src/python`: imports, error texts,
//! signatures, the event loop, streams. `native` is what they call.

mod call;
mod forks;
mod function;
mod guest_error;
mod host_call;
mod instance;
mod interpreter;
mod interrupt;
mod lane;
mod load;
mod loader;
mod native;
mod output;
mod shared_bytes;
mod tasks;
mod thread;
mod value;

pub use interpreter::runtime_version;
pub use loader::PythonLoader;
