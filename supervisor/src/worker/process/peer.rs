//! What a process does for its lanes: messages beside the rings, the end of calls
//! that are overdue, and guests' own calls.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use menagerie_protocol::lane::TURNS;
use menagerie_protocol::message::{LaneId, ToWorker};

use super::super::condition::{Condition, CpuSample, LaneThread};
use super::{KillCause, Outcall, Process};
use crate::lane::{Lane, LanePeer, Leave, OpenOutcall, OutcallHead, Ticket, Violation, lock};
use crate::pause::Pause;

impl LanePeer for Process {
    fn send(&self, message: ToWorker, fds: Vec<OwnedFd>) {
        self.send_with(&message, fds);
    }

    fn violation(&self, lane: LaneId, what: Violation) {
        let bundle = self.bundle_of(lane);
        let reason = format!("protocol violation on lane {lane}: {what}");
        self.kill_for(KillCause::Violation, reason, bundle, None, true);
    }

    fn overdue(&self, lane: &Arc<Lane>, ticket: Ticket, until_kill: Option<Duration>) {
        let Some(process) = self.this.upgrade() else { return };
        let lane = Arc::clone(lane);
        self.runtime.spawn(async move {
            if !lane.begins_abandoned(ticket).await {
                return;
            }
            process.send(&ToWorker::Interrupt { lane: lane.id, call: ticket.wire() });
            let Some(until_kill) = until_kill else { return };
            let bundle = process.bundle_of(lane.id);
            let name = bundle.clone().unwrap_or_default();
            let thread = LaneThread { pid: process.pid, bundle: name };
            let grace = process.config.grace;
            let leave = Leave { grace, endless: process.config.deadline };
            let mut left = until_kill;
            for turn in 0..=TURNS {
                // Only the last of it: before its deadline it may do what it likes.
                let watch = left.min(grace);
                tokio::time::sleep(left - watch).await;
                let before: Option<CpuSample> = thread.sample();
                tokio::time::sleep(watch).await;
                if !lane.is_running(ticket) {
                    return;
                }
                // So many calls may have been begun before the lane comes to this one's end.
                if turn == TURNS || !lane.another_may_run(ticket, leave).await {
                    let reason = "a call that did not end within its deadline and grace";
                    let condition = thread.since(before);
                    process.kill_late(KillCause::Deadline, reason, bundle, condition);
                    return;
                }
                left = grace;
            }
        });
    }

    fn stuck(&self, lane: &Arc<Lane>) {
        let Some(process) = self.this.upgrade() else { return };
        let lane = Arc::clone(lane);
        self.runtime.spawn(async move {
            let bundle = process.bundle_of(lane.id);
            let name = bundle.clone().unwrap_or_default();
            let thread = LaneThread { pid: process.pid, bundle: name };
            let (before, heard) = (thread.sample(), process.pong.load(Ordering::Relaxed));
            // Long enough for a heartbeat: a worker that does not answer these is
            // judged by them.
            let time = process.config.grace.max(2 * process.config.heartbeat);
            let stuck = lane.stays_stuck(time).await;
            let condition = thread.since(before);
            let answers = process.pong.load(Ordering::Relaxed) > heard;
            if stuck && answers && condition != Some(Condition::Stopped) {
                let reason = "no call was begun within a deadline and grace";
                process.kill_late(KillCause::Deadline, reason, bundle, condition);
            }
        });
    }

    fn read_on(&self, lane: &Arc<Lane>) {
        let lane = Arc::clone(lane);
        self.runtime.spawn(async move { lane.pump() });
    }

    fn grant_later(&self, lane: &Arc<Lane>, len: usize) {
        let lane = Arc::clone(lane);
        self.runtime.spawn(async move {
            let mut pause = Pause::new(Duration::from_millis(5), Duration::from_millis(500));
            while !lane.grant_owed(len) {
                tokio::time::sleep(pause.next()).await;
            }
        });
    }

    fn outcall(&self, open: OpenOutcall, head: OutcallHead, payload: Option<Vec<u8>>) {
        let caller = lock(&self.lanes)
            .get(&open.lane().id)
            .map(|entry| (Arc::clone(&entry.bundle), Arc::clone(&entry.manifest)));
        let Some((bundle, manifest)) = caller else { return };
        let dead = self.dead.subscribe();
        (self.router)(Outcall { bundle, manifest, open, head, payload, dead });
    }
}
