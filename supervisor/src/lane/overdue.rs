//! A call whose time is up, and which goes on: whether that is its own doing.
//!
//! A call that awaits hears of its end when the lane's thread comes to it. Meanwhile
//! another call may have that thread, and have time for it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::slots::Due;
use super::{Lane, Ticket};
use crate::pause::Pause;

/// What calls have beyond their own time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leave {
    /// After their deadlines, before they cost the worker its life.
    pub(crate) grace: Duration,
    /// Those that have none, where they only may be at work; zero for ever.
    pub(crate) endless: Duration,
}

impl Lane {
    /// Waits while a call that is overdue may only be waiting for its lane's thread, until
    /// the calls that may have it have ended, or have had their time. Returns whether that
    /// was so.
    ///
    /// Which calls await is the worker's word. It gains no more by it than the time of
    /// calls that the host waits for.
    pub(crate) async fn another_may_run(&self, overdue: Ticket, leave: Leave) -> bool {
        let mut pause = Pause::new(Duration::from_millis(1), Duration::from_millis(100));
        let mut waited = false;
        // What we have no memory or descriptors for is not its fault.
        while self.owes_segment() && self.is_running(overdue) {
            waited = true;
            tokio::time::sleep(pause.next()).await;
        }
        let begun = self.begun();
        let left = self.memory.left().load(Ordering::Relaxed);
        let last = begun.saturating_sub(1);
        // Nobody else can have the thread before it has let go of it.
        if !self.slots.is_running(overdue, left.max(last)) {
            return waited;
        }
        // The thread is in the call that was begun last, or in what goes on after an await,
        // of any call.
        let all_await = left >= begun;
        let numbers = if all_await { 0..begun } else { last..begun };
        let now = Instant::now();
        let endless = all_await && !leave.endless.is_zero();
        let endless = now.checked_add(leave.endless).filter(|_| endless);
        let has_time = |due| {
            let end = match due {
                Due::At(due) => due.checked_add(leave.grace),
                Due::Never => endless,
                // Whose caller does not look at the clock does not wait for it.
                Due::Unknown => now.checked_add(leave.grace),
            };
            end.is_none_or(|end| Instant::now() < end)
        };
        while self.is_running(overdue) && self.slots.any_other(overdue, numbers.clone(), has_time) {
            waited = true;
            tokio::time::sleep(pause.next()).await;
        }
        waited
    }
}
