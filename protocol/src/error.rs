//! What can go wrong, in types that travel between worker and supervisor.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::BundleId;
use crate::loader::manifest::DependencyKind;

/// An error that the guest's own code raised, told in its language's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{type_name}: {message}")]
pub struct GuestError {
    /// The exception's type as its language names it: `ValueError`, `Error`,
    /// `System.InvalidOperationException`.
    pub type_name: String,
    /// The message.
    pub message: String,
    /// The stack in the language's own format, or empty where it has none.
    #[serde(default)]
    pub stack: String,
    /// A code, where the guest gives one.
    #[serde(default)]
    pub code: Option<String>,
    /// A text that helps, where the guest gives one.
    #[serde(default)]
    pub help: Option<String>,
    /// A page that helps, where the guest gives one.
    #[serde(default)]
    pub url: Option<String>,
    /// Causes, outermost first, at most [`MAX_CAUSES`] deep and [`MAX_ALL_CAUSES`] in all.
    #[serde(default, deserialize_with = "inner_errors")]
    pub inner: Vec<GuestError>,
}

/// How deep causes may nest: a worker cuts them there, and more is refused, so
/// that no recursion over them can exhaust a stack.
pub const MAX_CAUSES: usize = 32;

/// How many causes an error may have, with those that they have themselves: a worker cuts
/// the others off, and more is refused. One takes a few bytes of a message, and much more
/// of memory.
pub const MAX_ALL_CAUSES: usize = 512;

/// Names that a failure may list. As with causes, the shortest ones would take much more
/// memory than the message.
const MAX_NAMES: usize = 65_536;

/// Reads a list, and refuses it when `count` says that it has come to its end.
struct Bounded<T, F>(F, PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut() -> bool> Visitor<'de> for Bounded<T, F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list that is not too long")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut from: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(next) = from.next_element()? {
            if !(self.0)() {
                return Err(A::Error::custom("a list is too long"));
            }
            all.push(next);
        }
        Ok(all)
    }
}

/// Reads names, and refuses more than [`MAX_NAMES`].
fn names<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut left = MAX_NAMES;
    let count = || left.checked_sub(1).map(|less| left = less).is_some();
    from.deserialize_seq(Bounded(count, PhantomData))
}

/// Reads causes, and refuses those that nest too deep before it reads them, and those that
/// are too many.
fn inner_errors<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<GuestError>, D::Error> {
    thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }
    struct Level;
    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    if DEPTH.get() == 0 {
        COUNT.set(0);
    }
    DEPTH.set(DEPTH.get() + 1);
    let _level = Level;
    if DEPTH.get() > MAX_CAUSES + 1 {
        return Err(D::Error::custom("causes are nested too deep"));
    }
    let count = || {
        COUNT.set(COUNT.get() + 1);
        COUNT.get() <= MAX_ALL_CAUSES
    };
    from.deserialize_seq(Bounded(count, PhantomData))
}

impl GuestError {
    /// An error with a type and a message, and nothing else.
    pub fn new(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_name: type_name.into(), message: message.into(), ..Self::default() }
    }

    /// The same error without the causes beyond [`MAX_CAUSES`] and [`MAX_ALL_CAUSES`].
    #[must_use]
    pub fn cut(self) -> Self {
        self.cut_at(MAX_CAUSES, &mut { MAX_ALL_CAUSES })
    }

    /// Keeps causes of so many levels, and no more than are left.
    fn cut_at(mut self, depth: usize, left: &mut usize) -> Self {
        let mut inner = std::mem::take(&mut self.inner).into_iter();
        if depth > 0 {
            while *left > 0
                && let Some(error) = inner.next()
            {
                *left -= 1;
                self.inner.push(error.cut_at(depth - 1, left));
            }
        }
        // Dropping a chain recurses as deep as it is, so it is taken apart.
        let mut rest: Vec<Self> = inner.collect();
        while let Some(mut error) = rest.pop() {
            rest.append(&mut error.inner);
        }
        self
    }

    /// The same error with a stack.
    #[must_use]
    pub fn with_stack(mut self, stack: impl Into<String>) -> Self {
        self.stack = stack.into();
        self
    }
}

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
    #[error("'{contract}' has no function '{function}'; it has: {}", .available.join(", "))]
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

    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::DeadlineExceeded { .. }
                | Self::WorkerCrashed { .. }
                | Self::Overloaded { .. }
                | Self::OutOfResources { .. }
        )
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        Self::Guest(Box::new(error))
    }
}

