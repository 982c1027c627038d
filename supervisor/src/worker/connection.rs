//! The supervisor's end of a control channel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use menagerie_protocol::control::{ControlError, Inbox, frame, send_some};
use menagerie_protocol::message::{ToSupervisor, ToWorker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::watched_fd::watch;

/// A connected control socket whose hello has been read.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Arc<AsyncFd<OwnedFd>>,
    inbox: Inbox,
}

/// A message on its way out, with its descriptors.
type Outgoing = (Vec<u8>, Vec<OwnedFd>);

/// Sends to a worker from anywhere. What cannot be sent is dropped: the
/// worker's death is noticed elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Sender(mpsc::UnboundedSender<Outgoing>);

impl Sender {
    pub(crate) fn send(&self, message: &ToWorker, fds: Vec<OwnedFd>) {
        match frame(message) {
            Ok(bytes) => drop(self.0.send((bytes, fds))),
            Err(error) => tracing::error!("a control message cannot be sent: {error}"),
        }
    }
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self {
            socket: Arc::new(watch(socket, Interest::READABLE | Interest::WRITABLE)?),
            inbox: Inbox::default(),
        })
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub(crate) async fn receive(&mut self) -> Result<ToSupervisor, ControlError> {
        loop {
            if let Some(message) = self.inbox.take()? {
                // Workers have no descriptors to send; those that come are
                // closed, so that they cannot exhaust ours.
                self.inbox.discard_descriptors();
                return Ok(message);
            }
            let inbox = &mut self.inbox;
            let count = self
                .socket
                .async_io(Interest::READABLE, |socket| inbox.receive(socket.as_fd()))
                .await?;
            if count == 0 {
                return Err(ControlError::Closed);
            }
        }
    }

    /// Starts the task that writes.
    pub(crate) fn sender(&self) -> Sender {
        let (sender, mut queue) = mpsc::unbounded_channel::<Outgoing>();
        let socket = Arc::clone(&self.socket);
        tokio::spawn(async move {
            while let Some((bytes, fds)) = queue.recv().await {
                if write(&socket, &bytes, &fds).await.is_err() {
                    return;
                }
            }
        });
        Sender(sender)
    }

    /// The process at the other end, by SO_PEERCRED (unix(7)).
    pub(crate) fn peer_pid(&self) -> Option<u32> {
        let fd = self.socket.get_ref();
        let credentials =
            nix::sys::socket::getsockopt(fd, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        u32::try_from(credentials.pid()).ok()
    }
}

async fn write(socket: &AsyncFd<OwnedFd>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut rights = &raw[..];
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = socket
            .async_io(Interest::WRITABLE, |socket| send_some(socket.as_fd(), rest, rights))
            .await?;
        // The descriptors went with the first byte.
        rights = &[];
        rest = &rest[sent..];
    }
    Ok(())
}
