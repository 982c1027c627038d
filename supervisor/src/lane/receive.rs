//! Reading what the worker has sent.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use menagerie_protocol::Failure;
use menagerie_protocol::codec;
use menagerie_protocol::lane::BulkRef;
use menagerie_protocol::ring::{
    FLAG_BLOCKS, FLAG_BULK, FLAG_ECHO, FLAG_FAILURE, Frame, Kind, Shape, Small,
};
use menagerie_protocol::shm::Mapping;
use serde::de::DeserializeOwned;

use super::bulk::DownSegment;
use super::decode::decode;
use super::nap::Nap;
use super::slots::{Opened, Waiter};
use super::{Due, Lane, OutcallHead, Outcome, Payload, Receiving, Ticket, Violation, lock};
use crate::pause::Pause;

/// A call as its caller has it, with its end when that is known: who reads it
/// puts it there, and it is moved no more.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) ticket: Ticket,
    pub(super) looks: Looks,
    /// The worker slept when it was sent.
    pub(super) is_cold: bool,
    /// How long its caller has slept before it looked at the clock.
    pub(crate) slept: Duration,
    /// The function's id.
    pub(crate) function: u32,
    pub(crate) outcome: Option<Outcome>,
    /// What the outcome may refer to.
    pub(crate) segment: Option<DownSegment>,
}

/// Whether a caller looks for its answer as soon as its call is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// A thread that waits, and may sleep once for so long before it looks at the clock.
    Always(Nap),
    /// A task: if it has the lane to itself, and need not let others run.
    IfAlone,
}

impl Own {
    #[inline]
    pub(crate) fn new(looks: Looks) -> Self {
        Self {
            ticket: Ticket::default(),
            looks,
            is_cold: false,
            slept: Duration::ZERO,
            function: 0,
            outcome: None,
            segment: None,
        }
    }

    /// Its deadline may be near by now.
    pub(crate) fn hurry(&mut self) {
        if let Looks::Always(nap) = &mut self.looks {
            *nap = Nap::SHORT;
        }
    }

    /// The call has ended.
    #[inline(always)]
    pub(super) fn put(&mut self, outcome: Outcome, segment: Option<DownSegment>) {
        // There is none yet; to say so here spares the code that drops it.
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
        }
        if segment.is_some() {
            self.segment = segment;
        }
    }

    /// The call has ended with a small value.
    #[inline(always)]
    fn put_small(&mut self, small: Small) {
        let outcome = Some(Outcome::Value(Payload::Small(small)));
        // There is none yet: nothing is forgotten, and to say so spares the code
        // that drops it.
        std::mem::forget(std::mem::replace(&mut self.outcome, outcome));
    }

    /// Whether the call has ended with a value.
    #[inline]
    pub(crate) fn has_value(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Value(_)))
    }

    /// The value that the call ended with, if that is a small one: then this owns
    /// nothing.
    #[inline]
    pub(crate) fn small_value(&self) -> Option<&[u8]> {
        match &self.outcome {
            Some(Outcome::Value(Payload::Small(small))) if self.segment.is_none() => {
                Some(small.bytes())
            }
            _ => None,
        }
    }

    /// The value that the call ended with, decoded.
    #[inline]
    pub(crate) fn decode<R: DeserializeOwned>(&self) -> Result<R, Failure> {
        match &self.outcome {
            Some(Outcome::Value(Payload::Small(small))) => decode(small.bytes()),
            Some(Outcome::Value(payload)) => payload.with(self.segment.as_ref(), decode),
            _ => Err(no_value()),
        }
    }

    /// The value that the call ended with.
    pub(crate) fn into_vec(self) -> Result<Vec<u8>, Failure> {
        match self.outcome {
            Some(Outcome::Value(payload)) => Ok(payload.into_vec(self.segment.as_ref())),
            _ => Err(no_value()),
        }
    }
}

