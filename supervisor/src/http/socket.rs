//! The status socket's file: private, and replaced only when nobody listens.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::net::UnixListener;

use crate::random;
use crate::runtime_dir::MAX_SOCKET_PATH;

/// Why the status socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another supervisor answers there.
    #[error("{}: a supervisor is running there already", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("{}: this is no socket; it is left alone", .path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// Nobody could connect to it: a socket's address has no room for the path.
    #[error("{}: a socket's path may have {MAX_SOCKET_PATH} bytes, and this one has more", .path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The folder belongs to somebody else, or others may write it.
    #[error("{}: the folder is not ours alone: {problem}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A setting cannot be what it is.
    #[error("status: {0}")]
    Config(#[from] crate::ConfigError),
    /// The address for TCP cannot be had.
    #[error("{address}: {source}")]
    Tcp {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
}

/// Where the status socket is unless somebody says otherwise:
/// `$XDG_RUNTIME_DIR/menagerie.sock`, else `/tmp/menagerie-<uid>/menagerie.sock`.
#[must_use]
pub fn default_socket() -> PathBuf {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folder = folder.filter(|folder| folder.is_absolute());
    folder.unwrap_or_else(own_temp).join("menagerie.sock")
}

fn own_temp() -> PathBuf {
    PathBuf::from(format!("/tmp/menagerie-{}", nix::unistd::geteuid()))
}

/// Whether a client should believe whoever listens at a status socket, by their user id. Our
/// folder in /tmp may be of somebody who was there before us, and with it the socket: there
/// only this user and root are believed. Whoever names another socket knows whose it is.
#[must_use]
pub fn is_trusted(socket: &Path, listener: u32) -> bool {
    let ours = nix::unistd::geteuid().as_raw();
    socket.parent() != Some(&own_temp()) || listener == 0 || listener == ours
}

/// The file of a socket that is being listened at. Dropped, it removes the file,
/// if it is the same still.
#[derive(Debug)]
pub(super) struct Bound {
    /// Absolute.
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
    /// A process that this one forks has a copy of this, and not the socket.
    owner: u32,
}

impl Bound {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let ours = self.owner == std::process::id();
        if ours && self.file.is_some() && identity(&self.path) == self.file {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// How long another supervisor may be at the same folder's sockets.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Locks a folder against other supervisors: between looking at a stale socket
/// and replacing it, another one could have replaced it. The lock is the
/// kernel's (flock(2)), so it leaves nothing behind.
fn lock_folder(folder: &Path) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut file = File::open(folder)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let text = "another process holds a lock on the socket's folder";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// Listens at `path`, with its mode from the first moment: the socket is made
/// in a folder that nobody else can enter, and then moved.
pub(super) fn bind(path: &Path, mode: u32) -> Result<(UnixListener, Bound), BindError> {
    let system = |source| BindError::System { path: path.to_owned(), source };
    // The process may change its folder before the file is removed.
    let absolute = std::path::absolute(path).map_err(system)?;
    // The socket is made elsewhere and moved here, where its path would fit.
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(BindError::TooLong { path: path.to_owned() });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("."), Path::to_owned);
    if folder == own_temp() {
        private_folder(&folder)?;
    }
    let _lock = lock_folder(&folder).map_err(system)?;
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error)),
        Ok(metadata) => {
            if !metadata.file_type().is_socket() {
                return Err(BindError::NoSocket { path: path.to_owned() });
            }
            if listens(path).map_err(system)? {
                return Err(BindError::InUse { path: path.to_owned() });
            }
        }
    }
    // Within the same folder, so that the move is atomic; short, because a
    // socket's path has little room.
    let staging = folder.join(format!(".m{}", &random::token()[..6]));
    std::fs::DirBuilder::new().mode(0o700).create(&staging).map_err(system)?;
    let made = (|| {
        let inner = staging.join("s");
        let listener = UnixListener::bind(&inner)?;
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&inner, path)?;
        Ok(listener)
    })();
    drop(std::fs::remove_dir_all(&staging));
    let listener = made.map_err(system)?;
    let (file, owner) = (identity(path), std::process::id());
    Ok((listener, Bound { path: absolute, file, owner }))
}

