//! One incarnation of a worker: a process, its control channel and its lanes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use menagerie_protocol::message::{LaneCommand, LaneId, LoadRequest, ToSupervisor, ToWorker};
use menagerie_protocol::{
    BundleSource, Failure, GuestError, LoaderError, ManifestData, RuntimeError,
};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use super::connection::Sender;
use super::spawn::signal;
use crate::bundle::Bundle;
use crate::config::Config;
use crate::lane::{Draft, Lane, LaneLimits, LanePeer, Pump, Refused, Ticket, Violation, lock};
use crate::status::RunningCall;

/// What a lane's operations wait for.
type Mailbox = mpsc::UnboundedSender<ToSupervisor>;

/// Routes guests' own calls; the supervisor's.
pub(crate) type OutcallRouter = dyn Fn(&Arc<Bundle>, &Arc<Lane>, u64, Vec<u8>) + Send + Sync;

pub(crate) struct Process {
    pub(crate) worker: String,
    pub(crate) pid: u32,
    pub(crate) incarnation: u64,
    pidfd: Arc<OwnedFd>,
    sender: Sender,
    config: Arc<Config>,
    runtime: tokio::runtime::Handle,
    mailboxes: Mutex<HashMap<LaneId, Mailbox>>,
    lanes: Mutex<HashMap<LaneId, Entry>>,
    next_lane: AtomicU32,
    /// True from the process's end on.
    dead: watch::Sender<bool>,
    /// Why the supervisor killed it, if it did.
    reason: Mutex<Option<String>>,
    /// The last heartbeat that was answered.
    pub(crate) pong: AtomicU64,
    router: Arc<OutcallRouter>,
    this: Weak<Process>,
}

struct Entry {
    lane: Arc<Lane>,
    bundle: Arc<Bundle>,
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
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) incarnation: u64,
    pub(crate) sender: Sender,
    pub(crate) config: Arc<Config>,
    pub(crate) router: Arc<OutcallRouter>,
}