/// Why a bundle could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LoaderError {
    /// No loader has the manifest's name (L1).
    #[error("no loader is named '{loader}'; there are: {}", .available.join(", "))]
    NoLoaderForName {
        /// The name that the manifest gives.
        loader: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// Two loaders of one name (L1).
    #[error("two loaders are named '{loader}'; give each name one worker program")]
    DuplicateLoader {
        /// The name.
        loader: String,
    },
    /// The loader does not take this kind of source (L4).
    #[error("the loader '{loader}' takes no bundle from {kind}")]
    UnsupportedBundleSource {
        /// The loader.
        loader: String,
        /// `path`, `code` or `bytes`.
        kind: String,
    },
    /// There is no manifest.
    #[error("{} does not exist; a bundle is a folder with a manifest.toml", .path.display())]
    ManifestNotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The manifest is no valid one.
    #[error("{}{}{}: {message}", .file.display(), .line.map(|l| format!(":{l}")).unwrap_or_default(), if .key.is_empty() { String::new() } else { format!(": {}", .key) })]
    ManifestInvalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<u32>,
        /// The key, or empty where the text is no TOML at all.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// The `id` is not the hash of the `name`.
    #[error("{}: id is {stated} but the name '{name}' has the id {computed}; leave `id` out, or correct it", .file.display())]
    BundleTampered {
        /// The manifest's file.
        file: PathBuf,
        /// The bundle's name.
        name: String,
        /// The id that the manifest states.
        stated: BundleId,
        /// The id that the name has.
        computed: BundleId,
    },
    /// `file` leads out of the bundle's directory (B2).
    #[error("{}: file: '{artifact}' leads out of the bundle's directory; put the file into it", .manifest.display())]
    ArtifactPathEscape {
        /// The manifest's file.
        manifest: PathBuf,
        /// `file` as it is written.
        artifact: String,
    },
    /// `file` is missing, or no regular file.
    #[error("{}: file: '{artifact}' {problem}", .manifest.display())]
    ArtifactNotFound {
        /// The manifest's file.
        manifest: PathBuf,
        /// `file` as it is written.
        artifact: String,
        /// `does not exist`, `is no regular file`, …
        problem: String,
    },
    /// A step of the bundle's own initialisation failed.
    #[error("bundle '{bundle}' failed to {step}: {error}")]
    InitFailed {
        /// The bundle.
        bundle: String,
        /// `compile`, `import`, `initialise`, `register`, `on_load`, …
        step: String,
        /// The language's own error.
        #[source]
        error: GuestError,
    },
    /// The artifact is nothing that the loader can load: no ELF file, no entry
    /// point, another ABI version, another platform.
    #[error("{}: {problem}", .artifact.display())]
    ArtifactUnusable {
        /// The artifact.
        artifact: PathBuf,
        /// What is wrong with it and what was expected.
        problem: String,
    },
    /// The bundle did not register what its manifest provides, or registered
    /// what it does not provide.
    #[error("bundle '{bundle}': contract '{contract}' {problem}")]
    ContractMismatch {
        /// The bundle.
        bundle: String,
        /// The contract.
        contract: String,
        /// `is in the manifest but the code does not export it`, …
        problem: String,
    },
    /// `function_count` and the code disagree.
    #[error(
        "bundle '{bundle}': '{contract}' should have {expected} functions and has {found}; correct the code, or [function_count] in its manifest.toml"
    )]
    FunctionCountMismatch {
        /// The bundle.
        bundle: String,
        /// The contract.
        contract: String,
        /// What the manifest says.
        expected: u32,
        /// What the code registered.
        found: u32,
    },
    /// A function's name that not every language can spell (B3).
    #[error("bundle '{bundle}': '{contract}' exports '{function}': function names are snake_case")]
    BadFunctionName {
        /// The bundle.
        bundle: String,
        /// The contract.
        contract: String,
        /// The name.
        function: String,
    },
    /// The language's runtime is not on this machine.
    #[error("{runtime} is not usable on this machine: {problem}. {remedy}")]
    RuntimeMissing {
        /// The runtime: `CPython`, `.NET`, …
        runtime: String,
        /// What was looked for, and where.
        problem: String,
        /// What to install, or to configure.
        remedy: String,
    },
    /// A file could not be read.
    #[error("{}: {problem}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        problem: String,
    },
    /// Code or bytes in memory, with the manifest, beyond what one message to a
    /// worker may hold.
    #[error(
        "bundle '{bundle}' has {size} bytes in memory, over the limit of {limit} bytes; load it from its folder"
    )]
    SourceTooLarge {
        /// The bundle.
        bundle: String,
        /// The size of the message.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The bundle has no signature, and the policy asks for one (R5).
    #[error(
        "bundle '{bundle}' is not signed; sign it with `menagerie sign`, or change `policy` under [signatures]"
    )]
    UnsignedBundle {
        /// The bundle.
        bundle: String,
    },
    /// The bundle is not what was signed (R5).
    #[error("the signature of bundle '{bundle}' does not hold: {} {problem}", .file.display())]
    SignatureVerificationFailed {
        /// The bundle.
        bundle: String,
        /// The file that shows it.
        file: PathBuf,
        /// `has changed since it was signed`, `is there, and was not signed`, …
        problem: String,
    },
    /// The bundle is signed by a key that is not trusted (R5).
    #[error("bundle '{bundle}' is signed by a key that is not trusted: {key} {problem}")]
    UntrustedSigningKey {
        /// The bundle.
        bundle: String,
        /// The key.
        key: String,
        /// `is none of the trusted keys`, …
        problem: String,
    },
    /// Whether the bundle's key is trusted cannot be looked up: the supervisor's own
    /// store of keys is at fault, and not the bundle (R5).
    #[error(
        "whether the key of bundle '{bundle}' is trusted cannot be looked up: {}: {problem}; let the supervisor's user write it and its folder, or change `trust_store` under [signatures]", .path.display()
    )]
    TrustStoreUnusable {
        /// The bundle.
        bundle: String,
        /// The key that has signed it.
        key: String,
        /// The store, or the lock beside it.
        path: PathBuf,
        /// The system's own words, or what is wrong with the store.
        problem: String,
    },
}

