//! The worker's side of a lane: the loop on the lane's thread.

mod outcalls;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::codec;
use crate::error::{Failure, GuestError, MAX_TEXT};
use crate::instance::{Args, Instance};
use crate::lane::link::{Rx, Side, Tx};
use crate::lane::{BulkRef, INLINE_MAX, LaneMemory, LaneWord, TURNS};
use crate::message::{LaneCommand, LaneId, MAX_STATE, ToSupervisor};
use crate::ring::{FLAG_BULK, FLAG_ECHO, FLAG_FAILURE, FrameHead, Full, Kind, Plain, Shape};
use crate::runtime::{InterruptSlot, OnReply, Reply};
use crate::shm::{Access, Segment};
use outcalls::Answered;

/// Where a lane's messages to the supervisor go.
pub type Outbox = Arc<dyn Fn(ToSupervisor) + Send + Sync>;

/// A lane's shared segments, filled by the control thread.
#[derive(Debug, Default)]
pub struct SegmentTable {
    segments: Mutex<HashMap<u32, (Arc<Segment>, Access)>>,
    arrived: Condvar,
}

impl SegmentTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, (Arc<Segment>, Access)>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a segment that has arrived.
    pub fn insert(&self, segment: Segment, access: Access) {
        self.lock().insert(segment.id, (Arc::new(segment), access));
        self.arrived.notify_all();
    }

    /// Waits for the first segment for which `pick` says something. The
    /// supervisor announces a segment before it uses it, so this ends.
    fn wait<T>(
        &self,
        mut pick: impl FnMut(&HashMap<u32, (Arc<Segment>, Access)>) -> Option<T>,
    ) -> T {
        let mut segments = self.lock();
        loop {
            if let Some(found) = pick(&segments) {
                return found;
            }
            segments = self.arrived.wait(segments).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A segment that the worker writes results into.
struct UpSegment {
    segment: Arc<Segment>,
    /// The ring position after the last frame that refers to it: it is free
    /// when the supervisor has read that far.
    busy_until: u64,
}

/// The most segments that a lane asks for; with all of them busy it waits for
/// the supervisor to read.
const MAX_UP_SEGMENTS: usize = 8;

/// The worker's side of a lane. It belongs to the lane's thread.
pub struct WorkerLane {
    id: LaneId,
    bundle: String,
    tx: RefCell<Tx>,
    rx: RefCell<Rx>,
    begun: Cell<u64>,
    /// Where the supervisor sees it.
    begun_word: LaneWord,
    left_word: LaneWord,
    /// The call that [`Instance::call`] is running, or 0.
    current: Cell<u64>,
    max_payload: u64,
    outbox: Outbox,
    segments: Arc<SegmentTable>,
    interrupt: InterruptSlot,
    up_segments: RefCell<Vec<UpSegment>>,
    /// The segments of calls that are not answered yet.
    bulk_calls: RefCell<HashMap<u64, Arc<Segment>>>,
    /// Calls of the guest that are not answered yet.
    outcalls: RefCell<HashMap<u64, OnReply>>,
    next_outcall: Cell<u32>,
    /// Frames that arrived while the guest waited for an answer.
    stash: RefCell<VecDeque<(FrameHead, Vec<u8>)>>,
    /// Answers to be handed over when no guest code runs.
    deferred: RefCell<Vec<Answered>>,
}

impl fmt::Debug for WorkerLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerLane({})", self.id)
    }
}

/// What a lane is built from.
#[derive(Debug)]
pub struct LaneParts {
    /// Its number.
    pub id: LaneId,
    /// The bundle's name.
    pub bundle: String,
    /// Its memory.
    pub memory: LaneMemory,
    /// Its rings' shape.
    pub shape: Shape,
    /// Wakes the supervisor.
    pub supervisor_event: OwnedFd,
    /// Wakes the lane.
    pub lane_event: OwnedFd,
    /// The largest payload in bytes.
    pub max_payload: u64,
    /// Its segments.
    pub segments: Arc<SegmentTable>,
    /// How what runs on it can be stopped.
    pub(crate) interrupt: InterruptSlot,
}

