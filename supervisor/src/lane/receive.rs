//! Reading replies, and waiting for them.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, MutexGuard, TryLockError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use menagerie_protocol::codec;
use menagerie_protocol::lane::BulkRef;
use menagerie_protocol::ring::{FLAG_BULK, FLAG_ECHO, FLAG_FAILURE, Frame, Kind, Shape};

use super::bulk::DownSegment;
use super::slots::Waiter;
use super::{Lane, Outcome, Payload, Receiving, Ticket, Violation, lock};

/// An outcome, and the segment that it may refer to.
pub(crate) type Done = (Outcome, Option<DownSegment>);

/// Calls that a guest may have open at once.
const MAX_OUTCALLS: u32 = 1024;

impl Receiving {
    fn disarm(&mut self) {
        if self.armed {
            self.rx.disarm();
            self.armed = false;
        }
    }
}

impl Lane {
    fn try_lead(&self) -> Option<MutexGuard<'_, Receiving>> {
        match self.rx.try_lock() {
            Ok(rx) => Some(rx),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Reads every frame that is there.
    #[inline]
    fn drain(self: &Arc<Self>, receiving: &mut Receiving) {
        while !receiving.broken {
            let frame = match receiving.rx.peek() {
                Ok(None) => return,
                Ok(Some(frame)) => frame,
                Err(corrupt) => return self.broken(receiving, Violation::Ring(corrupt)),
            };
            if let Err(violation) = self.handle(receiving, frame) {
                self.broken(receiving, violation);
            }
        }
    }

    #[cold]
    fn broken(&self, receiving: &mut Receiving, violation: Violation) {
        receiving.broken = true;
        self.peer.violation(self.id, violation);
    }

    #[inline]
    fn handle(self: &Arc<Self>, receiving: &mut Receiving, frame: Frame) -> Result<(), Violation> {
        match frame.head.kind {
            Kind::Reply => {
                let ticket = Ticket::from_wire(frame.head.call);
                let waiter = self
                    .slots
                    .complete(ticket, |segment| self.outcome(receiving, &frame, segment))
                    .ok_or(Violation::NoSuchCall(frame.head.call))??;
                receiving.rx.release(frame);
                self.pending.fetch_sub(1, Ordering::SeqCst);
                waiter.wake();
                Ok(())
            }
            Kind::Call => {
                let mut payload = Vec::new();
                receiving.rx.copy_payload(&frame, &mut payload);
                if frame.head.flags & FLAG_BULK != 0 {
                    payload = self.copy_bulk(&payload)?;
                }
                receiving.rx.release(frame);
                if self.outcalls.fetch_add(1, Ordering::Relaxed) >= MAX_OUTCALLS {
                    return Err(Violation::TooManyOutcalls(MAX_OUTCALLS));
                }
                self.peer.outcall(self, frame.head.call, payload);
                Ok(())
            }
            Kind::Pad | Kind::Command => Err(Violation::Kind),
        }
    }

    /// A call that the guest made has been answered.
    pub(crate) fn outcall_ended(&self) {
        self.outcalls.fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    fn outcome(
        &self,
        receiving: &Receiving,
        frame: &Frame,
        segment: Option<&DownSegment>,
    ) -> Result<Outcome, Violation> {
        let flags = frame.head.flags;
        if flags == 0 && frame.len <= Payload::SMALL {
            let mut words = [[0; 8]; Payload::SMALL / 8];
            receiving.rx.copy_small(frame, &mut words);
            let mut bytes = [0; Payload::SMALL];
            bytes.copy_from_slice(words.as_flattened());
            let len = u8::try_from(frame.len).unwrap_or(0);
            return Ok(Outcome::Value(Payload::Small { len, bytes }));
        }
        let mut inline = Vec::new();
        receiving.rx.copy_payload(frame, &mut inline);
        if flags & FLAG_ECHO != 0 {
            let segment = segment.ok_or(Violation::Bulk("arguments that were not bulk"))?;
            let bulk = BulkRef::from_bytes(&inline).ok_or(Violation::Bulk("nothing"))?;
            let range = bulk.range(segment.size());
            let range = range.ok_or(Violation::Bulk("a range outside the arguments"))?;
            if bulk.segment != segment.id() || flags & FLAG_FAILURE != 0 {
                return Err(Violation::Bulk("another call's arguments"));
            }
            let (start, len) = (range.start, range.len());
            return Ok(Outcome::Value(Payload::Echo { start, len }));
        }
        let bytes = if flags & FLAG_BULK == 0 { inline } else { self.copy_bulk(&inline)? };
        if flags & FLAG_FAILURE == 0 {
            return Ok(Outcome::Value(Payload::Heap(bytes)));
        }
        let failure = codec::decode(&bytes).map_err(|_| Violation::Failure)?;
        Ok(Outcome::Failed(Box::new(failure)))
    }

    /// Copies what stands in a segment that the worker writes: once, into
    /// memory of our own.
    fn copy_bulk(&self, reference: &[u8]) -> Result<Vec<u8>, Violation> {
        let bulk = BulkRef::from_bytes(reference).ok_or(Violation::Bulk("nothing"))?;
        if bulk.len > self.limits.max_payload {
            return Err(Violation::Bulk("a payload beyond the limit"));
        }
        let mapping = lock(&self.up_segments).get(&bulk.segment).map(Arc::clone);
        let mapping = mapping.ok_or(Violation::Bulk("a segment that does not exist"))?;
        let range = bulk.range(mapping.len()).ok_or(Violation::Bulk("a range outside"))?;
        let mut bytes = Vec::new();
        mapping.copy_out(range.start, range.len(), &mut bytes);
        Ok(bytes)
    }

    /// Gives leadership up. While calls are pending the wake socket stays armed,
    /// so that the pump is woken for them.
    #[inline]
    fn step_down<'l>(self: &'l Arc<Self>, mut receiving: MutexGuard<'l, Receiving>) {
        loop {
            while self.pending.load(Ordering::SeqCst) > 0 && !receiving.broken && !receiving.armed {
                if receiving.rx.arm() {
                    receiving.armed = true;
                } else {
                    self.drain(&mut receiving);
                }
            }
            let covered = receiving.armed || receiving.broken;
            drop(receiving);
            // SYNC: leader gone. A caller raises `pending`, then fails to lock
            // `rx`; we unlock `rx`, then look at `pending`. With both fences
            // one of us sees the other.
            fence(Ordering::SeqCst);
            if covered || self.pending.load(Ordering::SeqCst) == 0 {
                return;
            }
            match self.try_lead() {
                Some(next) => receiving = next,
                None => return,
            }
        }
    }

    /// Waits on this thread until the call has ended, or until `deadline`, which
    /// is asked for only when the call does not end at once.
    pub(crate) fn wait_blocking(
        self: &Arc<Self>,
        ticket: Ticket,
        deadline: &mut impl FnMut() -> Option<Instant>,
    ) -> Option<Done> {
        loop {
            if let Some(done) = self.slots.take(ticket) {
                return Some(done);
            }
            fence(Ordering::SeqCst);
            if !self.is_dead()
                && let Some(mut receiving) = self.try_lead()
                && !receiving.broken
            {
                receiving.disarm();
                let done = self.lead(&mut receiving, ticket, deadline);
                self.step_down(receiving);
                if done.is_some() {
                    self.call_next_leader();
                    return done;
                }
            } else if self.slots.wait(ticket, Waiter::Thread(std::thread::current())) {
                match deadline() {
                    None => std::thread::park(),
                    Some(deadline) => {
                        std::thread::park_timeout(
                            deadline.saturating_duration_since(Instant::now()),
                        );
                    }
                }
            }
            if deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                return self.slots.take(ticket);
            }
        }
    }