/// Who asks for a value has seen that there is one.
#[cold]
fn no_value() -> Failure {
    Failure::BadValue { message: "the call has no value".to_owned() }
}

/// Frames that are read in one go, at most. A worker that never stops sending
/// would keep its reader for ever otherwise, beyond every deadline.
const MAX_FRAMES: u32 = 4096;

/// Bytes that are copied from segments in one go, about: they take 10 ms.
const MAX_COPIED: u64 = 64 << 20;

/// Bytes in a segment that the worker writes.
type Bulk = (Arc<Mapping>, Range<usize>);

/// How reading in one go has ended.
#[derive(Debug)]
pub(super) enum Read {
    /// With the reader's own outcome; more may be there.
    Own,
    /// With nothing left.
    All,
    /// With something left: the reader has to look after its own affairs.
    More,
}

/// Adds to a count that only this thread writes: a plain store will do.
#[inline]
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Release);
}

impl Receiving {
    pub(super) fn disarm(&mut self) {
        if self.armed {
            self.rx.disarm();
            self.armed = false;
        }
    }

    /// Copies bytes that the worker may write: once, into memory of our own.
    fn copy_bulk(&mut self, (mapping, range): Bulk) -> Vec<u8> {
        let mut bytes = Vec::new();
        mapping.copy_out(range.start, range.len(), &mut bytes);
        self.copied += range.len() as u64;
        bytes
    }
}

/// How long the end of a lane waits for its leader to go, each time.
const LEADER_PATIENCE: Duration = Duration::from_micros(20);

impl Lane {
    /// What a hot call needs: its answer comes while its caller spins for a
    /// moment, before anything else, and is a small value, which `own` has then. The
    /// call has no segment.
    #[inline(always)]
    pub(super) fn answered_soon(
        &self,
        receiving: &mut Receiving,
        opened: Opened<'_>,
        own: &mut Own,
    ) {
        // A call that was sent, and whose caller leads, is ended by nobody else.
        if receiving.broken || !opened.is_sent() {
            return;
        }
        // What can be done before the answer is there costs nothing.
        let values = self.values(own.function);
        let own_call = |call| call == opened.ticket.wire();
        if receiving.rx.spin_briefly()
            && let Some(plain) = receiving.rx.take_plain(Kind::Reply, own_call)
        {
            own.put_small(plain.payload);
            self.slots.end_sent(opened);
            if let Some(values) = values {
                add(values, 1);
            }
            self.answered(1);
        }
    }

    /// Reads the frames that are there, up to the answer to the reader's own
    /// call.
    #[inline(never)]
    pub(super) fn read(
        self: &Arc<Self>,
        receiving: &mut Receiving,
        mut own: Option<&mut Own>,
    ) -> Read {
        receiving.copied = 0;
        for _ in 0..MAX_FRAMES {
            if receiving.broken {
                return Read::All;
            }
            if receiving.copied >= MAX_COPIED {
                break;
            }
            let frame = match receiving.rx.peek() {
                Ok(None) => return Read::All,
                Ok(Some(frame)) => frame,
                Err(corrupt) => {
                    self.broken(receiving, Violation::Ring(corrupt));
                    return Read::All;
                }
            };
            match &mut own {
                Some(own)
                    if own.ticket.wire() == frame.head.call && frame.head.kind == Kind::Reply =>
                {
                    match self.take_own(receiving, frame, own) {
                        Ok(()) => return Read::Own,
                        Err(violation) => self.broken(receiving, violation),
                    }
                }
                _ => {
                    if let Err(violation) = self.handle(receiving, frame) {
                        self.broken(receiving, violation);
                    }
                }
            }
        }
        Read::More
    }

    #[cold]
    fn broken(&self, receiving: &mut Receiving, violation: Violation) {
        receiving.broken = true;
        self.violated(violation);
    }

