//! How a call ends without a value.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::guest::{GuestError, names};

/// Every way in which a call can end without a value (`DESIGN.md` rule C3).
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Failure {
    /// The guest's own error; in a box, because every call's result has room for it.
    #[error("{0}")]
    Guest(Box<GuestError>),
    /// Wrong number or kind of arguments; the function's body did not run.
    #[error("bad arguments: {message}")]
    BadArguments {
        /// Which argument, and what was expected.
        message: String,
    },
    /// The caller cancelled it, or the bundle's own code gave it up.
    #[error("the call was cancelled")]
    Cancelled,
    /// The deadline passed.
    #[error("the call did not end within its deadline of {deadline_ms} ms")]
    DeadlineExceeded {
        /// The deadline, in milliseconds.
        deadline_ms: u64,
    },
    /// The worker died.
    #[error("the worker '{worker}' died ({cause}){}", if *.started { " while the call ran" } else { " before the call began" })]
    WorkerCrashed {
        /// The worker's name.
        worker: String,
        /// How it died: `signal 9 (SIGKILL)`, `exit code 1`, …
        cause: String,
        /// Whether the call had begun.
        started: bool,
    },
    /// The bundle or its worker is quarantined after repeated crashes.
    #[error(
        "{what} is quarantined after repeated crashes; a reload tries a bundle again, and \
         `menagerie restart` a worker"
    )]
    Quarantined {
        /// The bundle or worker.
        what: String,
    },
    /// No loaded bundle provides the contract.
    #[error("no loaded bundle provides '{contract}'")]
    NoSuchContract {
        /// The contract as it was asked for.
        contract: String,
    },
    /// The contract has no such function.
    #[error("'{contract}' has no function '{function}'; it has {}", match &.available[..] {
        [] => "none".to_owned(),
        available => format!("these: {}", available.join(", ")),
    })]
    NoSuchFunction {
        /// The contract.
        contract: String,
        /// The function as it was asked for.
        function: String,
        /// The functions that there are.
        #[serde(deserialize_with = "names")]
        available: Vec<String>,
    },
    /// The lane's queue is full.
    #[error("the queue of bundle '{bundle}' is full ({limit} calls in flight); try again later")]
    Overloaded {
        /// The bundle.
        bundle: String,
        /// The queue's bound, in calls.
        limit: u32,
    },
    /// The call would return into a bundle that waits in it (C5).
    #[error("the call would return into a bundle that waits in it: {}", .chain.join(" → "))]
    CycleDetected {
        /// The bundles of the chain, outermost first.
        #[serde(deserialize_with = "names")]
        chain: Vec<String>,
    },
    /// The calling bundle's manifest does not declare the contract (C5).
    #[error(
        "bundle '{bundle}' does not declare '{contract}'; add a [[dependency]] to its manifest.toml"
    )]
    UndeclaredDependency {
        /// The calling bundle.
        bundle: String,
        /// The contract.
        contract: String,
    },
    /// The handle's bundle was unloaded (R2).
    #[error("bundle '{bundle}' was unloaded; load it again, and ask for its contract anew")]
    StaleHandle {
        /// The bundle.
        bundle: String,
    },
    /// The bundle is loaded but does not serve: its worker cannot be started,
    /// or the bundle could not be loaded again after a restart.
    #[error("bundle '{bundle}' is not available: {problem}")]
    BundleUnavailable {
        /// The bundle.
        bundle: String,
        /// Why.
        problem: String,
    },
    /// A payload beyond the configured limit (C2).
    #[error("the payload of {size} bytes is over the limit of {limit} bytes")]
    PayloadTooLarge {
        /// Its size, in bytes, or as much of it as was written when it was clear that
        /// it is over the limit.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A result that the caller's type cannot hold, or an argument that
    /// MessagePack cannot.
    #[error("the value does not fit: {message}")]
    BadValue {
        /// What did not fit where.
        message: String,
    },
    /// The supervisor is shutting down.
    #[error("the supervisor is shutting down")]
    ShuttingDown,
    /// A function of the host's panicked (C5).
    #[error("the host's function '{function}' of '{contract}' panicked: {message}")]
    HostPanicked {
        /// The contract.
        contract: String,
        /// The function.
        function: String,
        /// What the panic says.
        message: String,
    },
    /// The supervisor's process has no memory or no descriptors left for the call: it is
    /// short of them, and neither the bundle nor the arguments are at fault.
    #[error("the supervisor has too little to carry the call: {problem}")]
    OutOfResources {
        /// The system's own words.
        problem: String,
    },
}

