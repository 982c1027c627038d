//! What can go wrong, in types that travel between worker and supervisor.

mod failure;
mod guest;
mod loader;
mod runtime;

pub use failure::Failure;
#[cfg(test)]
pub(crate) use guest::MAX_TEXT;
pub(crate) use guest::short_text;
pub use guest::{GuestError, MAX_ALL_CAUSES, MAX_CAUSES};
pub use loader::LoaderError;
pub use runtime::RuntimeError;
