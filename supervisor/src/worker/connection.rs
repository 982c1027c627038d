//! The supervisor's end of a control channel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use menagerie_protocol::codec::CodecError;
use menagerie_protocol::control::{ControlError, Inbox, frame, send_some};
use menagerie_protocol::message::{ToSupervisor, ToWorker};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::watched_fd::watch;

/// A connected control socket whose hello has been read.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Arc<AsyncFd<OwnedFd>>,
    inbox: Inbox,
    is_closed: bool,
}

/// A message on its way out, with its descriptors.
type Outgoing = (Vec<u8>, Vec<OwnedFd>);

/// Messages on their way to a worker, at most: far more than one that reads its
/// channel ever leaves, so that one that does not is noticed.
const MAX_OUTGOING: usize = 1 << 16;

/// Sends to a worker from anywhere. What is sent to a worker that has gone is
/// dropped: its death is noticed elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Sender(mpsc::Sender<Outgoing>);

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    #[error("a control message cannot be encoded: {0}")]
    Codec(#[from] CodecError),
    #[error("it does not read its control channel: {MAX_OUTGOING} messages wait")]
    Full,
}

impl Sender {
    pub(crate) fn send(&self, message: &ToWorker, fds: Vec<OwnedFd>) -> Result<(), Unsent> {
        match self.0.try_send((frame(message)?, fds)) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unsent::Full),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self {
            socket: Arc::new(watch(socket, Interest::READABLE | Interest::WRITABLE)?),
            inbox: Inbox::default(),
            is_closed: false,
        })
    }

    /// Nothing more goes either way, whoever has the other end: what has come
    /// already can be received, and then the end.
    pub(crate) fn close(&mut self) {
        // It fails where the other end is closed, and then it has nothing to do.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        self.is_closed = true;
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub(crate) async fn receive(&mut self) -> Result<ToSupervisor, ControlError> {
        loop {
            if let Some(message) = self.inbox.take()? {
                return Ok(message);
            }
            let inbox = &mut self.inbox;
            let count = self
                .socket
                .async_io(Interest::READABLE, |socket| inbox.receive(socket.as_fd()))
                .await?;
            // Workers have none to send, and a message of many bytes could bring
            // so many that the host has none left.
            if self.inbox.has_descriptors() {
                return Err(ControlError::UnexpectedDescriptors);
            }
            if count == 0 {
                return Err(ControlError::Closed);
            }
        }
    }

    /// Starts the task that writes.
    pub(crate) fn sender(&self) -> Sender {
        let (sender, mut queue) = mpsc::channel::<Outgoing>(MAX_OUTGOING);
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
