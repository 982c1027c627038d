//! Emptying a lane whose generation is to go: calls may finish, each in its own time, and
//! what does not is asked to stop (`DESIGN.md` rules L7, S6, S8).

use std::sync::Arc;
use std::time::{Duration, Instant};

use menagerie_protocol::message::ToWorker;

use super::{Entry, Process};
use crate::config::Config;
use crate::lane::{Lane, lock};
use crate::pause::Pause;

/// The first looks are close together: a lane is usually idle, and its callers wait.
const fn pauses() -> Pause {
    Pause::new(Duration::from_micros(50), Duration::from_millis(5))
}

impl Process {
    /// Waits until no call runs on a lane, but not longer than `limit`.
    pub(crate) async fn drain(&self, lane: &Arc<Lane>, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.drained(lane, || until).await
    }

    /// Waits until no call runs on a lane that takes no more of them, and ends what does
    /// not end by itself, as far as that can be done softly. Returns whether no call runs.
    ///
    /// A call has until its own deadline, and the grace. One that has none may take as long
    /// as those that do not ask for another deadline, or as a stop waits for them: it was
    /// promised no end, and what waits for it was promised one.
    pub(crate) async fn empty(&self, lane: &Arc<Lane>) -> bool {
        let Config { deadline, grace, drain, .. } = *self.config;
        let usual = if deadline.is_zero() { deadline } else { deadline + grace };
        let soon = Instant::now() + drain.max(usual);
        // Looked at each time: a caller that has just come has not looked at the clock yet.
        let until = || {
            let last = lane.last_deadline().and_then(|last| last.checked_add(grace));
            last.map_or(soon, |last| last.max(soon))
        };
        if self.drained(lane, until).await {
            return true;
        }
        let limit = Instant::now() + grace;
        let mut asked = Vec::new();
        self.drained(lane, || {
            // Again and again: those behind a call begin when it has ended.
            for ticket in lane.running() {
                if !asked.contains(&ticket) {
                    asked.push(ticket);
                    self.send(&ToWorker::Interrupt { lane: lane.id, call: ticket.wire() });
                }
            }
            limit
        })
        .await
    }

    /// Waits until everybody has left who is about to: no call runs on any lane, and those
    /// that take none any more have been ended by who closed them. That is done in time, or
    /// costs the process its life.
    pub(crate) async fn vacated(&self) {
        let leaves = |entry: &Entry| entry.lane.in_flight() > 0 || !entry.lane.is_open();
        let mut pause = pauses();
        while lock(&self.lanes).values().any(leaves) {
            self.pause(pause.next()).await;
        }
    }

    /// Waits until no call runs on a lane, until the time that `until` says at each look.
    async fn drained(&self, lane: &Arc<Lane>, mut until: impl FnMut() -> Instant) -> bool {
        let mut pause = pauses();
        while lane.in_flight() > 0 && !lane.is_dead() {
            if Instant::now() >= until() {
                return false;
            }
            // For calls whose futures nobody polls.
            lane.pump();
            self.pause(pause.next()).await;
        }
        true
    }
}
