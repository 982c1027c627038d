//! The control channel: a `u32` length in little-endian order, then a bincode
//! message; descriptors travel with the message's first byte (SCM_RIGHTS,
//! unix(7)).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::codec::{self, CodecError, MAX_MESSAGE};

/// The most descriptors that the kernel lets travel with one write
/// (`SCM_MAX_FD`, unix(7)). There is room for all of them, although a message
/// has five at most: those for which there is none could not be told from
/// others, and never be closed.
const MAX_FDS: usize = 253;

/// Why the channel cannot go on.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The socket failed.
    #[error("the control socket failed: {0}")]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("the other side closed the control socket")]
    Closed,
    /// A message that is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Descriptors came where none are expected.
    #[error("descriptors came that nobody asked for")]
    UnexpectedDescriptors,
    /// A message announced descriptors that did not come with it.
    #[error("descriptors are missing")]
    MissingDescriptors,
}

/// A message as bytes on the wire.
///
/// # Errors
///
/// The message cannot be encoded, or is too large.
pub fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let body = codec::encode(message)?;
    let len = u32::try_from(body.len()).map_err(|_| CodecError::TooLarge(body.len()))?;
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Sends what the socket takes of `bytes`, with `fds` beside the first byte.
/// Returns how many bytes it took.
///
/// # Errors
///
/// As `sendmsg(2)`; `WouldBlock` on a non-blocking socket.
pub fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let iov = [IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A buffer that a message has made larger than this is not kept.
const KEEP: usize = 64 << 10;

/// What has been received and not been taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Receives once. Returns how many bytes came; 0 means that the other side
    /// has closed, whether or not it had read everything.
    ///
    /// # Errors
    ///
    /// As `recvmsg(2)`; `WouldBlock` on a non-blocking socket.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut chunk = [0_u8; 16 * 1024];
        let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
        let mut iov = [IoSliceMut::new(&mut chunk)];
        let (count, fds) = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                // It had not read all that was sent to it.
                Err(Errno::ECONNRESET) => return Ok(0),
                Err(e) => return Err(e.into()),
                Ok(received) => {
                    let mut fds = Vec::new();
                    for message in received.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(rights) = message {
                            // SAFETY: the kernel has just installed these
                            // descriptors for us; nobody else owns them.
                            fds.extend(
                                rights.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                            );
                        }
                    }
                    break (received.bytes, fds);
                }
            }
        };
        self.bytes.extend_from_slice(&chunk[..count]);
        self.fds.extend(fds);
        Ok(count)
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    ///
    /// The length is over the limit, or the bytes are no such message.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CodecError> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > MAX_MESSAGE {
            return Err(CodecError::TooLarge(len));
        }
        if self.bytes.len() < 4 + len {
            return Ok(None);
        }
        let message = codec::decode(&self.bytes[4..4 + len])?;
        self.bytes.drain(..4 + len);
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }

    /// The next descriptor that came with a message.
    ///
    /// # Errors
    ///
    /// None came.
    pub fn descriptor(&mut self) -> Result<OwnedFd, ControlError> {
        self.fds.pop_front().ok_or(ControlError::MissingDescriptors)
    }

    /// Whether a descriptor has come and was not taken.
    #[must_use]
    pub fn has_descriptors(&self) -> bool {
        !self.fds.is_empty()
    }
}

/// A blocking connection: the worker's end.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// Held while one message is written, so that messages do not mix.
    write: Mutex<()>,
}

