//! The two ends of a ring with their waking and sleeping: what supervisor and
//! worker both build their side of a lane from.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wait::{
    Mode, Spinner, Waker, announce_awake, announce_sleep, drain_wakes, futex_wait, futex_wake, wake,
};
use super::{LaneMemory, LaneWord, RingMemory};
use crate::ring::{Consumer, Corrupt, Frame, FrameHead, Full, Kind, Plain, Producer, Shape, Small};

/// Which side of a lane this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The supervisor.
    Supervisor,
    /// The worker.
    Worker,
}

impl Side {
    fn sleep_word(self, memory: &LaneMemory) -> LaneWord {
        match self {
            Self::Supervisor => memory.supervisor_sleep(),
            Self::Worker => memory.worker_sleep(),
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Supervisor => Self::Worker,
            Self::Worker => Self::Supervisor,
        }
    }
}

/// The sending end.
#[derive(Debug)]
pub struct Tx {
    producer: Producer<RingMemory>,
    waker: Waker,
    /// The other side's.
    sleep: LaneWord,
    /// Wakes the other side when it sleeps by wake socket.
    peer_event: Arc<OwnedFd>,
}

impl Tx {
    /// The sending end of this side.
    #[must_use]
    pub fn new(memory: &LaneMemory, shape: Shape, side: Side, peer_event: Arc<OwnedFd>) -> Self {
        let ring = match side {
            Side::Supervisor => memory.down_ring(shape),
            Side::Worker => memory.up_ring(shape),
        };
        Self {
            producer: Producer::new(ring, shape),
            waker: Waker::default(),
            sleep: side.other().sleep_word(memory),
            peer_event,
        }
    }

