//! Finding bundles in folders, and loading all of them (`DESIGN.md` rule R3):
//! one that is broken does not stop the others, and is listed with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use menagerie_protocol::loader::manifest::MANIFEST_FILE;
use menagerie_protocol::{BundleId, LoaderError, ManifestData, RuntimeError};

use crate::blame::Verdict;
use crate::blocking::blocking;
use crate::core::Core;
use crate::events::Step;
use crate::lane::lock;
use crate::registry::Graph;
use crate::signature::SignatureStatus;
use crate::status::{BundleState, BundleStatus, CallStatus, ReplicaStatus};

/// Bundles that were found and could not be loaded, by folder.
pub(crate) type Broken = BTreeMap<PathBuf, BundleStatus>;

/// A load that is about to begin, among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadStep<'a> {
    /// The bundle's name.
    pub bundle: &'a str,
    /// The how manieth it is, from 1.
    pub number: usize,
    /// How many there are. Bundles that cannot be loaded whatever is done, as their
    /// manifests show, are not counted.
    pub count: usize,
}

/// What stands in a path.
enum Found {
    /// A bundle, in this folder.
    Bundle(PathBuf, Box<ManifestData>),
    /// A bundle whose manifest is no good.
    Broken(PathBuf, LoaderError),
    /// No bundle can be found in the path.
    Nothing(PathBuf, LoaderError),
}

impl Found {
    /// Reads files.
    fn all_in(paths: &[PathBuf]) -> Vec<Self> {
        Self::each_in(paths, Self::of_dir)
    }

    /// What stands in each folder of a bundle; one that several paths lead to is one.
    fn each_in(paths: &[PathBuf], look: impl Fn(PathBuf) -> Self) -> Vec<Self> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for path in paths {
            match bundles_in(path) {
                Ok(mut dirs) => {
                    dirs.retain(|dir| seen.insert(dir.canonicalize().unwrap_or(dir.clone())));
                    found.extend(dirs.into_iter().map(&look));
                }
                Err(error) => found.push(Self::Nothing(path.clone(), error)),
            }
        }
        found
    }

    /// Where nobody can read them: each bundle that stands there is broken, for this reason.
    fn unread_in(paths: &[PathBuf], error: &io::Error) -> Vec<Self> {
        Self::each_in(paths, |dir| {
            let error = LoaderError::io(&dir, error);
            Self::Broken(dir, error)
        })
    }

    fn of_dir(dir: PathBuf) -> Self {
        match ManifestData::read(&dir) {
            Ok(parsed) => Self::Bundle(dir, Box::new(parsed.manifest)),
            Err(error) => Self::Broken(dir, error),
        }
    }
}

/// What became of each bundle.
pub(crate) type Outcomes = Vec<(PathBuf, Result<BundleStatus, RuntimeError>)>;

impl Core {
    /// Loads the bundles of several paths in the order of their dependencies.
    pub(crate) async fn load_all(&self, paths: &[PathBuf]) -> Outcomes {
        self.load_all_with(paths, |_| {}).await
    }

