//! A private copy of a bundle's files: of one that is signed, as it was checked,
//! and of one that several workers are to load, so that all load the same.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::LoaderError;

use crate::blocking::{Folder, drop_in_background};
use crate::sandbox::Sandbox;

use super::files::{FileEntry, Flaw, Irregular, Original, hash_all, read_all};

/// A copy in the supervisor's runtime folder. It is removed when it is dropped,
/// which is when no generation uses it any more.
#[derive(Debug)]
pub(crate) struct Snapshot {
    dir: PathBuf,
    /// The folder that it is a copy of.
    of: PathBuf,
    files: Vec<FileEntry>,
    /// Whether it has to stay as it was taken.
    sealed: bool,
    /// The folder where all copies of this bundle are, if there is one.
    home: Option<Arc<Folder>>,
}

impl Snapshot {
    /// Copies every file of a bundle into a new folder, except the signature.
    pub(super) fn take(of: &Path, dir: PathBuf) -> Result<Self, Flaw> {
        Self::copy(of, dir, Irregular::Refused)
    }

    /// As [`take`](Self::take), of a bundle that nobody has signed: links are
    /// followed, out of its folder only if it is in no sandbox (its workers would get
    /// what they may not read), and the copy is the bundle's own to write in, as its
    /// folder would be.
    pub(super) fn take_unsigned(of: &Path, dir: PathBuf, sandbox: Sandbox) -> Result<Self, Flaw> {
        let irregular = match sandbox {
            Sandbox::Off => Irregular::Passed,
            Sandbox::Strict => Irregular::Inside,
        };
        Self::copy(of, dir, irregular)
    }

    fn copy(of: &Path, dir: PathBuf, irregular: Irregular) -> Result<Self, Flaw> {
        make_dir(&dir).map_err(Flaw::System)?;
        // As the manifest's reader and the workers will name it.
        let dir = dir.canonicalize().unwrap_or(dir);
        let sealed = irregular == Irregular::Refused;
        // From here on it is removed, whatever happens.
        let mut snapshot =
            Self { dir: dir.clone(), of: of.to_owned(), files: Vec::new(), sealed, home: None };
        snapshot.files = read_all(of, irregular, &mut |relative, original| {
            let target = dir.join(relative);
            if let Some(parent) = target.parent().filter(|parent| !parent.exists()) {
                make_dir(parent)?;
            }
            let original = match original {
                Original::File(original) => original,
                Original::WayOut(to) => {
                    let made = symlink(to, &target).map(|()| None);
                    return made.map_err(|error| LoaderError::io(target, &error));
                }
            };
            let executable = original.metadata().is_ok_and(|metadata| metadata.mode() & 0o100 != 0);
            // Nobody has a reason to write to what is sealed: an accident fails.
            let mode = if sealed { 0o400 } else { 0o600 };
            let mode = if executable { mode | 0o100 } else { mode };
            create(&target, mode).map(Some)
        })?;
        Ok(snapshot)
    }

    /// It is one of those in this folder, which goes with the last of them.
    pub(super) fn in_home(mut self, home: &Arc<Folder>) -> Self {
        self.home = Some(Arc::clone(home));
        self
    }

    pub(crate) const fn home(&self) -> Option<&Arc<Folder>> {
        self.home.as_ref()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Whether it still is what was checked. A worker has the rights of the
    /// supervisor's user: one that was taken over can write here.
    pub(crate) fn check(&self, bundle: &str) -> Result<(), LoaderError> {
        if !self.sealed {
            return Ok(());
        }
        let found = hash_all(&self.dir).map_err(|flaw| flaw.of(bundle))?;
        if found == self.files {
            return Ok(());
        }
        let problem = "the supervisor's copy is not what was checked; reload the bundle";
        Err(Flaw::new(&self.dir, problem).of(bundle))
    }

    /// An error with the paths that the user knows.
    pub(crate) fn relocate(&self, mut error: LoaderError) -> LoaderError {
        let path = match &mut error {
            LoaderError::ManifestNotFound { path } | LoaderError::Io { path, .. } => path,
            LoaderError::ManifestInvalid { file, .. }
            | LoaderError::BundleTampered { file, .. } => file,
            LoaderError::ArtifactPathEscape { manifest, .. }
            | LoaderError::ArtifactNotFound { manifest, .. } => manifest,
            LoaderError::ArtifactUnusable { artifact, .. } => artifact,
            _ => return error,
        };
        if let Ok(inside) = path.strip_prefix(&self.dir) {
            *path = self.of.join(inside);
        }
        error
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let folder = (Folder(std::mem::take(&mut self.dir)), self.home.take());
        if tokio::runtime::Handle::try_current().is_ok() {
            drop_in_background(folder);
        }
    }
}

fn make_dir(path: &Path) -> Result<(), LoaderError> {
    let mut builder = DirBuilder::new();
    let made = builder.mode(0o700).recursive(true).create(path);
    made.map_err(|error| LoaderError::io(path, &error))
}

fn create(path: &Path, mode: u32) -> Result<File, LoaderError> {
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(mode).open(path);
    made.map_err(|error| LoaderError::io(path, &error))
}