impl Failure {
    /// The variant's name: the kind by which guests of every language tell failures apart.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Guest(_) => "Guest",
            Self::BadArguments { .. } => "BadArguments",
            Self::Cancelled => "Cancelled",
            Self::DeadlineExceeded { .. } => "DeadlineExceeded",
            Self::WorkerCrashed { .. } => "WorkerCrashed",
            Self::Quarantined { .. } => "Quarantined",
            Self::NoSuchContract { .. } => "NoSuchContract",
            Self::NoSuchFunction { .. } => "NoSuchFunction",
            Self::Overloaded { .. } => "Overloaded",
            Self::CycleDetected { .. } => "CycleDetected",
            Self::UndeclaredDependency { .. } => "UndeclaredDependency",
            Self::StaleHandle { .. } => "StaleHandle",
            Self::BundleUnavailable { .. } => "BundleUnavailable",
            Self::PayloadTooLarge { .. } => "PayloadTooLarge",
            Self::BadValue { .. } => "BadValue",
            Self::ShuttingDown => "ShuttingDown",
            Self::HostPanicked { .. } => "HostPanicked",
            Self::OutOfResources { .. } => "OutOfResources",
        }
    }

    /// Whether the same call may succeed later, unchanged, with nobody's doing: a bundle
    /// that is not available, and a worker that is quarantined, are tried again and again.
    /// A bundle that is quarantined itself has to be reloaded, which this cannot tell.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::DeadlineExceeded { .. }
                | Self::WorkerCrashed { .. }
                | Self::Quarantined { .. }
                | Self::Overloaded { .. }
                | Self::BundleUnavailable { .. }
                | Self::OutOfResources { .. }
        )
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Guest(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of them is.
    fn heals_by_itself(failure: &Failure) -> bool {
        match failure {
            Failure::DeadlineExceeded { .. }
            | Failure::WorkerCrashed { .. }
            | Failure::Quarantined { .. }
            | Failure::Overloaded { .. }
            | Failure::BundleUnavailable { .. }
            | Failure::OutOfResources { .. } => true,
            Failure::Guest(_)
            | Failure::BadArguments { .. }
            | Failure::Cancelled
            | Failure::NoSuchContract { .. }
            | Failure::NoSuchFunction { .. }
            | Failure::CycleDetected { .. }
            | Failure::UndeclaredDependency { .. }
            | Failure::StaleHandle { .. }
            | Failure::PayloadTooLarge { .. }
            | Failure::BadValue { .. }
            | Failure::ShuttingDown
            | Failure::HostPanicked { .. } => false,
        }
    }

    #[test]
    fn c3_what_heals_by_itself_is_transient() {
        let text = || "a".to_owned();
        let all = [
            Failure::Guest(Box::new(GuestError::new("a", "a"))),
            Failure::BadArguments { message: text() },
            Failure::Cancelled,
            Failure::DeadlineExceeded { deadline_ms: 1 },
            Failure::WorkerCrashed { worker: text(), cause: text(), started: true },
            Failure::Quarantined { what: text() },
            Failure::NoSuchContract { contract: text() },
            Failure::NoSuchFunction { contract: text(), function: text(), available: vec![] },
            Failure::Overloaded { bundle: text(), limit: 1 },
            Failure::CycleDetected { chain: vec![] },
            Failure::UndeclaredDependency { bundle: text(), contract: text() },
            Failure::StaleHandle { bundle: text() },
            Failure::BundleUnavailable { bundle: text(), problem: text() },
            Failure::PayloadTooLarge { size: 1, limit: 1 },
            Failure::BadValue { message: text() },
            Failure::ShuttingDown,
            Failure::HostPanicked { contract: text(), function: text(), message: text() },
            Failure::OutOfResources { problem: text() },
        ];
        for failure in &all {
            assert_eq!(failure.is_transient(), heals_by_itself(failure), "{failure:?}");
        }
        let kinds: std::collections::BTreeSet<_> = all.iter().map(Failure::kind).collect();
        assert_eq!(kinds.len(), all.len());
    }

    /// Every result of a call is moved about with room for one.
    #[test]
    fn failure_is_small() {
        assert!(size_of::<Failure>() <= 80, "{}", size_of::<Failure>());
    }
}
