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
    /// Heartbeats and interrupts, which what the machine has too little for does not hold up.
    urgent: mpsc::Sender<Vec<u8>>,
    backlog: Arc<Mutex<Backlog>>,
}

/// The number of a message among those to a worker that are not urgent, from 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageNumber(u64);

/// What has not been sent yet.
#[derive(Debug, Default)]
struct Backlog {
    /// How many were queued so far, and how many of these were written.
    queued: u64,
    written: u64,
    descriptors: usize,
    /// Since when the message at the front waits.
    since: Option<Instant>,
    /// What the machine has too little of for it, if that is why.
    shortage: Option<Shortage>,
}

/// What the machine has too little of to send a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    error: Errno,
    /// Whether nobody has asked before.
    pub(crate) is_news: bool,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.error {
            Errno::ETOOMANYREFS => f.write_str(
                "processes of this user have more descriptors on their way in sockets than the \
                 supervisor's limit (`ulimit -n`) lets it add to",
            ),
            error => write!(f, "{}", error.desc()),
        }
    }
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
    pub(crate) fn send(
        &self,
        message: &ToWorker,
        fds: Vec<OwnedFd>,
    ) -> Result<MessageNumber, Unsent> {
        let bytes = frame(message)?;
        // Numbers are in the queue's order.
        let mut backlog = lock(&self.backlog);
        if matches!(message, ToWorker::Ping { .. } | ToWorker::Interrupt { .. }) {
            return Self::sent(self.urgent.try_send(bytes), MessageNumber(0));
        }
        if !fds.is_empty() {
            backlog.descriptors += fds.len();
            let is_stuck = backlog.since.is_some_and(|since| since.elapsed() >= STUCK);
            if is_stuck && backlog.descriptors > MAX_DESCRIPTORS {
                return Err(Unsent::TooManyDescriptors);
            }
        }
        backlog.queued += 1;
        Self::sent(self.queue.try_send((bytes, fds)), MessageNumber(backlog.queued))
    }

    fn sent<T>(
        outcome: Result<(), mpsc::error::TrySendError<T>>,
        number: MessageNumber,
    ) -> Result<MessageNumber, Unsent> {
        match outcome {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unsent::Full),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(number),
        }
    }

    /// What the machine has too little of, if messages wait for that since so long.
    pub(crate) fn shortage(&self, patience: Duration) -> Option<Shortage> {
        let mut backlog = lock(&self.backlog);
        if backlog.since?.elapsed() < patience {
            return None;
        }
        let shortage = backlog.shortage.as_mut()?;
        let now = *shortage;
        shortage.is_news = false;
        Some(now)
    }

    /// Whether this message waits until the machine has more of something.
    pub(crate) fn is_held_up(&self, message: MessageNumber) -> bool {
        let backlog = lock(&self.backlog);
        backlog.shortage.is_some() && message.0 > backlog.written
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
        self.sender_by(send_some)
    }

    /// As [`sender`](Self::sender), of one that is written to like this.
    fn sender_by(&self, send: impl SendSome + 'static) -> Sender {
        let (queue, outgoing) = mpsc::channel(MAX_OUTGOING);
        let (urgent, overtaking) = mpsc::channel(MAX_OUTGOING);
        let (socket, backlog) = (Arc::clone(&self.socket), Arc::<Mutex<Backlog>>::default());
        let writer = Writer { socket, outgoing, overtaking, backlog: Arc::clone(&backlog), send };
        tokio::spawn(writer.run());
        Sender { queue, urgent, backlog }
    }
}

