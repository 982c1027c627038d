//! One incarnation of a worker: a process, its control channel and its lanes.

mod draining;
mod leaving;
mod loading;
mod peer;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use menagerie_protocol::message::{ENDED_BY, LaneId, LogLevel, ToSupervisor, ToWorker};
use menagerie_protocol::{Failure, ManifestData, RuntimeError};
use nix::poll::PollTimeout;
use nix::sys::signal::Signal;
use tokio::sync::watch;

use loading::Loading;
pub(crate) use loading::{Loaded, hook_failed};

use super::condition::{Condition, CpuSample, LaneThread};
use super::connection::{Sender, Shortage, Unsent};
use super::crash;
use super::gate::Gate;
use super::operations::{Operations, Ran};
use super::output::{STDERR, Tail};
use super::questions::{Asked, Questions, Unasked};
use super::reap::{self, End};
use super::spawn::signal;
use crate::bundle::Bundle;
use crate::config::Config;
use crate::events::EventBus;
use crate::lane::{Draft, Lane, LanePeer, OpenOutcall, OutcallHead, Pump, lock};
use crate::sandbox::Rights;
use crate::status::{Activity, RunningCall};

/// A call that a guest has made.
#[derive(Debug)]
pub(crate) struct Outcall {
    /// The bundle.
    pub(crate) bundle: Arc<Bundle>,
    /// The manifest of the generation that calls.
    pub(crate) manifest: Arc<ManifestData>,
    /// Where its answer goes, and whether anybody waits for that.
    pub(crate) open: OpenOutcall,
    /// Its number there, and what it is made for.
    pub(crate) head: OutcallHead,
    /// Contract, function and arguments, if its lane has room for them.
    pub(crate) payload: Option<Vec<u8>>,
    /// True when the caller's process has ended.
    pub(crate) dead: watch::Receiver<bool>,
}

/// Routes guests' own calls; the supervisor's.
pub(crate) type OutcallRouter = dyn Fn(Outcall) + Send + Sync;

pub(crate) struct Process {
    pub(crate) worker: String,
    /// Which of its bundles' seats are here.
    pub(crate) seat: usize,
    pub(crate) pid: u32,
    pub(crate) incarnation: u64,
    pidfd: Arc<OwnedFd>,
    sender: Sender,
    /// Whether it takes artifacts' copies.
    takes_copies: bool,
    /// What it may do in its sandbox, if it is in one.
    rights: Option<Arc<Rights>>,
    /// Whether a bundle may keep the others' calls from ending.
    shares_a_lock: bool,
    pub(super) config: Arc<Config>,
    events: Arc<EventBus>,
    runtime: tokio::runtime::Handle,
    questions: Mutex<Questions>,
    lanes: Mutex<HashMap<LaneId, Entry>>,
    /// Whose its output can be.
    guests: Mutex<Guests>,
    next_lane: AtomicU32,
    /// A lane that was made before it started.
    draft: Mutex<Option<Draft>>,
    /// The load that was on its way before the hello, until somebody waits for it.
    first: Mutex<Option<Loading>>,
    /// Whether it is to end (`leaving.rs`). Set with the lanes locked.
    leaving: AtomicBool,
    /// Whether nothing begins to serve there any more.
    closed: AtomicBool,
    /// True from the process's end on.
    dead: watch::Sender<bool>,
    /// How it ended, from then on.
    end: OnceLock<End>,
    /// The bundles that are certainly to blame for that, if it was a crash.
    blamed: OnceLock<Vec<String>>,
    /// Why the supervisor killed it, if it did.
    reason: Mutex<Option<KillReason>>,
    /// When it was last looked at, and what it had done since the time before.
    looked: Mutex<(Option<CpuSample>, Option<Condition>)>,
    /// The loads and hooks that run.
    operations: Operations,
    /// Values that came back on lanes which have ended.
    ended_calls: AtomicU64,
    /// The last heartbeat that was sent, and the last that was answered.
    ping: AtomicU64,
    pub(crate) pong: AtomicU64,
    router: Arc<OutcallRouter>,
    gate: Gate,
    /// What a crash report shows of its standard error.
    last_words: Tail,
    /// The bundle that has brought its end about, as it said itself.
    ended_by: Mutex<Option<String>>,
    this: Weak<Process>,
}

/// What the supervisor kills a process for, in a word; the text beside it has the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// It did what no worker does.
    Violation,
    /// It said no hello in time, or none that is accepted.
    Handshake,
    /// It answered no heartbeats.
    Heartbeat,
    /// A call outlived its deadline and grace, or none was begun in that time.
    Deadline,
    /// A load or a hook did not end in time, or a call before its lane was to go.
    Timeout,
    /// Anything else.
    Supervisor,
}