impl Connection {
    /// A connection over a connected stream socket.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self { socket, write: Mutex::new(()) }
    }

    /// Its socket.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one message, from any thread.
    ///
    /// # Errors
    ///
    /// The message cannot be encoded, or the socket failed.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ControlError> {
        let bytes = frame(message)?;
        let _guard = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let sent = send_some(self.socket.as_fd(), rest, &[])?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// [`ControlError::Closed`] at the end; the socket failed; no message.
    pub fn receive<T: DeserializeOwned>(&self, inbox: &mut Inbox) -> Result<T, ControlError> {
        loop {
            if let Some(message) = inbox.take()? {
                return Ok(message);
            }
            if inbox.receive(self.socket.as_fd())? == 0 {
                return Err(ControlError::Closed);
            }
        }
    }

    /// As [`receive`](Self::receive), but none if nothing has come for so long.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    pub fn receive_within<T: DeserializeOwned>(
        &self,
        inbox: &mut Inbox,
        patience: Duration,
    ) -> Result<Option<T>, ControlError> {
        loop {
            if let Some(message) = inbox.take()? {
                return Ok(Some(message));
            }
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // Rounded up, so that it does not ask again and again in the last one.
            let millis = patience.as_nanos().div_ceil(1_000_000);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(ControlError::Io(error.into())),
            }
            if inbox.receive(self.socket.as_fd())? == 0 {
                return Err(ControlError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::message::ToWorker;

    #[test]
    fn control_carries_messages_and_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let fd = crate::shm::sealed_memfd("test", 4096).unwrap();
        let bytes = frame(&ToWorker::Ping { nonce: 7 }).unwrap();
        assert_eq!(send_some(a.as_fd(), &bytes, &[fd.as_raw_fd()]).unwrap(), bytes.len());
        let connection = Connection::new(b.into());
        let mut inbox = Inbox::default();
        assert_eq!(
            connection.receive::<ToWorker>(&mut inbox).unwrap(),
            ToWorker::Ping { nonce: 7 }
        );
        inbox.descriptor().unwrap();
        assert!(matches!(inbox.descriptor(), Err(ControlError::MissingDescriptors)));
        drop(a);
        assert!(matches!(connection.receive::<ToWorker>(&mut inbox), Err(ControlError::Closed)));
    }

    #[test]
    fn control_is_closed_by_who_has_not_read_everything() {
        let (a, b) = UnixStream::pair().unwrap();
        let bytes = frame(&ToWorker::Ping { nonce: 7 }).unwrap();
        for from in [&a, &b] {
            assert_eq!(send_some(from.as_fd(), &bytes, &[]).unwrap(), bytes.len());
        }
        drop(a);
        let connection = Connection::new(b.into());
        let mut inbox = Inbox::default();
        // What it had sent before arrives.
        assert_eq!(
            connection.receive::<ToWorker>(&mut inbox).unwrap(),
            ToWorker::Ping { nonce: 7 }
        );
        for _ in 0..2 {
            assert!(matches!(
                connection.receive::<ToWorker>(&mut inbox),
                Err(ControlError::Closed)
            ));
        }
    }

    #[test]
    fn control_waits_for_a_message_as_long_as_it_is_told() {
        let (a, b) = UnixStream::pair().unwrap();
        let connection = Connection::new(b.into());
        let mut inbox = Inbox::default();
        let mut within = |millis| {
            connection.receive_within::<ToWorker>(&mut inbox, Duration::from_millis(millis))
        };
        assert_eq!(within(1).unwrap(), None);
        assert_eq!(within(0).unwrap(), None);
        // Two at once: the second one is in the inbox when it is asked for.
        let bytes = frame(&ToWorker::Ping { nonce: 7 }).unwrap().repeat(2);
        assert_eq!(send_some(a.as_fd(), &bytes, &[]).unwrap(), bytes.len());
        assert_eq!(within(60_000).unwrap(), Some(ToWorker::Ping { nonce: 7 }));
        assert_eq!(within(0).unwrap(), Some(ToWorker::Ping { nonce: 7 }));
        drop(a);
        assert!(matches!(within(60_000), Err(ControlError::Closed)));
    }

    #[test]
    fn control_takes_every_descriptor_that_may_come_and_closes_it() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut held, sent) = UnixStream::pair().unwrap();
        let fds = vec![sent.as_raw_fd(); MAX_FDS];
        assert_eq!(send_some(a.as_fd(), &[1], &fds).unwrap(), 1);
        drop(sent);
        let mut inbox = Inbox::default();
        assert!(!inbox.has_descriptors());
        assert_eq!(inbox.receive(b.as_fd()).unwrap(), 1);
        assert!(inbox.has_descriptors());
        assert_eq!(inbox.fds.len(), MAX_FDS);
        drop(inbox);
        // Nobody has the other end any more.
        assert_eq!(std::io::Read::read(&mut held, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn control_refuses_huge_lengths_and_garbage() {
        let mut inbox = Inbox::default();
        inbox.bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(inbox.take::<ToWorker>(), Err(CodecError::TooLarge(_))));
        let mut inbox = Inbox::default();
        inbox.bytes.extend_from_slice(&[3, 0, 0, 0, 250, 250, 250]);
        assert!(inbox.take::<ToWorker>().is_err());
    }

    #[test]
    fn control_waits_for_the_rest_of_a_message() {
        let bytes = frame(&ToWorker::Shutdown).unwrap();
        let mut inbox = Inbox::default();
        for byte in &bytes[..bytes.len() - 1] {
            inbox.bytes.push(*byte);
            assert_eq!(inbox.take::<ToWorker>().unwrap(), None);
        }
        inbox.bytes.push(bytes[bytes.len() - 1]);
        assert_eq!(inbox.take::<ToWorker>().unwrap(), Some(ToWorker::Shutdown));
    }
}
