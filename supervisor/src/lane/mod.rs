//! The supervisor's end of a lane: many callers, async and blocking, on one
//! pair of rings.
//!
//! # Who reads the replies
//!
//! Whoever waits for a reply and can lock the receiving end is the *leader*:
//! it reads, and completes every reply that it finds. A leader that is a
//! blocking caller may sleep on the ring itself; an async one arms the wake socket
//! and returns to its runtime, where the lane's pump reads on. A leader that
//! leaves while calls are pending arms the wake socket, so that there is always
//! somebody who will be woken. An idle lane is not armed: nothing is due.

mod bulk;
mod call;
mod decode;
mod lead;
mod nap;
mod outcalls;
mod overdue;
mod payload;
mod pump;
mod receive;
mod room;
mod slots;
mod stuck;

pub(crate) use bulk::Arguments;
pub(crate) use call::{Outcome, Refused, Undelivered};
pub(crate) use decode::decode;
pub(crate) use lead::{Look, PATIENCE};
pub(crate) use nap::Nap;
pub(crate) use outcalls::OpenOutcall;
pub(crate) use overdue::Leave;
pub(crate) use payload::Payload;
pub(crate) use pump::Pump;
pub(crate) use receive::{Looks, Own};
pub(crate) use room::{Place, block_on};
pub(crate) use slots::{Due, Terms, Ticket};

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use menagerie_protocol::ContractInterface;
use menagerie_protocol::contract::ContractId;
use menagerie_protocol::lane::hand_over::HandOver;
use menagerie_protocol::lane::link::{Rx, Side, Tx};
use menagerie_protocol::lane::wait::wake_pair;
use menagerie_protocol::lane::{LaneMemory, NewLane};
use menagerie_protocol::message::{LaneId, ToWorker};
use menagerie_protocol::ring::{Corrupt, Shape, short_word};

use crate::config::Config;
use crate::counters::{Counters, FunctionCounters, LaneCounts};
use bulk::{DownPool, UpSegments};
use outcalls::Outcalls;
use room::Room;
use slots::Slots;

/// A reason to take no calls: a hand-over, or an unload.
const CLOSED: u8 = 1;
/// A reason to take no calls: the worker has written nonsense.
const BROKEN: u8 = 2;
/// A reason to take no calls: the worker has died, or the lane was unloaded. It
/// is set once.
const DEAD: u8 = 4;

/// Locks a mutex whose data stays sound even if a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a lane needs of its worker's side.
pub(crate) trait LanePeer: Send + Sync {
    /// Sends a control message with descriptors.
    fn send(&self, message: ToWorker, fds: Vec<OwnedFd>);
    /// Reports that the worker does not keep the protocol.
    fn violation(&self, lane: LaneId, what: Violation);
    /// A caller has gone before its call has ended: when it runs the guest is asked to
    /// stop, and if it still runs after `until_kill` the worker is killed.
    fn overdue(&self, lane: &Arc<Lane>, ticket: Ticket, until_kill: Option<Duration>);
    /// A caller's time was up before the worker had begun its call, and the worker
    /// is at no other: if that stays so, it is killed.
    fn stuck(&self, lane: &Arc<Lane>);
    /// There is more to read than one turn takes: the lane's pump is to go on.
    fn read_on(&self, lane: &Arc<Lane>);
    /// A segment of so many bytes could not be made for the worker: it is to be tried
    /// again until it [is](Lane::grant_owed).
    fn grant_later(&self, lane: &Arc<Lane>, len: usize);
    /// Hands over a call that a guest made; without its payload, if its lane has no room
    /// for that.
    fn outcall(&self, open: OpenOutcall, head: OutcallHead, payload: Option<Vec<u8>>);
}

/// What a worker says of a call that a guest made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutcallHead {
    /// Its number.
    pub(crate) call: u64,
    /// The call that is served by it: for which wait of another bundle that one
    /// was made, 0 for none. `None` where the worker does not know.
    pub(crate) origin: Option<u64>,
    /// When the time of the call is up that is served by it.
    pub(crate) due: Due,
    /// Whether the lane's thread waits for the answer.
    pub(crate) blocks: bool,
}

/// What a worker wrote that the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("{0}")]
    Ring(#[from] Corrupt),
    #[error("an answer to call {0:#x}, which nobody made or which was answered already")]
    NoSuchCall(u64),
    #[error("a reference to {0}")]
    Bulk(&'static str),
    #[error("a failure that cannot be decoded")]
    Failure,
    #[error("a frame of a kind that workers do not send")]
    Kind,
    #[error("more than {0} calls of its own at once")]
    TooManyOutcalls(u32),
}

/// A contract as a lane serves it.
#[derive(Debug)]
pub(crate) struct LaneContract {
    pub(crate) id: ContractId,
    pub(crate) functions: Vec<String>,
    /// What tells the functions' names apart at a look.
    keys: Vec<NameKey>,
    /// The id of its first function.
    first: u32,
    /// Where the last function was found that was asked for: a hot loop asks for the
    /// same one again. Only a hint.
    found: AtomicU32,
}

/// A name's length and first bytes: names are short, and comparing two words
/// costs a hot call less than comparing strings one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NameKey(usize, u64);

impl NameKey {
    const WHOLE: usize = 8;

    #[inline(always)]
    fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let whole = bytes.first_chunk::<{ Self::WHOLE }>();
        Self(bytes.len(), whole.map_or_else(|| short_word(bytes), |b| u64::from_le_bytes(*b)))
    }
}

pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) generation: u32,
    /// Set once, when the worker has said what it serves.
    contracts: OnceLock<Vec<Arc<LaneContract>>>,
    /// By a function's id; set with `contracts`.
    counts: OnceLock<Arc<LaneCounts>>,
    peer: Weak<dyn LanePeer>,
    pub(crate) limits: LaneLimits,
    memory: LaneMemory,
    tx: parking_lot::Mutex<Sending>,
    rx: HandOver<Receiving>,
    slots: Slots,
    /// Calls sent so far, written by who holds `tx`: a call's number among them
    /// says whether the worker had begun it.
    sent: AtomicU64,
    /// Calls that have ended so far, written by who holds `rx`.
    answered: AtomicU64,
    /// Who waits for room in the ring.
    room: Room,
    /// Calls of guests that are not answered yet.
    outcalls: Outcalls,
    /// Whether somebody looks whether it begins calls.
    watched: AtomicBool,
    /// Not zero while no calls are taken: [`CLOSED`], [`BROKEN`], [`DEAD`].
    closed: AtomicU8,
    /// Where a leader sleeps, so that it can be woken when the worker dies.
    leader_at: AtomicU64,
    event: Arc<OwnedFd>,
    /// Segments that the worker writes, by number.
    up_segments: Mutex<UpSegments>,
    down: DownPool,
    next_segment: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneLimits {
    pub(crate) ring_slots: u32,
    /// Calls in flight, at most.
    pub(crate) max_in_flight: u32,
    /// Bytes of a payload, at most.
    pub(crate) max_payload: u64,
}

impl LaneLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            ring_slots: config.ring_slots,
            max_in_flight: config.max_in_flight,
            max_payload: config.max_payload,
        }
    }
}

struct Sending {
    tx: Tx,
    /// Segments of answers and commands, until the worker has read beyond.
    lent: Vec<(u64, bulk::DownSegment)>,
}

struct Receiving {
    rx: Rx,
    armed: bool,
    /// Nothing is read any more after a violation.
    broken: bool,
    /// Bytes that were copied from segments in this go.
    copied: u64,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A lane that is nobody's yet: what of it can be made before its worker is there.
#[derive(Debug)]
pub(crate) struct Draft {
    made: LaneMemory,
    limits: LaneLimits,
    slots: Slots,
    event: Arc<OwnedFd>,
    lane_event: Arc<OwnedFd>,
    /// The four descriptors that go to the worker.
    fds: Vec<OwnedFd>,
}

impl Draft {
    pub(crate) fn new(limits: LaneLimits) -> io::Result<Self> {
        let shape = Shape::new(u64::from(limits.ring_slots));
        let NewLane { memory, down, up, .. } = LaneMemory::create(shape)?;
        let (event, wakes_us) = wake_pair()?;
        let (wakes_lane, lane_event) = wake_pair()?;
        Ok(Self {
            made: memory,
            limits,
            slots: Slots::new(limits.max_in_flight),
            event: Arc::new(event),
            lane_event: Arc::new(lane_event),
            fds: vec![down, up, wakes_us, wakes_lane],
        })
    }

    /// The four descriptors that go to the worker, once.
    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// The lane, before the worker has said what it serves: a bundle may make
    /// calls of its own while it is loaded.
    pub(crate) fn finish(self, id: LaneId, generation: u32, peer: Weak<dyn LanePeer>) -> Arc<Lane> {
        let shape = Shape::new(u64::from(self.limits.ring_slots));
        let tx = Tx::new(&self.made, shape, Side::Supervisor, Arc::clone(&self.lane_event));
        let rx = Rx::new(&self.made, shape, Side::Supervisor, Arc::clone(&self.event));
        Arc::new(Lane {
            id,
            generation,
            contracts: OnceLock::new(),
            counts: OnceLock::new(),
            peer,
            limits: self.limits,
            memory: self.made,
            tx: parking_lot::Mutex::new(Sending { tx, lent: Vec::new() }),
            rx: HandOver::new(Receiving { rx, armed: false, broken: false, copied: 0 }),
            slots: self.slots,
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            room: Room::default(),
            outcalls: Outcalls::default(),
            watched: AtomicBool::new(false),
            closed: AtomicU8::new(0),
            leader_at: AtomicU64::new(0),
            event: self.event,
            up_segments: Mutex::default(),
            down: DownPool::default(),
            next_segment: AtomicU32::new(1),
        })
    }
}

impl Lane {
    /// The worker has said what it serves. `bundle` has the counters of every
    /// generation.
    pub(crate) fn serves(&self, contracts: &[ContractInterface], bundle: &Counters) {
        let mut first = 0_u32;
        let mut served = Vec::new();
        let mut counted = Vec::new();
        for contract in contracts {
            let Ok(id) = contract.contract.parse::<ContractId>() else { continue };
            let of = |function: &String| bundle.function(&id, function);
            counted.extend(contract.functions.iter().map(of));
            let functions = contract.functions.clone();
            served.push(Arc::new(LaneContract::new(id, functions, first)));
            first =
                first.saturating_add(u32::try_from(contract.functions.len()).unwrap_or(u32::MAX));
        }
        // Calls come only when there are contracts to call.
        drop(self.counts.set(bundle.for_lane(counted)));
        drop(self.contracts.set(served));
    }