    /// Reads until the call has ended, the deadline has passed, or the lane is
    /// no more.
    #[inline]
    fn lead(
        self: &Arc<Self>,
        receiving: &mut Receiving,
        ticket: Ticket,
        deadline: &mut impl FnMut() -> Option<Instant>,
    ) -> Option<Done> {
        loop {
            self.drain(receiving);
            if let Some(done) = self.slots.take(ticket) {
                return Some(done);
            }
            if receiving.rx.spin() {
                continue;
            }
            if receiving.broken || self.is_dead() {
                return None;
            }
            let left = deadline().map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            self.leader_at.store(receiving.rx.position(), Ordering::SeqCst);
            receiving.rx.sleep(left);
        }
    }

    /// A blocking leader that leaves hands over to another one that is parked:
    /// it reads sooner than the pump.
    #[inline]
    fn call_next_leader(&self) {
        if self.pending.load(Ordering::Relaxed) > 0
            && let Some(thread) = self.slots.any_thread()
        {
            thread.unpark();
        }
    }

    /// Looks for the call's end from a task. `patience` is how often the task
    /// would rather be polled again at once than woken.
    pub(crate) fn poll_wait(
        self: &Arc<Self>,
        cx: &Context<'_>,
        ticket: Ticket,
        patience: &mut u32,
    ) -> Poll<Done> {
        if let Some(done) = self.slots.take(ticket) {
            return Poll::Ready(done);
        }
        fence(Ordering::SeqCst);
        if let Some(mut receiving) = self.try_lead() {
            receiving.disarm();
            self.drain(&mut receiving);
            let alone = self.pending.load(Ordering::Relaxed) == 1;
            if alone && !receiving.broken && receiving.rx.spin() {
                self.drain(&mut receiving);
            }
            if let Some(done) = self.slots.take(ticket) {
                self.step_down(receiving);
                return Poll::Ready(done);
            }
            // Others are at work on this lane: let their tasks run, which send
            // and read as well, before anybody goes to sleep.
            if !alone && *patience > 0 && !receiving.broken {
                *patience -= 1;
                drop(receiving);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let waits = self.slots.wait(ticket, Waiter::Task(cx.waker().clone()));
            self.step_down(receiving);
            if waits {
                return Poll::Pending;
            }
        } else if self.slots.wait(ticket, Waiter::Task(cx.waker().clone())) {
            return Poll::Pending;
        }
        match self.slots.take(ticket) {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }

    /// The pump was woken: reads what is there.
    pub(crate) fn pump(self: &Arc<Self>) {
        if let Some(mut receiving) = self.try_lead() {
            receiving.disarm();
            self.drain(&mut receiving);
            self.step_down(receiving);
        }
        // Otherwise somebody leads, and arms again when leaving.
    }

    /// The worker is dead: reads what it had published.
    pub(super) fn read_what_is_left(self: &Arc<Self>) {
        let shape = Shape::new(u64::from(self.limits.ring_slots));
        let mut receiving = loop {
            if let Some(receiving) = self.try_lead() {
                break receiving;
            }
            // A leader may sleep on the ring; nobody else will wake it now.
            self.memory.wake_supervisor(shape, self.leader_at.load(Ordering::SeqCst));
            std::thread::yield_now();
        };
        self.drain(&mut receiving);
        receiving.broken = true;
    }

    /// The caller has gone. Returns whether the worker was running the call.
    pub(crate) fn abandon(&self, ticket: Ticket) -> bool {
        let begun = self.memory.begun().load(Ordering::Relaxed);
        let running = self.slots.is_running(ticket, begun);
        self.slots.abandon(ticket) && running
    }

    /// Whether the worker has begun the call and not answered it.
    pub(crate) fn is_running(&self, ticket: Ticket) -> bool {
        self.slots.is_running(ticket, self.memory.begun().load(Ordering::Relaxed))
    }
}