/// Whether somebody listens at a socket. It does not wait: one that accepts nobody, as
/// a stopped process does, has a queue that is full in the end, and who waits for a
/// place in it waits for ever, with the folder's lock.
fn listens(path: &Path) -> io::Result<bool> {
    let address = UnixAddr::new(path)?;
    match connect(stream_socket()?.as_raw_fd(), &address) {
        // The latter: its queue is full (unix(7)).
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        // Only this says that nobody does.
        Err(Errno::ECONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One that does not block.
fn stream_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn private_folder(folder: &Path) -> Result<(), BindError> {
    let system = |source| BindError::System { path: folder.to_owned(), source };
    let wrong = |problem| Err(BindError::Folder { path: folder.to_owned(), problem });
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(system(error)),
    }
    let metadata = folder.symlink_metadata().map_err(system)?;
    if !metadata.is_dir() {
        return wrong("it is a link or no folder at all");
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return wrong("it belongs to another user");
    }
    if metadata.mode() & 0o077 != 0 {
        return wrong("others may enter it (its mode should be 0700)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_a_socket_in_tmp_is_believed_if_it_is_ours_or_roots() {
        let (ours, folder) = (nix::unistd::geteuid().as_raw(), own_temp());
        let stranger = ours.wrapping_add(1).max(1);
        for socket in [folder.join("menagerie.sock"), folder.join("other.sock")] {
            assert!(is_trusted(&socket, ours) && is_trusted(&socket, 0));
            assert!(!is_trusted(&socket, stranger));
        }
        assert!(is_trusted(Path::new("/run/menagerie.sock"), stranger));
    }

    #[tokio::test]
    async fn g_the_socket_is_private_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let (first, file) = bind(&path, 0o600).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path, 0o600), Err(BindError::InUse { .. })));
        // Gone without a farewell: the file stays.
        drop(first);
        std::mem::forget(file);
        let second = bind(&path, 0o666).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(second);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn g_a_path_that_nobody_could_connect_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let room = MAX_SOCKET_PATH - dir.path().as_os_str().len() - 1;
        let path = dir.path().join("x".repeat(room));
        let bound = bind(&path, 0o600).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(bound);
        let path = dir.path().join("x".repeat(room + 1));
        assert!(matches!(bind(&path, 0o600), Err(BindError::TooLong { .. })));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn g_only_ones_own_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = bind(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = bind(&path, 0o600).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn g_of_many_that_start_at_once_one_has_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let runtime = tokio::runtime::Handle::current();
        let started: Vec<_> = (0..8)
            .map(|_| {
                let (path, runtime) = (path.clone(), runtime.clone());
                std::thread::spawn(move || {
                    let _guard = runtime.enter();
                    bind(&path, 0o600)
                })
            })
            .collect();
        let bound: Vec<_> = started.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1, "{bound:?}");
        for refused in bound.iter().filter_map(|bound| bound.as_ref().err()) {
            assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
        }
    }

    /// As a supervisor that has been stopped looks after a while: clients have filled
    /// its queue, and it takes none of them.
    #[tokio::test]
    async fn g_a_socket_whose_owner_accepts_nobody_is_in_use() {
        use nix::sys::socket::{Backlog, UnixAddr, listen};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let owner = stream_socket().unwrap();
        let address = UnixAddr::new(&path).unwrap();
        nix::sys::socket::bind(owner.as_raw_fd(), &address).unwrap();
        listen(&owner, Backlog::new(0).unwrap()).unwrap();
        let mut clients = Vec::new();
        let full = loop {
            let client = stream_socket().unwrap();
            match connect(client.as_raw_fd(), &address) {
                Ok(()) => clients.push(client),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Errno::EAGAIN);
        assert!(matches!(bind(&path, 0o600), Err(BindError::InUse { .. })));
        // When it has gone, so has its queue.
        drop((owner, clients));
        bind(&path, 0o600).unwrap();
    }

    #[tokio::test]
    async fn g_what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&path, 0o600), Err(BindError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}