    /// As that; `before` is told of each load before it begins.
    pub(crate) async fn load_all_with(
        &self,
        paths: &[PathBuf],
        mut before: impl FnMut(LoadStep<'_>),
    ) -> Outcomes {
        let wanted = paths.to_vec();
        let found = match blocking(move || Found::all_in(&wanted)).await {
            Ok(found) => found,
            Err(error) => Found::unread_in(paths, &error),
        };
        let mut outcomes = Outcomes::new();
        let mut whole = Vec::new();
        for found in found {
            match found {
                Found::Bundle(dir, manifest) => whole.push((dir, *manifest)),
                Found::Nothing(path, error) => outcomes.push((path, Err(error.into()))),
                Found::Broken(dir, error) => {
                    let error = RuntimeError::from(error);
                    self.list_broken(&dir, None, &error);
                    self.events.bundle_failed(&folder_name(&dir), Step::Load, &error);
                    outcomes.push((dir, Err(error)));
                }
            }
        }
        let rule = self.config.compatibility;
        let order = loop {
            let graph = Graph::new(whole.iter().map(|(_, manifest)| manifest), rule);
            match graph.load_order() {
                Ok(order) => break order,
                // Those of the ring fail with it; the others may do without.
                Err(error) => {
                    let RuntimeError::DependencyCycle { participants } = &error else {
                        break Vec::new();
                    };
                    let (ring, rest): (Vec<_>, Vec<_>) = whole
                        .into_iter()
                        .partition(|(_, manifest)| participants.contains(&manifest.name));
                    for (dir, manifest) in ring {
                        self.list_broken(&dir, Some(&manifest), &error);
                        self.events.bundle_failed(&manifest.name, Step::Load, &error);
                        outcomes.push((dir, Err(error.clone())));
                    }
                    whole = rest;
                }
            }
        };
        let count = order.len();
        for (number, at) in (1..).zip(order) {
            let (dir, manifest) = &whole[at];
            before(LoadStep { bundle: &manifest.name, number, count });
            let outcome = self.load_dir(dir).await;
            if let Err(error) = &outcome {
                self.list_broken(dir, Some(manifest), error);
            }
            outcomes.push((dir.clone(), outcome));
        }
        outcomes
    }

    /// Lists a bundle that could not be loaded. What its manifest says of it is
    /// shown as far as it can be read.
    pub(crate) fn list_broken(
        &self,
        dir: &Path,
        manifest: Option<&ManifestData>,
        error: &RuntimeError,
    ) {
        // One that runs already is no broken one, whatever was tried with it.
        if matches!(error, RuntimeError::AlreadyLoaded { .. }) {
            return;
        }
        let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let bundles = lock(&self.registry).all();
        if bundles.iter().any(|bundle| bundle.path().as_ref() == Some(&folder)) {
            return;
        }
        let name = manifest.map_or_else(|| folder_name(dir), |manifest| manifest.name.clone());
        let state = match self.standing(&name) {
            Verdict::Quarantine(_) => BundleState::Quarantined,
            Verdict::Noted(_) | Verdict::Isolate(_) => BundleState::Failed,
        };
        let status = BundleStatus {
            id: BundleId::of_name(&name).to_string(),
            name,
            version: manifest.map(|manifest| manifest.version.clone()).unwrap_or_default(),
            loader: manifest.map(|manifest| manifest.loader.clone()).unwrap_or_default(),
            // It lives nowhere.
            worker: String::new(),
            replicas: ReplicaStatus::default(),
            path: Some(dir.display().to_string()),
            state,
            generation: 0,
            contracts: manifest.map(crate::bundle::promised).unwrap_or_default(),
            calls: CallStatus::default(),
            problem: Some(error.to_string()),
            not_granted: Vec::new(),
            signature: match error {
                RuntimeError::Loader(error) => SignatureStatus::of_error(error),
                _ => None,
            },
        };
        lock(&self.broken).insert(folder, status);
    }

    /// The folder of a broken bundle of this name, and the path by which it was found.
    pub(crate) fn broken_dir(&self, name: &str) -> Option<(PathBuf, PathBuf)> {
        let (dir, found) = {
            let broken = lock(&self.broken);
            let (dir, status) = broken.iter().find(|(_, status)| status.name == name)?;
            (dir.clone(), status.path.as_ref().map(PathBuf::from))
        };
        let found = found.filter(|found| found.canonicalize().is_ok_and(|at| at == dir));
        Some((dir.clone(), found.unwrap_or(dir)))
    }
}

pub(crate) fn folder_name(dir: &Path) -> String {
    let name = dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_owned()));
    name.map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The bundles of a path: itself, or the folders in it that have a manifest.
pub(crate) fn bundles_in(path: &Path) -> Result<Vec<PathBuf>, LoaderError> {
    // Whatever stands there under the name, a dangling link included: it was
    // meant to be a manifest, and what is wrong with it is said.
    let has_manifest = |dir: &Path| dir.join(MANIFEST_FILE).symlink_metadata().is_ok();
    if has_manifest(path) {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| LoaderError::io(path, &error))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|entry| has_manifest(entry))
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(LoaderError::ManifestNotFound { path: path.join(MANIFEST_FILE) });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_bundles_that_nobody_can_read_are_broken_and_not_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(MANIFEST_FILE), "").unwrap();
        }
        let paths = [dir.path().to_owned(), dir.path().join("none")];
        let found = Found::unread_in(&paths, &io::ErrorKind::WouldBlock.into());
        let [Found::Broken(a, _), Found::Broken(b, error), Found::Nothing(none, _)] = &found[..]
        else {
            panic!("two are broken, and one is nowhere")
        };
        assert_eq!((a, b), (&dir.path().join("a"), &dir.path().join("b")));
        assert_eq!(*none, paths[1]);
        assert!(error.to_string().contains("would block"), "{error}");
    }
}
