//! A process that is to end: it takes no bundle any more, and whoever ends it takes out of
//! it what it has (`DESIGN.md` rules S4, S6, S8).
//!
//! A generation comes into a process on a lane that is begun, and serves from there when its
//! seat says so; from the one to the other the seat is locked. So who ends a process says
//! first that it leaves. No lane is begun there from then on: the bundles that have one are
//! all that can be served there, and are so, or will not be, when their seats can be locked.
//! Where another process is there already, as at a rolling restart, they go over one by one;
//! else nothing begins to serve at all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Entry, Process};
use crate::bundle::Bundle;
use crate::lane::lock;

impl Process {
    /// From now on it begins no lane.
    pub(in super::super) fn leave(&self) {
        // Who begins one has it among the others before this, or looks after it.
        let _lanes = lock(&self.lanes);
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether it begins no lane: it leaves, has ended, or was killed and will.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || self.is_ending()
    }

    /// The bundles that have a lane here, in no order, and some more than once.
    pub(crate) fn bundles(&self) -> Vec<Arc<Bundle>> {
        let bundle = |entry: &Entry| Arc::clone(&entry.bundle);
        lock(&self.lanes).values().map(bundle).collect()
    }

    /// It leaves, and no other one is there yet: nothing begins to serve here any more, and
    /// what is being loaded is not waited for.
    pub(in super::super) fn close(&self) {
        self.leave();
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether nothing begins to serve here.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || self.is_dead()
    }
}