impl Process {
    pub(crate) fn new(parts: ProcessParts) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            worker: parts.worker,
            pid: parts.pid,
            incarnation: parts.incarnation,
            pidfd: parts.pidfd,
            sender: parts.sender,
            config: parts.config,
            runtime: tokio::runtime::Handle::current(),
            mailboxes: Mutex::default(),
            lanes: Mutex::default(),
            next_lane: AtomicU32::new(1),
            dead: watch::Sender::new(false),
            reason: Mutex::default(),
            pong: AtomicU64::new(0),
            router: parts.router,
            this: this.clone(),
        })
    }

    pub(crate) fn send(&self, message: &ToWorker) {
        self.sender.send(message, Vec::new());
    }

    pub(crate) fn signal(&self, signal_: Signal) {
        signal(&self.pidfd, signal_);
    }

    /// Kills the process, and keeps why.
    pub(crate) fn kill(&self, reason: impl Into<String>) {
        lock(&self.reason).get_or_insert_with(|| reason.into());
        self.signal(Signal::SIGKILL);
    }

    pub(crate) fn kill_reason(&self) -> Option<String> {
        lock(&self.reason).clone()
    }

    /// Handles a message from the worker. What does not belong to a lane that
    /// is waiting is ignored: its operation has timed out.
    pub(crate) fn receive(&self, message: ToSupervisor) {
        let lane = match &message {
            ToSupervisor::Pong { nonce } => {
                self.pong.fetch_max(*nonce, Ordering::Relaxed);
                return;
            }
            ToSupervisor::Log(record) => {
                super::output::log_record(&self.worker, record);
                return;
            }
            ToSupervisor::WantSegment { lane, len } => {
                let found = lock(&self.lanes).get(lane).map(|entry| Arc::clone(&entry.lane));
                if let Some(found) = found
                    && let Err(violation) = found.grant_up_segment(*len)
                {
                    self.violation(*lane, violation);
                }
                return;
            }
            ToSupervisor::Hello(_) => {
                self.kill("protocol violation: a second hello");
                return;
            }
            ToSupervisor::Loaded { lane, .. }
            | ToSupervisor::LoadFailed { lane, .. }
            | ToSupervisor::Finished { lane, .. }
            | ToSupervisor::Resumed { lane, .. }
            | ToSupervisor::Unloaded { lane } => *lane,
        };
        if let Some(mailbox) = lock(&self.mailboxes).get(&lane) {
            drop(mailbox.send(message));
        }
    }

    fn gone(&self) -> RuntimeError {
        RuntimeError::WorkerUnavailable {
            worker: self.worker.clone(),
            problem: "it died before it had answered".to_owned(),
        }
    }

    /// Waits for a message of a lane, but not longer than `limit`, and not
    /// beyond the process's death.
    async fn answer(
        &self,
        mailbox: &mut mpsc::UnboundedReceiver<ToSupervisor>,
        step: &str,
        limit: Duration,
    ) -> Result<ToSupervisor, RuntimeError> {
        let mut dead = self.dead.subscribe();
        tokio::select! {
            biased;
            Some(message) = mailbox.recv() => Ok(message),
            _ = dead.wait_for(|dead| *dead) => Err(self.gone()),
            () = tokio::time::sleep(limit) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(RuntimeError::TimedOut { step: step.to_owned(), limit_ms })
            }
        }
    }

    /// Loads a bundle on a new lane.
    pub(crate) async fn load(
        &self,
        bundle: &Arc<Bundle>,
        manifest: ManifestData,
        source: &BundleSource,
        reload: bool,
    ) -> Result<Loaded, RuntimeError> {
        let id = self.next_lane.fetch_add(1, Ordering::Relaxed);
        let limits = LaneLimits {
            ring_slots: self.config.ring_slots,
            max_in_flight: self.config.max_in_flight,
            max_payload: self.config.max_payload,
        };
        let generation = bundle.next_generation();
        let system = |error: std::io::Error| RuntimeError::WorkerUnavailable {
            worker: self.worker.clone(),
            problem: format!("no lane can be made: {error}"),
        };
        let (draft, fds) = Draft::new(id, generation, limits).map_err(system)?;
        let (mailbox, mut messages) = mpsc::unbounded_channel();
        lock(&self.mailboxes).insert(id, mailbox);
        let request = LoadRequest {
            lane: id,
            generation,
            reload,
            manifest,
            source: source.clone(),
            ring_slots: limits.ring_slots,
            max_payload: limits.max_payload,
        };
        self.sender.send(&ToWorker::Load(Box::new(request)), fds);
        let answer = self.answer(&mut messages, "load", self.config.load_timeout).await;
        let outcome = match answer {
            Ok(ToSupervisor::Loaded { contracts, .. }) => Ok(contracts),
            Ok(ToSupervisor::LoadFailed { error, .. }) => Err(RuntimeError::Loader(error)),
            Ok(_) => {
                self.kill("protocol violation: an answer to another question");
                Err(self.gone())
            }
            Err(error) => {
                if matches!(error, RuntimeError::TimedOut { .. }) {
                    // What hangs in a bundle's init cannot be stopped otherwise.
                    self.kill(format!("the load of '{}' timed out", bundle.name));
                }
                Err(error)
            }
        };
        let contracts = match outcome {
            Ok(contracts) => contracts,
            Err(error) => {
                lock(&self.mailboxes).remove(&id);
                return Err(error);
            }
        };
        let peer = self.this.upgrade().ok_or_else(|| self.gone())?;
        let lane = draft.finish(&contracts, peer, bundle.counters.for_lane());
        let pump = lane.start_pump(&self.runtime).map_err(system)?;
        {
            let mut lanes = lock(&self.lanes);
            if *self.dead.borrow() {
                return Err(self.gone());
            }
            let entry = Entry { lane: Arc::clone(&lane), bundle: Arc::clone(bundle), _pump: pump };
            lanes.insert(id, entry);
        }
        Ok(Loaded { lane, messages })
    }

    async fn command(&self, lane: &Lane, command: LaneCommand) -> Result<(), RuntimeError> {
        loop {
            match lane.send_command(&command) {
                Ok(()) => return Ok(()),
                Err(Refused::Dead) => return Err(self.gone()),
                // The ring is full of calls; the lane works them off.
                Err(Refused::Busy | Refused::Overloaded) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// Runs the lane's `on_unload`, and returns the state.
    pub(crate) async fn finish(
        &self,
        loaded: &mut Loaded,
    ) -> Result<Result<Option<Vec<u8>>, GuestError>, RuntimeError> {
        self.command(&loaded.lane, LaneCommand::Finish).await?;
        match self.answer(&mut loaded.messages, "on_unload", self.config.load_timeout).await? {
            ToSupervisor::Finished { state, .. } => Ok(state),
            _ => Err(self.gone()),
        }
    }

    /// Runs the lane's `on_load` with a state.
    pub(crate) async fn resume(
        &self,
        loaded: &mut Loaded,
        state: Option<Vec<u8>>,
    ) -> Result<Result<(), GuestError>, RuntimeError> {
        self.command(&loaded.lane, LaneCommand::Resume { state }).await?;
        match self.answer(&mut loaded.messages, "on_load", self.config.load_timeout).await? {
            ToSupervisor::Resumed { outcome, .. } => Ok(outcome),
            _ => Err(self.gone()),
        }
    }

    /// Ends the lane; everything of its generation is freed when this returns.
    pub(crate) async fn unload(&self, mut loaded: Loaded) -> Result<(), RuntimeError> {
        let sent = self.command(&loaded.lane, LaneCommand::Unload).await;
        let outcome = match sent {
            Ok(()) => {
                let limit = self.config.load_timeout;
                self.answer(&mut loaded.messages, "unload", limit).await.map(drop)
            }
            Err(error) => Err(error),
        };
        if matches!(outcome, Err(RuntimeError::TimedOut { .. })) {
            self.kill(format!("the unload of lane {} timed out", loaded.lane.id));
        }
        let id = loaded.lane.id;
        drop(lock(&self.lanes).remove(&id));
        lock(&self.mailboxes).remove(&id);
        loaded.lane.end(|| Failure::Cancelled);
        outcome
    }

    /// Waits until no call runs on a lane, but not longer than `limit`.
    pub(crate) async fn drain(&self, lane: &Lane, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        // The first checks are close together: a lane is usually idle, and its
        // callers wait.
        let mut pause = Duration::from_micros(50);
        while lane.in_flight() > 0 && !lane.is_dead() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        true
    }

    /// The bundle whose line on standard output it probably is: the only one
    /// that runs a call, or the only one there is.
    pub(crate) fn probable_bundle(&self) -> Option<String> {
        let lanes = lock(&self.lanes);
        let mut busy = lanes.values().filter(|entry| entry.lane.in_flight() > 0);
        match (busy.next(), busy.next()) {
            (Some(only), None) => Some(only.bundle.name.clone()),
            (None, _) if lanes.len() == 1 => {
                lanes.values().next().map(|entry| entry.bundle.name.clone())
            }
            _ => None,
        }
    }

    /// The process has ended: every call that was begun ends with `failure`, and
    /// `orphan` learns of every bundle that was served. Returns the calls that
    /// were running.
    pub(crate) fn died(
        &self,
        failure: impl Fn() -> Failure,
        orphan: impl Fn(&Arc<Bundle>, &Arc<Lane>),
    ) -> Vec<RunningCall> {
        let lanes: Vec<Entry> = {
            let mut lanes = lock(&self.lanes);
            self.dead.send_replace(true);
            lanes.drain().map(|(_, entry)| entry).collect()
        };
        let mut running = Vec::new();
        for entry in &lanes {
            orphan(&entry.bundle, &entry.lane);
            for call in entry.lane.end(&failure) {
                let (contract, function) = entry.lane.name_of(call.function);
                running.push(RunningCall {
                    bundle: entry.bundle.name.clone(),
                    contract,
                    function,
                    age_ms: call.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                });
            }
        }
        lock(&self.mailboxes).clear();
        running
    }

    /// Whether it has ended.
    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        let mut dead = self.dead.subscribe();
        drop(dead.wait_for(|dead| *dead).await);
    }
}

/// A lane that has loaded its bundle, with the messages that are for it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) lane: Arc<Lane>,
    messages: mpsc::UnboundedReceiver<ToSupervisor>,
}

