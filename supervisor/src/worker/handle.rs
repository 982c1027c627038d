//! A worker, as the rest of the supervisor sees it.

use std::sync::{Arc, Mutex};

use menagerie_protocol::message::Hello;
use menagerie_protocol::{RuntimeError, SupportedLanguage};
use tokio::sync::{mpsc, oneshot, watch};

use super::actor::Actor;
use super::process::Process;
use crate::core::Core;
use crate::lane::lock;
use crate::lifecycle::WorkerState;
use crate::placement::WorkerName;
use crate::proc_stat::Stat;
use crate::status::{CrashReport, SandboxStatus, WorkerStatus};

/// What a worker can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// It is needed: start it if it does not run.
    Wanted,
    /// A call waits for one of its bundles.
    Needed,
    /// Its bundles are not what they were: load what lacks.
    Restore,
    /// Everything that should be loaded is, in this incarnation.
    Restored(u64),
    /// And it has had a moment for those who waited.
    Settled(u64),
    /// Stop.
    Stop,
    /// End, as without a handle: what still runs is killed, and no command is taken after it.
    End,
    /// Start anew, whatever it does now. Answered, when that has begun, with the
    /// incarnation before: what the worker is from then on came after it.
    Restart(oneshot::Sender<u64>),
    /// Start another process beside the one that serves, and change over.
    Roll(oneshot::Sender<Result<(), RuntimeError>>),
    /// The other process, which this is, has, or has not, loaded everything.
    Rolled(Arc<Process>, Box<Result<super::roll::Prepared, RuntimeError>>),
}

/// What calls and loads can count on.
#[derive(Clone, Debug)]
pub(crate) enum Current {
    /// Nothing runs; why, if it could not be started.
    Down(Option<Box<RuntimeError>>),
    /// It is being started, or will be.
    Coming,
    /// It runs.
    Up(Arc<Process>),
    /// It is quarantined.
    Quarantined,
}

/// A worker. It ends when its last handle is dropped, or when it is told to.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: WorkerName,
    commands: mpsc::UnboundedSender<Command>,
    pub(crate) current: watch::Receiver<Current>,
    view: Arc<Mutex<View>>,
}

/// What the status shows.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) state: Option<WorkerState>,
    pub(super) pid: Option<u32>,
    pub(super) incarnation: u64,
    pub(super) restarts: u64,
    pub(super) language: Option<SupportedLanguage>,
    pub(super) runtime: Option<String>,
    pub(super) supports_hot_reload: bool,
    pub(super) last_crash: Option<CrashReport>,
    pub(super) problem: Option<String>,
    pub(super) sandbox: Option<SandboxStatus>,
}

impl View {
    /// What a process has said of itself is shown from now on.
    pub(super) fn show(&mut self, hello: &Hello) {
        self.language = Some(hello.language);
        self.runtime = Some(hello.runtime.clone());
        self.supports_hot_reload = hello.supports_hot_reload;
        self.sandbox = SandboxStatus::of(hello);
    }
}

impl Worker {
    /// Starts the task of a worker; no process is started before it is needed.
    pub(crate) fn start(name: &WorkerName, core: &Arc<Core>) -> Arc<Self> {
        let (commands, queue) = mpsc::unbounded_channel();
        let (sender, current) = watch::channel(Current::Down(None));
        let view = Arc::new(Mutex::new(View::default()));
        let actor =
            Actor::new(name.clone(), core, queue, commands.downgrade(), sender, Arc::clone(&view));
        core.runtime.spawn(actor.run());
        Arc::new(Self { name: name.clone(), commands, current, view })
    }

    pub(crate) fn send(&self, command: Command) {
        drop(self.commands.send(command));
    }

    /// Its process, if one serves.
    pub(crate) fn running(&self) -> Option<Arc<Process>> {
        match &*self.current.borrow() {
            Current::Up(process) if !process.is_leaving() => Some(Arc::clone(process)),
            _ => None,
        }
    }

    /// Its process, started if it does not run.
    pub(crate) async fn process(&self) -> Result<Arc<Process>, RuntimeError> {
        let mut current = self.current.clone();
        current.mark_unchanged();
        let leaves = match &*current.borrow() {
            Current::Up(process) if !process.is_leaving() => return Ok(Arc::clone(process)),
            Current::Up(_) => true,
            _ => false,
        };
        // One whose process is about to go learns of it, and says what comes next.
        if !leaves {
            self.send(Command::Wanted);
        }
        loop {
            if current.changed().await.is_err() {
                return Err(RuntimeError::ShuttingDown);
            }
            match &*current.borrow_and_update() {
                Current::Up(process) => return Ok(Arc::clone(process)),
                Current::Coming => {}
                // Stopped since: it is wanted all the same.
                Current::Down(None) => self.send(Command::Wanted),
                Current::Down(Some(error)) => return Err((**error).clone()),
                Current::Quarantined => {
                    let problem = match &lock(&self.view).last_crash {
                        Some(crash) => {
                            format!("it died too often and is quarantined; last: {}", crash.cause)
                        }
                        None => "it died too often and is quarantined".to_owned(),
                    };
                    let worker = self.name.to_string();
                    return Err(RuntimeError::WorkerUnavailable { worker, problem });
                }
            }
        }
    }

    /// Waits until it has turned from this process, which has ended.
    pub(crate) async fn turned_from(&self, process: &Arc<Process>) {
        let is_it = |now: &Current| matches!(now, Current::Up(now) if Arc::ptr_eq(now, process));
        // None turns any more if the supervisor is gone.
        drop(self.current.clone().wait_for(|now| !is_it(now)).await);
    }

    /// Starts it anew, whatever it does: the incarnation before. A look at its
    /// state would not do to choose a command by: it may be another one when the
    /// command arrives.
    ///
    /// Whoever waits for it holds no handle meanwhile.
    pub(crate) fn begin_restart(&self) -> oneshot::Receiver<u64> {
        let (reply, begun) = oneshot::channel();
        self.send(Command::Restart(reply));
        begun
    }

    /// Changes over to another process without a pause (S8). Whoever waits for it holds
    /// no handle meanwhile.
    pub(crate) fn roll(&self) -> oneshot::Receiver<Result<(), RuntimeError>> {
        let (reply, done) = oneshot::channel();
        self.send(Command::Roll(reply));
        done
    }

    pub(crate) fn supports_hot_reload(&self) -> bool {
        lock(&self.view).supports_hot_reload
    }

    pub(crate) fn state(&self) -> (WorkerState, u64) {
        let view = lock(&self.view);
        (view.state.unwrap_or(WorkerState::Stopped), view.incarnation)
    }

    pub(crate) fn status(&self, bundles: Vec<String>) -> WorkerStatus {
        let view = lock(&self.view);
        let stat = view.pid.and_then(Stat::of);
        WorkerStatus {
            name: self.name.to_string(),
            loader: self.name.loader.clone(),
            language: view.language,
            pid: view.pid,
            state: view.state.unwrap_or(WorkerState::Stopped),
            incarnation: view.incarnation,
            restarts: view.restarts,
            rss_bytes: stat.as_ref().map(|stat| stat.rss_bytes),
            cpu_seconds: stat.map(|stat| stat.cpu_seconds),
            runtime: view.runtime.clone(),
            bundles,
            last_crash: view.last_crash.clone(),
            problem: view.problem.clone(),
            sandbox: view.sandbox.clone(),
        }
    }
}
