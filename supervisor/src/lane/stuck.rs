//! A lane whose thread begins no calls although it is at none: what the guest left
//! behind, a timer or a task, does not end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Lane;

/// How often it is looked at again: after a pause of the whole machine, the lane's
/// thread has had its turn before the last look.
const LOOKS: u32 = 8;

impl Lane {
    /// How many calls the worker has begun, if others wait and it is at none. One
    /// that has begun has its own deadline; and a guest that waits for somebody's
    /// answer, or for a segment that we have not made, does not stand in its own way,
    /// unless it does not take it.
    pub(crate) fn begins_nothing(&self) -> Option<u64> {
        let ended = self.ended_calls();
        let begun = self.begun();
        let waits = self.is_open() && self.in_flight() > 0;
        let at_none = begun <= ended && !self.outcalls.are_due() && !self.owes_segment();
        (waits && at_none).then_some(begun)
    }

    /// Whether that stays so for `time`. One watcher is enough: to others it says
    /// no.
    pub(crate) async fn stays_stuck(&self, time: Duration) -> bool {
        if self.watched.swap(true, Ordering::AcqRel) {
            return false;
        }
        let begun = self.begins_nothing();
        let mut stuck = begun.is_some();
        for _ in 0..LOOKS {
            if !stuck {
                break;
            }
            tokio::time::sleep(time / LOOKS).await;
            stuck = self.begins_nothing() == begun;
        }
        self.watched.store(false, Ordering::Release);
        stuck
    }
}
