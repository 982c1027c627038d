//! The control socket: workers connect to it and say hello with the token that
//! they were started with.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use interprocess::local_socket::tokio::prelude::*;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::{GenericFilePath, ListenerOptions};
use menagerie_protocol::message::{Hello, MAGIC, PROTOCOL_VERSION, ToSupervisor};
use tokio::sync::oneshot;

use super::connection::Channel;
use super::strangers::Strangers;
use crate::events::{EventBus, EventKind};
use crate::lane::lock;
use crate::proc_stat::Stat;

/// How long a peer may take to say hello once it is connected.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that has said hello.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) channel: Channel,
    pub(crate) hello: Hello,
    pub(crate) pid: Option<u32>,
}

/// Why a peer was turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it did not say hello: {0}")]
    NoHello(String),
    #[error("its hello begins with {0:#010x}, which is none of ours")]
    Magic(u32),
    #[error("it speaks version {}.{} of the protocol, and we speak {}.{}", .0.0, .0.1, PROTOCOL_VERSION.0, PROTOCOL_VERSION.1)]
    Version((u16, u16)),
    #[error("nobody was started with its token")]
    Token,
    #[error("too many connections have not said hello yet")]
    Crowd,
}

type Expected = Arc<Mutex<HashMap<String, oneshot::Sender<Result<Connected, Refusal>>>>>;

/// The listening end.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    expected: Expected,
    task: tokio::task::AbortHandle,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ControlSocket {
    /// Listens at `path`, in a folder that only this user can enter.
    pub(crate) fn bind(path: PathBuf, events: Arc<EventBus>) -> io::Result<Self> {
        let name = path.as_path().to_fs_name::<GenericFilePath>()?;
        let listener = ListenerOptions::new().name(name).create_tokio()?;
        let expected = Expected::default();
        let waiting = Arc::clone(&expected);
        let task = tokio::spawn(accept(listener, waiting, events)).abort_handle();
        Ok(Self { path, expected, task })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Expects one worker with this token.
    pub(crate) fn expect(&self, token: String) -> oneshot::Receiver<Result<Connected, Refusal>> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.expected).insert(token, sender);
        receiver
    }

    /// Expects it no longer.
    pub(crate) fn forget(&self, token: &str) {
        lock(&self.expected).remove(token);
    }
}

async fn accept(listener: Listener, expected: Expected, events: Arc<EventBus>) {
    let strangers = Strangers::default();
    loop {
        match listener.accept().await {
            Ok(Stream::UdSocket(stream)) => {
                let Ok(socket) = OwnedFd::try_from(stream) else { continue };
                let pid = peer_pid(&socket);
                let known = pid.unwrap_or(0);
                let is_child =
                    || Stat::of(known).is_some_and(|stat| stat.parent == std::process::id());
                let Some(place) = strangers.enter(known, is_child) else {
                    if strangers.worth_telling(Instant::now()) {
                        let reason = Refusal::Crowd.to_string();
                        events.emit(EventKind::PeerRefused { pid, reason });
                    }
                    // A peer may connect for ever: others have their turn.
                    tokio::task::yield_now().await;
                    continue;
                };
                let (expected, events) = (Arc::clone(&expected), Arc::clone(&events));
                tokio::spawn(async move {
                    greet(socket, pid, &expected, &events).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: that passes.
                tracing::warn!("the control socket cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The process at the other end, by SO_PEERCRED (unix(7)).
fn peer_pid(socket: &OwnedFd) -> Option<u32> {
    let credentials =
        nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok()
}

async fn greet(socket: OwnedFd, pid: Option<u32>, expected: &Expected, events: &EventBus) {
    let Ok(mut channel) = Channel::new(socket) else { return };
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, channel.receive()).await {
        Ok(Ok(ToSupervisor::Hello(hello))) => Ok(hello),
        Ok(Ok(_)) => Err(Refusal::NoHello("it said something else".to_owned())),
        Ok(Err(error)) => Err(Refusal::NoHello(error.to_string())),
        Err(_) => Err(Refusal::NoHello("it said nothing".to_owned())),
    };
    let refusal = match hello {
        Err(refusal) => refusal,
        Ok(hello) => {
            // A token is good for one hello.
            match lock(expected).remove(&hello.token) {
                None => Refusal::Token,
                Some(waiting) => {
                    let refusal = check(&hello);
                    let outcome = match &refusal {
                        None => Ok(Connected { channel, hello, pid }),
                        Some(refusal) => Err(refusal.clone()),
                    };
                    drop(waiting.send(outcome));
                    match refusal {
                        None => return,
                        Some(refusal) => refusal,
                    }
                }
            }
        }
    };
    events.emit(EventKind::PeerRefused { pid, reason: refusal.to_string() });
}

fn check(hello: &Hello) -> Option<Refusal> {
    if hello.magic != MAGIC {
        return Some(Refusal::Magic(hello.magic));
    }
    if hello.version.0 != PROTOCOL_VERSION.0 {
        return Some(Refusal::Version(hello.version));
    }
    None
}

#[cfg(test)]
mod tests {
    use menagerie_protocol::SupportedLanguage;

    use super::*;

    #[test]
    fn s2_another_version_or_another_program_is_refused() {
        let hello = Hello {
            magic: MAGIC,
            version: PROTOCOL_VERSION,
            token: String::new(),
            loader: "lua".to_owned(),
            language: SupportedLanguage::Lua,
            supports_hot_reload: true,
            runtime: String::new(),
            features: vec!["unknown".to_owned()],
        };
        assert_eq!(check(&hello), None);
        let (major, minor) = PROTOCOL_VERSION;
        assert_eq!(check(&Hello { version: (major, minor + 1), ..hello.clone() }), None);
        let other = (major + 1, 0);
        let refusal = check(&Hello { version: other, ..hello.clone() });
        assert_eq!(refusal, Some(Refusal::Version(other)));
        assert_eq!(check(&Hello { magic: 7, ..hello }), Some(Refusal::Magic(7)));
    }
}
