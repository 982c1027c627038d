//! The private copy of a bundle's artifact, for loaders that map it: made once,
//! kept as long as a generation may need it, and handed to every process that
//! loads it. A process that comes back after a crash need not make it again, and
//! the one that has died does not have to give it back first.
//!
//! It is a cache: what is handed on is what stands on disk (S4), or nothing, and
//! then the worker reads the file itself and says what is wrong with it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use menagerie_protocol::ManifestData;
use menagerie_protocol::loader::{PrivateCopy, Stamp};
use tokio::sync::Mutex;

use crate::blocking::{blocking, drop_in_background, in_background};

/// A place for an artifact's copy.
#[derive(Debug, Default)]
pub(crate) struct Artifact {
    /// Locked while a copy is made, so that one is made for all who want it.
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    copy: PrivateCopy,
    /// Of the file when it was copied.
    of: Stamp,
    /// Whether every later change of the file shows in its stamp.
    settled: bool,
    /// Whether somebody was given it.
    handed_on: bool,
}

impl Artifact {
    /// Makes the copy in the background, if there is none: a first load waits
    /// for its worker meanwhile.
    pub(crate) fn prepare(self: &Arc<Self>, manifest: &Arc<ManifestData>) {
        let (this, manifest) = (Arc::clone(self), Arc::clone(manifest));
        let prepared = in_background(move || {
            let mut kept = this.kept.blocking_lock();
            if kept.is_none() {
                *kept = Kept::of(&manifest);
            }
        });
        // Otherwise the load makes it.
        drop(prepared);
    }

    /// A descriptor of a copy of the artifact as it is on disk. `None` if there
    /// is nothing to be copied: the worker finds out why.
    pub(crate) async fn current(&self, manifest: &Arc<ManifestData>) -> Option<OwnedFd> {
        let mut kept = self.kept.lock().await;
        if !kept.as_ref().is_some_and(|kept| kept.is_current(manifest)) {
            let (old, manifest) = (kept.take(), Arc::clone(manifest));
            let make = move || {
                // The old one goes before the next one takes as much memory.
                let renewed = old.and_then(|old| old.renewed(&manifest));
                renewed.or_else(|| Kept::of(&manifest))
            };
            *kept = blocking(make).await.ok()?;
        }
        let kept = kept.as_mut()?;
        kept.handed_on = true;
        Some(kept.copy.file().try_clone().ok()?.into())
    }

    /// The next load makes another one: nothing came of this one, or its worker
    /// was stopped, and its memory may be needed elsewhere.
    pub(crate) async fn give_back(&self) {
        free(self.kept.lock().await.take());
    }
}

impl Drop for Artifact {
    fn drop(&mut self) {
        free(self.kept.get_mut().take());
    }
}

/// The kernel takes its time over the memory of a large file: not on a thread
/// that others wait for.
fn free(kept: Option<Kept>) {
    if let Some(kept) = kept {
        drop_in_background(kept);
    }
}

impl Kept {
    fn of(manifest: &ManifestData) -> Option<Self> {
        let artifact = manifest.artifact().ok()?;
        // From before it is read.
        let begun = SystemTime::now();
        let (copy, of) = PrivateCopy::of(&artifact).ok()??;
        Some(Self { copy, of, settled: of.is_settled(begun), handed_on: false })
    }

    /// The same, if it is a copy of the file as it is, byte by byte: of one that was
    /// changed just before it was copied, until it is old enough.
    fn renewed(self, manifest: &ManifestData) -> Option<Self> {
        let artifact = manifest.artifact().ok()?;
        let begun = SystemTime::now();
        let is_still = self.copy.is_still(&artifact, self.of).ok()?;
        is_still.then(|| Self { settled: self.of.is_settled(begun), ..self })
    }