impl LanePeer for Process {
    fn send(&self, message: ToWorker, fds: Vec<OwnedFd>) {
        self.sender.send(&message, fds);
    }

    fn violation(&self, lane: LaneId, what: Violation) {
        self.kill(format!("protocol violation on lane {lane}: {what}"));
    }

    fn overdue(&self, lane: &Arc<Lane>, ticket: Ticket, until_kill: Option<Duration>) {
        let Some(process) = self.this.upgrade() else { return };
        let lane = Arc::clone(lane);
        self.runtime.spawn(async move {
            process.send(&ToWorker::Interrupt { lane: lane.id, call: ticket.wire() });
            let Some(until_kill) = until_kill else { return };
            tokio::time::sleep(until_kill).await;
            if lane.is_running(ticket) {
                process.kill("a call that did not end within its deadline and grace");
            }
        });
    }

    fn read_on(&self, lane: &Arc<Lane>) {
        let lane = Arc::clone(lane);
        self.runtime.spawn(async move { lane.pump() });
    }

    fn outcall(&self, lane: &Arc<Lane>, call: u64, payload: Vec<u8>) {
        let bundle = lock(&self.lanes).get(&lane.id).map(|entry| Arc::clone(&entry.bundle));
        match bundle {
            Some(bundle) => (self.router)(&bundle, lane, call, payload),
            None => lane.outcall_ended(),
        }
    }
}

/// A reload's or a load's failure at a step of the guest's own.
pub(crate) fn hook_failed(bundle: &str, hook: &str, error: GuestError) -> RuntimeError {
    RuntimeError::Loader(LoaderError::init(bundle, format!("run {hook}"), error))
}
