//! What a supervisor shows of itself (`DESIGN.md`, chapter G). The shapes are
//! those of the status socket's JSON.

use menagerie_protocol::SupportedLanguage;
use menagerie_protocol::message::Hello;
use menagerie_protocol::sandbox::{FEATURE_SANDBOX, LACKS};
use serde::{Deserialize, Serialize};

use crate::lifecycle::WorkerState;
use crate::placement::Isolation;
use crate::signature::SignatureStatus;
use crate::worker::process::KillCause;
pub use crate::worker::{Condition, ResourceUsage};

/// Everything at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Whether bundles share their loader's worker, unless another rule holds
    /// for one of them (S9).
    #[serde(default)]
    pub isolation: Isolation,
    /// Its workers, by name.
    pub workers: Vec<WorkerStatus>,
    /// Its standbys.
    #[serde(default)]
    pub standbys: Vec<StandbyStatus>,
    /// Its bundles, by name.
    pub bundles: Vec<BundleStatus>,
}

/// A started, empty worker that can take over (S8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Its loader.
    pub loader: String,
    /// Its process.
    pub pid: u32,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name: the loader's, or `loader/bundle` for a worker that has one
    /// bundle to itself; with `#1`, `#2` … at its end if there are several for
    /// the same bundles (S9).
    pub name: String,
    /// The loader's name.
    pub loader: String,
    /// Its language, once it has said hello.
    pub language: Option<SupportedLanguage>,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// How many times it has been started.
    pub incarnation: u64,
    /// How many of these starts followed a death that nobody had asked for.
    pub restarts: u64,
    /// Resident memory in bytes, from `/proc/<pid>/statm`.
    pub rss_bytes: Option<u64>,
    /// Processor time so far in seconds, from `/proc/<pid>/stat`.
    pub cpu_seconds: Option<f64>,
    /// The runtime's name and version, once it has said hello.
    pub runtime: Option<String>,
    /// The names of its bundles.
    pub bundles: Vec<String>,
    /// Its last death that nobody had asked for.
    pub last_crash: Option<CrashReport>,
    /// Why it could not be started, if that is so.
    pub problem: Option<String>,
    /// The sandbox that it is in, if it is (P2).
    #[serde(default)]
    pub sandbox: Option<SandboxStatus>,
}

/// The sandbox of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// What it cannot hold back, as this machine's kernel is.
    pub lacks: Vec<String>,
}

impl SandboxStatus {
    /// As a worker says it, which is none of a bundle's words yet.
    pub(crate) fn of(hello: &Hello) -> Option<Self> {
        let lacks = hello.features.iter().filter_map(|feature| feature.strip_prefix(LACKS));
        let lacks = lacks.take(MOST_LACKS).map(|what| what.chars().take(200).collect()).collect();
        hello.has(FEATURE_SANDBOX).then_some(Self { lacks })
    }
}

/// More than there are.
const MOST_LACKS: usize = 16;

/// A death that nobody had asked for (S2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrashReport {
    /// The worker.
    pub worker: String,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The process that died.
    pub pid: u32,
    /// Which start of the worker it was.
    pub incarnation: u64,
    /// The cause in words: `signal 11 (SIGSEGV)`, `exit code 1`, …
    pub cause: String,
    /// The signal, if one killed it.
    pub signal: Option<i32>,
    /// The exit code, if it exited.
    pub exit_code: Option<i32>,
    /// Why the supervisor itself ended it, if it did: a deadline, missed
    /// heartbeats, a protocol violation.
    pub reason: Option<String>,
    /// The same in a word, for the metrics.
    #[serde(skip)]
    pub(crate) kill: Option<KillCause>,
    /// The calls, loads and hooks that were running.
    pub running: Vec<RunningCall>,
    /// The bundle whose doing it was although the calls that ran do not show it: the one
    /// that the worker named, say for an exception in a thread of the bundle's own; or,
    /// probably, the only one that was loaded.
    #[serde(default)]
    pub suspect: Option<String>,
    /// What the guest was seen to do before it was killed because it did not
    /// end something.
    #[serde(default)]
    pub condition: Option<Condition>,
    /// Heartbeats that were due and not answered: 0 if the worker answered them
    /// while its calls hung.
    #[serde(default)]
    pub missed_heartbeats: u32,
    /// What the process had used.
    #[serde(default)]
    pub usage: Option<ResourceUsage>,
    /// The last lines of its standard error: 100 at most, and 64 KiB together.
    pub stderr: Vec<String>,
    /// How long it had lived, in milliseconds.
    pub uptime_ms: u64,
}

