//! The calls of its own that a lane's guest has open: how many, and which of the
//! bundle's calls they are made for.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};

use menagerie_protocol::lane::MAX_OUTCALLS;
use tokio::sync::oneshot;

use super::{Lane, Ticket, Violation, lock};

/// What ends a worker. An honest one refuses the call after [`MAX_OUTCALLS`] itself; it
/// may have read an answer, and made the next call, before we have counted the answer.
const TOO_MANY: u32 = 2 * MAX_OUTCALLS;

/// What the arguments of a lane's open calls may take together, in payloads of the largest
/// size (256 MiB, unless configured): each is copied here, and a worker need not have as
/// much memory to make them, as all may stand in one segment.
const MAX_PAYLOADS: u64 = 4;

/// Those of one lane.
#[derive(Debug, Default)]
pub(super) struct Outcalls(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    count: u32,
    /// What their arguments take.
    bytes: u64,
    /// Those whose answers are there, and have no room in the ring.
    answered: u32,
    /// By their numbers: the call that each is made for, and who is told when nobody
    /// waits for that any more.
    served: HashMap<u64, (Ticket, oneshot::Sender<()>)>,
}

impl Outcalls {
    /// Whether the guest waits for an answer that is not there yet.
    pub(super) fn are_due(&self) -> bool {
        let open = lock(&self.0);
        open.count > open.answered
    }

    /// Nobody waits for a call any more: nor for those that are made for it.
    pub(super) fn abandon(&self, parent: Ticket) {
        let mut open = lock(&self.0);
        let gone = open.served.extract_if(|_, (served, _)| *served == parent);
        for (_, (_, told)) in gone {
            let _ = told.send(());
        }
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenOutcall {
    lane: Arc<Lane>,
    call: u64,
    abandoned: Option<oneshot::Receiver<()>>,
    is_answered: bool,
    bytes: u64,
}

impl OpenOutcall {
    /// Where it was made, and where its answer goes.
    pub(crate) const fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Waits until nobody waits for the call any more that this one is made for; for
    /// ever, if it is made for none, or that was said already.
    pub(crate) async fn abandoned(&mut self) {
        if let Some(abandoned) = &mut self.abandoned {
            let told = abandoned.await.is_ok();
            self.abandoned = None;
            if told {
                return;
            }
        }
        pending().await
    }

    /// Takes note of its arguments, before they are copied; unless they are more than the
    /// lane may have.
    pub(super) fn has_room(&mut self, bytes: u64) -> bool {
        let mut open = lock(&self.lane.outcalls.0);
        let all = open.bytes.saturating_add(bytes);
        let has_room = all <= self.lane.limits.max_payload.saturating_mul(MAX_PAYLOADS);
        if has_room {
            (open.bytes, self.bytes) = (all, bytes);
        }
        has_room
    }

    /// How many the lane has open.
    pub(crate) fn of_lane(&self) -> u32 {
        lock(&self.lane.outcalls.0).count
    }

    /// Its answer is there, and the worker only has to make room for it.
    pub(crate) fn is_answered(&mut self) {
        if !std::mem::replace(&mut self.is_answered, true) {
            lock(&self.lane.outcalls.0).answered += 1;
        }
    }
}

impl Drop for OpenOutcall {
    fn drop(&mut self) {
        let mut open = lock(&self.lane.outcalls.0);
        open.count -= 1;
        open.bytes -= self.bytes;
        open.answered -= u32::from(self.is_answered);
        open.served.remove(&self.call);
    }
}

impl Lane {
    /// The guest makes a call, for one of its bundle's in flight or for none that is
    /// known.
    pub(super) fn open_outcall(
        self: &Arc<Self>,
        call: u64,
        parent: Option<Ticket>,
    ) -> Result<OpenOutcall, Violation> {
        let mut open = lock(&self.outcalls.0);
        if open.count >= TOO_MANY {
            return Err(Violation::TooManyOutcalls(TOO_MANY));
        }
        open.count += 1;
        let abandoned = parent.map(|parent| {
            let (told, abandoned) = oneshot::channel();
            open.served.insert(call, (parent, told));
            abandoned
        });
        drop(open);
        // `abandon` changes the slot before it looks here.
        if let Some(parent) = parent.filter(|parent| self.slots.is_abandoned(*parent)) {
            self.outcalls.abandon(parent);
        }
        let lane = Arc::clone(self);
        Ok(OpenOutcall { lane, call, abandoned, is_answered: false, bytes: 0 })
    }
}
