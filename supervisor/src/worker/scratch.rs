//! The private folders of workers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::blocking::{Folder, drop_in_background};

/// How long a folder outlives its process. Removing it takes a thread and waits for
/// the disk: a restart, which needs a folder of its own, goes first.
const FOLDER_PATIENCE: Duration = Duration::from_millis(250);

/// Makes the folders.
#[derive(Debug)]
pub(crate) struct Scratches {
    dir: PathBuf,
    count: AtomicU64,
}

impl Scratches {
    /// In this folder.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), count: AtomicU64::new(0) }
    }

    /// A folder for a process.
    pub(crate) fn make(&self) -> io::Result<Scratch> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.dir.join(format!("worker-{number}"));
        let problem = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        std::fs::create_dir(&path).map_err(problem)?;
        Ok(Scratch(Some(Folder(path))))
    }
}

/// A worker's private folder, which goes soon after it.
#[derive(Debug)]
pub(crate) struct Scratch(Option<Folder>);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |folder| &folder.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let folder = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // If the runtime ends meanwhile, it goes at once.
            drop(runtime.spawn(async move {
                tokio::time::sleep(FOLDER_PATIENCE).await;
                drop_in_background(folder);
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratches_are_folders_of_their_own_and_go_with_their_owners() {
        let base = tempfile::tempdir().unwrap();
        let scratches = Scratches::new(base.path());
        let (first, second) = (scratches.make().unwrap(), scratches.make().unwrap());
        assert_ne!(first.path(), second.path());
        assert!(first.path().is_dir() && second.path().is_dir());
        drop((first, second));
        assert_eq!(base.path().read_dir().unwrap().count(), 0);
        let error = Scratches::new(&base.path().join("gone")).make().unwrap_err();
        assert!(error.to_string().contains("gone/worker-"), "{error}");
    }
}