    /// Publishes a frame that the other side does not expect: whoever reads
    /// there may have gone, without a word that it sleeps, as nothing was due.
    /// So it is woken in any case.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_unexpected(&mut self, head: FrameHead, parts: &[&[u8]]) -> Result<(), Full> {
        self.send(head, parts)?;
        wake(self.peer_event.as_fd());
        Ok(())
    }

    /// Publishes a frame, and wakes the other side if it sleeps.
    ///
    /// # Errors
    ///
    /// The ring is full, or the other side's position is nonsense.
    pub fn send(&mut self, head: FrameHead, parts: &[&[u8]]) -> Result<(), Full> {
        self.producer.push(head, parts)?;
        self.wake_peer();
        Ok(())
    }

    /// As [`Producer::has_slot`].
    #[inline]
    #[must_use]
    pub const fn has_slot(&self, len: usize) -> bool {
        self.producer.has_slot(len)
    }

    /// As [`send`](Self::send), of a frame that [has its slot](Self::has_slot). Returns
    /// whether the other side was woken.
    // Out of line it would take the frame's parts through memory.
    #[inline(always)]
    pub fn send_one(&mut self, head: FrameHead, payload: &[u8]) -> bool {
        self.producer.push_one(head, payload);
        self.wake_peer()
    }

    #[inline]
    fn wake_peer(&mut self) -> bool {
        let sleeps = self.waker.wake_needed(&*self.sleep, self.producer.position());
        if let Some((mode, position)) = sleeps {
            self.wake_from(mode, position);
        }
        sleeps.is_some()
    }

    #[cold]
    fn wake_from(&self, mode: Mode, position: u64) {
        match mode {
            Mode::Futex => futex_wake(self.producer.header(position)),
            Mode::Socket => wake(self.peer_event.as_fd()),
        }
    }

    /// As [`Producer::has_room`].
    ///
    /// # Errors
    ///
    /// The other side's position is nonsense.
    #[inline]
    pub fn has_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        self.producer.has_room(len)
    }

    /// The position after the last frame.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.producer.position()
    }

    /// How far the other side has read.
    ///
    /// # Errors
    ///
    /// Its position is nonsense.
    pub fn consumed(&mut self) -> Result<u64, Corrupt> {
        self.producer.consumed()
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Rx {
    consumer: Consumer<RingMemory>,
    spinner: Spinner,
    /// This side's.
    sleep: LaneWord,
    event: Arc<OwnedFd>,
    /// When the last doze began, until that is taken note of.
    dozed: Option<Instant>,
}

impl Rx {
    /// The receiving end of this side; `event` is its own wake socket.
    #[must_use]
    pub fn new(memory: &LaneMemory, shape: Shape, side: Side, event: Arc<OwnedFd>) -> Self {
        let (ring, spinner) = match side {
            Side::Supervisor => (memory.up_ring(shape), Spinner::default()),
            // When the first call comes nobody knows, and whom it wakes before.
            Side::Worker => (memory.down_ring(shape), Spinner::cold()),
        };
        Self {
            consumer: Consumer::new(ring, shape),
            spinner,
            sleep: side.sleep_word(memory),
            event,
            dozed: None,
        }
    }

    /// The next frame, if one is there.
    ///
    /// # Errors
    ///
    /// The other side wrote nonsense.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Frame>, Corrupt> {
        self.consumer.peek()
    }

    /// Copies a frame's payload to the end of `out`.
    #[inline]
    pub fn copy_payload(&self, frame: &Frame, out: &mut Vec<u8>) {
        self.consumer.copy_payload(frame, out);
    }

    /// As [`Consumer::take_plain`].
    #[inline]
    pub fn take_plain(&mut self, kind: Kind, wanted: impl FnOnce(u64) -> bool) -> Option<Plain> {
        self.consumer.take_plain(kind, wanted)
    }

    /// As [`Consumer::small_payload`].
    #[inline]
    pub fn small_payload(&self, frame: &Frame) -> Option<Small> {
        self.consumer.small_payload(frame)
    }

    /// The position of the next frame: what [`sleep`](Self::sleep) sleeps on.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.consumer.position()
    }

    /// Passes over a frame.
    #[inline]
    pub fn release(&mut self, frame: Frame) {
        self.consumer.release(frame);
    }

    /// Whether nothing is there.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }

    /// The wake socket of this side.
    #[must_use]
    pub const fn event(&self) -> &Arc<OwnedFd> {
        &self.event
    }

    /// Spins for a frame for as long as that has been worth it lately.
    /// Returns whether one is there.
    #[inline]
    pub fn spin(&mut self) -> bool {
        if let Some(started) = self.dozed.take() {
            self.spinner.slept(started.elapsed());
        }
        let consumer = &self.consumer;
        self.spinner.spin(|| !consumer.is_empty())
    }

    /// As [`spin`](Self::spin), for the time only that a hot lane takes.
    #[inline]
    pub fn spin_briefly(&mut self) -> bool {
        let consumer = &self.consumer;
        self.spinner.spin_briefly(|| !consumer.is_empty())
    }

    /// Sleeps by futex until a frame is there, or `timeout` has passed. Returns how long
    /// that was.
    pub fn sleep(&mut self, timeout: Option<Duration>) -> Duration {
        let started = self.sleep_until_woken(timeout);
        let took = started.elapsed();
        self.spinner.slept(took);
        took
    }

    /// Sleeps by futex until a frame is there. How long that was is looked at when there
    /// is time: the clock's first reading after a pause takes 0.7 µs, and the frame is
    /// urgent.
    pub fn doze(&mut self) {
        self.dozed = Some(self.sleep_until_woken(None));
    }

    /// Returns when that began.
    fn sleep_until_woken(&self, timeout: Option<Duration>) -> Instant {
        let position = self.consumer.position();
        announce_sleep(&*self.sleep, position, Mode::Futex);
        let started = Instant::now();
        if self.consumer.is_empty() {
            futex_wait(self.consumer.next_header(), self.consumer.stale(), timeout);
        }
        announce_awake(&*self.sleep);
        started
    }

    /// Says that this side now waits on its wake socket. Returns false, and does
    /// not say so, if a frame is there already.
    pub fn arm(&mut self) -> bool {
        let position = self.consumer.position();
        announce_sleep(&*self.sleep, position, Mode::Socket);
        if self.consumer.is_empty() {
            return true;
        }
        self.disarm();
        false
    }

    /// Says that this side is awake after [`arm`](Self::arm).
    pub fn disarm(&mut self) {
        announce_awake(&*self.sleep);
    }

    /// Makes the wake socket unreadable.
    pub fn drain_event(&self) {
        drain_wakes(&self.event);
    }
}