    /// Takes the answer to the reader's own call.
    #[inline]
    fn take_own(
        &self,
        receiving: &mut Receiving,
        frame: Frame,
        own: &mut Own,
    ) -> Result<(), Violation> {
        let unknown = Violation::NoSuchCall(frame.head.call);
        let segment = self.slots.own_segment(own.ticket).ok_or(unknown)?;
        // Of nonsense the call hears by its lane's end.
        let outcome = self.outcome(receiving, &frame, own.function, segment.as_ref())?;
        own.put(outcome, segment);
        self.slots.complete_own(own.ticket);
        receiving.rx.release(frame);
        self.answered(1);
        Ok(())
    }

    /// Takes any other frame.
    #[inline(never)]
    fn handle(self: &Arc<Self>, receiving: &mut Receiving, frame: Frame) -> Result<(), Violation> {
        match frame.head.kind {
            Kind::Reply => {
                let ticket = Ticket::from_wire(frame.head.call);
                let function = self.slots.function(ticket.index);
                let waiter = self
                    .slots
                    .complete(ticket, |segment| self.outcome(receiving, &frame, function, segment))
                    .ok_or(Violation::NoSuchCall(frame.head.call))??;
                receiving.rx.release(frame);
                self.answered(1);
                waiter.wake();
                Ok(())
            }
            Kind::Call => {
                let head = frame.head;
                let parent = head.serves().map(Ticket::from_wire);
                // One that has ended is none.
                let made_for = parent.and_then(|parent| self.slots.made_for(parent));
                let parent = parent.filter(|_| made_for.is_some());
                let (origin, due) =
                    made_for.map_or((None, Due::Unknown), |(o, due)| (Some(o), due));
                let mut open = self.open_outcall(head.call, parent)?;
                let mut payload = Vec::new();
                receiving.rx.copy_payload(&frame, &mut payload);
                let bulk =
                    if head.flags & FLAG_BULK == 0 { None } else { Some(self.bulk(&payload)?) };
                let len = bulk.as_ref().map_or(payload.len(), |(_, range)| range.len());
                let payload = open.has_room(len as u64).then(|| match bulk {
                    None => payload,
                    Some(bulk) => receiving.copy_bulk(bulk),
                });
                receiving.rx.release(frame);
                let blocks = head.flags & FLAG_BLOCKS != 0;
                let head = OutcallHead { call: head.call, origin, due, blocks };
                self.tell(|peer| peer.outcall(open, head, payload));
                Ok(())
            }
            Kind::Pad | Kind::Command => Err(Violation::Kind),
        }
    }

    /// Counts calls that have ended. Whoever does holds the receiving end.
    #[inline]
    pub(super) fn answered(&self, calls: u64) {
        add(&self.answered, calls);
    }

    /// Counts a value that goes to a caller who is still there.
    #[inline]
    fn count_value(&self, function: u32) {
        if let Some(values) = self.values(function) {
            add(values, 1);
        }
    }

    /// Where the values of a function are counted.
    #[inline]
    fn values(&self, function: u32) -> Option<&AtomicU64> {
        self.counts.get()?.values(function)
    }

    #[inline]
    fn outcome(
        &self,
        receiving: &mut Receiving,
        frame: &Frame,
        function: u32,
        segment: Option<&DownSegment>,
    ) -> Result<Outcome, Violation> {
        if frame.head.flags == 0
            && let Some(small) = receiving.rx.small_payload(frame)
        {
            self.count_value(function);
            return Ok(Outcome::Value(Payload::Small(small)));
        }
        self.large_outcome(receiving, frame, function, segment)
    }

