//! What can be seen of the calls in flight, whoever reads and sends meanwhile.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::slot::{Phase, Slot, State};
use super::{Slots, Ticket, Waiter};
use crate::lane::lock;

/// When a call's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    At(Instant),
    Never,
    /// Nobody has looked at the clock for it.
    Unknown,
}

impl Slots {
    /// How long ago its call was sent, if somebody had looked at the clock.
    pub(super) fn age(&self, slot: &Slot) -> Option<Duration> {
        match slot.sent.load(Relaxed) {
            0 => None,
            sent => Some(self.epoch.elapsed().saturating_sub(Duration::from_nanos(sent))),
        }
    }

    /// The calls in flight, whether their callers wait or have gone.
    fn in_flight(&self) -> impl Iterator<Item = (Ticket, &Slot)> {
        (0_u32..).zip(self.iter()).filter_map(|(index, slot)| {
            let State { generation, phase } = slot.state();
            phase.is_in_flight().then_some((Ticket { index, generation }, slot))
        })
    }

    /// The latest of the deadlines of the calls in flight, as far as they are known: who
    /// calls looks at the clock only when the call has to wait.
    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        let until = |(_, slot): (_, &Slot)| slot.noted_until();
        let last = self.in_flight().filter_map(until).max().filter(|last| *last != 0)?;
        self.epoch.checked_add(Duration::from_nanos(last))
    }

    /// The calls in flight that the worker has begun.
    pub(crate) fn running(&self, begun: u64) -> Vec<Ticket> {
        let has_begun = |slot: &Slot| slot.number.load(Relaxed) < begun;
        self.in_flight().filter(|(_, slot)| has_begun(slot)).map(|(ticket, _)| ticket).collect()
    }

    /// Whether a call is in flight and the worker has begun it.
    pub(crate) fn is_running(&self, ticket: Ticket, begun: u64) -> bool {
        let Some(slot) = self.get(ticket.index) else { return false };
        let state = slot.state();
        state.generation == ticket.generation
            && state.phase.is_in_flight()
            && slot.number.load(Relaxed) < begun
    }

    /// Whether one of the calls of these numbers, other than this one, is in flight, is
    /// waited for, and `has_time`.
    pub(crate) fn any_other(
        &self,
        ticket: Ticket,
        numbers: Range<u64>,
        has_time: impl Fn(Due) -> bool,
    ) -> bool {
        (0_u32..).zip(self.iter()).any(|(index, slot)| {
            index != ticket.index
                && slot.state().phase.is_waited_for()
                && numbers.contains(&slot.number.load(Relaxed))
                && has_time(self.due(slot))
        })
    }

    fn due(&self, slot: &Slot) -> Due {
        match slot.noted_until() {
            None => Due::Unknown,
            Some(0) => Due::Never,
            Some(until) => Due::At(self.epoch + Duration::from_nanos(until)),
        }
    }

    /// What a call was made for, and when its caller's time is up; `None` if it is not in
    /// flight.
    pub(crate) fn made_for(&self, ticket: Ticket) -> Option<(u64, Due)> {
        let slot = self.get(ticket.index)?;
        let State { generation, phase } = slot.state();
        if generation != ticket.generation || !phase.is_in_flight() {
            return None;
        }
        let until = slot.until(self.epoch.elapsed());
        let due = match until {
            None => Due::Never,
            Some(until) => self.epoch.checked_add(until).map_or(Due::Never, Due::At),
        };
        Some((slot.origin.load(Relaxed), due))
    }

    /// Whether a call is in flight that nobody waits for any more.
    pub(crate) fn is_abandoned(&self, ticket: Ticket) -> bool {
        let abandoned = State { generation: ticket.generation, phase: Phase::Abandoned };
        self.get(ticket.index).is_some_and(|slot| slot.state() == abandoned)
    }

    /// The function of the call in a slot; 0 where there is no such slot.
    #[inline]
    pub(crate) fn function(&self, index: u32) -> u32 {
        self.get(index).map_or(0, |slot| slot.function.load(Relaxed))
    }

    /// A thread that is parked for a call: a new leader.
    pub(crate) fn any_thread(&self) -> Option<Thread> {
        self.iter().find_map(|slot| {
            if slot.state().phase != Phase::Asleep {
                return None;
            }
            match &*lock(&slot.waiter) {
                Some(Waiter::Thread(thread)) => Some(thread.clone()),
                _ => None,
            }
        })
    }
}
