//! Who prepares for bundles, and whether one has come meanwhile.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether a bundle waits for a lane's thread that is still preparing
/// ([`BundleLoader::prepare`](crate::BundleLoader::prepare)).
#[derive(Clone, Debug, Default)]
pub struct Demand(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_there: Mutex<bool>,
    came: Condvar,
}

impl Demand {
    /// Of a bundle that waits from the beginning.
    pub(crate) fn arisen() -> Self {
        let demand = Self::default();
        demand.arise();
        demand
    }

    fn state(&self) -> MutexGuard<'_, bool> {
        self.0.is_there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one waits by now.
    #[must_use]
    pub fn is_there(&self) -> bool {
        *self.state()
    }

    /// Sleeps for so long, or until one comes; true if one has.
    #[must_use]
    pub fn comes_within(&self, time: Duration) -> bool {
        let (state, _) = self
            .0
            .came
            .wait_timeout_while(self.state(), time, |is_there| !*is_there)
            .unwrap_or_else(PoisonError::into_inner);
        *state
    }

    /// One has come, or none ever will: whoever prepares may as well stop.
    pub(crate) fn arise(&self) {
        *self.state() = true;
        self.0.came.notify_all();
    }
}
