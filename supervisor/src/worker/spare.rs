//! What the next process needs and need not wait for: it is there before anybody
//! crashes, as making it takes a fifth of a recovery's time of ours.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use super::dying::Dying;
use super::first_load::Way;
use super::launch::Order;
use super::scratch::{Scratch, Scratches};
use super::spawn::Stdio;
use crate::core::Core;
use crate::lane::{Draft, LaneLimits, lock};
use crate::placement::WorkerName;

/// For one process.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) scratch: Scratch,
    /// What cannot be made now is made, or is an error, when it is needed.
    pub(crate) stdio: Option<Stdio>,
    pub(super) first_load: Option<Way>,
    /// The first of its lanes.
    pub(crate) lane: Option<Draft>,
    /// Nothing waits for this.
    pub(crate) dying: Option<Dying>,
}

/// Makes them, and keeps one, for whichever worker comes first: a folder, fourteen
/// descriptors, a thread that sleeps, and memory that nobody has touched.
#[derive(Debug)]
pub(crate) struct Spares {
    scratches: Scratches,
    limits: LaneLimits,
    kept: Mutex<Option<Spare>>,
    /// By loader.
    orders: Mutex<HashMap<String, Order>>,
}

impl Spares {
    /// `dir` is where the folders are.
    pub(crate) fn new(dir: &Path, limits: LaneLimits) -> Self {
        Self {
            scratches: Scratches::new(dir),
            limits,
            kept: Mutex::default(),
            orders: Mutex::default(),
        }
    }

    /// For a process that is started now.
    pub(crate) fn take(&self) -> io::Result<Spare> {
        let kept = lock(&self.kept).take();
        // It may have waited for days, and somebody may have tidied up.
        kept.filter(|spare| spare.scratch.path().is_dir()).map_or_else(|| self.make(), Ok)
    }

    /// An order for a worker, as it was when the last one of its loader became ready.
    pub(super) fn order(&self, core: &Core, name: &WorkerName) -> Option<Order> {
        if name.is_in_sandbox(&core.config) {
            return None;
        }
        lock(&self.orders).remove(&name.loader)
    }

    /// This worker is ready: if it crashes, this is what the next process needs.
    pub(super) fn provide_for(&self, core: &Core, name: &WorkerName) {
        self.refill();
        // One in a sandbox has an order that is no other's.
        if name.is_in_sandbox(&core.config) {
            return;
        }
        // Why there is none is said to whoever needs it.
        if let Ok(order) = Order::new(core, name, false) {
            lock(&self.orders).insert(name.loader.clone(), order);
        }
    }

    /// Makes the one that is kept, if it lacks. If that cannot be, the next who needs
    /// it says so.
    pub(crate) fn refill(&self) {
        let mut kept = lock(&self.kept);
        if kept.is_none() {
            *kept = self.make().ok();
        }
    }

    fn make(&self) -> io::Result<Spare> {
        Ok(Spare {
            scratch: self.scratches.make()?,
            stdio: Stdio::new().ok(),
            first_load: Way::new().ok(),
            lane: Draft::new(self.limits).ok(),
            dying: Dying::new().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn spares_are_made_ahead() {
        let base = tempfile::tempdir().unwrap();
        let spares = Spares::new(base.path(), LaneLimits::of(&Config::default()));
        let count = || base.path().read_dir().unwrap().count();
        spares.refill();
        spares.refill();
        assert_eq!(count(), 1);
        let (first, second) = (spares.take().unwrap(), spares.take().unwrap());
        assert_ne!(first.scratch.path(), second.scratch.path());
        assert!(first.stdio.is_some() && second.stdio.is_some());
        assert!(first.first_load.is_some() && second.first_load.is_some());
        assert!(first.lane.is_some() && second.lane.is_some());
        assert!(first.dying.is_some() && second.dying.is_some());
        drop((first, second));
        assert_eq!(count(), 0);
    }

    #[test]
    fn spares_that_somebody_has_tidied_away_are_made_anew() {
        let base = tempfile::tempdir().unwrap();
        let spares = Spares::new(base.path(), LaneLimits::of(&Config::default()));
        spares.refill();
        std::fs::remove_dir(base.path().read_dir().unwrap().next().unwrap().unwrap().path())
            .unwrap();
        assert!(spares.take().unwrap().scratch.path().is_dir());
        let gone = Spares::new(&base.path().join("gone"), LaneLimits::of(&Config::default()));
        gone.refill();
        let error = gone.take().unwrap_err();
        assert!(error.to_string().contains("gone/worker-"), "{error}");
    }
}
