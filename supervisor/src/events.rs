//! What happens, as a stream of typed events (`DESIGN.md` rule S10).

use std::fmt;
use std::sync::Mutex;
use std::time::SystemTime;

use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{LoaderError, RuntimeError};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::broadcast;

use crate::config::Config;
use crate::history::History;
use crate::lane::lock;
use crate::lifecycle::WorkerState;
use crate::logs::Logs;
use crate::status::CrashReport;
use crate::tally::Tally;

/// Events that a slow receiver may fall behind before it misses some.
const BACKLOG: usize = 1024;
/// The events that are kept take so much as JSON, at most.
const KEPT_BYTES: u64 = 4 << 20;

/// An event with its number and time. As JSON it is one object, which has beside
/// these two what the kind has.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Counts up from 1.
    pub id: u64,
    /// When it happened, in milliseconds since the Unix epoch. A crash's is that of its
    /// report, and the JSON has it once.
    pub time_ms: u64,
    /// What happened.
    pub kind: EventKind,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            id: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            time_ms: Option<u64>,
            #[serde(flatten)]
            kind: &'a EventKind,
        }
        let Self { id, time_ms, kind } = self;
        // A report brings its own: a key that stood there twice could not be read.
        let time_ms = (!matches!(kind, EventKind::WorkerCrashed(_))).then_some(*time_ms);
        Written { id: *id, time_ms, kind }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Read {
            id: u64,
            time_ms: u64,
            #[serde(flatten)]
            kind: serde_json::Map<String, serde_json::Value>,
        }
        let Read { id, time_ms, mut kind } = Read::deserialize(from)?;
        // For a report: the other kinds do not look at it.
        kind.insert("time_ms".to_owned(), time_ms.into());
        let kind = EventKind::deserialize(serde_json::Value::Object(kind));
        Ok(Self { id, time_ms, kind: kind.map_err(D::Error::custom)? })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A worker entered a state (S1).
    WorkerState {
        /// The worker.
        worker: String,
        /// The state.
        state: WorkerState,
        /// How many times it has been started.
        incarnation: u64,
        /// Its process, where it has one.
        pid: Option<u32>,
    },
    /// A worker died and nobody had asked for it (S2).
    WorkerCrashed(Box<CrashReport>),
    /// A worker does not answer heartbeats (S6).
    WorkerUnresponsive {
        /// The worker.
        worker: String,
        /// Heartbeats missed in a row.
        missed: u32,
    },
    /// A worker could not be started.
    StartFailed {
        /// The worker.
        worker: String,
        /// Why.
        reason: String,
    },
    /// A bundle was loaded, for the first time or after a restart.
    BundleLoaded {
        /// The bundle.
        bundle: String,
        /// The worker.
        worker: String,
        /// How many times it has been loaded.
        generation: u32,
    },
    /// A bundle was reloaded.
    BundleReloaded {
        /// The bundle.
        bundle: String,
        /// How many times it has been loaded.
        generation: u32,
    },
    /// A bundle could not be loaded, reloaded, or loaded again, or its folder is gone.
    BundleFailed {
        /// The bundle.
        bundle: String,
        /// `load`, `reload`, `reinitialise`, `restore`, `restart` or `watch`.
        step: String,
        /// Why.
        reason: String,
    },
    /// A bundle is loaded although it is not signed by a trusted key (R5).
    BundleUnverified {
        /// The bundle.
        bundle: String,
        /// What is wrong with its signature.
        reason: String,
    },
    /// A bundle is loaded in its sandbox without what it wants (P3).
    BundleNotGranted {
        /// The bundle.
        bundle: String,
        /// What it wants and does not get: `network`, `read /srv/data: is not granted`.
        wants: Vec<String>,
    },
    /// A bundle was running at too many crashes: it is not loaded again before
    /// somebody reloads it (S5).
    BundleQuarantined {
        /// The bundle.
        bundle: String,
        /// At how many crashes it was running.
        crashes: u32,
    },
    /// A bundle was running at several crashes, and gets a worker of its own
    /// (S5).
    BundleIsolated {
        /// The bundle.
        bundle: String,
        /// The worker where it was.
        from: String,
        /// The worker where it goes.
        to: String,
    },
    /// A standby can take over from a worker that dies (S8).
    StandbyReady {
        /// Its loader.
        loader: String,
        /// Its process.
        pid: u32,
    },
    /// A standby has died, or could not be started.
    StandbyDied {
        /// Its loader.
        loader: String,
        /// Its process, if there was one.
        pid: Option<u32>,
        /// How, or why.
        cause: String,
    },
    /// A worker has done so much that another process shall take over (S9).
    WorkerRecycled {
        /// The worker.
        worker: String,
        /// What it has done.
        reason: String,
    },
    /// A worker's next process has taken over from the one before (S8).
    WorkerReplaced {
        /// The worker.
        worker: String,
        /// The process that served.
        from: u32,
        /// The process that serves.
        to: u32,
    },
    /// A bundle was unloaded.
    BundleUnloaded {
        /// The bundle.
        bundle: String,
    },
    /// A call was not answered within its deadline.
    DeadlineExceeded {
        /// The bundle.
        bundle: String,
        /// The function.
        function: String,
    },
    /// A process that is none of ours, or of another version, knocked on the
    /// control socket.
    PeerRefused {
        /// Its process, where the kernel says.
        pid: Option<u32>,
        /// Why.
        reason: String,
    },
}

