//! The task that reads replies for those who sleep.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use menagerie_protocol::lane::wait::drain_wakes;
use tokio::io::Interest;
use tokio::task::AbortHandle;

use super::Lane;
use crate::watched_fd::watch;

/// Ends its lane's pump when dropped.
#[derive(Debug)]
pub(crate) struct Pump(AbortHandle);

#[cfg(test)]
impl Pump {
    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lane {
    /// Starts the lane's pump on a runtime.
    pub(crate) fn start_pump(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
    ) -> std::io::Result<Pump> {
        let _guard = runtime.enter();
        let event: OwnedFd = self.event.try_clone()?;
        let event = watch(event, Interest::READABLE)?;
        let lane = Arc::clone(self);
        let task = runtime.spawn(async move {
            while let Ok(mut ready) = event.readable().await {
                let is_open = drain_wakes(event.get_ref());
                ready.clear_ready();
                lane.pump();
                // Whoever has closed the other end has published its last frame before.
                if !is_open {
                    return;
                }
            }
        });
        Ok(Pump(task.abort_handle()))
    }
}
