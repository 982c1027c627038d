//! The calls in flight on a lane.
//!
//! A slot's life is one word: which use of the slot it is (its generation), and
//! the phase of that use. The common call, whose caller reads its own reply,
//! takes no lock and no read-modify-write here: who may store a phase is settled
//! by who else is locked out.
//!
//! | phase | entered by | holding |
//! | --- | --- | --- |
//! | free → sent | a caller that sends | the lane's sending end |
//! | sent → asleep | the caller | nothing: by compare-exchange |
//! | sent, asleep → abandoned | the caller that gives up | nothing: by compare-exchange |
//! | sent, asleep → done | the leader | the lane's receiving end; by exchange |
//! | sent → free | the caller that reads its own reply | the lane's receiving end |
//! | done → free | the caller | nothing: only it is left |
//! | abandoned → free | the leader | the lane's receiving end |

mod look;
mod slot;

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::time::{Duration, Instant};

pub(crate) use look::Due;
use slot::{Phase, Slot, State};
pub(crate) use slot::{Terms, Ticket, Waiter};

use super::bulk::DownSegment;
use super::{Outcome, lock};

/// A call that was running when its worker died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) function: u32,
    /// How long it had run, if somebody had looked at the clock.
    pub(crate) age: Option<Duration>,
}

/// What [`Slots::fail_all`] has ended.
#[derive(Debug, Default)]
pub(crate) struct Failed {
    /// The calls that the worker had begun.
    pub(crate) running: Vec<Running>,
    /// Who has to be woken.
    pub(crate) waiters: Vec<Waiter>,
    /// How many calls there were.
    pub(crate) ended: u64,
}

/// A call that was given a slot, and is not known to its worker yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened<'s> {
    pub(crate) ticket: Ticket,
    slot: &'s Slot,
}

impl Opened<'_> {
    /// Whether the call is in flight, and its caller looks by itself.
    #[inline]
    pub(crate) fn is_sent(&self) -> bool {
        let sent = State { generation: self.ticket.generation, phase: Phase::Sent }.pack();
        self.slot.state.load(Acquire) == sent
    }
}

/// A slot that is free, and its last use.
struct Free<'s> {
    index: u32,
    slot: &'s Slot,
    generation: u32,
}

fn new_slots(count: usize) -> Box<[Slot]> {
    (0..count).map(|_| Slot::default()).collect()
}

/// Slots that a lane begins with. Few lanes ever have more calls in flight, and
/// all that may be are a quarter of a megabyte: to touch so much memory for the
/// first time costs a recovery a tenth of its time.
const FIRST: usize = 64;

#[derive(Debug)]
pub(crate) struct Slots {
    first: Box<[Slot]>,
    /// The others, made when all of the first are taken for the first time.
    rest: OnceLock<Box<[Slot]>>,
    /// How many there may be.
    capacity: usize,
    /// The slot that was freed last: it is in the cache, and the next to be
    /// taken. Only a hint.
    last_freed: AtomicU32,
    /// Calls in flight whose callers do not look by themselves: they sleep, or
    /// have gone.
    unattended: AtomicU32,
    /// Outcomes that somebody else has read, and whose callers have not come
    /// for them yet.
    unclaimed: AtomicU32,
    epoch: Instant,
}

impl Slots {
    pub(crate) fn new(capacity: u32) -> Self {
        let capacity = capacity as usize;
        Self {
            first: new_slots(capacity.min(FIRST)),
            rest: OnceLock::new(),
            capacity,
            last_freed: AtomicU32::new(0),
            unattended: AtomicU32::new(0),
            unclaimed: AtomicU32::new(0),
            epoch: Instant::now(),
        }
    }

    #[inline]
    fn get(&self, index: u32) -> Option<&Slot> {
        let index = index as usize;
        match self.first.get(index) {
            Some(slot) => Some(slot),
            None => self.rest.get()?.get(index - self.first.len()),
        }
    }

