//! Why a bundle could not be loaded.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::GuestError;
use crate::BundleId;

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