/// Why the supervisor killed a process.
#[derive(Clone, Debug)]
pub(crate) struct KillReason {
    pub(crate) cause: KillCause,
    pub(crate) text: String,
    /// Whose fault it was.
    pub(crate) bundle: Option<String>,
    /// Whether that is certain although others ran.
    pub(crate) is_certain: bool,
    /// What the guest was seen to do before the kill.
    pub(crate) condition: Option<Condition>,
    /// The operations that ran at the time: nobody may wait for them any more
    /// when the process has ended.
    operations: Vec<Ran>,
}

/// What was known of a process when it had ended.
#[derive(Debug)]
pub(crate) struct LastMoments {
    pub(crate) running: Vec<Ran>,
    pub(crate) reason: Option<KillReason>,
    /// The bundles that were loaded, or about to be.
    pub(crate) loaded: BTreeSet<String>,
    /// The one of them that has brought it about, as the worker said.
    pub(crate) ended_by: Option<String>,
}

/// The bundles that have been in a process.
#[derive(Debug, Default)]
enum Guests {
    #[default]
    Nobody,
    One(String),
    Several,
}

impl Guests {
    fn add(&mut self, bundle: &str) {
        *self = match self {
            Self::Nobody => Self::One(bundle.to_owned()),
            Self::One(known) if known == bundle => return,
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

struct Entry {
    lane: Arc<Lane>,
    bundle: Arc<Bundle>,
    /// This generation's.
    manifest: Arc<ManifestData>,
    _pump: Pump,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Process({} {})", self.worker, self.pid)
    }
}

/// What a process is made from.
pub(crate) struct ProcessParts {
    pub(crate) worker: String,
    pub(crate) seat: usize,
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) incarnation: u64,
    pub(crate) sender: Sender,
    pub(crate) takes_copies: bool,
    pub(crate) rights: Option<Arc<Rights>>,
    pub(crate) shares_a_lock: bool,
    pub(crate) config: Arc<Config>,
    pub(crate) events: Arc<EventBus>,
    pub(crate) router: Arc<OutcallRouter>,
    pub(crate) gate: Gate,
    pub(crate) last_words: Tail,
    pub(crate) lane: Option<Draft>,
}

impl Process {
    pub(crate) fn new(parts: ProcessParts) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            worker: parts.worker,
            seat: parts.seat,
            pid: parts.pid,
            incarnation: parts.incarnation,
            pidfd: parts.pidfd,
            sender: parts.sender,
            takes_copies: parts.takes_copies,
            rights: parts.rights,
            shares_a_lock: parts.shares_a_lock,
            config: parts.config,
            events: parts.events,
            runtime: tokio::runtime::Handle::current(),
            questions: Mutex::default(),
            gate: parts.gate,
            last_words: parts.last_words,
            ended_by: Mutex::default(),
            lanes: Mutex::default(),
            guests: Mutex::default(),
            next_lane: AtomicU32::new(1),
            draft: Mutex::new(parts.lane),
            first: Mutex::default(),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            dead: watch::Sender::new(false),
            end: OnceLock::new(),
            blamed: OnceLock::new(),
            reason: Mutex::default(),
            looked: Mutex::default(),
            operations: Operations::default(),
            ended_calls: AtomicU64::new(0),
            ping: AtomicU64::new(0),
            pong: AtomicU64::new(0),
            router: parts.router,
            this: this.clone(),
        })
    }

    pub(crate) fn send(&self, message: &ToWorker) {
        self.send_with(message, Vec::new());
    }

    /// Sends a heartbeat.
    pub(super) fn ping(&self, nonce: u64) {
        // Before it can be answered.
        self.ping.store(nonce, Ordering::Relaxed);
        self.send(&ToWorker::Ping { nonce });
    }

    /// What the machine has too little of, if messages to it have waited for that so long.
    pub(super) fn shortage(&self, patience: Duration) -> Option<Shortage> {
        self.sender.shortage(patience)
    }

    /// Sends a message that always fits.
    pub(super) fn send_with(&self, message: &ToWorker, fds: Vec<OwnedFd>) {
        match self.sender.send(message, fds) {
            Ok(_) => {}
            Err(error @ Unsent::Codec(_)) => tracing::error!("{error}"),
            Err(error) => self.kill(KillCause::Violation, format!("protocol violation: {error}")),
        }
    }

    pub(crate) fn signal(&self, signal_: Signal) {
        signal(&self.pidfd, signal_);
    }

    /// Kills the process, and keeps why.
    pub(crate) fn kill(&self, cause: KillCause, reason: impl Into<String>) {
        self.kill_for(cause, reason.into(), None, None, true);
    }

    /// Kills the process because a bundle does not do in time what it should: that need
    /// not be its own fault where another one may have kept the lock that it needs.
    fn kill_late(
        &self,
        cause: KillCause,
        reason: impl Into<String>,
        bundle: Option<String>,
        condition: Option<Condition>,
    ) {
        self.kill_for(cause, reason.into(), bundle, condition, !self.shares_a_lock);
    }

    /// Kills the process, and keeps why, whose fault it was, and what the guest
    /// was seen to do.
    fn kill_for(
        &self,
        cause: KillCause,
        text: String,
        bundle: Option<String>,
        condition: Option<Condition>,
        is_certain: bool,
    ) {
        lock(&self.reason).get_or_insert_with(|| KillReason {
            cause,
            text,
            bundle,
            is_certain,
            condition,
            operations: self.operations.running(),
        });
        self.signal(Signal::SIGKILL);
    }

    /// Kills the process because an operation on a bundle does not end; but
    /// first looks what it does instead.
    pub(crate) async fn kill_stuck(&self, reason: String, bundle: &str) {
        let thread = LaneThread { pid: self.pid, bundle: bundle.to_owned() };
        let before = thread.sample();
        self.pause(Duration::from_millis(100)).await;
        let condition = thread.since(before);
        self.kill_late(KillCause::Timeout, reason, Some(bundle.to_owned()), condition);
    }

    /// A pause by the supervisor's clock: a load is polled by its host, whose executor
    /// need not be tokio's.
    fn pause(&self, time: Duration) -> tokio::time::Sleep {
        let _guard = self.runtime.enter();
        tokio::time::sleep(time)
    }

    pub(crate) fn kill_reason(&self) -> Option<KillReason> {
        lock(&self.reason).clone()
    }

    /// Looks at what the process does, as a whole: at the second look it is
    /// known what it has done since the first.
    pub(crate) fn look_at_condition(&self) {
        let threads = LaneThread { pid: self.pid, bundle: String::new() };
        let mut looked = lock(&self.looked);
        if looked.0.is_some() {
            looked.1 = threads.since(looked.0);
        }
        looked.0 = threads.sample();
    }

    /// What it was seen to do.
    pub(crate) fn condition(&self) -> Option<Condition> {
        lock(&self.looked).1
    }

    fn bundle_of(&self, lane: LaneId) -> Option<String> {
        lock(&self.lanes).get(&lane).map(|entry| entry.bundle.name.clone())
    }

    /// Calls that have ended with a value, on all of its lanes.
    pub(crate) fn calls(&self) -> u64 {
        let values = |entry: &Entry| entry.lane.ended_calls();
        let running: u64 = lock(&self.lanes).values().map(values).sum();
        running + self.ended_calls.load(Ordering::Relaxed)
    }

    /// Whether a call, a load or a hook runs that somebody waits for.
    pub(crate) fn is_busy(&self) -> bool {
        let is_asked_for = |bundle: &Bundle| !bundle.seats.at(self.seat).is_being_tried();
        self.operations.any(is_asked_for)
            || lock(&self.lanes).values().any(|e| e.lane.in_flight() > 0)
    }

    /// Handles a message from the worker.
    pub(crate) fn receive(&self, message: ToSupervisor) {
        if let Some((asked, lane)) = Asked::by(&message) {
            if let Err(Unasked) = lock(&self.questions).answer(lane, asked, message) {
                let reason =
                    format!("protocol violation on lane {lane}: an answer that nobody asked for");
                self.kill(KillCause::Violation, reason);
            }
            return;
        }
        match message {
            // It would answer all that are still to come.
            ToSupervisor::Pong { nonce } if nonce > self.ping.load(Ordering::Relaxed) => {
                let reason = "protocol violation: an answer to a heartbeat that was never sent";
                self.kill(KillCause::Violation, reason);
            }
            ToSupervisor::Pong { nonce } => {
                self.pong.fetch_max(nonce, Ordering::Relaxed);
            }
            ToSupervisor::Log(record) => {
                if record.target == STDERR {
                    self.last_words.push(&record.message);
                }
                if record.target == ENDED_BY && record.level == LogLevel::Error {
                    lock(&self.ended_by).clone_from(&record.bundle);
                }
                super::output::log_record(&self.events, &self.worker, &self.gate, record);
            }
            ToSupervisor::WantSegment { lane, len } => {
                // A lane that has gone wants nothing any more.
                let found = lock(&self.lanes).get(&lane).map(|entry| Arc::clone(&entry.lane));
                if let Some(found) = found {
                    self.grant(&found, len);
                }
            }
            // Answers were handled above.
            _ => self.kill(KillCause::Violation, "protocol violation: a second hello"),
        }
    }

    fn grant(&self, lane: &Arc<Lane>, len: u64) {
        if let Err(violation) = lane.grant_up_segment(len) {
            self.violation(lane.id, violation);
        }
    }

    fn gone(&self) -> RuntimeError {
        self.gone_in(None)
    }

    /// It is no more; what it should have done at the time, and for which bundle.
    fn gone_in(&self, step: Option<(&str, &str)>) -> RuntimeError {
        let what = match step {
            Some((step, bundle)) => format!("it died in '{step}' of '{bundle}'"),
            None => "it died before it had answered".to_owned(),
        };
        let reason = self.kill_reason().map(|reason| reason.text);
        let why = match (self.end.get(), reason) {
            (Some(end), reason) => Some(crash::cause(*end, reason.as_deref())),
            (None, reason) => reason,
        };
        let problem = why.map_or_else(|| what.clone(), |why| format!("{what}: {why}"));
        RuntimeError::WorkerUnavailable { worker: self.worker.clone(), problem }
    }

    /// It has ended like this; called before [`died`](Self::died).
    pub(super) fn ended_by(&self, end: End) {
        let _ = self.end.set(end);
    }

    /// It has crashed, and these bundles are certainly to blame, or one of them.
    pub(super) fn blame(&self, suspects: &BTreeSet<&str>) {
        let names = suspects.iter().map(|name| (*name).to_owned());
        let _ = self.blamed.set(names.collect());
    }

    /// Whether it has crashed, and nobody but this bundle is to blame. It is known when
    /// its worker has turned to the next process.
    pub(crate) fn died_of(&self, bundle: &str) -> bool {
        let alone = |blamed: &Vec<String>| {
            !blamed.is_empty() && blamed.iter().all(|blamed| blamed == bundle)
        };
        self.blamed.get().is_some_and(alone)
    }

    /// The bundle whose lines are on its standard output and error: the only one that has
    /// ever been in it. Whose they are of several nobody can tell: a line is read some time
    /// after it was written, when others may run.
    pub(crate) fn only_bundle(&self) -> Option<String> {
        match &*lock(&self.guests) {
            Guests::One(bundle) => Some(bundle.clone()),
            Guests::Nobody | Guests::Several => None,
        }
    }

    /// The process has ended: every call that was begun ends with `failure`, and
    /// `orphan` learns of every bundle that was served. Returns what was
    /// running.
    pub(crate) fn died(
        &self,
        failure: impl Fn() -> Failure,
        orphan: impl Fn(&Arc<Bundle>, &Arc<Lane>),
    ) -> LastMoments {
        // Taken: bundles and their process would keep each other.
        let killed_in = lock(&self.reason).as_mut().map(|r| std::mem::take(&mut r.operations));
        let killed_in = killed_in.filter(|operations| !operations.is_empty());
        let mut running = killed_in.unwrap_or_else(|| self.operations.running());
        let lanes: Vec<Entry> = {
            let mut lanes = lock(&self.lanes);
            self.dead.send_replace(true);
            lanes.drain().map(|(_, entry)| entry).collect()
        };
        for entry in &lanes {
            orphan(&entry.bundle, &entry.lane);
            for call in entry.lane.end(&failure) {
                let (contract, function) = entry.lane.name_of(call.function);
                let call = RunningCall {
                    bundle: entry.bundle.name.clone(),
                    activity: Activity::Call,
                    contract,
                    function,
                    age_ms: call.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                };
                running.push(Ran { call, bundle: Arc::clone(&entry.bundle) });
            }
        }
        lock(&self.questions).clear();
        self.leave_first();
        let loaded = lanes.iter().map(|entry| entry.bundle.name.clone()).collect::<BTreeSet<_>>();
        let ended_by = lock(&self.ended_by).take().filter(|bundle| loaded.contains(bundle));
        LastMoments { running, reason: lock(&self.reason).clone(), loaded, ended_by }
    }

    /// Whether it has ended, also where nobody has handled that yet.
    pub(super) fn has_ended(&self) -> bool {
        reap::has_ended(&self.pidfd, PollTimeout::ZERO)
    }

    /// Whether its end was handled.
    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Whether it has ended, or was killed and will.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_dead() || lock(&self.reason).is_some()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        let mut dead = self.dead.subscribe();
        drop(dead.wait_for(|dead| *dead).await);
    }
}
