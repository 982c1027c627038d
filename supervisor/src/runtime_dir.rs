//! The supervisor's private folder: the control socket and the workers'
//! scratch folders. It goes when the supervisor does; what a killed one left
//! behind is removed by the next that starts.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::random;
use crate::remove::remove;

const PREFIX: &str = "menagerie-host-";

/// What a socket's path may have, beside the zero at its end: `sun_path` of unix(7).
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// More than the folder's own name and those in it ever have.
const ROOM: usize = 47;

/// A folder that only this user can enter.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    path: PathBuf,
    /// A process that this one forks has a copy of this, and not the folder.
    owner: u32,
    /// Says that its supervisor lives, also to one in another container, where
    /// the number of our process means nothing; the kernel lets go of it with us.
    _alive: Flock<File>,
}

impl RuntimeDir {
    pub(crate) fn create() -> io::Result<Self> {
        let mut last = io::Error::other("no folder to try");
        for base in bases() {
            remove_stale(&base);
            let name = format!("{PREFIX}{}-{}", std::process::id(), &random::token()[..8]);
            let path = base.join(name);
            let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
            match made.and_then(|()| lock(&path)) {
                Ok(alive) => return Ok(Self { path, owner: std::process::id(), _alive: alive }),
                Err(error) => {
                    let problem = format!("{}: {error}", path.display());
                    last = io::Error::new(error.kind(), problem);
                }
            }
        }
        Err(last)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl RuntimeDir {
    /// Removes it, before it is dropped: tasks that nobody waits for may keep
    /// it for longer than the process lives.
    pub(crate) fn remove(&self) {
        if self.owner == std::process::id() {
            remove(&self.path);
        }
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Where it may be: a folder with so long a path that our sockets would not fit is
/// passed over.
fn bases() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let temp = std::env::temp_dir();
    runtime
        .into_iter()
        .chain([temp, PathBuf::from("/tmp")])
        .filter(|base| base.as_os_str().len() + ROOM <= MAX_SOCKET_PATH && base.is_absolute())
        .collect()
}

fn remove_stale(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let pid = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let alive = Path::new(&format!("/proc/{pid}")).exists();
        let ours = entry
            .path()
            .symlink_metadata()
            .is_ok_and(|m| m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw());
        // Held until it is gone: whoever comes at the same time leaves it to us.
        if !alive
            && ours
            && let Ok(_ours) = lock(&entry.path())
        {
            remove(&entry.path());
        }
    }
}

/// Locks a folder (flock(2)), if nobody else has.
fn lock(dir: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error): (File, Errno)| error.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn runtime_dir_is_private_and_goes_away() {
        let dir = RuntimeDir::create().unwrap();
        let path = dir.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn runtime_dir_stays_when_a_forked_process_ends() {
        let dir = RuntimeDir::create().unwrap();
        // SAFETY: the child frees what it has, removes a folder if this test fails,
        // and leaves without running anything else.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                drop(dir);
                // SAFETY: takes an integer, and does not return.
                unsafe { libc::_exit(0) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                nix::sys::wait::waitpid(child, None).unwrap();
            }
        }
        assert!(dir.path().exists());
    }

    #[test]
    fn runtime_dir_of_a_process_in_another_container_stays() {
        let base = tempfile::tempdir().unwrap();
        // As seen from here, nobody has this number.
        let theirs = base.path().join(format!("{PREFIX}4194305-aaaa"));
        std::fs::create_dir(&theirs).unwrap();
        let alive = lock(&theirs).unwrap();
        remove_stale(base.path());
        assert!(theirs.exists());
        drop(alive);
        remove_stale(base.path());
        assert!(!theirs.exists());
    }

    #[test]
    fn runtime_dir_of_a_dead_process_is_removed() {
        let base = tempfile::tempdir().unwrap();
        // Beyond the largest pid that Linux gives out (proc(5), pid_max).
        let stale = base.path().join(format!("{PREFIX}4194305-aaaa"));
        let live = base.path().join(format!("{PREFIX}{}-bbbb", std::process::id()));
        std::fs::create_dir(&stale).unwrap();
        std::fs::create_dir(&live).unwrap();
        remove_stale(base.path());
        assert!(!stale.exists() && live.exists());
    }
}