impl WorkerLane {
    /// The worker's side of a lane.
    #[must_use]
    pub fn new(parts: LaneParts, outbox: Outbox) -> Self {
        let LaneParts {
            id,
            bundle,
            memory,
            shape,
            supervisor_event,
            lane_event,
            max_payload,
            segments,
            interrupt,
        } = parts;
        Self {
            id,
            bundle,
            tx: RefCell::new(Tx::new(&memory, shape, Side::Worker, Arc::new(supervisor_event))),
            rx: RefCell::new(Rx::new(&memory, shape, Side::Worker, Arc::new(lane_event))),
            begun: Cell::new(0),
            begun_word: memory.begun(),
            left_word: memory.left(),
            current: Cell::new(0),
            max_payload,
            outbox,
            segments,
            interrupt,
            up_segments: RefCell::default(),
            bulk_calls: RefCell::default(),
            outcalls: RefCell::default(),
            next_outcall: Cell::new(1),
            stash: RefCell::default(),
            deferred: RefCell::default(),
        }
    }

    /// The largest payload in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        usize::try_from(self.max_payload).unwrap_or(usize::MAX)
    }

    /// Serves the lane until it is told to unload. Returns whether `on_unload`
    /// has run already.
    pub(crate) fn run(self: &Rc<Self>, instance: &mut dyn Instance) -> bool {
        let mut finished = false;
        let mut payload = Vec::new();
        let mut since_poll = 0_u32;
        let mut pending = false;
        loop {
            if let Some(call) = self.next_call() {
                self.serve_call(instance, call.head, call.payload.bytes());
                since_poll += 1;
                if since_poll < TURNS {
                    continue;
                }
            } else if let Some(head) = self.next_frame(&mut payload) {
                match head.kind {
                    Kind::Call => self.serve_call(instance, head, &payload),
                    Kind::Reply => self.resolve(head, &payload, true),
                    Kind::Command => match codec::decode(&payload) {
                        Ok(LaneCommand::Finish) => {
                            let state = finish(instance).map_err(GuestError::cut);
                            // One that has failed goes on, as if it had not been asked.
                            finished = state.is_ok();
                            (self.outbox)(ToSupervisor::Finished { lane: self.id, state });
                        }
                        Ok(LaneCommand::Resume { state }) => {
                            finished = false;
                            let outcome = instance.on_load(state.as_deref());
                            let outcome = outcome.map_err(GuestError::cut);
                            (self.outbox)(ToSupervisor::Resumed { lane: self.id, outcome });
                        }
                        Ok(LaneCommand::Unload) => return finished,
                        Err(error) => corrupt(&error),
                    },
                    Kind::Pad => {}
                }
                since_poll += 1;
                if since_poll < TURNS {
                    continue;
                }
            }
            since_poll = 0;
            // No call that was begun has this thread to itself any more.
            self.left_word.store(self.begun.get(), Ordering::Relaxed);
            self.run_deferred();
            let was_pending = pending;
            pending = instance.poll();
            // A blocking call in there may have received what is due here.
            if !self.stash.borrow().is_empty() || !self.deferred.borrow().is_empty() {
                continue;
            }
            if pending || was_pending || !self.outcalls.borrow().is_empty() {
                self.wait_with(instance, pending);
            } else {
                let mut rx = self.rx.borrow_mut();
                if !rx.spin() {
                    rx.doze();
                }
            }
        }
    }

    /// The next frame, if it is a small call.
    #[inline]
    fn next_call(&self) -> Option<Plain> {
        if !self.stash.borrow().is_empty() {
            return None;
        }
        self.rx.borrow_mut().take_plain(Kind::Call, |_| true)
    }

    /// The next frame, in the order of arrival; its payload is copied to
    /// `payload`.
    #[inline]
    fn next_frame(&self, payload: &mut Vec<u8>) -> Option<FrameHead> {
        let mut stash = self.stash.borrow_mut();
        if stash.is_empty() {
            return self.receive(payload);
        }
        let (head, stashed) = stash.pop_front()?;
        *payload = stashed;
        Some(head)
    }

    fn receive(&self, payload: &mut Vec<u8>) -> Option<FrameHead> {
        let mut rx = self.rx.borrow_mut();
        let frame = rx.peek().unwrap_or_else(|e| corrupt(&e))?;
        payload.clear();
        rx.copy_payload(&frame, payload);
        // A call's bulk stays where it is until the reply. Anything else is
        // copied out before the frame is released, which frees its segment.
        if frame.head.flags & FLAG_BULK != 0 && frame.head.kind != Kind::Call {
            let (segment, range) = self.bulk(payload);
            payload.clear();
            segment.mapping.copy_out(range.start, range.len(), payload);
        }
        rx.release(frame);
        Some(frame.head)
    }

    #[inline]
    fn serve_call(self: &Rc<Self>, instance: &mut dyn Instance, head: FrameHead, payload: &[u8]) {
        self.begin(head.call);
        let reply = Reply::new(head.call, Rc::clone(self));
        if head.flags & FLAG_BULK == 0 {
            instance.call(head.function, Args { bytes: payload, segment: None }, reply);
        } else {
            self.serve_bulk(instance, head, payload, reply);
        }
        self.end(head.call);
    }

    #[inline(never)]
    fn serve_bulk(
        &self,
        instance: &mut dyn Instance,
        head: FrameHead,
        payload: &[u8],
        reply: Reply,
    ) {
        let (segment, range) = self.bulk(payload);
        // SAFETY: the supervisor wrote this range for this call before it
        // published the frame, and reuses the segment only after the reply.
        let bytes = unsafe { segment.mapping.bytes(range.start, range.len()) };
        self.bulk_calls.borrow_mut().insert(head.call, Arc::clone(&segment));
        instance.call(head.function, Args { bytes, segment: Some(&segment) }, reply);
    }

    #[inline]
    fn begin(&self, call: u64) {
        let begun = self.begun.get() + 1;
        self.begun.set(begun);
        self.begun_word.store(begun, Ordering::Relaxed);
        self.current.set(call);
        self.interrupt.begin(call);
    }

    #[inline]
    fn end(&self, call: u64) {
        self.interrupt.end(call);
        self.current.set(0);
    }

    fn bulk(&self, payload: &[u8]) -> (Arc<Segment>, std::ops::Range<usize>) {
        let Some(bulk) = BulkRef::from_bytes(payload) else {
            corrupt(&"a bulk frame of another size")
        };
        let segment = self
            .segments
            .wait(|all| all.get(&bulk.segment).map(|(segment, _)| Arc::clone(segment)));
        let Some(range) = bulk.range(segment.mapping.len()) else {
            corrupt(&"a bulk range outside")
        };
        (segment, range)
    }

    /// Waits while the VM has asynchronous work, or answers are due.
    fn wait_with(&self, instance: &mut dyn Instance, pending: bool) {
        if self.rx.borrow_mut().spin() {
            return;
        }
        if !pending {
            self.rx.borrow_mut().sleep(None);
            return;
        }
        self.wait_on_socket(|wake| instance.wait(wake));
    }

    /// Waits with `wait`, unless a frame is there already; until one is, the
    /// descriptor is not readable.
    fn wait_on_socket(&self, wait: impl FnOnce(BorrowedFd<'_>)) {
        let event = Arc::clone(self.rx.borrow().event());
        if self.rx.borrow_mut().arm() {
            wait(event.as_fd());
            self.rx.borrow_mut().disarm();
        }
        self.rx.borrow().drain_event();
    }

    /// Answers a call with a value in one piece.
    #[inline]
    pub(crate) fn reply_value(&self, call: u64, value: &[u8]) {
        let mut tx = self.tx.borrow_mut();
        // Nearly always.
        if tx.has_slot(value.len()) && self.bulk_calls.borrow().is_empty() {
            tx.send_one(FrameHead { kind: Kind::Reply, flags: 0, function: 0, call }, value);
            return;
        }
        drop(tx);
        self.reply(call, &[value]);
    }

    /// Answers a call with a value.
    #[inline(never)]
    pub(crate) fn reply(&self, call: u64, parts: &[&[u8]]) {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let args = self.take_bulk(call);
        if total <= INLINE_MAX {
            self.send(FrameHead { kind: Kind::Reply, flags: 0, function: 0, call }, parts);
        } else if total as u64 > self.max_payload {
            let failure = Failure::PayloadTooLarge { size: total as u64, limit: self.max_payload };
            self.fail(call, &failure);
        } else if let Some(bulk) = args.and_then(|args| echo_of(&args, parts, total)) {
            let flags = FLAG_BULK | FLAG_ECHO;
            let head = FrameHead { kind: Kind::Reply, flags, function: 0, call };
            self.send(head, &[&bulk.to_bytes()]);
        } else {
            let head = FrameHead { kind: Kind::Reply, flags: FLAG_BULK, function: 0, call };
            self.send_bulk(head, parts, total);
        }
    }

    /// The segment of a call's arguments, if they stand in one. Most do not, and
    /// hashing the call's id would take a tenth of its time.
    #[inline]
    fn take_bulk(&self, call: u64) -> Option<Arc<Segment>> {
        let mut calls = self.bulk_calls.borrow_mut();
        if calls.is_empty() { None } else { calls.remove(&call) }
    }

    /// Answers a call with a failure.
    pub(crate) fn fail(&self, call: u64, failure: &Failure) {
        drop(self.take_bulk(call));
        let fits = |bytes: &Vec<u8>| bytes.len() as u64 <= self.max_payload;
        let encode = |failure: &Failure| codec::encode(failure).ok().filter(fits);
        // Its six texts fit together, whatever the limit is.
        let most = MAX_TEXT.min(self.max_payload() / 8);
        let short = || match failure {
            Failure::Guest(error) => encode(&Failure::from(error.short(most))),
            _ => None,
        };
        let untold = || {
            let problem = "the guest's error is too large to be sent";
            codec::encode(&Failure::from(GuestError::new("MenagerieError", problem))).ok()
        };
        let bytes = encode(failure).or_else(short).or_else(untold).unwrap_or_default();
        let head = FrameHead { kind: Kind::Reply, flags: FLAG_FAILURE, function: 0, call };
        if bytes.len() <= INLINE_MAX {
            self.send(head, &[&bytes]);
        } else {
            let head = FrameHead { flags: FLAG_FAILURE | FLAG_BULK, ..head };
            self.send_bulk(head, &[&bytes], bytes.len());
        }
    }

    fn send_bulk(&self, head: FrameHead, parts: &[&[u8]], total: usize) {
        let index = self.free_segment(total);
        let segment = Arc::clone(&self.up_segments.borrow()[index].segment);
        let mut at = 0;
        for part in parts {
            segment.mapping.copy_in(at, part);
            at += part.len();
        }
        let bulk = BulkRef { segment: segment.id, offset: 0, len: total as u64 };
        self.send(head, &[&bulk.to_bytes()]);
        self.up_segments.borrow_mut()[index].busy_until = self.tx.borrow().position();
    }

    /// The smallest free segment that is large enough; one is asked for if
    /// there is none.
    fn free_segment(&self, len: usize) -> usize {
        loop {
            let consumed = self.tx.borrow_mut().consumed().unwrap_or_else(|e| corrupt(&e));
            let mut up = self.up_segments.borrow_mut();
            let free = up
                .iter()
                .enumerate()
                .filter(|(_, s)| s.busy_until <= consumed && s.segment.mapping.len() >= len)
                .min_by_key(|(_, s)| s.segment.mapping.len());
            if let Some((index, _)) = free {
                return index;
            }
            let large_enough = up.iter().filter(|s| s.segment.mapping.len() >= len).count();
            if large_enough > 0 && up.len() >= MAX_UP_SEGMENTS {
                drop(up);
                std::thread::sleep(Duration::from_micros(20));
                continue;
            }
            let known: Vec<u32> = up.iter().map(|s| s.segment.id).collect();
            (self.outbox)(ToSupervisor::WantSegment { lane: self.id, len: len as u64 });
            let segment = self.segments.wait(|all| {
                all.values()
                    .find(|(s, access)| *access == Access::ReadWrite && !known.contains(&s.id))
                    .map(|(s, _)| Arc::clone(s))
            });
            up.push(UpSegment { segment, busy_until: 0 });
        }
    }

    /// Sends a frame, waiting for room: the supervisor always reads on.
    fn send(&self, head: FrameHead, parts: &[&[u8]]) {
        if head.kind == Kind::Call {
            // Nobody over there need be waiting for a guest's call.
            return self.send_later(head, parts, Tx::send_unexpected);
        }
        match self.tx.borrow_mut().send(head, parts) {
            Ok(()) => return,
            Err(Full::Corrupt(e)) => corrupt(&e),
            Err(Full::Busy) => {}
        }
        self.send_later(head, parts, Tx::send);
    }

    #[cold]
    fn send_later(
        &self,
        head: FrameHead,
        parts: &[&[u8]],
        send: impl Fn(&mut Tx, FrameHead, &[&[u8]]) -> Result<(), Full>,
    ) {
        let mut tries = 0_u32;
        loop {
            let sent = send(&mut self.tx.borrow_mut(), head, parts);
            match sent {
                Ok(()) => return,
                Err(Full::Corrupt(e)) => corrupt(&e),
                Err(Full::Busy) => {}
            }
            tries += 1;
            if tries < 1000 {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// The call that is being run now, or 0.
    pub(crate) fn current(&self) -> u64 {
        self.current.get()
    }
}

/// Runs `on_unload`. A state that no message can carry is given back to the bundle
/// at once, as at any other reload that fails after its `on_unload`.
fn finish(instance: &mut dyn Instance) -> Result<Option<Vec<u8>>, GuestError> {
    let state = instance.on_unload()?;
    let size = state.as_ref().map_or(0, Vec::len);
    if size <= MAX_STATE {
        return Ok(state);
    }
    let message =
        format!("the state that on_unload has returned takes {size} bytes, of {MAX_STATE} at most");
    let mut error = GuestError::new("StateTooLarge", message);
    error.inner.extend(instance.on_load(state.as_deref()).err());
    Err(error)
}

/// If the value is bytes of the call's own arguments, with the very head that
/// they stand behind there, where that is: nothing has to be copied.
fn echo_of(args: &Segment, parts: &[&[u8]], total: usize) -> Option<BulkRef> {
    let (last, before) = parts.split_last()?;
    let head_len = total - last.len();
    let start = args.mapping.offset_of(last)?.checked_sub(head_len)?;
    // SAFETY: the call whose arguments these are is only now being answered,
    // so the supervisor does not write them.
    let mut there = unsafe { args.mapping.bytes(start, head_len) };
    for part in before {
        let same;
        (same, there) = there.split_at_checked(part.len())?;
        // The very bytes, if it is a part of the arguments too: these may be many.
        if !std::ptr::eq(*part, same) && *part != same {
            return None;
        }
    }
    Some(BulkRef { segment: args.id, offset: start as u64, len: total as u64 })
}

/// The supervisor wrote nonsense: a bug of ours or of the host's, and this
/// process cannot go on.
fn corrupt(what: &dyn fmt::Display) -> ! {
    tracing::error!("the lane is corrupt: {what}");
    std::process::abort()
}