/// Sends some bytes, and descriptors with the first of them.
trait SendSome: FnMut(BorrowedFd<'_>, &[u8], &[RawFd]) -> io::Result<usize> + Send {}

impl<F: FnMut(BorrowedFd<'_>, &[u8], &[RawFd]) -> io::Result<usize> + Send> SendSome for F {}

/// What writes to a worker.
struct Writer<S> {
    socket: Arc<AsyncFd<OwnedFd>>,
    outgoing: mpsc::Receiver<Outgoing>,
    overtaking: mpsc::Receiver<Vec<u8>>,
    backlog: Arc<Mutex<Backlog>>,
    send: S,
}

impl<S: SendSome> Writer<S> {
    /// Until nobody sends any more, or the worker has gone.
    async fn run(mut self) {
        while self.write_next().await.is_ok_and(|goes_on| goes_on) {}
    }

    async fn write_next(&mut self) -> io::Result<bool> {
        let next = tokio::select! {
            // They overtake what is held up, and nothing else.
            biased;
            next = self.outgoing.recv() => next,
            Some(bytes) = self.overtaking.recv() => {
                self.write_rest(&bytes).await?;
                return Ok(true);
            }
        };
        let Some((bytes, fds)) = next else { return Ok(false) };
        lock(&self.backlog).since = Some(Instant::now());
        self.write(&bytes, &fds).await?;
        let mut backlog = lock(&self.backlog);
        (backlog.since, backlog.shortage) = (None, None);
        backlog.written += 1;
        backlog.descriptors -= fds.len();
        Ok(true)
    }

    async fn write(&mut self, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        if fds.is_empty() {
            return self.write_rest(bytes).await;
        }
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        loop {
            match self.write_some(bytes, &raw).await {
                // The descriptors went with the first byte.
                Ok(sent) => return self.write_rest(&bytes[sent..]).await,
                Err(error) => self.pause_for(error).await?,
            }
        }
    }

    /// What the machine has too little of may be there later. Nothing of the message is
    /// written yet, so that another one can go first.
    async fn pause_for(&mut self, error: io::Error) -> io::Result<()> {
        let error = shortage(&error).ok_or(error)?;
        lock(&self.backlog).shortage.get_or_insert(Shortage { error, is_news: true });
        tokio::select! {
            Some(bytes) = self.overtaking.recv() => self.write_rest(&bytes).await,
            () = tokio::time::sleep(SHORTAGE) => Ok(()),
        }
    }

    async fn write_rest(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.write_some(rest, &[]).await {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if shortage(&error).is_some() => tokio::time::sleep(SHORTAGE).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_some(&mut self, bytes: &[u8], rights: &[RawFd]) -> io::Result<usize> {
        let send = &mut self.send;
        self.socket.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), bytes, rights)).await
    }
}

/// Whether it is the machine that has too little of something now: memory, or
/// descriptors on their way of all of the user's processes (unix(7), `ETOOMANYREFS`).
fn shortage(error: &io::Error) -> Option<Errno> {
    let number = Errno::from_raw(error.raw_os_error()?);
    matches!(number, Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    use menagerie_protocol::control::Connection;

    use super::*;

    fn pair() -> (Sender, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Channel::new(ours.into()).unwrap().sender(), Connection::new(theirs.into()))
    }

    fn send(sender: &Sender) -> Result<MessageNumber, Unsent> {
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
        let mut shortages = vec![Errno::ETOOMANYREFS, Errno::ENOBUFS, Errno::ENOMEM];
        let sender =
            channel.sender_by(move |socket: BorrowedFd<'_>, bytes: &[u8], rights: &[RawFd]| {
                match shortages.pop() {
                    Some(shortage) => Err(shortage.into()),
                    None => send_some(socket, bytes, rights),
                }
            });
        send(&sender).unwrap();
        let mut theirs = Channel::new(theirs.into()).unwrap();
        theirs.socket.readable().await.unwrap().retain_ready();
        let mut inbox = Inbox::default();
        assert!(inbox.receive(theirs.socket.as_fd()).unwrap() > 0);
        assert!(matches!(inbox.take().unwrap(), Some(ToWorker::Segment { .. })));
        assert!(inbox.has_descriptors());
        theirs.close();
    }

    /// A worker that is innocent of it answers heartbeats, and its calls can be ended.
    #[tokio::test]
    async fn s6_a_message_that_cannot_go_holds_up_no_heartbeat_and_no_interrupt() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours.into()).unwrap();
        let is_short = Arc::new(AtomicBool::new(true));
        let short = Arc::clone(&is_short);
        let sender =
            channel.sender_by(move |socket: BorrowedFd<'_>, bytes: &[u8], rights: &[RawFd]| {
                let is_short = !rights.is_empty() && short.load(Ordering::Relaxed);
                if is_short {
                    Err(Errno::ETOOMANYREFS.into())
                } else {
                    send_some(socket, bytes, rights)
                }
            });
        let theirs = Channel::new(theirs.into()).unwrap();
        let mut inbox = Inbox::default();
        let mut next = async || loop {
            if let Some(message) = inbox.take::<ToWorker>().unwrap() {
                return message;
            }
            let receive = |socket: &OwnedFd| inbox.receive(socket.as_fd());
            theirs.socket.async_io(Interest::READABLE, receive).await.unwrap();
        };
        let held_up = send(&sender).unwrap();
        let welcome = sender.send(&ToWorker::Welcome, Vec::new()).unwrap();
        for nonce in 1..=3 {
            sender.send(&ToWorker::Ping { nonce }, Vec::new()).unwrap();
            assert!(matches!(next().await, ToWorker::Ping { nonce: n } if n == nonce));
        }
        sender.send(&ToWorker::Interrupt { lane: 1, call: 2 }, Vec::new()).unwrap();
        assert!(matches!(next().await, ToWorker::Interrupt { lane: 1, call: 2 }));
        assert!(sender.is_held_up(held_up) && sender.is_held_up(welcome));
        // It is said once.
        assert!(sender.shortage(Duration::ZERO).unwrap().is_news);
        assert!(!sender.shortage(Duration::ZERO).unwrap().is_news);
        is_short.store(false, Ordering::Relaxed);
        // The others stay in their order.
        assert!(matches!(next().await, ToWorker::Segment { .. }));
        assert!(matches!(next().await, ToWorker::Welcome));
        while sender.is_held_up(welcome) || lock(&sender.backlog).written < 2 {
            tokio::task::yield_now().await;
        }
        assert!(sender.shortage(Duration::ZERO).is_none());
    }

    #[tokio::test]
    async fn s6_descriptors_do_not_gather_for_a_worker_that_reads_nothing() {
        let (sender, _worker) = pair();
        let mut count = 0;
        let error = loop {
            match send(&sender) {
                Ok(_) => count += 1,
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
