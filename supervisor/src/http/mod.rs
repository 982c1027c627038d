//! The status socket: HTTP and JSON over a Unix socket (`DESIGN.md`, chapter G).

mod config;
mod metrics;
mod page;
mod patience;
mod problem;
mod quiet;
mod results;
mod routes;
mod serve;
mod socket;
mod stream;
mod token;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Supervisor;
use crate::core::Core;
pub use config::StatusConfig;
use serve::{Limits, Server};
pub use socket::{BindError, default_socket, is_trusted};
use socket::{Bound, bind};
use token::{TokenFiles, Tokens};
pub use values::check_values;

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
    /// Whether it is the owner or root.
    fn is_own(uid: Option<u32>) -> bool {
        uid == Some(0) || uid == Some(nix::unistd::geteuid().as_raw())
    }

    fn right(&self, uid: Option<u32>) -> Right {
        let Some(id) = uid else { return Right::None };
        if Self::is_own(uid) || self.admin.contains(&id) {
            Right::Act
        } else if self.read_only.contains(&id) {
            Right::Read
        } else {
            Right::None
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// A process, by SO_PEERCRED (unix(7)).
    User {
        /// Its user, where the kernel says.
        uid: Option<u32>,
        /// Its number.
        pid: Option<i32>,
    },
    /// Somebody on this machine, who has to show the token.
    Tcp,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        Self::User {
            uid: credentials.as_ref().map(tokio::net::unix::UCred::uid),
            pid: credentials.and_then(|credentials| credentials.pid()),
        }
    }

    const fn uid(self) -> Option<u32> {
        match self {
            Self::User { uid, .. } => uid,
            Self::Tcp => None,
        }
    }
}

/// A status socket that is being served. Dropping it ends its connections and
/// removes its file, and those of the tokens. It holds the [`Supervisor`] meanwhile.
#[derive(Debug)]
pub struct StatusSocket {
    /// Whose clock limits its end.
    core: Arc<Core>,
    bound: Bound,
    task: JoinHandle<()>,
    /// Told that no more requests are taken.
    closing: watch::Sender<bool>,
    address: Option<SocketAddr>,
    token_files: Option<TokenFiles>,
}

/// Who may pass.
#[derive(Debug)]
struct Gate {
    access: Access,
    tokens: Tokens,
}

/// Listens on a loopback address; `check` has seen that it is one.
fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let tcp = |source| BindError::Tcp { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(tcp)?;
    listener.set_nonblocking(true).map_err(tcp)?;
    TcpListener::from_std(listener).map_err(tcp)
}

/// The token's file, unless the configuration says otherwise.
fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".token");
    path.into()
}

impl StatusSocket {
    /// Serves a supervisor at `path`, with the defaults for everything else.
    /// As [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub fn bind(supervisor: Supervisor, path: &Path, access: Access) -> Result<Self, BindError> {
        let Access { read_only, admin } = access;
        let socket = Some(path.to_owned());
        Self::serve(supervisor, &StatusConfig { socket, read_only, admin, ..Default::default() })
    }

    /// Serves a supervisor. The socket replaces one whose process has gone; its
    /// mode is 0600, or 0666 where other users are named: who connects is
    /// checked in either case. It is served on the supervisor's runtime, wherever
    /// this is called. This reads and writes files, and waits up to 5 s for
    /// another process that is doing the same in the socket's folder.
    ///
    /// ```no_run
    /// use menagerie_supervisor::{StatusConfig, StatusSocket, Supervisor};
    ///
    /// # async fn example(supervisor: Supervisor) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut config = StatusConfig::default();
    /// config.socket = Some("/run/my-host/status.sock".into());
    /// config.tcp = Some("127.0.0.1:7117".parse()?);
    /// // Served until it is dropped.
    /// let status = StatusSocket::serve(supervisor, &config)?;
    /// println!("menagerie --socket {} status", status.path().display());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BindError`]: a supervisor answers there already, the folder is not
    /// ours, or a setting cannot be what it is.
    pub fn serve(supervisor: Supervisor, config: &StatusConfig) -> Result<Self, BindError> {
        config.check()?;
        let path = config.socket.clone().unwrap_or_else(default_socket);
        let access = Access { read_only: config.read_only.clone(), admin: config.admin.clone() };
        let core = Arc::clone(supervisor.core());
        let _guard = core.runtime.enter();
        let for_others = !access.read_only.is_empty() || !access.admin.is_empty();
        let (listener, bound) = bind(&path, if for_others { 0o666 } else { 0o600 })?;
        // A payload in base64 takes four thirds of its size, and some for the rest.
        let payload = supervisor.config().max_payload;
        let limits = Limits {
            max_request: config.max_request.unwrap_or(payload / 3 * 4 + (64 << 10)),
            max_connections: config.max_connections,
            request_timeout: config.request_timeout,
            answer_timeout: config.answer_timeout,
        };
        let tcp = config.tcp.map(listen).transpose()?;
        let tokens = Tokens::new();
        let token_files = match &tcp {
            Some(_) => {
                let path = config.token_file.clone().unwrap_or_else(|| beside(&path));
                let system = |source| BindError::System { path: path.clone(), source };
                let absolute = std::path::absolute(&path).map_err(system)?;
                Some(tokens.write(&absolute).map_err(system)?)
            }
            None => None,
        };
        let address = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        let router = routes::router(supervisor, Gate { access, tokens }, limits);
        let closing = watch::Sender::new(false);
        let server = Server::new(router, limits, &closing, listener);
        let task = tokio::spawn(server.run(tcp));
        Ok(Self { core, bound, task, closing, address, token_files })
    }

    /// Takes no more requests, and waits until those that it has are answered: whoever has
    /// called something over it has the outcome, as after a
    /// [`shutdown`](Supervisor::shutdown). Streams end with what there is. That takes no
    /// longer than `limit`; what is not answered then is cut off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends all at once, as dropping the socket does.
    pub async fn finish(mut self, limit: Duration) {
        self.closing.send_replace(true);
        // By the supervisor's clock: the executor that this is polled by may have none.
        let until = Instant::now().checked_add(limit);
        tokio::select! {
            _ended = &mut self.task => {}
            () = self.core.sleep_until(until) => {}
        }
    }

    /// Where it is by TCP, if it is.
    #[must_use]
    pub const fn tcp_address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The file with the token for TCP, as an absolute path; the one beside it, with `.read` at its
    /// end, has a token that lets one look and not act.
    #[must_use]
    pub fn token_file(&self) -> Option<&Path> {
        self.token_files.as_ref().and_then(TokenFiles::admin)
    }

    /// Where it is, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.bound.path()
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host may change its folder while it serves.
    #[test]
    fn g_what_a_relative_path_names_is_known_by_its_absolute_one() {
        let dir = tempfile::tempdir().unwrap();
        let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
        let folder = Path::new(&up).join(dir.path().strip_prefix("/").unwrap());
        let supervisor = Supervisor::builder().start().unwrap();
        let mut config = StatusConfig { socket: Some(folder.join("s")), ..Default::default() };
        config.tcp = Some(([127, 0, 0, 1], 0).into());
        let status = StatusSocket::serve(supervisor, &config).unwrap();
        for path in [Some(status.path()), status.token_file()] {
            let path = path.unwrap();
            assert!(path.is_absolute() && path.exists(), "{}", path.display());
        }
        drop(status);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

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
