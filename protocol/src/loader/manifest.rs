//! A bundle's manifest, checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::MAX_FILE_BYTES;
use super::manifest_file;
use crate::contract::{ContractId, ContractRequest};
use crate::{BundleId, LoaderError};

/// The name of the manifest's file in a bundle's folder.
pub const MANIFEST_FILE: &str = "manifest.toml";

/// What a bundle says of itself in `manifest.toml` (`DESIGN.md`, chapter B).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestData {
    /// The bundle's name.
    pub name: String,
    /// The hash of the name.
    pub id: BundleId,
    /// The bundle's version as it is written; `0.0.0` where none is.
    pub version: String,
    /// The loader's name (L1).
    pub loader: String,
    /// The artifact for this platform, as it is written: relative to the
    /// bundle's folder. Empty for a bundle from memory that names none.
    pub file: String,
    /// The contracts that the bundle provides.
    pub provides: Vec<ContractId>,
    /// Bundles that must be loaded before this one.
    pub bundle_dependencies: Vec<BundleDependency>,
    /// Whether a reload of a dependency initialises this bundle again (R4).
    pub needs_reinit_on_dep_reload: bool,
    /// How many functions each contract has, as it is written: by name, or by
    /// name and version.
    pub function_count: BTreeMap<String, u32>,
    /// The contracts that the bundle calls.
    pub dependencies: Vec<ContractDependency>,
    /// Functions, by contract name, that may run again after a crash (C4).
    pub idempotent: BTreeMap<String, Vec<String>>,
    /// What the bundle wants of the machine (P3). The supervisor's alone: a worker learns
    /// what it gets.
    #[serde(skip)]
    pub wants: Wants,
    /// The bundle's folder, canonical; empty for a bundle from memory.
    pub dir: PathBuf,
}

/// What a bundle wants beside its own files, where it is held in a sandbox
/// (`DESIGN.md`, rule P3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The network.
    pub network: bool,
    /// To read these files, and these folders with everything below them.
    pub read: Vec<PathBuf>,
    /// To change these as well.
    pub write: Vec<PathBuf>,
}

/// A bundle that must be loaded before another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleDependency {
    /// The bundle's name.
    pub bundle: String,
    /// The version that is asked for, as it is written; empty for any.
    pub version: String,
}

/// Whose contract a bundle calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DependencyKind {
    /// Another bundle's.
    Guest,
    /// The host's own.
    Host,
}

/// A contract that a bundle calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractDependency {
    /// Whose it is.
    pub kind: DependencyKind,
    /// The contract and the least version.
    pub contract: ContractRequest,
    /// That bundle's and no other's, if given.
    pub bundle: Option<String>,
}

/// A manifest that was read, with what is odd about it but does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedManifest {
    /// The manifest.
    pub manifest: ManifestData,
    /// Unknown keys and the like, one sentence each, with file and line.
    pub warnings: Vec<String>,
}

impl ManifestData {
    /// Reads and checks `dir/manifest.toml`, and that its artifact is a regular
    /// file inside `dir` (B2).
    ///
    /// # Errors
    ///
    /// [`LoaderError::ManifestNotFound`], [`LoaderError::ManifestInvalid`] with
    /// file, line and key, [`LoaderError::BundleTampered`],
    /// [`LoaderError::ArtifactPathEscape`], [`LoaderError::ArtifactNotFound`],
    /// or [`LoaderError::Io`].
    pub fn read(dir: &Path) -> Result<ParsedManifest, LoaderError> {
        let file = dir.join(MANIFEST_FILE);
        let text = manifest_file::read_text(&file)?;
        let mut parsed = manifest_file::parse(&text, &file)?;
        if parsed.manifest.file.is_empty() {
            return Err(manifest_file::missing_key(&file, "file"));
        }
        let dir = dir.canonicalize().map_err(|e| LoaderError::io(dir, &e))?;
        // It travels to the worker, and shows in the status, as text.
        if dir.to_str().is_none() {
            return Err(LoaderError::Io {
                path: dir.to_string_lossy().into_owned().into(),
                problem: "the path is not valid UTF-8; move the bundle to one that is".to_owned(),
            });
        }
        parsed.manifest.dir = dir;
        parsed.manifest.artifact()?;
        Ok(parsed)
    }

    /// Reads a manifest from memory, for a bundle that has no folder; `file`
    /// may be missing.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), of the text alone.
    pub fn parse(text: &str) -> Result<ParsedManifest, LoaderError> {
        manifest_file::parse(text, Path::new(MANIFEST_FILE))
    }

    /// The artifact's canonical path, checked at every call: a regular file
    /// inside the bundle's folder, after symlinks (B2).
    ///
    /// # Errors
    ///
    /// [`LoaderError::ArtifactPathEscape`], [`LoaderError::ArtifactNotFound`].
    pub fn artifact(&self) -> Result<PathBuf, LoaderError> {
        let manifest = self.dir.join(MANIFEST_FILE);
        let problem = |problem: &str| LoaderError::ArtifactNotFound {
            manifest: manifest.clone(),
            artifact: self.file.clone(),
            problem: problem.to_owned(),
        };
        let escape = || LoaderError::ArtifactPathEscape {
            manifest: manifest.clone(),
            artifact: self.file.clone(),
        };
        let written = Path::new(&self.file);
        let plain = written.components().all(|part| {
            matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir)
        });
        if !plain {
            return Err(escape());
        }
        if self.file.contains('\0') {
            return Err(problem("contains a NUL"));
        }
        let path = match self.dir.join(written).canonicalize() {
            Ok(path) => path,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(problem("does not exist"));
            }
            Err(e) => return Err(problem(&format!("cannot be opened: {e}"))),
        };
        if !path.starts_with(&self.dir) {
            return Err(escape());
        }
        let metadata = path.metadata().map_err(|e| problem(&format!("cannot be opened: {e}")))?;
        if !metadata.is_file() {
            return Err(problem("is no regular file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(problem("is larger than 512 MiB"));
        }
        if path.to_str().is_none() {
            return Err(problem("leads to a path that is not valid UTF-8"));
        }
        Ok(path)
    }

    /// How many functions a contract has to have, if the manifest says so.
    #[must_use]
    pub fn function_count_of(&self, contract: &ContractId) -> Option<u32> {
        let is_it = |written: &str| match written.split_once('@') {
            None => written == contract.name,
            Some(_) => written.parse().is_ok_and(|id: ContractId| id.same_major(contract)),
        };
        let mut counts = self.function_count.iter().filter(|(written, _)| is_it(written));
        // One with a version is meant before one without.
        counts.clone().find(|(written, _)| written.contains('@')).or(counts.next()).map(|(_, n)| *n)
    }

    /// Whether `function` of `contract` may be run again after a crash (C4).
    #[must_use]
    pub fn is_idempotent(&self, contract: &str, function: &str) -> bool {
        self.idempotent.get(contract).is_some_and(|list| list.iter().any(|f| f == function))
    }
}

#[cfg(test)]
mod tests;
