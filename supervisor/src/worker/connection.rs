//! The supervisor's end of a control channel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use menagerie_protocol::codec::CodecError;
use menagerie_protocol::control::{ControlError, Inbox, frame, send_some};
use menagerie_protocol::message::{ToSupervisor, ToWorker};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::lane::lock;
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
/// Descriptors on their way to a worker, at most, once it has read nothing for [`STUCK`]:
/// the host has no more than 1024 of them, as Linux comes (getrlimit(2)).
const MAX_DESCRIPTORS: usize = 256;
/// How long to wait before what the machine had too little for is sent again.
const SHORTAGE: Duration = Duration::from_millis(10);
/// Many at once are no fault of a worker's that has not had the time to read them.
const STUCK: Duration = Duration::from_secs(2);

/// Sends to a worker from anywhere. What is sent to a worker that has gone is
/// dropped: its death is noticed elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Outgoing>,
    backlog: Arc<Mutex<Backlog>>,
}

/// What has not been sent yet.
#[derive(Debug, Default)]
struct Backlog {
    descriptors: usize,
    /// Since when the message at the front waits.
    since: Option<Instant>,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsent {
    #[error("a control message cannot be encoded: {0}")]
    Codec(#[from] CodecError),
    #[error("it does not read its control channel: {MAX_OUTGOING} messages wait")]
    Full,
    #[error("it does not read its control channel: more than {MAX_DESCRIPTORS} descriptors wait")]
    TooManyDescriptors,
}

impl Sender {
    pub(crate) fn send(&self, message: &ToWorker, fds: Vec<OwnedFd>) -> Result<(), Unsent> {
        let bytes = frame(message)?;
        if !fds.is_empty() {
            let mut backlog = lock(&self.backlog);
            backlog.descriptors += fds.len();
            let is_stuck = backlog.since.is_some_and(|since| since.elapsed() >= STUCK);
            if is_stuck && backlog.descriptors > MAX_DESCRIPTORS {
                return Err(Unsent::TooManyDescriptors);
            }
        }
        match self.queue.try_send((bytes, fds)) {
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
        let (socket, backlog) = (Arc::clone(&self.socket), Arc::<Mutex<Backlog>>::default());
        let waiting = Arc::clone(&backlog);
        tokio::spawn(async move {
            while let Some((bytes, fds)) = queue.recv().await {
                lock(&waiting).since = Some(Instant::now());
                if write(&socket, &bytes, &fds).await.is_err() {
                    return;
                }
                let mut waiting = lock(&waiting);
                waiting.since = None;
                waiting.descriptors -= fds.len();
            }
        });
        Sender { queue: sender, backlog }
    }
}

async fn write(socket: &AsyncFd<OwnedFd>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    write_by(socket, bytes, fds, send_some).await
}

async fn write_by(
    socket: &AsyncFd<OwnedFd>,
    bytes: &[u8],
    fds: &[OwnedFd],
    mut send: impl FnMut(BorrowedFd<'_>, &[u8], &[RawFd]) -> io::Result<usize>,
) -> io::Result<()> {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut rights = &raw[..];
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent =
            socket.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), rest, rights)).await;
        let sent = match sent {
            Err(error) if is_shortage(&error) => {
                tokio::time::sleep(SHORTAGE).await;
                continue;
            }
            sent => sent?,
        };
        // The descriptors went with the first byte.
        rights = &[];
        rest = &rest[sent..];
    }
    Ok(())
}

/// Whether it is the machine that has too little of something now: memory, or
/// descriptors on their way of all of the user's processes (unix(7), `ETOOMANYREFS`).
fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use menagerie_protocol::control::Connection;

    use super::*;

    fn pair() -> (Sender, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Channel::new(ours.into()).unwrap().sender(), Connection::new(theirs.into()))
    }

    fn send(sender: &Sender) -> Result<(), Unsent> {
        let message = ToWorker::Segment { lane: 1, segment: 1, len: 1, writable: true };
        sender.send(&message, vec![File::open("/dev/null").unwrap().into()])
    }

    #[tokio::test]
    async fn s6_many_descriptors_at_once_are_sent() {
        let (sender, worker) = pair();
        // Before the runtime's only thread can write any.
        for _ in 0..2 * MAX_DESCRIPTORS {
            send(&sender).unwrap();
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut inbox = Inbox::default();
            for _ in 0..2 * MAX_DESCRIPTORS {
                let _: ToWorker = worker.receive(&mut inbox).unwrap();
                drop(inbox.descriptor().unwrap());
            }
            worker
        });
        let _worker = read.await.unwrap();
        while lock(&sender.backlog).descriptors > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn s4_what_the_machine_has_too_little_for_is_sent_again() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours.into()).unwrap();
        let bytes = frame(&ToWorker::Ping { nonce: 7 }).unwrap();
        let fds = [File::open("/dev/null").unwrap().into()];
        let mut shortages = vec![Errno::ETOOMANYREFS, Errno::ENOBUFS, Errno::ENOMEM];
        let send = |socket: BorrowedFd<'_>, bytes: &[u8], rights: &[RawFd]| match shortages.pop() {
            Some(shortage) => Err(shortage.into()),
            None => send_some(socket, bytes, rights),
        };
        write_by(&channel.socket, &bytes, &fds, send).await.unwrap();
        assert!(shortages.is_empty());
        let mut inbox = Inbox::default();
        let message: ToWorker = Connection::new(theirs.into()).receive(&mut inbox).unwrap();
        assert!(matches!(message, ToWorker::Ping { nonce: 7 }), "{message:?}");
        assert!(inbox.has_descriptors());
    }

    #[tokio::test]
    async fn s6_descriptors_do_not_gather_for_a_worker_that_reads_nothing() {
        let (sender, _worker) = pair();
        let mut count = 0;
        let error = loop {
            match send(&sender) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            let waiting = lock(&sender.backlog).descriptors;
            if waiting >= MAX_DESCRIPTORS {
                tokio::time::sleep(STUCK / 10).await;
            } else {
                tokio::task::yield_now().await;
            }
        };
        assert!(matches!(error, Unsent::TooManyDescriptors), "{error}");
        assert!(count > MAX_DESCRIPTORS);
    }
}
