//! The Lua worker: bundles in LuaJIT, or in PUC Lua 5.4 with the feature
//! `lua54`. One Lua state for each generation of a bundle.

mod bytes;
mod decode;
mod encode;
mod exports;
mod instance;
mod interrupt;
mod loader;
mod native;
mod outcall;
mod output;
mod raised;
mod require;
mod stack;
mod trampoline;
mod vm;
mod wide;

pub use loader::LuaLoader;
pub use vm::runtime_version;