    /// Whether it is a copy of the file as it is. One of a file that was changed
    /// just before is good for the load that it was made for: that has read the
    /// file a little earlier than it might have.
    fn is_current(&self, manifest: &ManifestData) -> bool {
        let unchanged = || {
            let stamp = manifest.artifact().ok().and_then(|path| Stamp::of(&path).ok());
            stamp == Some(self.of)
        };
        (self.settled || !self.handed_on) && unchanged()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    struct Bundle {
        dir: tempfile::TempDir,
        manifest: Arc<ManifestData>,
        artifact: Arc<Artifact>,
    }

    impl Bundle {
        fn new(content: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let manifest = "name = 'one'\nloader = 'native'\nfile = 'lib.so'\n";
            std::fs::write(dir.path().join("manifest.toml"), manifest).unwrap();
            std::fs::write(dir.path().join("lib.so"), content).unwrap();
            let manifest = Arc::new(ManifestData::read(dir.path()).unwrap().manifest);
            Self { dir, manifest, artifact: Arc::default() }
        }

        fn file(&self) -> std::path::PathBuf {
            self.dir.path().join("lib.so")
        }

        /// Waits until no change of the file could go unseen.
        async fn settles(&self) {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !Stamp::of(&self.file()).unwrap().is_settled(SystemTime::now()) {
                assert!(Instant::now() < deadline, "it never settles");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }

        async fn current(&self) -> Option<File> {
            self.artifact.current(&self.manifest).await.map(File::from)
        }

        async fn inode(&self) -> u64 {
            self.current().await.unwrap().metadata().unwrap().ino()
        }

        async fn text(&self) -> String {
            let file = self.current().await.unwrap();
            let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes).unwrap()
        }

        fn holds_one(&self) -> bool {
            self.artifact.kept.try_lock().unwrap().is_some()
        }
    }

    #[tokio::test]
    async fn s4_an_unchanged_file_is_copied_once() {
        let bundle = Bundle::new("first");
        bundle.settles().await;
        assert_eq!(bundle.text().await, "first");
        let inode = bundle.inode().await;
        for _ in 0..10 {
            assert_eq!(bundle.inode().await, inode);
        }
        bundle.artifact.give_back().await;
        assert!(!bundle.holds_one());
        assert_ne!(bundle.inode().await, inode);
    }

    /// One that was changed just before, too: it is compared, until it is old enough.
    #[tokio::test]
    async fn s4_a_new_file_is_copied_once() {
        let bundle = Bundle::new(&"new".repeat(50_000));
        let settled = || bundle.artifact.kept.try_lock().unwrap().as_ref().unwrap().settled;
        let inode = bundle.inode().await;
        assert_eq!(bundle.inode().await, inode);
        bundle.settles().await;
        assert_eq!(bundle.inode().await, inode);
        assert!(settled(), "no more comparing");
        assert_eq!(bundle.inode().await, inode);
    }

    #[tokio::test]
    async fn s4_a_changed_file_is_copied_anew() {
        let bundle = Bundle::new("first");
        bundle.settles().await;
        assert_eq!(bundle.text().await, "first");
        // In place, of the same length, in the same second.
        std::fs::write(bundle.file(), "other").unwrap();
        assert_eq!(bundle.text().await, "other");
        bundle.settles().await;
        assert_eq!(bundle.text().await, "other");
        // By another file, with the times of the one before.
        let before = std::fs::metadata(bundle.file()).unwrap().modified().unwrap();
        let next = bundle.dir.path().join("next");
        std::fs::write(&next, "third").unwrap();
        File::options().append(true).open(&next).unwrap().set_modified(before).unwrap();
        std::fs::rename(&next, bundle.file()).unwrap();
        assert_eq!(bundle.text().await, "third");
    }

    /// However close together the changes are: what is handed on is what stands
    /// there.
    #[tokio::test]
    async fn s4_changes_within_one_tick_of_the_clock_are_seen() {
        let bundle = Bundle::new("0000");
        for round in 0..500 {
            let text = format!("{round:04}");
            std::fs::write(bundle.file(), &text).unwrap();
            assert_eq!(bundle.text().await, text);
        }
    }

    #[tokio::test]
    async fn s4_what_was_prepared_is_compared_before_it_is_handed_on_again() {
        let bundle = Bundle::new("first");
        bundle.artifact.prepare(&bundle.manifest);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !bundle.artifact.kept.try_lock().is_ok_and(|kept| kept.is_some()) {
            assert!(Instant::now() < deadline, "nothing is prepared");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let prepared = {
            let mut kept = bundle.artifact.kept.lock().await;
            let kept = kept.as_mut().unwrap();
            // However long the preparation took.
            kept.settled = false;
            kept.copy.file().metadata().unwrap().ino()
        };
        assert_eq!(bundle.inode().await, prepared);
        // The file may have changed since, and has: unseen, by its stamp.
        std::fs::write(bundle.file(), "other").unwrap();
        {
            let mut kept = bundle.artifact.kept.lock().await;
            let kept = kept.as_mut().unwrap();
            kept.of = Stamp::of(&bundle.file()).unwrap();
            kept.settled = false;
        }
        assert_eq!(bundle.text().await, "other");
        assert_ne!(bundle.inode().await, prepared);
        // And not if it is not what stands there any more.
        let bundle = Bundle::new("first");
        bundle.artifact.prepare(&bundle.manifest);
        bundle.settles().await;
        std::fs::write(bundle.file(), "other").unwrap();
        assert_eq!(bundle.text().await, "other");
    }

    #[tokio::test]
    async fn s4_of_a_file_that_cannot_be_read_nothing_is_handed_on() {
        let bundle = Bundle::new("first");
        bundle.settles().await;
        assert!(bundle.current().await.is_some());
        let spoil = |how: &dyn Fn(&Path)| {
            drop(std::fs::remove_file(bundle.file()));
            how(&bundle.file());
        };
        let outside = tempfile::NamedTempFile::new().unwrap();
        let ways: [&dyn Fn(&Path); 4] = [
            &|_| {},
            &|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            &|path| std::os::unix::fs::symlink(outside.path(), path).unwrap(),
            &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        ];
        for way in ways {
            spoil(way);
            assert!(bundle.current().await.is_none());
            assert!(!bundle.holds_one(), "nor kept");
        }
        spoil(&|path| std::fs::write(path, "back").unwrap());
        assert_eq!(bundle.text().await, "back");
    }
}