    #[inline(never)]
    fn large_outcome(
        &self,
        receiving: &mut Receiving,
        frame: &Frame,
        function: u32,
        segment: Option<&DownSegment>,
    ) -> Result<Outcome, Violation> {
        let flags = frame.head.flags;
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
            self.count_value(function);
            return Ok(Outcome::Value(Payload::Echo { start, len }));
        }
        let bytes =
            if flags & FLAG_BULK == 0 { inline } else { receiving.copy_bulk(self.bulk(&inline)?) };
        if flags & FLAG_FAILURE == 0 {
            self.count_value(function);
            return Ok(Outcome::Value(Payload::Heap(bytes)));
        }
        let failure = codec::decode(&bytes).map_err(|_| Violation::Failure)?;
        Ok(Outcome::Failed(Box::new(failure)))
    }

    /// What stands in a segment that the worker writes.
    fn bulk(&self, reference: &[u8]) -> Result<Bulk, Violation> {
        let bulk = BulkRef::from_bytes(reference).ok_or(Violation::Bulk("nothing"))?;
        if bulk.len > self.limits.max_payload {
            return Err(Violation::Bulk("a payload beyond the limit"));
        }
        let mapping = lock(&self.up_segments).get(bulk.segment);
        let mapping = mapping.ok_or(Violation::Bulk("a segment that does not exist"))?;
        let range = bulk.range(mapping.len()).ok_or(Violation::Bulk("a range outside"))?;
        Ok((mapping, range))
    }

    /// The worker is dead, and nothing is sent any more: reads what it had
    /// published, then ends every call.
    pub(super) fn read_what_is_left(
        self: &Arc<Self>,
        end: impl FnOnce(u64) -> super::slots::Failed,
    ) -> super::slots::Failed {
        let shape = Shape::new(u64::from(self.limits.ring_slots));
        let mut receiving = loop {
            if let Some(receiving) = self.rx.take() {
                break receiving;
            }
            // A leader may sleep on the ring; nobody else will wake it now.
            self.memory.wake_supervisor(shape, self.leader_at.load(Ordering::SeqCst));
            // To yield would be to give this CPU to the next process, which starts, and
            // to wait for it; who sleeps is woken where a CPU is idle.
            std::thread::sleep(LEADER_PATIENCE);
        };
        // Bounded, as the lane may be one that a living worker has unloaded.
        for _ in 0..=self.limits.ring_slots / MAX_FRAMES {
            if !matches!(self.read(&mut receiving, None), Read::More) {
                break;
            }
        }
        receiving.broken = true;
        let failed = end(self.begun());
        self.answered(failed.ended);
        // Whoever wanted the lead meanwhile finds its outcome by itself.
        drop(receiving);
        failed
    }

    /// The caller has gone. Returns whether the call was still in flight.
    pub(crate) fn abandon(&self, ticket: Ticket) -> bool {
        let in_flight = self.slots.abandon(ticket);
        if in_flight {
            self.outcalls.abandon(ticket);
        }
        in_flight
    }

    /// Waits until the worker has begun a call that nobody waits for any more, if it has
    /// not yet: it cannot know that it need not. False if that will not be.
    pub(crate) async fn begins_abandoned(&self, ticket: Ticket) -> bool {
        let mut pause = Pause::new(Duration::from_millis(1), Duration::from_millis(100));
        while !self.is_running(ticket) {
            if self.is_dead() || !self.slots.is_abandoned(ticket) {
                return false;
            }
            tokio::time::sleep(pause.next()).await;
        }
        true
    }

    /// Whether the worker has begun the call and not answered it.
    pub(crate) fn is_running(&self, ticket: Ticket) -> bool {
        self.slots.is_running(ticket, self.begun())
    }

    /// How many calls the worker says that it has begun.
    pub(super) fn begun(&self) -> u64 {
        self.memory.begun().load(Ordering::Relaxed)
    }

    /// The calls that the worker has begun and not answered.
    pub(crate) fn running(&self) -> Vec<Ticket> {
        self.slots.running(self.memory.begun().load(Ordering::Relaxed))
    }

    /// Wakes callers whose calls have ended.
    pub(super) fn wake_all(waiters: Vec<Waiter>) {
        for waiter in waiters {
            waiter.wake();
        }
    }
}
