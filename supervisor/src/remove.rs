//! Removing folders that a worker could fill as it liked: with folders in folders by the
//! hundred thousand, links to elsewhere, and what nobody may enter.
//!
//! `std::fs::remove_dir_all` calls itself for each folder in a folder and keeps those above
//! it open: a deep one overflows the host's stack, or takes all of its descriptors.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use nix::{NixPath, Result};

use crate::random;

/// Removes a folder with all that is in it, and follows no link. However deep it is, that
/// takes a few descriptors. What cannot be removed stays.
pub(crate) fn remove(path: &Path) {
    if let Ok(top) = open(AT_FDCWD, path) {
        Removal { top, prefix: random::token(), lifted: 0 }.run();
        let _ = unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir);
    }
}

/// Folders are moved up into the topmost one until their turn comes, so that each has only
/// that one above it.
struct Removal {
    top: OwnedFd,
    /// What the names of those that were moved begin with, and no other's does.
    prefix: String,
    /// How many were moved: their names go on with their number.
    lifted: u64,
}

impl Removal {
    fn run(&mut self) {
        if let Ok(top) = open(&self.top, c".") {
            self.clear(&top);
        }
        let mut next = 0;
        while next < self.lifted {
            let name = self.name(next);
            if let Ok(folder) = open(&self.top, &*name) {
                self.clear(&folder);
            }
            let _ = unlinkat(&self.top, &*name, UnlinkatFlags::RemoveDir);
            next += 1;
        }
    }

    fn name(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Removes what is in a folder, but for folders that have something in them: they are
    /// moved up.
    fn clear(&mut self, folder: &OwnedFd) {
        let Ok(mut entries) = Dir::openat(folder, c".", FOLDER, Mode::empty()) else { return };
        for entry in entries.iter().flatten() {
            let name = entry.file_name();
            // In the topmost one those are seen, or not, that were moved meanwhile.
            if matches!(name.to_bytes(), b"." | b"..")
                || name.to_bytes().starts_with(self.prefix.as_bytes())
            {
                continue;
            }
            if unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) == Err(Errno::EISDIR)
                && unlinkat(folder, name, UnlinkatFlags::RemoveDir).is_err()
            {
                self.lift(folder, &CString::from(name));
            }
        }
    }

    fn lift(&mut self, folder: &OwnedFd, name: &CString) {
        // One that moves is written to: its way up is an entry of its own.
        make_ours(folder, &**name);
        if renameat(folder, &**name, &self.top, &*self.name(self.lifted)).is_ok() {
            self.lifted += 1;
        }
    }
}

const FOLDER: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

fn open<P: ?Sized + NixPath>(at: impl AsFd, path: &P) -> Result<OwnedFd> {
    make_ours(&at, path);
    openat(at, path, FOLDER, Mode::empty())
}

/// Whoever had it may have taken our own rights to it away.
fn make_ours<P: ?Sized + NixPath>(at: impl AsFd, path: &P) {
    let _ = fchmodat(at, path, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::mkdirat;

    use super::*;

    /// Without a stack or descriptors of its own: the deepest of so many folders.
    fn deep(top: &Path, depth: usize) -> OwnedFd {
        let top = openat(AT_FDCWD, top, FOLDER, Mode::empty()).unwrap();
        (0..depth).fold(top, |folder, _| {
            mkdirat(&folder, "d", Mode::S_IRWXU).unwrap();
            openat(&folder, "d", FOLDER, Mode::empty()).unwrap()
        })
    }

    /// More than a thread's stack or a host's descriptors would do for, if each took some.
    #[test]
    fn s7_a_deep_folder_is_removed() {
        const DEPTH: usize = 20_000;
        // In memory, where there is such a folder: a disk takes its time for each.
        let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let top = base.path().join("top");
        for branch in ["a", "b"] {
            fs::create_dir_all(top.join(branch)).unwrap();
            drop(deep(&top.join(branch), DEPTH));
        }
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(128 << 10);
            small.spawn_scoped(scope, || remove(&top)).unwrap();
        });
        assert!(!top.exists());
    }

    #[test]
    fn s7_what_is_removed_takes_nothing_else_with_it() {
        let base = tempfile::tempdir().unwrap();
        let (top, other) = (base.path().join("top"), base.path().join("other"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "").unwrap();
        for name in ["link", "a/link", "a/b/link"] {
            symlink(&other, top.join(name)).unwrap();
        }
        symlink("nowhere", top.join("a/dangling")).unwrap();
        remove(&top);
        assert!(!top.exists() && other.join("file").exists());
        // Nor is a link in its place followed.
        symlink(&other, &top).unwrap();
        remove(&top);
        assert!(other.join("file").exists());
    }

    #[test]
    fn s7_what_nobody_may_enter_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let top = base.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::write(top.join("a/b/c/file"), "").unwrap();
        for closed in ["a/b/c", "a/b", "a", "."] {
            fs::set_permissions(top.join(closed), Permissions::from_mode(0o000)).unwrap();
        }
        remove(&top);
        assert!(!top.exists());
    }

    #[test]
    fn s7_many_files_and_folders_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let top = base.path().join("top");
        for number in 0..300 {
            let folder = top.join(format!("{}/{number}/x", number % 7));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("file"), "").unwrap();
        }
        remove(&top);
        assert!(!top.exists());
    }
}
