//! One call's place, and the word that says whose it is.

use std::sync::Mutex;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::task::Waker;
use std::thread::Thread;
use std::time::Duration;

use crate::lane::bulk::DownSegment;
use crate::lane::{Outcome, lock};

/// A call in flight: which slot, and which use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) index: u32,
    /// Never 0 for a call.
    pub(super) generation: u32,
}

impl Ticket {
    /// The call's id on the wire; never 0 for a call.
    pub(crate) const fn wire(self) -> u64 {
        self.index as u64 | ((self.generation as u64) << 32)
    }

    /// Reads it from the wire; whether there is such a call is for
    /// [`Slots::complete`](super::Slots::complete) to say.
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
pub(super) enum Phase {
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

impl Phase {
    /// Whether the call is in flight, and its caller is there.
    #[inline]
    pub(super) const fn is_waited_for(self) -> bool {
        matches!(self, Self::Sent | Self::Asleep)
    }

    /// Whether the call is in flight, whoever waits for it.
    #[inline]
    pub(super) const fn is_in_flight(self) -> bool {
        matches!(self, Self::Sent | Self::Asleep | Self::Abandoned)
    }
}

/// The state word: generation and phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) generation: u32,
    pub(super) phase: Phase,
}

impl State {
    #[inline]
    pub(super) const fn pack(self) -> u64 {
        ((self.generation as u64) << 32) | self.phase as u64
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "both halves are 32 bits")]
    pub(super) const fn unpack(word: u64) -> Self {
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

/// Marks a time that a call was given, before anybody has looked at the clock for it. One
/// word, so that whoever reads it while it changes takes none for the other.
const LIMIT: u64 = 1 << 63;

/// What a call is made with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// The wait of another bundle that it is made for, 0 for none.
    origin: u64,
    /// The time that it has, in nanoseconds, marked; 0 for any.
    limit: u64,
}

impl Terms {
    /// Those of a call that is made for a wait, 0 for none, and has this time, zero for any.
    pub(crate) fn new(origin: u64, limit: Duration) -> Self {
        let limit = match u64::try_from(limit.as_nanos()) {
            Ok(0) => 0,
            limit => limit.unwrap_or(u64::MAX) | LIMIT,
        };
        Self { origin, limit }
    }

    /// The same with another time.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self::new(self.origin, limit)
    }
}

/// One call's place. A cache line and more of its own, so that callers on
/// different CPUs do not disturb each other.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: AtomicU64,
    /// The call's number among all of its lane.
    pub(super) number: AtomicU64,
    /// When it was sent, in nanoseconds since the lane was made; 0 if nobody
    /// has looked at the clock.
    pub(super) sent: AtomicU64,
    /// When its caller's time is up, in the same way; 0 for never. Where `sent` is not known
    /// it is the time that it was given, with [`LIMIT`].
    pub(super) until: AtomicU64,
    pub(super) function: AtomicU32,
    /// Whether `segment` is taken.
    pub(super) bulk: AtomicU32,
    /// The wait of another bundle that it was made for, 0 for none.
    pub(super) origin: AtomicU64,
    /// Where its arguments stand; kept until the outcome is taken, because it
    /// may be an echo of them.
    pub(super) segment: Mutex<Option<DownSegment>>,
    pub(super) outcome: Mutex<Option<Outcome>>,
    pub(super) waiter: Mutex<Option<Waiter>>,
}

impl Slot {
    #[inline]
    pub(super) fn agree(&self, terms: Terms) {
        self.origin.store(terms.origin, Relaxed);
        self.until.store(terms.limit, Relaxed);
    }

    /// When its caller's time is up, 0 for never, if somebody has looked at the clock.
    pub(super) fn noted_until(&self) -> Option<u64> {
        // SYNC: call timed. Pairs with the release store in `sent_at`.
        let is_known = self.sent.load(Acquire) != 0;
        // That of the slot's next call may be there already.
        Some(self.until.load(Relaxed)).filter(|until| is_known && until & LIMIT == 0)
    }

    /// When its caller's time is up; of one that nobody has looked at the clock for, as if
    /// it were sent at `now`. Both since the lane was made; `None` for never.
    pub(super) fn until(&self, now: Duration) -> Option<Duration> {
        match self.until.load(Relaxed) {
            0 => None,
            limit if limit & LIMIT != 0 => Some(now + Duration::from_nanos(limit & !LIMIT)),
            until => Some(Duration::from_nanos(until)),
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        State::unpack(self.state.load(Acquire))
    }

    #[inline]
    pub(super) fn take_segment(&self) -> Option<DownSegment> {
        if self.bulk.load(Relaxed) == 0 { None } else { self.take_bulk() }
    }

    #[inline(never)]
    fn take_bulk(&self) -> Option<DownSegment> {
        self.bulk.store(0, Relaxed);
        lock(&self.segment).take()
    }

    /// Ends this use. Everything of it has been taken out.
    #[inline]
    pub(super) fn free(&self, generation: u32) {
        // SYNC: slot free. Pairs with the acquire load in `Slots::open`.
        self.state.store(State { generation, phase: Phase::Free }.pack(), Release);
    }

    /// Moves from a phase to another, by its caller.
    pub(super) fn leave(&self, ticket: Ticket, from: Phase, to: Phase) -> bool {
        let generation = ticket.generation;
        let (from, to) = (State { generation, phase: from }, State { generation, phase: to });
        self.state.compare_exchange(from.pack(), to.pack(), AcqRel, Relaxed).is_ok()
    }
}
