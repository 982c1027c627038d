//! What can go wrong, in types that travel between worker and supervisor.

mod failure;
mod guest;
mod loader;
mod runtime;

pub use failure::Failure;
pub use guest::{GuestError, MAX_ALL_CAUSES, MAX_CAUSES};
pub(crate) use guest::{MAX_TEXT, cut_text, short_text};
pub use loader::LoaderError;
pub use runtime::RuntimeError;
