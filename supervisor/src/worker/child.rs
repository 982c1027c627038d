//! A process that was started: what it takes to end it, to know how it ended,
//! and to leave nothing of it behind.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use menagerie_protocol::Failure;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::gate::Gate;
use super::heard::Heard;
use super::obituary::Obituary;
use super::output::{self, Tail};
use super::process::Process;
use super::reap::{End, Ended};
use super::scratch::Scratch;
use super::spawn::{self, Spawned};
use crate::core::Core;
use crate::lane::lock;

/// A worker's process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) started: Instant,
    /// Counts what it says, on all its ways.
    pub(crate) gate: Gate,
    /// What is told of its end at once.
    pub(super) obituary: Arc<Obituary>,
    stderr: Stderr,
    ended: watch::Receiver<Option<Ended>>,
    whose: WhoseOutput,
    _scratch: Scratch,
}

/// The worker whose output it is, once it has one.
pub(crate) type WhoseOutput = Arc<Mutex<Option<Arc<Process>>>>;

/// The last lines of a process's standard error, and how they come in.
#[derive(Debug)]
pub(crate) struct Stderr {
    tail: Tail,
    /// Reads the pipe.
    reader: Option<JoinHandle<()>>,
    /// A worker that has said hello sends those of its bundles as messages.
    heard: Option<Heard>,
}

impl Stderr {
    /// The lines of a process that has ended, once the last of them is in.
    pub(crate) async fn lines(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            drop(reader.await);
        }
        if let Some(heard) = &self.heard {
            heard.all().await;
        }
        self.tail.lines()
    }
}

/// Waits until a process has ended. From then on nothing that it says is on its way:
/// the kernel closes what it has open before it tells of the end. Others, whom it has
/// forked, may have the same open for as long as they like.
pub(super) async fn over(ended: &mut watch::Receiver<Option<Ended>>) {
    drop(ended.wait_for(Option::is_some).await);
}

impl Child {
    /// Takes care of a process. Must be called on the supervisor's runtime.
    pub(crate) fn adopt(
        core: &Core,
        name: &str,
        spawned: Spawned,
        scratch: Scratch,
    ) -> io::Result<Self> {
        let gate = Gate::default();
        let Spawned { pid, pidfd, stdout, stderr } = spawned;
        let pidfd = Arc::new(pidfd);
        let whose = WhoseOutput::default();
        let bundle = {
            let whose = Arc::clone(&whose);
            move || lock(&whose).as_ref().and_then(|process| process.only_bundle())
        };
        let obituary = Arc::new(Obituary::default());
        let published = Arc::clone(&obituary);
        let ended = core.reaper.reap(&pidfd, move || published.publish());
        let ended = ended.inspect_err(|_| spawn::end(&pidfd))?;
        let (tail, done) =
            output::follow(&core.events, name, &gate, stdout, stderr, &ended, bundle);
        let stderr = Stderr { tail, reader: Some(done), heard: None };
        Ok(Self {
            pid,
            pidfd,
            started: Instant::now(),
            gate,
            obituary,
            stderr,
            ended,
            whose,
            _scratch: scratch,
        })
    }

    /// Where the last lines of its standard error gather.
    pub(crate) fn last_words(&self) -> Tail {
        self.stderr.tail.clone()
    }

    /// From now on its output is that of this worker's bundles; `heard` is what the
    /// worker says.
    pub(super) fn belongs_to(&mut self, process: &Arc<Process>, heard: Heard) {
        self.stderr.heard = Some(heard);
        *lock(&self.whose) = Some(Arc::clone(process));
    }

    /// Waits for its end, and until its last message is read.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again.
    pub(crate) async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
        if let Some(heard) = &self.stderr.heard {
            heard.all().await;
        }
        ended.unwrap_or(Ended { end: End::Unknown, usage: None })
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Tells when it has ended.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        spawn::signal(&self.pidfd, signal);
    }

    /// As [`Stderr::lines`].
    pub(crate) async fn stderr_lines(&mut self) -> Vec<String> {
        self.stderr.lines().await
    }

    /// What is left of it after its end.
    pub(crate) fn remains(mut self) -> Stderr {
        let nothing = Stderr { tail: Tail::default(), reader: None, heard: None };
        std::mem::replace(&mut self.stderr, nothing)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // This is no crash.
        self.obituary.withdraw();
        self.signal(Signal::SIGKILL);
        // Nor is its output anybody's from here on: the process would keep itself alive
        // through it.
        let process = lock(&self.whose).take();
        // Nobody has handled its end if the task that would have is no more: the runtime
        // has ended. Whoever calls waits on other threads, perhaps for ever.
        if let Some(process) = process.filter(|process| !process.is_dead()) {
            let failure = || Failure::ShuttingDown;
            drop(process.died(failure, |bundle, lane| bundle.orphaned(lane)));
        }
    }
}
