//! A loader under test, without processes: its lanes run in this process, over
//! real shared memory, and a test calls them.

mod kept;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::error::{Failure, GuestError, LoaderError};
use crate::instance::ContractInterface;
use crate::lane::link::{Rx, Side, Tx};
use crate::lane::wait::wake_pair;
use crate::lane::worker::Outbox;
use crate::lane::{BulkRef, DEFAULT_SLOTS, INLINE_MAX, LaneMemory, LaneWord};
use crate::loader::BundleLoader;
use crate::loader::bundle_source::BundleSource;
use crate::loader::manifest::ManifestData;
use crate::message::{LaneCommand, LaneId, LoadRequest, LogRecord, ToSupervisor};
use crate::msgpack::Reader;
use crate::ring::{FLAG_BULK, FLAG_ECHO, FLAG_FAILURE, FrameHead, Kind, Shape};
use crate::serve::Lanes;
use crate::shm::{Access, Mapping, Segment, seal_future_writes, sealed_memfd};

pub use kept::{counts_exactly, kept_each};

/// How long a test waits for anything before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers the calls that guests make.
type OnCall = dyn Fn(&str, &str, &[u8]) -> Result<Vec<u8>, Failure> + Send + Sync;

/// A loader with its lanes in this process.
pub struct Harness {
    lanes: Lanes,
    shared: Arc<Shared>,
    messages: Mutex<Receiver<ToSupervisor>>,
    parked: Mutex<Vec<ToSupervisor>>,
    next_lane: AtomicU32,
    copy: Mutex<Option<OwnedFd>>,
}

#[derive(Default)]
struct Shared {
    logs: Mutex<Vec<LogRecord>>,
    logged: Condvar,
    on_call: Mutex<Option<Arc<OnCall>>>,
    /// Segments that lanes asked for, to be mapped by their bundle.
    up_segments: Mutex<HashMap<LaneId, HashMap<u32, Arc<Mapping>>>>,
}