/// What a bundle was at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// A call.
    #[default]
    Call,
    /// Its load: import or compilation, initialisation, its first `on_load`.
    Load,
    /// `on_load` at a reload's hand-over.
    OnLoad,
    /// `on_unload`, or what follows it until everything is freed.
    OnUnload,
}

/// What was running when its worker died (S5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningCall {
    /// The bundle.
    pub bundle: String,
    /// What it was at.
    #[serde(default)]
    pub activity: Activity,
    /// The contract; empty unless it was a call.
    pub contract: String,
    /// The function; `load`, `on_load` or `on_unload` if it was no call.
    pub function: String,
    /// For how long it had run, in milliseconds, if somebody had begun to wait.
    pub age_ms: Option<u64>,
}

/// `greeter-py/greeter@1 greet`, or `greeter-py load` for what is no call.
impl std::fmt::Display for RunningCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bundle, contract, function, .. } = self;
        if contract.is_empty() {
            write!(f, "{bundle} {function}")
        } else {
            write!(f, "{bundle}/{contract} {function}")
        }
    }
}

/// Where a bundle is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BundleState {
    /// It is being loaded for the first time.
    Loading,
    /// It serves.
    Ready,
    /// Its worker is being started again, or it is being reloaded.
    Waiting,
    /// It could not be loaded again after its worker's restart.
    Failed,
    /// It was running at too many crashes of its worker (S5). A reload tries it
    /// again.
    Quarantined,
    /// It is being unloaded.
    Unloading,
}

impl BundleState {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Loading,
        Self::Ready,
        Self::Waiting,
        Self::Failed,
        Self::Quarantined,
        Self::Unloading,
    ];

    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
            Self::Unloading => "unloading",
        }
    }
}

/// A bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleStatus {
    /// Its name.
    pub name: String,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its loader.
    pub loader: String,
    /// The worker that it lives in; what they are called together if there are
    /// several (S9).
    pub worker: String,
    /// In how many workers it is.
    #[serde(default)]
    pub replicas: ReplicaStatus,
    /// Its folder, unless it came from memory.
    pub path: Option<String>,
    /// Where it is in its life: ready if one replica is.
    pub state: BundleState,
    /// The generation that serves, or that did last: of several replicas the
    /// youngest; 0 before the first. Each attempt at a load, in each worker, has
    /// a greater number than those before it, so one that failed leaves a gap.
    pub generation: u32,
    /// What it provides.
    pub contracts: Vec<ContractStatus>,
    /// Its calls so far.
    pub calls: CallStatus,
    /// Why it, or one of its replicas, is not ready, if that is so.
    pub problem: Option<String>,
    /// What is known of its signature; `None` with the policy off (R5).
    #[serde(default)]
    pub signature: Option<SignatureStatus>,
    /// What it wants and does not get, in its sandbox (P3).
    #[serde(default)]
    pub not_granted: Vec<String>,
}

/// In how many workers a bundle is (S9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Those in which it serves.
    pub ready: u32,
    /// Those in which it should.
    pub wanted: u32,
}

/// A contract that a bundle provides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContractStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its functions.
    pub functions: Vec<String>,
}

/// A bundle's calls so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallStatus {
    /// Calls that ended with a value.
    pub ok: u64,
    /// Calls that ended in any other way.
    pub failed: u64,
    /// Calls that run or wait.
    pub in_flight: u32,
    /// The median latency in microseconds, of a sample.
    pub p50_us: Option<f64>,
    /// The latency in microseconds that one call in a hundred exceeds, of a
    /// sample.
    pub p99_us: Option<f64>,
}
