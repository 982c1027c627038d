//! The calls in flight on a lane.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use super::bulk::DownSegment;
use super::{Outcome, lock};

/// A call in flight: which slot, and which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) index: u32,
    generation: u32,
}

impl Ticket {
    /// The call's id on the wire.
    pub(crate) const fn wire(self) -> u64 {
        self.index as u64 | ((self.generation as u64) << 32)
    }

    /// Reads it from the wire; whether there is such a call is for
    /// [`Slots::complete`] to say.
    #[allow(clippy::cast_possible_truncation, reason = "both halves are 32 bits")]
    pub(crate) const fn from_wire(wire: u64) -> Self {
        Self { index: wire as u32, generation: (wire >> 32) as u32 }
    }
}

/// Who waits for a call.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// Nobody sleeps: the caller looks by itself, or has not begun to wait.
    Nobody,
    /// A task.
    Task(Waker),
    /// A thread that is parked.
    Thread(Thread),
}

impl Waiter {
    pub(crate) fn wake(self) {
        match self {
            Self::Nobody => {}
            Self::Task(waker) => waker.wake(),
            Self::Thread(thread) => thread.unpark(),
        }
    }
}

enum Status {
    Free,
    Waiting(Waiter),
    /// The caller has gone; the answer is thrown away.
    Abandoned,
    Done(Outcome),
}

struct Slot {
    state: Mutex<SlotState>,
}

struct SlotState {
    generation: u32,
    status: Status,
    /// The call's number among all of its lane.
    number: u64,
    function: u32,
    /// When it was sent, if somebody has looked at the clock.
    sent: Option<Instant>,
    /// Where its arguments stand; kept until the outcome is taken, because it
    /// may be an echo of them.
    segment: Option<DownSegment>,
}

/// A call that was running when its worker died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) function: u32,
    pub(crate) sent: Option<Instant>,
}

pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Mutex<Vec<u32>>,
    used: AtomicU32,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        let slot = || Slot {
            state: Mutex::new(SlotState {
                generation: 0,
                status: Status::Free,
                number: 0,
                function: 0,
                sent: None,
                segment: None,
            }),
        };
        Self {
            slots: (0..capacity).map(|_| slot()).collect(),
            // The last one freed is the next one taken: it is in the cache.
            free: Mutex::new((0..capacity).rev().collect()),
            used: AtomicU32::new(0),
        }
    }

    /// Takes a slot for a call, `None` if all are taken.
    #[inline]
    pub(crate) fn open(
        &self,
        number: u64,
        function: u32,
        sent: Option<Instant>,
        segment: Option<DownSegment>,
    ) -> Option<Ticket> {
        let index = lock(&self.free).pop()?;
        self.used.fetch_add(1, Ordering::Relaxed);
        let mut slot = lock(&self.slots[index as usize].state);
        slot.generation = slot.generation.wrapping_add(1);
        slot.status = Status::Waiting(Waiter::Nobody);
        slot.number = number;
        slot.function = function;
        slot.sent = sent;
        slot.segment = segment;
        Some(Ticket { index, generation: slot.generation })
    }

    /// Takes a call back that was not sent after all.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> Option<DownSegment> {
        let mut slot = lock(&self.slots[ticket.index as usize].state);
        let segment = slot.segment.take();
        self.close(ticket.index, &mut slot);
        segment
    }

    fn close(&self, index: u32, slot: &mut SlotState) {
        slot.status = Status::Free;
        slot.segment = None;
        self.used.fetch_sub(1, Ordering::Relaxed);
        lock(&self.free).push(index);
    }

    /// Takes the outcome of a call, if it is there; its slot is free then.
    /// What the outcome may refer to comes with it.
    #[inline]
    pub(crate) fn take(&self, ticket: Ticket) -> Option<(Outcome, Option<DownSegment>)> {
        let mut slot = lock(&self.slots[ticket.index as usize].state);
        debug_assert_eq!(slot.generation, ticket.generation);
        if !matches!(slot.status, Status::Done(_)) {
            return None;
        }
        let status = std::mem::replace(&mut slot.status, Status::Free);
        let segment = slot.segment.take();
        self.close(ticket.index, &mut slot);
        match status {
            Status::Done(outcome) => Some((outcome, segment)),
            _ => None,
        }
    }

    /// Says who waits. Returns false if the outcome is there already.
    pub(crate) fn wait(&self, ticket: Ticket, waiter: Waiter) -> bool {
        let mut slot = lock(&self.slots[ticket.index as usize].state);
        match &mut slot.status {
            Status::Waiting(old) => {
                *old = waiter;
                true
            }
            _ => false,
        }
    }

    /// The caller gives up. Returns whether the call was still in flight.
    pub(crate) fn abandon(&self, ticket: Ticket) -> bool {
        let mut slot = lock(&self.slots[ticket.index as usize].state);
        if slot.generation != ticket.generation {
            return false;
        }
        match slot.status {
            Status::Waiting(_) => {
                slot.status = Status::Abandoned;
                true
            }
            Status::Done(_) => {
                self.close(ticket.index, &mut slot);
                false
            }
            Status::Free | Status::Abandoned => false,
        }
    }

    /// Completes a call. `None` if there is no such call in flight: then the
    /// worker answers what nobody asked. `outcome` sees the segment with the
    /// arguments.
    #[inline]
    pub(crate) fn complete<E>(
        &self,
        ticket: Ticket,
        outcome: impl FnOnce(Option<&DownSegment>) -> Result<Outcome, E>,
    ) -> Option<Result<Waiter, E>> {
        let mut slot = lock(&self.slots.get(ticket.index as usize)?.state);
        if slot.generation != ticket.generation {
            return None;
        }
        match slot.status {
            Status::Waiting(_) => {
                let outcome = match outcome(slot.segment.as_ref()) {
                    Ok(outcome) => outcome,
                    Err(e) => return Some(Err(e)),
                };
                match std::mem::replace(&mut slot.status, Status::Done(outcome)) {
                    Status::Waiting(waiter) => Some(Ok(waiter)),
                    _ => Some(Ok(Waiter::Nobody)),
                }
            }
            Status::Abandoned => {
                self.close(ticket.index, &mut slot);
                Some(Ok(Waiter::Nobody))
            }
            Status::Free | Status::Done(_) => None,
        }
    }

    /// Ends every call in flight: `outcome` is told whether the worker had
    /// begun it. Returns what was running, and who has to be woken.
    pub(crate) fn fail_all(
        &self,
        begun: u64,
        mut outcome: impl FnMut(bool) -> Outcome,
    ) -> (Vec<Running>, Vec<Waiter>, u32) {
        let (mut running, mut waiters, mut ended) = (Vec::new(), Vec::new(), 0);
        for (index, slot) in (0_u32..).zip(&self.slots) {
            let mut slot = lock(&slot.state);
            let started = slot.number < begun;
            match slot.status {
                Status::Waiting(_) => {
                    let done = Status::Done(outcome(started));
                    if let Status::Waiting(waiter) = std::mem::replace(&mut slot.status, done) {
                        waiters.push(waiter);
                    }
                }
                Status::Abandoned => self.close(index, &mut slot),
                Status::Free | Status::Done(_) => continue,
            }
            ended += 1;
            if started {
                running.push(Running { function: slot.function, sent: slot.sent });
            }
        }
        (running, waiters, ended)
    }

    /// Whether a call is in flight and the worker has begun it.
    pub(crate) fn is_running(&self, ticket: Ticket, begun: u64) -> bool {
        let Some(slot) = self.slots.get(ticket.index as usize) else { return false };
        let slot = lock(&slot.state);
        slot.generation == ticket.generation
            && matches!(slot.status, Status::Waiting(_) | Status::Abandoned)
            && slot.number < begun
    }

    /// A task or thread that waits, other than by itself: a new leader.
    pub(crate) fn any_thread(&self) -> Option<Thread> {
        if self.used.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.slots.iter().find_map(|slot| match &lock(&slot.state).status {
            Status::Waiting(Waiter::Thread(thread)) => Some(thread.clone()),
            _ => None,
        })
    }
}