    /// What it serves; nothing yet while its bundle is loaded.
    pub(crate) fn contracts(&self) -> &[Arc<LaneContract>] {
        self.contracts.get().map_or(&[], Vec::as_slice)
    }

    /// The counters of a function, by its id.
    pub(crate) fn counters(&self, id: u32) -> Option<&FunctionCounters> {
        self.counts.get()?.function(id)
    }

    /// The contract of this name and major version.
    pub(crate) fn contract(&self, wanted: &ContractId) -> Option<&Arc<LaneContract>> {
        self.contracts().iter().find(|contract| contract.id.same_major(wanted))
    }

    /// Calls that are sent and have not ended.
    #[inline]
    pub(crate) fn in_flight(&self) -> u64 {
        let answered = self.answered.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire).saturating_sub(answered)
    }

    /// Calls that have ended so far.
    pub(crate) fn ended_calls(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the next call is one of those whose time is taken.
    #[inline]
    pub(crate) fn samples_next(&self, every: u64) -> bool {
        self.sent.load(Ordering::Relaxed).is_multiple_of(every)
    }

    /// Takes note of when a call was sent, for reports of what ran, and of when its
    /// caller's time is up, for who ends this lane.
    pub(crate) fn sent_at(&self, ticket: Ticket, sent: Instant, until: Option<Instant>) {
        self.slots.sent_at(ticket, sent, until);
    }

    /// The latest of the deadlines of the calls in flight, as far as they are known.
    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        self.slots.last_deadline()
    }

    /// Takes no more calls. Those that were sent are counted by
    /// [`in_flight`](Self::in_flight) when this returns.
    pub(crate) fn close(&self) {
        self.closed.fetch_or(CLOSED, Ordering::Release);
        // Whoever is sending now has sent when we have had the lock.
        drop(self.tx.lock());
    }

    /// Takes calls again.
    pub(crate) fn open(&self) {
        self.closed.fetch_and(!CLOSED, Ordering::Release);
    }

    /// Whether it takes calls.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.closed.load(Ordering::Acquire) == 0
    }

    /// The worker does not keep the protocol: it is reported, and until it has
    /// died no call is taken, so that callers wait for its end instead of
    /// trying again and again.
    #[cold]
    fn violated(&self, what: Violation) {
        self.closed.fetch_or(BROKEN, Ordering::Release);
        self.tell(|peer| peer.violation(self.id, what));
    }

    /// Tells its worker's side something, unless that is gone: whoever calls keeps the lane,
    /// and not the process.
    #[cold]
    pub(crate) fn tell(&self, say: impl FnOnce(&dyn LanePeer)) {
        if let Some(peer) = self.peer.upgrade() {
            say(&*peer);
        }
    }

    /// Whether its worker has died, or it was unloaded.
    pub(crate) fn is_dead(&self) -> bool {
        self.closed.load(Ordering::Acquire) & DEAD != 0
    }
}

impl Lane {
    /// The contract and function of an id, for reports.
    pub(crate) fn name_of(&self, function: u32) -> (String, String) {
        for contract in self.contracts() {
            let at = function.checked_sub(contract.first).and_then(|at| usize::try_from(at).ok());
            if let Some(name) = at.and_then(|at| contract.functions.get(at)) {
                return (contract.id.to_string(), name.clone());
            }
        }
        (String::new(), format!("#{function}"))
    }
}

impl LaneContract {
    fn new(id: ContractId, functions: Vec<String>, first: u32) -> Self {
        let keys = functions.iter().map(|name| NameKey::of(name)).collect();
        Self { id, functions, keys, first, found: AtomicU32::new(0) }
    }

    /// The id of a function, if there is one of this name.
    #[inline(always)]
    pub(crate) fn function(&self, name: &str) -> Option<u32> {
        let wanted = NameKey::of(name);
        let hint = self.found.load(Ordering::Relaxed);
        if self.is_named(hint as usize, wanted, name) {
            return Some(self.first + hint);
        }
        self.find(wanted, name)
    }

    #[inline(always)]
    fn is_named(&self, at: usize, wanted: NameKey, name: &str) -> bool {
        self.keys.get(at) == Some(&wanted)
            && (name.len() <= NameKey::WHOLE || self.functions[at] == name)
    }

    #[inline(never)]
    fn find(&self, wanted: NameKey, name: &str) -> Option<u32> {
        let at = (0..self.keys.len()).find(|at| self.is_named(*at, wanted, name))?;
        let at = u32::try_from(at).ok()?;
        self.found.store(at, Ordering::Relaxed);
        Some(self.first + at)
    }
}

#[cfg(test)]
mod tests;
