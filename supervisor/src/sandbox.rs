//! What a bundle in the strict sandbox gets beside its own files: what its manifest
//! wants, as far as the host's configuration grants it (`DESIGN.md`, rules P2, P3).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::loader::manifest::Wants;
use menagerie_protocol::sandbox::Limits;
use menagerie_protocol::{BundleSource, ManifestData};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Whether workers are held in a sandbox (P2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// A worker may do what its user may.
    #[default]
    Off,
    /// It reads its bundle's files and its runtime's, writes in its scratch folder, and
    /// has no network, starts no programs and reaches no other process; but for what its
    /// bundle is [granted](Grant). Each bundle has a worker of its own.
    Strict,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Strict => "strict",
        })
    }
}

/// No sandbox has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no sandbox: expected off or strict")]
pub struct UnknownSandbox(String);

impl std::str::FromStr for Sandbox {
    type Err = UnknownSandbox;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Off, Self::Strict]
            .into_iter()
            .find(|sandbox| sandbox.to_string() == text)
            .ok_or_else(|| UnknownSandbox(text.to_owned()))
    }
}

/// What a bundle may have of what it wants (P3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Grant {
    /// Whether it may use the network.
    pub network: bool,
    /// Files and folders that it may read.
    pub read: Vec<PathBuf>,
    /// Files and folders that it may read and change.
    pub write: Vec<PathBuf>,
}

impl Grant {
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.read.iter_mut().chain(&mut self.write)
    }
}

/// What a generation of a bundle in the sandbox gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) limits: Limits,
    /// What it wants and does not get, in words.
    pub(crate) refused: Vec<String>,
}

/// Whether these two, where there are any, let a worker do the same.
pub(crate) fn are_same(one: Option<&Arc<Rights>>, other: Option<&Arc<Rights>>) -> bool {
    one.map(|rights| &rights.limits) == other.map(|rights| &rights.limits)
}

impl Rights {
    /// Those of what is about to be loaded. `None` if it is in no sandbox.
    ///
    /// It looks at the file system, which may take long.
    pub(crate) fn of(
        config: &Config,
        manifest: &ManifestData,
        source: &BundleSource,
        copies: Option<&Path>,
    ) -> Option<Arc<Self>> {
        if config.sandbox_of(&manifest.name) == Sandbox::Off {
            return None;
        }
        let grants = config.grants.get(&manifest.name).cloned().unwrap_or_default();
        let own = match (copies, source) {
            // Every copy of it: a reload's is another one.
            (Some(copies), _) => copies.canonicalize().ok(),
            (None, BundleSource::Path(dir)) => Some(dir.clone()),
            (None, _) => None,
        };
        Some(Arc::new(Self::granted(&manifest.wants, &grants, own)))
    }

    fn granted(wants: &Wants, grants: &Grant, own: Option<PathBuf>) -> Self {
        let mut rights = Self { limits: Limits::default(), refused: Vec::new() };
        rights.limits.network = wants.network && grants.network;
        if wants.network && !grants.network {
            rights.refused.push("network".to_owned());
        }
        let writable = canonical(&grants.write);
        let readable = [canonical(&grants.read), writable.clone()].concat();
        rights.limits.read = rights.paths("read", &wants.read, &readable);
        rights.limits.write = rights.paths("write", &wants.write, &writable);
        rights.limits.read.extend(own);
        rights
    }

    /// Those of the paths that are below one which is granted, as they really are: a
    /// link leads nowhere else.
    fn paths(&mut self, right: &str, wanted: &[PathBuf], granted: &[PathBuf]) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for path in wanted {
            let (found, why) = match path.canonicalize() {
                Ok(found) => (Some(found), "is not granted".to_owned()),
                Err(error) => (None, error.to_string()),
            };
            match found.filter(|found| granted.iter().any(|granted| found.starts_with(granted))) {
                Some(found) => paths.push(found),
                None => self.refused.push(format!("{right} {}: {why}", path.display())),
            }
        }
        paths
    }
}

fn canonical(paths: &[PathBuf]) -> Vec<PathBuf> {
    paths.iter().filter_map(|path| path.canonicalize().ok()).collect()
}

/// What is wrong with these grants: `None` if nothing is.
pub(crate) fn problem(grants: &BTreeMap<String, Grant>) -> Option<(String, &'static str)> {
    for (bundle, grant) in grants {
        if grant.read.iter().chain(&grant.write).any(|path| path.to_str().is_none()) {
            return Some((bundle.clone(), "its paths must be UTF-8 text"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn p2_sandboxes_have_names() {
        for sandbox in [Sandbox::Off, Sandbox::Strict] {
            assert_eq!(sandbox.to_string().parse(), Ok(sandbox));
        }
        let unknown = "loose".parse::<Sandbox>().unwrap_err().to_string();
        assert_eq!(unknown, "'loose' is no sandbox: expected off or strict");
    }

    #[test]
    fn p3_a_bundle_gets_what_it_wants_and_is_granted() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let paths = ["data", "data/in", "other", "database"].map(|name| base.join(name));
        paths.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        let [data, inside, other, alike] = paths;
        symlink(&other, data.join("out")).unwrap();
        symlink(&inside, base.join("way-in")).unwrap();
        let gets = |wants: &Wants, grants: &Grant| Rights::granted(wants, grants, None);
        let granted = Grant { network: true, read: vec![data.clone()], ..Grant::default() };
        // What is granted and not wanted is not had.
        assert_eq!(gets(&Wants::default(), &granted), Rights::default());
        let wanted = [inside.clone(), base.join("way-in"), data.join("out"), alike, "/no".into()];
        let wants = Wants { network: true, read: wanted.to_vec(), write: vec![data.clone()] };
        let Rights { limits, refused } = gets(&wants, &granted);
        assert_eq!(limits.read, [&*inside, &*inside], "where they really are");
        assert!(limits.network && limits.write.is_empty());
        assert_eq!(refused.len(), 4, "{refused:?}");
        // To change includes to read.
        let granted = Grant { write: vec![data.clone()], ..Grant::default() };
        let Rights { limits, refused } = gets(&wants, &granted);
        assert_eq!((limits.read.len(), limits.write), (2, vec![data]));
        assert!(refused.contains(&"network".to_owned()), "{refused:?}");
    }
}