impl std::fmt::Debug for Harness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harness").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::missing_panics_doc, reason = "a harness for tests panics where a test should fail")]
impl Harness {
    /// A harness around a loader.
    pub fn new<L: BundleLoader + 'static>(loader: L) -> Arc<Self> {
        Self::with_lanes(loader, Lanes::new)
    }

    /// The same as a standby has it: the loader prepares for the first bundle.
    pub fn standby<L: BundleLoader + 'static>(loader: L) -> Arc<Self> {
        Self::with_lanes(loader, Lanes::of_standby)
    }

    fn with_lanes<L: BundleLoader + 'static>(
        loader: L,
        lanes: fn(Arc<dyn BundleLoader>, Outbox) -> Lanes,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, messages) = channel();
        let sender = Mutex::new(sender);
        let logs = Arc::clone(&shared);
        let outbox = Arc::new(move |message: ToSupervisor| match message {
            ToSupervisor::Log(record) => {
                lock(&logs.logs).push(record);
                logs.logged.notify_all();
            }
            other => drop(lock(&sender).send(other)),
        });
        // WantSegment is answered by whichever thread of the test waits next.
        let lanes = lanes(Arc::new(loader), outbox);
        Arc::new(Self {
            lanes,
            shared,
            messages: Mutex::new(messages),
            parked: Mutex::default(),
            next_lane: AtomicU32::new(1),
            copy: Mutex::default(),
        })
    }

    /// Loads a bundle from its folder.
    ///
    /// # Errors
    ///
    /// As the loader says.
    pub fn load_dir(self: &Arc<Self>, dir: impl AsRef<Path>) -> Result<TestBundle, LoaderError> {
        let manifest = ManifestData::read(dir.as_ref())?.manifest;
        let source = BundleSource::Path(manifest.dir.clone());
        self.start(manifest, source, 1, false).map(|lane| TestBundle::new(self, lane))
    }

    /// Loads a bundle from memory.
    ///
    /// # Errors
    ///
    /// As the loader says.
    pub fn load(
        self: &Arc<Self>,
        manifest: &str,
        source: BundleSource,
    ) -> Result<TestBundle, LoaderError> {
        let manifest = ManifestData::parse(manifest)?.manifest;
        self.start(manifest, source, 1, false).map(|lane| TestBundle::new(self, lane))
    }

    /// Answers the calls that guests make: contract, function, arguments.
    pub fn on_call(
        &self,
        answer: impl Fn(&str, &str, &[u8]) -> Result<Vec<u8>, Failure> + Send + Sync + 'static,
    ) {
        *lock(&self.shared.on_call) = Some(Arc::new(answer));
    }

    /// Hands this copy of the artifact on with every load and reload from now
    /// on, as a supervisor may.
    pub fn hand_on(&self, copy: Option<OwnedFd>) {
        *lock(&self.copy) = copy;
    }

    /// What has been logged so far.
    pub fn logs(&self) -> Vec<LogRecord> {
        lock(&self.shared.logs).clone()
    }

    /// Waits until a record satisfies `wanted`, and returns it.
    pub fn wait_for_log(&self, wanted: impl Fn(&LogRecord) -> bool) -> LogRecord {
        let deadline = Instant::now() + PATIENCE;
        let mut logs = lock(&self.shared.logs);
        loop {
            if let Some(record) = logs.iter().find(|record| wanted(record)) {
                return record.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such record; there are: {logs:#?}");
            logs = self
                .shared
                .logged
                .wait_timeout(logs, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn start(
        &self,
        manifest: ManifestData,
        source: BundleSource,
        generation: u32,
        reload: bool,
    ) -> Result<TestLane, LoaderError> {
        let lane = self.next_lane.fetch_add(1, Ordering::Relaxed);
        let shape = Shape::new(u64::from(DEFAULT_SLOTS));
        let made = LaneMemory::create(shape).expect("shared memory");
        let (supervisor_event, event_clone) = wake_pair().expect("sockets");
        let (lane_clone, lane_event) = wake_pair().expect("sockets");
        let request = LoadRequest {
            lane,
            generation,
            reload,
            manifest: manifest.clone(),
            source: source.clone(),
            ring_slots: DEFAULT_SLOTS,
            max_payload: 64 << 20,
        };
        let copy = lock(&self.copy).as_ref().map(|copy| copy.try_clone().expect("a descriptor"));
        self.lanes.load(request, [made.down, made.up, event_clone, lane_clone], copy);
        let contracts = self.await_message(|message| match message {
            ToSupervisor::Loaded { lane: l, contracts } if *l == lane => {
                Some(Ok(contracts.clone()))
            }
            ToSupervisor::LoadFailed { lane: l, error } if *l == lane => Some(Err(error.clone())),
            _ => None,
        })?;
        let tx = Tx::new(&made.memory, shape, Side::Supervisor, Arc::new(lane_event));
        let rx = Rx::new(&made.memory, shape, Side::Supervisor, Arc::new(supervisor_event));
        Ok(TestLane {
            lane,
            generation,
            manifest,
            source,
            contracts,
            begun: made.memory.begun(),
            link: Mutex::new(Link {
                tx,
                rx,
                next_call: 1,
                next_segment: 1_000_000,
                done: HashMap::new(),
                down: HashMap::new(),
            }),
            open: Mutex::default(),
        })
    }

    fn serve_wanted(&self) {
        let mut parked = lock(&self.parked);
        parked.extend(lock(&self.messages).try_iter());
        parked.retain(|message| {
            let ToSupervisor::WantSegment { lane, len } = message else { return true };
            static NEXT: AtomicU32 = AtomicU32::new(1);
            let segment = NEXT.fetch_add(1, Ordering::Relaxed);
            let len = usize::try_from(*len).expect("a length").next_multiple_of(4096);
            let fd = sealed_memfd("test-up", len).expect("a memfd");
            let mapping = Mapping::new(fd.as_fd(), len, Access::ReadOnly).expect("a mapping");
            let mut all = lock(&self.shared.up_segments);
            all.entry(*lane).or_default().insert(segment, Arc::new(mapping));
            let mapped = Segment::map(segment, &fd, len, Access::ReadWrite).expect("a mapping");
            self.lanes.segment(*lane, mapped, Access::ReadWrite);
            false
        });
    }

    fn await_message<T>(&self, pick: impl Fn(&ToSupervisor) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.serve_wanted();
            {
                let mut parked = lock(&self.parked);
                if let Some(at) = parked.iter().position(|message| pick(message).is_some()) {
                    let message = parked.remove(at);
                    if let Some(found) = pick(&message) {
                        return found;
                    }
                }
            }
            assert!(Instant::now() < deadline, "the lane does not answer");
            let next = lock(&self.messages).recv_timeout(Duration::from_millis(1));
            if let Ok(message) = next {
                lock(&self.parked).push(message);
            }
        }
    }
}

/// A bundle that a [`Harness`] has loaded.
pub struct TestBundle {
    harness: Arc<Harness>,
    current: Mutex<Arc<TestLane>>,
}

struct TestLane {
    lane: LaneId,
    generation: u32,
    manifest: ManifestData,
    source: BundleSource,
    contracts: Vec<ContractInterface>,
    begun: LaneWord,
    link: Mutex<Link>,
    /// Calls that have not ended.
    open: Mutex<BTreeSet<u64>>,
}

struct Link {
    tx: Tx,
    rx: Rx,
    next_call: u64,
    next_segment: u32,
    done: HashMap<u64, Result<Vec<u8>, Failure>>,
    down: HashMap<u32, Arc<Mapping>>,
}

impl std::fmt::Debug for TestBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestBundle({})", self.lane().manifest.name)
    }
}

#[allow(clippy::missing_panics_doc, reason = "a harness for tests panics where a test should fail")]
impl TestBundle {
    fn new(harness: &Arc<Harness>, lane: TestLane) -> Self {
        Self { harness: Arc::clone(harness), current: Mutex::new(Arc::new(lane)) }
    }

    fn lane(&self) -> Arc<TestLane> {
        Arc::clone(&lock(&self.current))
    }

    /// What the bundle registered.
    pub fn contracts(&self) -> Vec<ContractInterface> {
        self.lane().contracts.clone()
    }

    /// Calls a function with a tuple of arguments.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        contract: &str,
        function: &str,
        args: A,
    ) -> Result<R, Failure> {
        let mut bytes = Vec::new();
        crate::msgpack::encode_args(&mut bytes, &args).expect("arguments");
        let value = self.call_raw(contract, function, &bytes)?;
        rmp_serde::from_slice(&value).map_err(|e| Failure::BadValue { message: e.to_string() })
    }

    /// Calls a function with a MessagePack array.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub fn call_raw(
        &self,
        contract: &str,
        function: &str,
        args: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let call = self.begin(contract, function, args)?;
        self.finish(call)
    }

    /// Begins a call; [`finish`](Self::finish) waits for it.
    ///
    /// # Errors
    ///
    /// [`Failure::NoSuchContract`], [`Failure::NoSuchFunction`].
    pub fn begin(&self, contract: &str, function: &str, args: &[u8]) -> Result<u64, Failure> {
        let lane = self.lane();
        let function = lane.function(contract, function)?;
        let mut link = lock(&lane.link);
        let call = link.next_call;
        link.next_call += 1;
        let head = FrameHead { kind: Kind::Call, flags: 0, function, call };
        lock(&lane.open).insert(call);
        self.send(&lane, &mut link, head, args);
        Ok(call)
    }

    fn send(&self, lane: &TestLane, link: &mut Link, head: FrameHead, payload: &[u8]) {
        if payload.len() <= INLINE_MAX {
            link.tx.send(head, &[payload]).expect("room in the ring");
            return;
        }
        let segment = link.next_segment;
        link.next_segment += 1;
        let len = payload.len().next_multiple_of(4096);
        let fd = sealed_memfd("test-down", len).expect("a memfd");
        let mapping = Mapping::new(fd.as_fd(), len, Access::ReadWrite).expect("a mapping");
        seal_future_writes(fd.as_fd()).expect("a seal");
        // Not at the beginning, so that an offset that is ignored is noticed.
        let offset = len - payload.len();
        mapping.copy_in(offset, payload);
        link.down.insert(segment, Arc::new(mapping));
        let mapped = Segment::map(segment, &fd, len, Access::ReadOnly).expect("a mapping");
        self.harness.lanes.segment(lane.lane, mapped, Access::ReadOnly);
        let bulk = BulkRef { segment, offset: offset as u64, len: payload.len() as u64 };
        let head = FrameHead { flags: head.flags | FLAG_BULK, ..head };
        link.tx.send(head, &[&bulk.to_bytes()]).expect("room in the ring");
    }

    /// Waits until the lane's thread has got to every call that was sent to it.
    pub fn wait_until_begun(&self) {
        let lane = self.lane();
        let sent = lock(&lane.link).next_call - 1;
        let deadline = Instant::now() + PATIENCE;
        while lane.begun.load(Ordering::Relaxed) < sent {
            assert!(Instant::now() < deadline, "the lane begins no call");
            std::thread::yield_now();
        }
    }

    /// Waits for a call that was begun.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub fn finish(&self, call: u64) -> Result<Vec<u8>, Failure> {
        let lane = self.lane();
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut link = lock(&lane.link);
                if let Some(outcome) = link.done.remove(&call) {
                    lock(&lane.open).remove(&call);
                    return outcome;
                }
                if let Some(frame) = link.rx.peek().expect("a sound ring") {
                    let mut payload = Vec::new();
                    link.rx.copy_payload(&frame, &mut payload);
                    let bytes = self.payload(&lane, &link, frame.head, payload);
                    link.rx.release(frame);
                    self.take(&lane, &mut link, frame.head, bytes);
                    continue;
                }
                if !link.rx.spin() {
                    link.rx.sleep(Some(Duration::from_millis(1)));
                }
            }
            self.harness.serve_wanted();
            assert!(Instant::now() < deadline, "the call does not end");
        }
    }

    fn payload(&self, lane: &TestLane, link: &Link, head: FrameHead, payload: Vec<u8>) -> Vec<u8> {
        if head.flags & FLAG_BULK == 0 {
            return payload;
        }
        let bulk = BulkRef::from_bytes(&payload).expect("a bulk reference");
        let mapping = if head.flags & FLAG_ECHO == 0 {
            Arc::clone(&lock(&self.harness.shared.up_segments)[&lane.lane][&bulk.segment])
        } else {
            Arc::clone(&link.down[&bulk.segment])
        };
        let range = bulk.range(mapping.len()).expect("a range inside");
        let mut out = Vec::new();
        mapping.copy_out(range.start, range.len(), &mut out);
        out
    }

    fn take(&self, lane: &TestLane, link: &mut Link, head: FrameHead, bytes: Vec<u8>) {
        match head.kind {
            Kind::Reply if head.flags & FLAG_FAILURE == 0 => {
                link.done.insert(head.call, Ok(bytes));
            }
            Kind::Reply => {
                let failure = codec::decode(&bytes).expect("a failure");
                link.done.insert(head.call, Err(failure));
            }
            Kind::Call => {
                let outcome = self.answer(&bytes);
                let head = FrameHead { kind: Kind::Reply, flags: 0, function: 0, call: head.call };
                match outcome {
                    Ok(value) => self.send(lane, link, head, &value),
                    Err(failure) => {
                        let head = FrameHead { flags: FLAG_FAILURE, ..head };
                        self.send(lane, link, head, &codec::encode(&failure).expect("a failure"));
                    }
                }
            }
            Kind::Pad | Kind::Command => panic!("a worker sends no such frame"),
        }
    }

    fn answer(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        let (contract, function, args) =
            crate::lane::parse_outcall(&mut Reader::new(payload)).expect("a guest's call");
        let answer = lock(&self.harness.shared.on_call).clone();
        match answer {
            Some(answer) => answer(contract, function, args),
            None => Err(Failure::NoSuchContract { contract: contract.to_owned() }),
        }
    }

    fn command(&self, lane: &TestLane, command: &LaneCommand) {
        let head = FrameHead { kind: Kind::Command, flags: 0, function: 0, call: 0 };
        let bytes = codec::encode(command).expect("a command");
        self.send(lane, &mut lock(&lane.link), head, &bytes);
    }

    fn finish_lane(&self, lane: &TestLane) -> Result<Option<Vec<u8>>, GuestError> {
        self.command(lane, &LaneCommand::Finish);
        self.harness.await_message(|message| match message {
            ToSupervisor::Finished { lane: l, state } if *l == lane.lane => Some(state.clone()),
            _ => None,
        })
    }

    fn resume_lane(&self, lane: &TestLane, state: Option<Vec<u8>>) -> Result<(), GuestError> {
        self.command(lane, &LaneCommand::Resume { state });
        self.harness.await_message(|message| match message {
            ToSupervisor::Resumed { lane: l, outcome } if *l == lane.lane => Some(outcome.clone()),
            _ => None,
        })
    }

    fn unload_lane(&self, lane: &TestLane) {
        self.command(lane, &LaneCommand::Unload);
        self.harness.await_message(|message| match message {
            ToSupervisor::Unloaded { lane: l } if *l == lane.lane => Some(()),
            _ => None,
        });
    }

    /// Reloads: the next generation on a lane of its own, then the state, then
    /// the swap.
    ///
    /// # Errors
    ///
    /// The new generation could not be loaded, or a hook failed; the old one
    /// goes on serving.
    pub fn reload(&self) -> Result<(), LoaderError> {
        let old = self.lane();
        let manifest = match &old.source {
            BundleSource::Path(dir) => ManifestData::read(dir)?.manifest,
            _ => old.manifest.clone(),
        };
        let new = self.harness.start(manifest, old.source.clone(), old.generation + 1, true)?;
        let name = old.manifest.name.clone();
        let state = match self.finish_lane(&old) {
            Ok(state) => state,
            Err(error) => {
                self.unload_lane(&new);
                return Err(LoaderError::init(name, "run on_unload", error));
            }
        };
        if let Err(error) = self.resume_lane(&new, state.clone()) {
            self.unload_lane(&new);
            drop(self.resume_lane(&old, state));
            return Err(LoaderError::init(name, "run on_load", error));
        }
        *lock(&self.current) = Arc::new(new);
        self.unload_lane(&old);
        Ok(())
    }

    /// Unloads, and waits until all was freed.
    pub fn unload(self) {
        self.unload_lane(&self.lane());
    }

    /// Asks every call that has not ended to stop.
    pub fn interrupt(&self) {
        let lane = self.lane();
        let open: Vec<u64> = lock(&lane.open).iter().copied().collect();
        for call in open {
            self.harness.lanes.interrupt(lane.lane, call);
        }
    }

    /// Asks this call to stop, as the supervisor does at its deadline.
    pub fn interrupt_call(&self, call: u64) {
        self.harness.lanes.interrupt(self.lane().lane, call);
    }
}

impl TestLane {
    fn function(&self, contract: &str, function: &str) -> Result<u32, Failure> {
        let mut id = 0;
        for interface in &self.contracts {
            if interface.contract == contract {
                let available = &interface.functions;
                let at = available.iter().position(|f| f == function).ok_or_else(|| {
                    Failure::NoSuchFunction {
                        contract: contract.to_owned(),
                        function: function.to_owned(),
                        available: available.clone(),
                    }
                })?;
                return Ok(id + u32::try_from(at).unwrap_or(u32::MAX));
            }
            id += u32::try_from(interface.functions.len()).unwrap_or(u32::MAX);
        }
        Err(Failure::NoSuchContract { contract: contract.to_owned() })
    }
}

#[cfg(test)]
mod tests;