/// In place of a path: it is no file that lacks.
const NO_THREAD: &str = "thread";

impl LoaderError {
    /// An [`Io`](Self::Io) error of this path.
    pub fn io(path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self::Io { path: path.into(), problem: error.to_string() }
    }

    /// An [`Io`](Self::Io) error of a thread that the system does not give now.
    pub fn no_thread(error: &std::io::Error) -> Self {
        Self::io(NO_THREAD, error)
    }

    /// Whether it is one.
    #[must_use]
    pub fn is_no_thread(&self) -> bool {
        matches!(self, Self::Io { path, .. } if *path == Path::new(NO_THREAD))
    }

    /// An [`InitFailed`](Self::InitFailed) at this step.
    pub fn init(bundle: impl Into<String>, step: impl Into<String>, error: GuestError) -> Self {
        Self::InitFailed { bundle: bundle.into(), step: step.into(), error: error.cut() }
    }
}

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
    #[error("'{step}' did not end within {limit_ms} ms")]
    TimedOut {
        /// Which step.
        step: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The supervisor is shutting down.
    #[error("the supervisor is shutting down")]
    ShuttingDown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn chain(depth: usize) -> GuestError {
        (0..depth).fold(GuestError::new("E", "end"), |inner, _| GuestError {
            inner: vec![inner],
            ..GuestError::new("E", "link")
        })
    }

    #[test]
    fn c3_causes_are_cut_and_deeper_ones_refused() {
        let cut = Failure::from(chain(200).cut());
        let bytes = codec::encode(&cut).unwrap();
        assert_eq!(codec::decode::<Failure>(&bytes).unwrap(), cut);
        let deep = Failure::from(chain(60));
        let bytes = codec::encode(&deep).unwrap();
        assert!(codec::decode::<Failure>(&bytes).is_err());
        // Refused again and again: the depth is counted anew each time.
        let bytes = codec::encode(&cut).unwrap();
        assert!(codec::decode::<Failure>(&bytes).is_ok());
    }

    #[test]
    fn c3_causes_beyond_their_number_are_cut_and_refused() {
        let many = |each: usize| {
            let causes = || (0..each).map(|_| GuestError::new("E", ""));
            let inner = (0..64).map(|_| GuestError { inner: causes().collect(), ..chain(0) });
            GuestError { inner: inner.collect(), ..GuestError::new("E", "many") }
        };
        for each in [0, 7] {
            let few = Failure::from(many(each));
            assert_eq!(codec::decode::<Failure>(&codec::encode(&few).unwrap()).unwrap(), few);
            assert_eq!(Failure::from(many(each).cut()), few);
        }
        let bytes = codec::encode(&Failure::from(many(8))).unwrap();
        assert!(codec::decode::<Failure>(&bytes).is_err());
        let cut = Failure::from(many(8).cut());
        let bytes = codec::encode(&cut).unwrap();
        // Counted anew each time.
        assert_eq!(codec::decode::<Failure>(&bytes).unwrap(), cut);
        assert_eq!(codec::decode::<Failure>(&bytes).unwrap(), cut);
    }

    #[test]
    fn c3_names_beyond_their_number_are_refused() {
        let failure = |count| Failure::CycleDetected { chain: vec![String::new(); count] };
        for (count, fits) in [(MAX_NAMES, true), (MAX_NAMES + 1, false)] {
            let bytes = codec::encode(&failure(count)).unwrap();
            assert_eq!(codec::decode::<Failure>(&bytes).is_ok(), fits, "{count}");
        }
    }

    /// Every result of a call is moved about with room for one.
    #[test]
    fn failure_is_small() {
        assert!(size_of::<Failure>() <= 80, "{}", size_of::<Failure>());
    }
}