impl EventKind {
    /// How grave it is.
    #[must_use]
    pub const fn level(&self) -> LogLevel {
        match self {
            Self::WorkerCrashed(_)
            | Self::StartFailed { .. }
            | Self::BundleFailed { .. }
            | Self::BundleQuarantined { .. } => LogLevel::Error,
            Self::StandbyReady { .. } => LogLevel::Debug,
            Self::WorkerUnresponsive { .. }
            | Self::BundleIsolated { .. }
            | Self::BundleNotGranted { .. }
            | Self::BundleUnverified { .. }
            | Self::StandbyDied { .. }
            | Self::DeadlineExceeded { .. }
            | Self::PeerRefused { .. } => LogLevel::Warn,
            _ => LogLevel::Info,
        }
    }
}

/// One line, for people.
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = |pid: &Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        match self {
            Self::WorkerState { worker, state, incarnation, pid } => {
                let pid = process(pid);
                write!(f, "worker {worker}: {state} (start {incarnation}, process {pid})")
            }
            Self::WorkerCrashed(report) => {
                write!(f, "worker {} died of {}", report.worker, report.cause)?;
                for call in &report.running {
                    write!(f, "; running: {call}")?;
                }
                if let Some(suspect) = &report.suspect {
                    write!(f, "; suspect: {suspect}")?;
                }
                Ok(())
            }
            Self::WorkerUnresponsive { worker, missed } => {
                write!(f, "worker {worker} has missed {missed} heartbeats")
            }
            Self::StartFailed { worker, reason } => {
                write!(f, "worker {worker} could not be started: {reason}")
            }
            Self::BundleLoaded { bundle, worker, generation } => {
                write!(f, "bundle {bundle} loaded in {worker} (generation {generation})")
            }
            Self::BundleReloaded { bundle, generation } => {
                write!(f, "bundle {bundle} reloaded (generation {generation})")
            }
            Self::BundleFailed { bundle, step, reason } => {
                write!(f, "bundle {bundle} failed to {step}: {reason}")
            }
            Self::BundleUnverified { bundle, reason } => {
                write!(f, "bundle {bundle} is loaded unverified: {reason}")
            }
            Self::BundleNotGranted { bundle, wants } => {
                write!(f, "bundle {bundle} does not get what it wants: {}", wants.join("; "))
            }
            Self::BundleQuarantined { bundle, crashes } => {
                write!(f, "bundle {bundle} quarantined: it was running at {crashes} crashes")
            }
            Self::BundleIsolated { bundle, from, to } => {
                write!(f, "bundle {bundle} moves from {from} to {to}")
            }
            Self::StandbyReady { loader, pid } => {
                write!(f, "standby for {loader} ready (process {pid})")
            }
            Self::StandbyDied { loader, cause, .. } => {
                write!(f, "standby for {loader} lost: {cause}")
            }
            Self::WorkerRecycled { worker, reason } => {
                write!(f, "worker {worker} is recycled after {reason}")
            }
            Self::WorkerReplaced { worker, from, to } => {
                write!(f, "worker {worker}: process {to} has taken over from {from}")
            }
            Self::BundleUnloaded { bundle } => write!(f, "bundle {bundle} unloaded"),
            Self::DeadlineExceeded { bundle, function } => {
                write!(f, "bundle {bundle}: {function} exceeded its deadline")
            }
            Self::PeerRefused { pid, reason } => {
                write!(f, "process {} was refused: {reason}", process(pid))
            }
        }
    }
}

