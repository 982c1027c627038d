//! Operations that are not left half done when whoever asked for them has gone.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use menagerie_protocol::RuntimeError;

use crate::core::Core;

/// What a panic says, as far as it is a text.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic that is no text".to_owned()
    }
}

/// Runs a part of an operation whose other parts go on if it panics: the host's `tracing`
/// code runs in each of them, and nobody would ask for the rest again.
pub(crate) async fn caught(part: impl Future<Output = ()>) -> Result<(), RuntimeError> {
    let caught = AssertUnwindSafe(part).catch_unwind().await;
    caught.map_err(|panic| RuntimeError::Panicked { message: panic_message(&*panic) })
}

impl Core {
    /// Runs an operation in a task of its own, and waits for it. A host may drop the
    /// future of an operation at any await, as an HTTP client does that hangs up: half of
    /// one would leave a bundle that nobody can find and nobody ends.
    pub(crate) async fn to_its_end<T, F>(
        &self,
        operation: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, RuntimeError>
    where
        F: Future<Output = Result<T, RuntimeError>> + Send + 'static,
        T: Send + 'static,
    {
        let Some(core) = self.this.upgrade() else { return Err(RuntimeError::ShuttingDown) };
        let running = self.runtime.spawn(self.telling(operation(core)));
        running.await.unwrap_or_else(|error| {
            Err(match error.try_into_panic() {
                Ok(panic) => RuntimeError::Panicked { message: panic_message(&*panic) },
                // The runtime has ended.
                Err(_) => RuntimeError::ShuttingDown,
            })
        })
    }
}
