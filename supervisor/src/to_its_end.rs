//! Operations that are not left half done when whoever asked for them has gone.

use std::sync::Arc;

use menagerie_protocol::RuntimeError;

use crate::core::Core;

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
        let running = self.runtime.spawn(operation(core));
        // It does not come to its end only when the runtime ends.
        running.await.unwrap_or(Err(RuntimeError::ShuttingDown))
    }
}