/// What failed with a bundle; an event has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was to be loaded.
    Load,
    /// It was to be reloaded, by hand or as its files have changed.
    Reload,
    /// It was to be reloaded after a bundle that it depends on.
    Reinitialise,
    /// It was to be loaded again, in its worker's next process (S4).
    Restore,
    /// It was to be switched over in a rolling restart (S8).
    Restart,
    /// Its folder was to be watched, and is gone.
    Watch,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Reload => "reload",
            Self::Reinitialise => "reinitialise",
            Self::Restore => "restore",
            Self::Restart => "restart",
            Self::Watch => "watch",
        }
    }
}

/// A stream of events. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

/// What came next in a stream of events.
#[derive(Clone, Debug, PartialEq)]
pub enum NextEvent {
    /// An event.
    Event(Event),
    /// This many events were missed, because the receiver was too slow: it may fall 1024
    /// behind.
    Missed(u64),
}

impl Events {
    /// Waits for the next event; `None` when the supervisor is gone or has been
    /// [shut down](crate::Supervisor::shutdown), and its workers are gone, whoever still
    /// holds a [`Contract`](crate::Contract).
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<NextEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(NextEvent::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(NextEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// An event as it is kept, with what readers choose by.
#[derive(Debug)]
pub(crate) struct KeptEvent {
    pub(crate) event: Event,
    pub(crate) json: String,
    pub(crate) worker: Option<String>,
    pub(crate) bundle: Option<String>,
}

/// Whoever has it may have something to tell still. Those who call hold the supervisor's
/// insides too, and have not.
#[derive(Debug)]
pub(crate) struct Open(
    #[allow(dead_code, reason = "it is there")] Option<broadcast::Sender<Event>>,
);

/// The sending end, and the memory of what was sent.
#[derive(Debug)]
pub(crate) struct EventBus {
    sender: broadcast::WeakSender<Event>,
    /// The supervisor's own, until everything has ended.
    own: Mutex<Option<Open>>,
    pub(crate) history: History<KeptEvent>,
    pub(crate) logs: Logs,
    tally: Mutex<Tally>,
    /// When the supervisor was started: ids of another life are told by it.
    pub(crate) life: u64,
}

impl EventBus {
    pub(crate) fn new(config: &Config) -> Self {
        let sender = broadcast::channel(BACKLOG).0;
        Self {
            sender: sender.downgrade(),
            own: Mutex::new(Some(Open(Some(sender)))),
            history: History::new(config.event_history, KEPT_BYTES),
            logs: Logs::new(config),
            tally: Mutex::default(),
            life: now_ms(),
        }
    }

    /// What has happened so far, counted.
    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// The stream of events ends when it is [closed](Self::close) and all of these have
    /// gone.
    pub(crate) fn open(&self) -> Open {
        Open(self.sender.upgrade())
    }

    /// The supervisor itself has nothing more to tell.
    pub(crate) fn close(&self) {
        drop(lock(&self.own).take());
    }

    pub(crate) fn subscribe(&self) -> Events {
        let receiver = match self.sender.upgrade() {
            Some(sender) => sender.subscribe(),
            // One that has ended.
            None => broadcast::channel(1).1,
        };
        Events { receiver }
    }

    /// Every event is a log line too.
    pub(crate) fn emit(&self, kind: EventKind) {
        log(&kind);
        self.tell(kind);
    }

    /// Emits [`BundleFailed`](EventKind::BundleFailed). Where the bundle's own code says in
    /// a stack what went wrong, that is logged as well.
    pub(crate) fn bundle_failed(&self, bundle: &str, step: Step, error: &RuntimeError) {
        self.bundle_failed_as(bundle, step, error);
        if let RuntimeError::Loader(LoaderError::InitFailed { error, .. }) = error
            && !error.stack.is_empty()
        {
            let stack = error.stack.trim_end();
            tracing::error!(bundle, "{stack}");
            self.logs.push(LogLevel::Error, None, Some(bundle), "supervisor", stack);
        }
    }

    /// As that, where it is told in words.
    pub(crate) fn bundle_failed_as(&self, bundle: &str, step: Step, reason: &impl ToString) {
        self.emit(EventKind::BundleFailed {
            bundle: bundle.to_owned(),
            step: step.name().to_owned(),
            reason: reason.to_string(),
        });
    }

    /// As [`emit`](Self::emit), without the log line, whose way is the host's: whoever
    /// must not wait tells first.
    pub(crate) fn tell(&self, kind: EventKind) {
        lock(&self.tally).count(&kind);
        let level = kind.level();
        let text = kind.to_string();
        let fields = serde_json::to_value(&kind).unwrap_or_default();
        let field = |name: &str| fields[name].as_str().map(str::to_owned);
        let (worker, bundle) = (field("worker"), field("bundle"));
        self.logs.push(level, worker.as_deref(), bundle.as_deref(), "supervisor", &text);
        let make = |id| {
            let time_ms = match &kind {
                EventKind::WorkerCrashed(report) => report.time_ms,
                _ => now_ms(),
            };
            let event = Event { id, time_ms, kind };
            let json = serde_json::to_string(&event).unwrap_or_default();
            let bytes = u64::try_from(json.len()).unwrap_or(u64::MAX);
            (KeptEvent { event, json, worker, bundle }, bytes)
        };
        // Ids and the stream have the same order; no receivers is no error.
        self.history.push(make, |kept| {
            if let Some(sender) = self.sender.upgrade() {
                drop(sender.send(kept.event.clone()));
            }
        });
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The log line of an event.
pub(crate) fn log(kind: &EventKind) {
    match kind {
        EventKind::WorkerState { worker, state, incarnation, pid } => {
            tracing::info!(worker, ?state, incarnation, pid, "worker state");
        }
        EventKind::WorkerCrashed(report) => {
            let CrashReport { worker, cause, running, .. } = &**report;
            tracing::error!(worker, cause, ?running, "worker crashed");
        }
        EventKind::WorkerUnresponsive { worker, missed } => {
            tracing::warn!(worker, missed, "worker does not answer heartbeats");
        }
        EventKind::StartFailed { worker, reason } => {
            tracing::error!(worker, reason, "worker could not be started");
        }
        EventKind::BundleLoaded { bundle, worker, generation } => {
            tracing::info!(bundle, worker, generation, "bundle loaded");
        }
        EventKind::BundleReloaded { bundle, generation } => {
            tracing::info!(bundle, generation, "bundle reloaded");
        }
        EventKind::BundleFailed { bundle, step, reason } => {
            tracing::error!(bundle, step, reason, "bundle failed");
        }
        EventKind::BundleUnverified { bundle, reason } => {
            tracing::warn!(bundle, reason, "bundle is loaded unverified");
        }
        EventKind::BundleNotGranted { bundle, wants } => {
            tracing::warn!(bundle, ?wants, "bundle does not get what it wants");
        }
        EventKind::BundleQuarantined { bundle, crashes } => {
            tracing::error!(bundle, crashes, "bundle quarantined");
        }
        EventKind::BundleIsolated { bundle, from, to } => {
            tracing::warn!(bundle, from, to, "bundle gets a worker of its own");
        }
        EventKind::StandbyReady { loader, pid } => tracing::debug!(loader, pid, "standby ready"),
        EventKind::StandbyDied { loader, pid, cause } => {
            tracing::warn!(loader, pid, cause, "standby died");
        }
        EventKind::WorkerRecycled { worker, reason } => {
            tracing::info!(worker, reason, "worker recycled");
        }
        EventKind::WorkerReplaced { worker, from, to } => {
            tracing::info!(worker, from, to, "worker replaced");
        }
        EventKind::BundleUnloaded { bundle } => tracing::info!(bundle, "bundle unloaded"),
        EventKind::DeadlineExceeded { bundle, function } => {
            tracing::warn!(bundle, function, "deadline exceeded");
        }
        EventKind::PeerRefused { pid, reason } => {
            tracing::warn!(pid, reason, "a peer on the control socket was refused");
        }
    }
}

#[cfg(test)]
mod tests;
