//! The private folders of workers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lane::lock;

/// How long a folder outlives its process. Removing it takes a thread and waits for
/// the disk: a restart, which needs a folder of its own, goes first.
const FOLDER_PATIENCE: Duration = Duration::from_millis(250);

/// Makes the folders, and keeps one that nobody has yet: on a disk it takes a
/// tenth of a recovery's time to make one.
#[derive(Debug)]
pub(crate) struct Scratches {
    dir: PathBuf,
    count: AtomicU64,
    /// It goes with the folder that it is in.
    spare: Mutex<Option<PathBuf>>,
}

impl Scratches {
    /// In this folder.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), count: AtomicU64::new(0), spare: Mutex::default() }
    }

    /// A folder for the next process.
    pub(crate) fn take(&self) -> io::Result<Scratch> {
        // It may have waited for days, and somebody may have tidied up.
        let spare = lock(&self.spare).take().filter(|path| path.is_dir());
        spare.map_or_else(|| self.make(), Ok).map(Scratch)
    }

    /// Makes the spare one, if there is none. If that cannot be, the next who
    /// needs it says so.
    pub(crate) fn refill(&self) {
        let mut spare = lock(&self.spare);
        if spare.is_none() {
            *spare = self.make().ok();
        }
    }

    fn make(&self) -> io::Result<PathBuf> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.dir.join(format!("worker-{number}"));
        let problem = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        std::fs::create_dir(&path).map_err(problem)?;
        Ok(path)
    }
}

/// A worker's private folder, which goes soon after it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || drop(std::fs::remove_dir_all(path));
        match tokio::runtime::Handle::try_current() {
            // If the runtime ends meanwhile, so does the supervisor, and removes the
            // folder that this one is in.
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(FOLDER_PATIENCE).await;
                drop(tokio::task::spawn_blocking(remove));
            })),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratches_are_made_ahead_and_go_with_their_owners() {
        let base = tempfile::tempdir().unwrap();
        let scratches = Scratches::new(base.path());
        let count = || base.path().read_dir().unwrap().count();
        scratches.refill();
        scratches.refill();
        assert_eq!(count(), 1);
        let (first, second) = (scratches.take().unwrap(), scratches.take().unwrap());
        assert_ne!(first.path(), second.path());
        assert!(first.path().is_dir() && second.path().is_dir());
        drop((first, second));
        assert_eq!(count(), 0);
        scratches.refill();
        std::fs::remove_dir(base.path().read_dir().unwrap().next().unwrap().unwrap().path())
            .unwrap();
        assert!(scratches.take().unwrap().path().is_dir());
        let gone = Scratches::new(&base.path().join("gone"));
        gone.refill();
        let error = gone.take().unwrap_err();
        assert!(error.to_string().contains("gone/worker-"), "{error}");
    }
}
