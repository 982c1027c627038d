//! The status socket: HTTP and JSON over a Unix socket (`DESIGN.md`, chapter G).

mod problem;
mod routes;
mod socket;
mod values;

use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::Supervisor;
use socket::bind;
pub use socket::{BindError, default_socket};

/// Who may use the status socket beside its owner and root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// User ids that may look.
    pub read_only: Vec<u32>,
    /// User ids that may look and act.
    pub admin: Vec<u32>,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    None,
    Read,
    Act,
}

impl Access {
    fn right(&self, uid: Option<u32>) -> Right {
        let Some(uid) = uid else { return Right::None };
        if uid == 0 || uid == nix::unistd::geteuid().as_raw() || self.admin.contains(&uid) {
            Right::Act
        } else if self.read_only.contains(&uid) {
            Right::Read
        } else {
            Right::None
        }
    }
}

/// The process at the other end of a connection, by SO_PEERCRED (unix(7)).
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self {
            uid: credentials.as_ref().map(tokio::net::unix::UCred::uid),
            pid: credentials.and_then(|credentials| credentials.pid()),
        }
    }
}

/// A status socket that is being served. Dropping it closes it and removes its
/// file.
#[derive(Debug)]
pub struct StatusSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl StatusSocket {
    /// Serves a supervisor at `path`, a socket of mode 0600 that replaces one
    /// whose process has gone. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`]: somebody else's supervisor answers there, or the folder
    /// is not ours.
    pub fn bind(supervisor: Supervisor, path: &Path, access: Access) -> Result<Self, BindError> {
        let listener = bind(path)?;
        let router: Router = routes::router(supervisor, access);
        let service = router.into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, service).await {
                tracing::error!("the status socket ended: {error}");
            }
        });
        Ok(Self { path: path.to_owned(), task })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.task.abort();
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_only_owner_and_root_may_act_unless_configured() {
        let access = Access { read_only: vec![4001], admin: vec![4002] };
        let own = nix::unistd::geteuid().as_raw();
        assert_eq!(access.right(Some(own)), Right::Act);
        assert_eq!(access.right(Some(0)), Right::Act);
        assert_eq!(access.right(Some(4001)), Right::Read);
        assert_eq!(access.right(Some(4002)), Right::Act);
        assert_eq!(access.right(Some(4003)), Right::None);
        assert_eq!(access.right(None), Right::None);
    }
}