    /// Those that were made, in order.
    fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.first.iter().chain(self.rest.get().into_iter().flatten())
    }

    /// Whether a call is in flight whose caller does not look by itself.
    #[inline]
    pub(crate) fn any_unattended(&self) -> bool {
        self.unattended.load(SeqCst) > 0
    }

    /// Outcomes that are there, and whose callers have not come for them yet.
    #[inline]
    pub(crate) fn unclaimed(&self) -> u32 {
        self.unclaimed.load(Relaxed)
    }

    /// Takes a slot for a call, `None` if all are taken.
    ///
    /// The caller holds the lane's sending end: nobody else takes slots.
    #[inline]
    pub(crate) fn open(
        &self,
        number: u64,
        (function, terms): (u32, Terms),
        segment: Option<DownSegment>,
    ) -> Option<Opened<'_>> {
        let hint = self.last_freed.load(Relaxed);
        let Free { index, slot, generation } = match self.free_at(hint) {
            Some(free) => free,
            None => self.any_free(hint)?,
        };
        // The next one is probably free as well, when many calls are sent in a row.
        self.last_freed.store(index + 1, Relaxed);
        // Never 0: to a worker, 0 is no call.
        let generation = generation.wrapping_add(1).max(1);
        slot.number.store(number, Relaxed);
        slot.sent.store(0, Relaxed);
        slot.function.store(function, Relaxed);
        slot.agree(terms);
        if segment.is_some() {
            *lock(&slot.segment) = segment;
            slot.bulk.store(1, Relaxed);
        }
        slot.state.store(State { generation, phase: Phase::Sent }.pack(), Release);
        Some(Opened { ticket: Ticket { index, generation }, slot })
    }

    #[inline]
    fn free_at(&self, index: u32) -> Option<Free<'_>> {
        let slot = self.get(index)?;
        let state = slot.state.load(Acquire);
        let generation = State::unpack(state).generation;
        let free = State { generation, phase: Phase::Free }.pack();
        (state == free).then_some(Free { index, slot, generation })
    }

    #[cold]
    fn any_free(&self, hint: u32) -> Option<Free<'_>> {
        let rest = self.rest.get().map_or(0, |rest| rest.len());
        let made = u32::try_from(self.first.len() + rest).unwrap_or(u32::MAX);
        if let Some(free) = (0..made).find_map(|by| self.free_at(hint.wrapping_add(by) % made)) {
            return Some(free);
        }
        self.rest.get_or_init(|| new_slots(self.capacity - self.first.len()));
        self.free_at(made)
    }

    /// Takes the outcome of a call, if it is there; its slot is free then.
    /// What the outcome may refer to comes with it.
    #[inline]
    pub(crate) fn take(&self, ticket: Ticket) -> Option<(Outcome, Option<DownSegment>)> {
        let slot = self.get(ticket.index)?;
        let done = State { generation: ticket.generation, phase: Phase::Done };
        if slot.state.load(Acquire) == done.pack() { self.take_out(ticket, slot) } else { None }
    }

    fn take_out(&self, ticket: Ticket, slot: &Slot) -> Option<(Outcome, Option<DownSegment>)> {
        let outcome = lock(&slot.outcome).take();
        let segment = slot.take_segment();
        self.unclaimed.fetch_sub(1, Relaxed);
        self.give_back(ticket, slot);
        outcome.map(|outcome| (outcome, segment))
    }

    /// Takes note of when the call was sent, for reports of what ran, and of when its
    /// caller's time is up.
    pub(crate) fn sent_at(&self, ticket: Ticket, sent: Instant, until: Option<Instant>) {
        let Some(slot) = self.get(ticket.index) else { return };
        let nanos = |at: Instant| {
            let nanos = at.saturating_duration_since(self.epoch).as_nanos();
            u64::try_from(nanos).unwrap_or(u64::MAX).clamp(1, u64::MAX >> 1)
        };
        slot.until.store(until.map_or(0, nanos), Relaxed);
        // SYNC: call timed. Pairs with the acquire load in `noted_until`.
        slot.sent.store(nanos(sent), Release);
    }

    /// Says who waits. Returns false if the outcome is there already.
    ///
    /// The caller has to look once more for the lead afterwards: whoever led
    /// until now may not have seen that this call is not attended any more.
    pub(crate) fn wait(&self, ticket: Ticket, waiter: Waiter) -> bool {
        let Some(slot) = self.get(ticket.index) else { return false };
        *lock(&slot.waiter) = Some(waiter);
        if self.desert(slot, ticket, Phase::Asleep) {
            return true;
        }
        *lock(&slot.waiter) = None;
        false
    }

    /// The caller gives up. Returns whether the call was still in flight.
    pub(crate) fn abandon(&self, ticket: Ticket) -> bool {
        let Some(slot) = self.get(ticket.index) else { return false };
        if self.desert(slot, ticket, Phase::Abandoned) {
            return true;
        }
        drop(self.take(ticket));
        false
    }

    /// The caller stops looking by itself, or has stopped and now goes.
    fn desert(&self, slot: &Slot, ticket: Ticket, to: Phase) -> bool {
        // Before the phase, so that who ends the call finds it counted.
        self.unattended.fetch_add(1, SeqCst);
        if slot.leave(ticket, Phase::Sent, to) {
            return true;
        }
        self.unattended.fetch_sub(1, SeqCst);
        slot.leave(ticket, Phase::Asleep, to)
    }

    /// A call whose caller is the one that reads: its segment, which the caller
    /// has from now on. `None` if it is not in flight.
    ///
    /// The caller holds the lane's receiving end.
    #[inline]
    pub(crate) fn own_segment(&self, ticket: Ticket) -> Option<Option<DownSegment>> {
        let slot = self.get(ticket.index)?;
        let State { generation, phase } = slot.state();
        let waited_for = generation == ticket.generation && phase.is_waited_for();
        waited_for.then(|| slot.take_segment())
    }

    /// Ends such a call, whose outcome the caller has.
    #[inline]
    pub(crate) fn complete_own(&self, ticket: Ticket) {
        let Some(slot) = self.get(ticket.index) else { return };
        if slot.state().phase == Phase::Asleep {
            self.unattended.fetch_sub(1, Relaxed);
        }
        self.give_back(ticket, slot);
    }

    /// Ends the leader's own call, which [is sent](Opened::is_sent) and has no segment,
    /// and whose value it has.
    #[inline]
    pub(crate) fn end_sent(&self, Opened { ticket, slot }: Opened<'_>) {
        self.give_back(ticket, slot);
    }

    /// Ends the use of a slot, which is the next to be taken.
    #[inline]
    fn give_back(&self, ticket: Ticket, slot: &Slot) {
        slot.free(ticket.generation);
        self.last_freed.store(ticket.index, Relaxed);
    }

    /// Completes a call. `None` if there is no such call in flight: then the
    /// worker answers what nobody asked. `outcome` sees the segment with the
    /// arguments.
    ///
    /// The caller holds the lane's receiving end.
    #[inline]
    pub(crate) fn complete<E>(
        &self,
        ticket: Ticket,
        outcome: impl FnOnce(Option<&DownSegment>) -> Result<Outcome, E>,
    ) -> Option<Result<Waiter, E>> {
        let slot = self.get(ticket.index)?;
        let state = slot.state();
        if state.generation != ticket.generation {
            return None;
        }
        match state.phase {
            Phase::Free | Phase::Done => None,
            Phase::Abandoned => {
                self.throw_away(ticket, slot);
                Some(Ok(Waiter::Nobody))
            }
            Phase::Sent | Phase::Asleep => {
                let outcome = if slot.bulk.load(Relaxed) == 0 {
                    outcome(None)
                } else {
                    outcome(lock(&slot.segment).as_ref())
                };
                match outcome {
                    Ok(outcome) => Some(Ok(self.finish(ticket, slot, outcome))),
                    Err(error) => Some(Err(error)),
                }
            }
        }
    }

    /// Hands an outcome over to the call's caller, who may be going meanwhile.
    fn finish(&self, ticket: Ticket, slot: &Slot, outcome: Outcome) -> Waiter {
        *lock(&slot.outcome) = Some(outcome);
        let done = State { generation: ticket.generation, phase: Phase::Done };
        // Before the phase, so that the caller who comes for it finds it counted.
        self.unclaimed.fetch_add(1, Relaxed);
        // SYNC: outcome there. Pairs with the acquire load in `take`.
        match State::unpack(slot.state.swap(done.pack(), AcqRel)).phase {
            Phase::Asleep => {
                self.unattended.fetch_sub(1, Relaxed);
                lock(&slot.waiter).take().unwrap_or(Waiter::Nobody)
            }
            Phase::Abandoned => {
                self.unclaimed.fetch_sub(1, Relaxed);
                self.throw_away(ticket, slot);
                Waiter::Nobody
            }
            Phase::Free | Phase::Sent | Phase::Done => Waiter::Nobody,
        }
    }

    fn throw_away(&self, ticket: Ticket, slot: &Slot) {
        self.unattended.fetch_sub(1, Relaxed);
        drop(lock(&slot.outcome).take());
        drop(slot.take_segment());
        drop(lock(&slot.waiter).take());
        self.give_back(ticket, slot);
    }

    /// Ends every call in flight: `outcome` is told whether the worker had
    /// begun it.
    ///
    /// The caller holds the lane's receiving end, and nothing is sent any more.
    pub(crate) fn fail_all(&self, begun: u64, mut outcome: impl FnMut(bool) -> Outcome) -> Failed {
        let mut failed = Failed::default();
        for (index, slot) in (0_u32..).zip(self.iter()) {
            let state = slot.state();
            let ticket = Ticket { index, generation: state.generation };
            let started = slot.number.load(Relaxed) < begun;
            let running = Running { function: slot.function.load(Relaxed), age: self.age(slot) };
            match state.phase {
                Phase::Free | Phase::Done => continue,
                Phase::Sent | Phase::Asleep => {
                    failed.waiters.push(self.finish(ticket, slot, outcome(started)));
                }
                Phase::Abandoned => self.throw_away(ticket, slot),
            }
            failed.ended += 1;
            if started {
                failed.running.push(running);
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests;
