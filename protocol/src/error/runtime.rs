//! Why an operation on bundles was refused, or failed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::LoaderError;
use crate::loader::manifest::DependencyKind;

/// Why the runtime refused or failed an operation on bundles.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Hot reload is off, or the loader cannot do it (L3).
    #[error("hot reload of '{bundle}' is disabled: {reason}")]
    HotReloadDisabled {
        /// The bundle.
        bundle: String,
        /// Which of the two.
        reason: String,
    },
    /// The loader failed.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// No bundle of this name is loaded.
    #[error("no bundle named '{bundle}' is loaded; the status has the names of those that are")]
    BundleNotFound {
        /// The name.
        bundle: String,
    },
    /// A bundle of this name is loaded already.
    #[error("a bundle named '{bundle}' is loaded already; reload it, or unload it first")]
    AlreadyLoaded {
        /// The name.
        bundle: String,
    },
    /// Bundles that depend on each other in a ring (R3).
    #[error("bundles depend on each other in a ring: {}; take one of these dependencies out", .participants.join(" → "))]
    DependencyCycle {
        /// The bundles of the ring.
        participants: Vec<String>,
    },
    /// A bundle that another one needs is not loaded, or not in that version
    /// (R3).
    #[error("bundle '{bundle}' needs bundle '{dependency}', {}", match .found {
        None => "which is not loaded; load it first".to_owned(),
        Some(version) => format!("but version {version} is loaded"),
    })]
    DependencyNotFound {
        /// The bundle.
        bundle: String,
        /// What it needs: a name, or a name and a version.
        dependency: String,
        /// The version that is loaded, where that is what is wrong.
        found: Option<String>,
    },
    /// A contract that a bundle needs has no provider (R3).
    #[error("bundle '{bundle}' needs contract '{contract}', which {}", match (.kind, .provider) {
        (DependencyKind::Host, _) => "the host does not provide".to_owned(),
        (DependencyKind::Guest, None) => "no loaded bundle provides".to_owned(),
        (DependencyKind::Guest, Some(name)) => format!("bundle '{name}' does not provide"),
    })]
    UnsatisfiedCapability {
        /// The bundle.
        bundle: String,
        /// The contract.
        contract: String,
        /// Whether the host or a bundle should provide it.
        kind: DependencyKind,
        /// The bundle that should provide it, where it has to be that one.
        provider: Option<String>,
    },
    /// Others depend on the bundle (R4).
    #[error("bundle '{bundle}' is in use by {}; unload them first, or use cascade", .dependents.join(", "))]
    DependencyInUse {
        /// The bundle.
        bundle: String,
        /// Who depends on it.
        dependents: Vec<String>,
    },
    /// The worker program was not found.
    #[error("the worker program '{program}' was not found; build it, or set `worker_dir`; looked in: {}", .looked_in.join(", "))]
    WorkerNotFound {
        /// The program's file name.
        program: String,
        /// Every place, in order.
        looked_in: Vec<String>,
    },
    /// The worker could not be started, or died before it had answered.
    #[error("the worker '{worker}' is not available: {problem}")]
    WorkerUnavailable {
        /// The worker.
        worker: String,
        /// What happened.
        problem: String,
    },
    /// The step took longer than it may.
    #[error("'{step}' of '{bundle}' did not end within {limit_ms} ms")]
    TimedOut {
        /// The bundle.
        bundle: String,
        /// Which step.
        step: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The supervisor is shutting down.
    #[error("the supervisor is shutting down")]
    ShuttingDown,
    /// A bundle that was never loaded has killed its worker at too many of its loads (S5).
    #[error(
        "bundle '{bundle}' is quarantined: {crashes} workers have died of loading it, as the \
         crash reports show; it can be loaded again in {} s",
        .wait_ms.div_ceil(1000)
    )]
    BundleQuarantined {
        /// The bundle.
        bundle: String,
        /// How many.
        crashes: u32,
        /// When it can be loaded again, in milliseconds from now.
        wait_ms: u64,
    },
    /// The supervisor's own code panicked, or the host's `tracing` code that it calls: what
    /// was to be done may be half done.
    #[error("the operation panicked in the supervisor: {message}")]
    Panicked {
        /// What the panic says.
        message: String,
    },
}
