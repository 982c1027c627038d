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

use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, OnceLock};
use std::task::Waker;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::bulk::DownSegment;
use super::{Outcome, lock};

/// A call in flight: which slot, and which use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) index: u32,
    /// Never 0 for a call.
    generation: u32,
}

impl Ticket {
    /// The call's id on the wire; never 0 for a call.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    /// The caller looks by itself, or has not begun to wait.
    Sent,
    /// The caller sleeps; its waiter is there.
    Asleep,
    /// The caller has gone; the answer is thrown away.
    Abandoned,
    /// The outcome is there.
    Done,
}

/// The state word: generation and phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    generation: u32,
    phase: Phase,
}

impl State {
    const fn pack(self) -> u64 {
        ((self.generation as u64) << 32) | self.phase as u64
    }

    #[allow(clippy::cast_possible_truncation, reason = "both halves are 32 bits")]
    const fn unpack(word: u64) -> Self {
        let phase = match word as u32 {
            1 => Phase::Sent,
            2 => Phase::Asleep,
            3 => Phase::Abandoned,
            4 => Phase::Done,
            _ => Phase::Free,
        };
        Self { generation: (word >> 32) as u32, phase }
    }
}

/// One call's place. A cache line and more of its own, so that callers on
/// different CPUs do not disturb each other.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Slot {
    state: AtomicU64,
    /// The call's number among all of its lane.
    number: AtomicU64,
    /// When it was sent, in nanoseconds since the lane was made; 0 if nobody
    /// has looked at the clock.
    sent: AtomicU64,
    /// When its caller's time is up, in the same way; 0 for never. It counts where `sent`
    /// is known.
    until: AtomicU64,
    function: AtomicU32,
    /// Whether `segment` is taken.
    bulk: AtomicU32,
    /// The wait of another bundle that it was made for, 0 for none.
    origin: AtomicU64,
    /// Where its arguments stand; kept until the outcome is taken, because it
    /// may be an echo of them.
    segment: Mutex<Option<DownSegment>>,
    outcome: Mutex<Option<Outcome>>,
    waiter: Mutex<Option<Waiter>>,
}

impl Slot {
    fn state(&self) -> State {
        State::unpack(self.state.load(Acquire))
    }

    #[inline]
    fn take_segment(&self) -> Option<DownSegment> {
        if self.bulk.load(Relaxed) == 0 { None } else { self.take_bulk() }
    }

    #[inline(never)]
    fn take_bulk(&self) -> Option<DownSegment> {
        self.bulk.store(0, Relaxed);
        lock(&self.segment).take()
    }

    /// Ends this use. Everything of it has been taken out.
    fn free(&self, generation: u32) {
        // SYNC: slot free. Pairs with the acquire load in `Slots::open`.
        self.state.store(State { generation, phase: Phase::Free }.pack(), Release);
    }

    /// Moves from a phase to another, by its caller.
    fn leave(&self, ticket: Ticket, from: Phase, to: Phase) -> bool {
        let generation = ticket.generation;
        let (from, to) = (State { generation, phase: from }, State { generation, phase: to });
        self.state.compare_exchange(from.pack(), to.pack(), AcqRel, Relaxed).is_ok()
    }
}

/// A call that was running when its worker died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) function: u32,
    /// How long it had run, if somebody had looked at the clock.
    pub(crate) age: Option<Duration>,
}

/// When a call's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    At(Instant),
    Never,
    /// Nobody has looked at the clock for it.
    Unknown,
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
        (function, origin): (u32, u64),
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
        slot.origin.store(origin, Relaxed);
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
            u64::try_from(nanos).unwrap_or(u64::MAX).max(1)
        };
        slot.until.store(until.map_or(0, nanos), Relaxed);
        // SYNC: call timed. Pairs with the acquire loads in `last_deadline` and `due`.
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
        let in_flight = matches!(phase, Phase::Sent | Phase::Asleep);
        (generation == ticket.generation && in_flight).then(|| slot.take_segment())
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

    fn age(&self, slot: &Slot) -> Option<Duration> {
        match slot.sent.load(Relaxed) {
            0 => None,
            sent => Some(self.epoch.elapsed().saturating_sub(Duration::from_nanos(sent))),
        }
    }

    /// The calls in flight, whether their callers wait or have gone.
    fn in_flight(&self) -> impl Iterator<Item = (Ticket, &Slot)> {
        (0_u32..).zip(self.iter()).filter_map(|(index, slot)| {
            let State { generation, phase } = slot.state();
            let in_flight = matches!(phase, Phase::Sent | Phase::Asleep | Phase::Abandoned);
            in_flight.then_some((Ticket { index, generation }, slot))
        })
    }

    /// The latest of the deadlines of the calls in flight, as far as they are known: who
    /// calls looks at the clock only when the call has to wait.
    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        let until = |(_, slot): (_, &Slot)| {
            // SYNC: call timed.
            let known = slot.sent.load(Acquire) != 0;
            if known { slot.until.load(Relaxed) } else { 0 }
        };
        let last = self.in_flight().map(until).max().filter(|last| *last != 0)?;
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
            && matches!(state.phase, Phase::Sent | Phase::Asleep | Phase::Abandoned)
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
            let waited_for = matches!(slot.state().phase, Phase::Sent | Phase::Asleep);
            index != ticket.index
                && waited_for
                && numbers.contains(&slot.number.load(Relaxed))
                && has_time(self.due(slot))
        })
    }

    fn due(&self, slot: &Slot) -> Due {
        // SYNC: call timed. Pairs with the release store in `sent_at`.
        match (slot.sent.load(Acquire), slot.until.load(Relaxed)) {
            (0, _) => Due::Unknown,
            (_, 0) => Due::Never,
            (_, until) => Due::At(self.epoch + Duration::from_nanos(until)),
        }
    }

    /// What a call was made for; `None` if it is not in flight.
    pub(crate) fn origin(&self, ticket: Ticket) -> Option<u64> {
        let slot = self.get(ticket.index)?;
        let State { generation, phase } = slot.state();
        let in_flight = matches!(phase, Phase::Sent | Phase::Asleep | Phase::Abandoned);
        (generation == ticket.generation && in_flight).then(|| slot.origin.load(Relaxed))
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

#[cfg(test)]
mod tests;
