//! The status socket's file: private, and replaced only when nobody listens.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::random;

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
    /// The folder belongs to somebody else, or others may write it.
    #[error("{}: the folder is not ours alone: {problem}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
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

/// Listens at `path` with mode 0600 from the first moment: the socket is made
/// in a folder that nobody else can enter, and then moved.
pub(super) fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let system = |source| BindError::System { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("."), Path::to_owned);
    if folder == own_temp() {
        private_folder(&folder)?;
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error)),
        Ok(metadata) => {
            use std::os::unix::fs::FileTypeExt;
            if !metadata.file_type().is_socket() {
                return Err(BindError::NoSocket { path: path.to_owned() });
            }
            if UnixStream::connect(path).is_ok() {
                return Err(BindError::InUse { path: path.to_owned() });
            }
        }
    }
    // Within the same folder, so that the move is atomic; short, because a
    // socket's path may have 107 bytes (unix(7)).
    let staging = folder.join(format!(".m{}", &random::token()[..6]));
    std::fs::DirBuilder::new().mode(0o700).create(&staging).map_err(system)?;
    let made = (|| {
        let inner = staging.join("s");
        let listener = UnixListener::bind(&inner)?;
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&inner, path)?;
        Ok(listener)
    })();
    drop(std::fs::remove_dir_all(&staging));
    made.map_err(system)
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

    #[tokio::test]
    async fn g_the_socket_is_private_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path), Err(BindError::InUse { .. })));
        drop(first);
        bind(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn g_what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}
