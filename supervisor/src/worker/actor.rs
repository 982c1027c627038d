//! A worker's life, carried out: the task that starts its processes, notices
//! their ends and starts them again. What to do is decided by
//! [`Lifecycle`]; this module only does it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use menagerie_protocol::message::{ENV_SCRATCH, ENV_SOCKET, ENV_TOKEN, ToWorker};
use menagerie_protocol::{Failure, LoaderError, RuntimeError};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use super::gate::Gate;
use super::listener::Connected;
use super::output::{self, Tail};
use super::process::{Process, ProcessParts};
use super::reap::{self, End};
use super::spawn::{self, Limits, SpawnRequest, Spawned};
use crate::bundle::Route;
use crate::core::Core;
use crate::events::{EventKind, Events, NextEvent, now_ms};
use crate::lane::lock;
use crate::lifecycle::{Action, Input, Lifecycle, State, WorkerState};
use crate::locate;
use crate::proc_stat;
use crate::random;
use crate::status::{BundleState, CrashReport, WorkerStatus};
use crate::watched_fd::watch;

/// How long the report of a crash waits for the rest of the standard error.
const STDERR_PATIENCE: Duration = Duration::from_millis(200);

/// What a worker can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// It is needed: start it if it does not run.
    Wanted,
    /// Everything that should be loaded is, in this incarnation.
    Restored(u64),
    /// Stop; `restart` for another start afterwards.
    Stop { restart: bool },
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

/// A worker, as the rest of the supervisor sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    commands: mpsc::UnboundedSender<Command>,
    pub(crate) current: watch::Receiver<Current>,
    view: Arc<Mutex<View>>,
}

/// What the status shows.
#[derive(Debug, Default)]
struct View {
    state: Option<WorkerState>,
    pid: Option<u32>,
    incarnation: u64,
    restarts: u64,
    language: Option<menagerie_protocol::SupportedLanguage>,
    runtime: Option<String>,
    supports_hot_reload: bool,
    last_crash: Option<CrashReport>,
    problem: Option<String>,
}

impl Worker {
    /// Starts the task of a worker; no process is started before it is needed.
    pub(crate) fn start(name: &str, core: &Arc<Core>) -> Arc<Self> {
        let (commands, queue) = mpsc::unbounded_channel();
        let (sender, current) = watch::channel(Current::Down(None));
        let view = Arc::new(Mutex::new(View::default()));
        let actor = Actor {
            name: name.to_owned(),
            core: Arc::clone(core),
            life: Lifecycle::new(core.config.restart.clone()),
            queue,
            commands: commands.downgrade(),
            current: sender,
            view: Arc::clone(&view),
            child: None,
        };
        core.runtime.spawn(actor.run());
        Arc::new(Self { name: name.to_owned(), commands, current, view })
    }

    pub(crate) fn send(&self, command: Command) {
        drop(self.commands.send(command));
    }

    /// Its process, started if it does not run.
    pub(crate) async fn process(&self) -> Result<Arc<Process>, RuntimeError> {
        let mut current = self.current.clone();
        current.mark_unchanged();
        let dying = match &*current.borrow() {
            Current::Up(process) if !process.is_ending() => return Ok(Arc::clone(process)),
            Current::Up(_) => true,
            _ => false,
        };
        // One whose process is about to go learns of it, and starts the next.
        if !dying {
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
                    let worker = self.name.clone();
                    return Err(RuntimeError::WorkerUnavailable { worker, problem });
                }
            }
        }
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
        let usage = view.pid.and_then(proc_stat::usage);
        WorkerStatus {
            loader: self.name.clone(),
            language: view.language,
            pid: view.pid,
            state: view.state.unwrap_or(WorkerState::Stopped),
            incarnation: view.incarnation,
            restarts: view.restarts,
            rss_bytes: usage.map(|usage| usage.rss_bytes),
            cpu_seconds: usage.map(|usage| usage.cpu_seconds),
            runtime: view.runtime.clone(),
            bundles,
            last_crash: view.last_crash.clone(),
            problem: view.problem.clone(),
        }
    }
}

/// A process that runs, or has just been started.
struct Child {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    started: Instant,
    tail: Tail,
    stderr_done: tokio::task::JoinHandle<()>,
    scratch: PathBuf,
    /// Once it has said hello.
    process: Option<Arc<Process>>,
    /// Why we ended it before it had.
    reason: Option<String>,
    next_ping: Instant,
    pings: u64,
    warned: bool,
    /// When it gets SIGKILL after SIGABRT.
    kill_at: Option<Instant>,
}

struct Actor {
    name: String,
    core: Arc<Core>,
    life: Lifecycle,
    queue: mpsc::UnboundedReceiver<Command>,
    commands: mpsc::WeakUnboundedSender<Command>,
    current: watch::Sender<Current>,
    view: Arc<Mutex<View>>,
    child: Option<Child>,
}

impl Actor {
    async fn run(mut self) {
        let mut timer: Option<Instant> = None;
        loop {
            let ended = async {
                match &self.child {
                    Some(child) => reap::wait(Arc::clone(&child.pidfd)).await,
                    None => std::future::pending().await,
                }
            };
            let wake_at = match (&self.child, timer) {
                (Some(child), _) => child.kill_at.or(Some(child.next_ping)),
                (None, timer) => timer,
            };
            let sleep = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let action = tokio::select! {
                biased;
                end = ended => {
                    let end = end.unwrap_or(End::Unknown);
                    match self.unloadable(end).await {
                        Some(error) => {
                            self.child = None;
                            self.cannot_start(error);
                            Action::None
                        }
                        None => self.died(end),
                    }
                }
                command = self.queue.recv() => match command {
                    Some(Command::Wanted) if *self.core.stopping.borrow() => {
                        let error = Box::new(RuntimeError::ShuttingDown);
                        if self.child.is_none() {
                            self.current.send_replace(Current::Down(Some(error)));
                        }
                        Action::None
                    }
                    Some(Command::Wanted) => self.input(Input::Wanted),
                    Some(Command::Restored(incarnation)) if incarnation == self.life.incarnation() => {
                        self.input(Input::Loaded)
                    }
                    Some(Command::Restored(_)) => Action::None,
                    Some(Command::Stop { restart }) => self.input(Input::Stop { restart }),
                    // The supervisor is gone: so is everything of it.
                    None => return self.abandon(),
                },
                () = sleep => {
                    if self.child.is_some() {
                        self.heartbeat();
                        Action::None
                    } else {
                        timer = None;
                        self.input(Input::Timer)
                    }
                }
            };
            match action {
                Action::None => {}
                Action::WaitUntil(until) => timer = Some(until),
                Action::Drain => self.drain(),
                Action::Spawn => {
                    timer = None;
                    if let Some(next) = self.start().await {
                        timer = Some(next);
                    }
                }
            }
        }
    }

    /// Tells the life what happened, and everybody else where it led.
    fn input(&mut self, input: Input) -> Action {
        let action = self.life.on(input, Instant::now(), random::fraction());
        let path = self.life.take_path();
        {
            let mut view = lock(&self.view);
            view.state = Some(self.life.state().name());
            view.incarnation = self.life.incarnation();
            view.restarts = self.life.restarts();
            view.pid = self.child.as_ref().map(|child| child.pid);
        }
        let pid = self.child.as_ref().map(|child| child.pid);
        for state in path {
            self.core.events.emit(EventKind::WorkerState {
                worker: self.name.clone(),
                state,
                incarnation: self.life.incarnation(),
                pid,
            });
        }
        match self.life.state() {
            State::Quarantined { .. } => {
                self.current.send_replace(Current::Quarantined);
                let failure = Failure::Quarantined { what: format!("worker '{}'", self.name) };
                for bundle in self.core.bundles_of(&self.name) {
                    if matches!(&**bundle.route(), Route::Waiting(_)) {
                        let failure = Box::new(failure.clone());
                        bundle.set_route(Route::Down(BundleState::Failed, failure));
                    }
                }
            }
            State::Backoff { .. } | State::Crashed => {
                self.current.send_replace(Current::Coming);
            }
            State::Starting { .. } if self.child.is_none() => {
                self.current.send_replace(Current::Coming);
                for bundle in self.core.bundles_of(&self.name) {
                    if matches!(&**bundle.route(), Route::Down(..)) {
                        bundle.set_route(Route::Waiting(BundleState::Waiting));
                    }
                }
            }
            _ => {}
        }
        action
    }

    /// Starts a process and waits for its hello. Returns when the next timer
    /// is due, if it failed.
    async fn start(&mut self) -> Option<Instant> {
        let program = match locate::worker_program(&self.core.config, &self.name) {
            Ok(program) => program,
            Err(error) => return self.cannot_start(error),
        };
        let unavailable = |problem: String| RuntimeError::WorkerUnavailable {
            worker: self.name.clone(),
            problem,
        };
        let folder = format!("{}-{}", self.name, self.life.incarnation());
        let scratch = self.core.dir.path().join(folder);
        if let Err(error) = std::fs::create_dir(&scratch) {
            return self.cannot_start(unavailable(format!("{}: {error}", scratch.display())));
        }
        let token = random::token();
        let connected = self.core.control.expect(token.clone());
        // From before the start on: what the process says may be refused before
        // we know its pid.
        let events = self.core.events.subscribe();
        let request = SpawnRequest {
            program,
            env: self.environment(&token, &scratch),
            dir: scratch.clone(),
            limits: Limits {
                memory: self.core.config.memory_limit,
                descriptors: self.core.config.max_descriptors,
            },
        };
        let spawned = self.core.spawner.spawn(request).await;
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                self.core.control.forget(&token);
                drop(std::fs::remove_dir_all(&scratch));
                return self.cannot_start(unavailable(format!("it cannot be started: {error}")));
            }
        };
        let Spawned { pid, pidfd, stdout, stderr } = spawned;
        let process_slot: Arc<Mutex<Option<Arc<Process>>>> = Arc::default();
        let whose = {
            let slot = Arc::clone(&process_slot);
            move || lock(&slot).as_ref().and_then(|process| process.probable_bundle())
        };
        let gate = Gate::default();
        let (tail, stderr_done) =
            output::follow(&self.core.events, &self.name, &gate, stdout, stderr, whose);
        let now = Instant::now();
        self.child = Some(Child {
            pid,
            pidfd: Arc::new(pidfd),
            started: now,
            tail,
            stderr_done,
            scratch,
            process: None,
            reason: None,
            next_ping: now + self.core.config.heartbeat,
            pings: 0,
            warned: false,
            kill_at: None,
        });
        lock(&self.view).pid = Some(pid);
        let outcome = self.handshake(connected, events).await;
        self.core.control.forget(&token);
        match outcome {
            Ok(Some(connected)) => {
                self.up(connected, &process_slot, gate);
                None
            }
            // It has died: the main loop reaps it.
            Ok(None) => None,
            Err(reason) => {
                if let Some(child) = &mut self.child {
                    child.reason = Some(reason);
                    spawn::signal(&child.pidfd, Signal::SIGKILL);
                }
                None
            }
        }
    }

    /// Waits for the hello of the process that was started: `None` if the
    /// process ended first. Requests to stop are not kept waiting by it.
    async fn handshake(
        &mut self,
        mut connected: tokio::sync::oneshot::Receiver<Result<Connected, super::listener::Refusal>>,
        mut events: Events,
    ) -> Result<Option<Connected>, String> {
        let Some(child) = &self.child else { return Ok(None) };
        let pid = child.pid;
        let config = &self.core.config;
        // Starting a .NET or JavaScript VM takes its time (S6).
        let slow = matches!(self.name.as_str(), "dotnet" | "js");
        let limit = if slow { config.slow_start_timeout } else { config.start_timeout };
        let pidfd = Arc::clone(&child.pidfd);
        let watched = pidfd
            .try_clone()
            .and_then(|fd| watch(fd, tokio::io::Interest::READABLE))
            .map_err(|error| format!("its pidfd cannot be watched: {error}"))?;
        let mut stopping = self.core.stopping.subscribe();
        let too_late = tokio::time::sleep(limit);
        tokio::pin!(too_late);
        loop {
            tokio::select! {
                biased;
                // What it said was no hello, or not its own: nobody else tells us.
                event = events.next() => {
                    if let Some(NextEvent::Event(event)) = event
                        && let EventKind::PeerRefused { pid: Some(refused), reason } = event.kind
                        && refused == pid
                    {
                        return Err(format!("handshake failed: {reason}"));
                    }
                }
                connected = &mut connected => return match connected {
                    Ok(Ok(connected)) => self.check_hello(connected, pid).map(Some),
                    Ok(Err(refusal)) => Err(format!("handshake failed: {refusal}")),
                    Err(_) => Err("handshake failed: nobody listens".to_owned()),
                },
                _ = watched.readable() => return Ok(None),
                command = self.queue.recv() => match command {
                    Some(Command::Stop { restart }) => return Err(self.stop_starting(restart)),
                    Some(Command::Wanted | Command::Restored(_)) => {}
                    None => return Err("the supervisor is gone".to_owned()),
                },
                _ = stopping.wait_for(|stop| *stop) => return Err(self.stop_starting(false)),
                () = &mut too_late => {
                    return Err(format!("handshake failed: no hello within {limit:?}"));
                }
            }
        }
    }

    fn check_hello(&self, connected: Connected, pid: u32) -> Result<Connected, String> {
        if connected.pid != Some(pid) {
            return Err(format!(
                "protocol violation: the hello came from process {:?}",
                connected.pid
            ));
        }
        if connected.hello.loader != self.name {
            let loader = &connected.hello.loader;
            let loader: String = loader.chars().take(64).collect();
            return Err(format!("protocol violation: it is the loader '{loader}'"));
        }
        Ok(connected)
    }

    /// It is to stop before it has said hello: there is nothing to drain.
    fn stop_starting(&mut self, restart: bool) -> String {
        // What drains is the process, and it is killed for this very reason.
        let _ = self.input(Input::Stop { restart });
        "it was asked to stop while it started".to_owned()
    }

    fn up(&mut self, connected: Connected, slot: &Mutex<Option<Arc<Process>>>, gate: Gate) {
        let Some(child) = &mut self.child else { return };
        let Connected { mut channel, hello, .. } = connected;
        {
            let mut view = lock(&self.view);
            view.language = Some(hello.language);
            view.runtime = Some(hello.runtime.clone());
            view.supports_hot_reload = hello.supports_hot_reload;
            view.problem = None;
        }
        let process = Process::new(ProcessParts {
            worker: self.name.clone(),
            pid: child.pid,
            pidfd: Arc::clone(&child.pidfd),
            incarnation: self.life.incarnation(),
            sender: channel.sender(),
            config: Arc::clone(&self.core.config),
            events: Arc::clone(&self.core.events),
            router: self.core.router(),
            gate,
        });
        process.send(&ToWorker::Welcome);
        let reader = Arc::clone(&process);
        tokio::spawn(async move {
            /// Messages in a row, at most: the runtime's timers and the other
            /// workers have their turn beside one that never stops talking.
            const IN_A_ROW: u32 = 32;
            let mut count = 0_u32;
            let error = loop {
                match channel.receive().await {
                    Ok(message) => reader.receive(message),
                    Err(error) => break error,
                }
                count += 1;
                if count == IN_A_ROW {
                    count = 0;
                    tokio::task::yield_now().await;
                }
            };
            // A process that ends closes its socket too: its end is the better
            // reason, and comes at once.
            tokio::select! {
                () = reader.ended() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    reader.kill(format!("protocol violation: {error}"));
                }
            }
        });
        *lock(slot) = Some(Arc::clone(&process));
        child.process = Some(Arc::clone(&process));
        child.next_ping = Instant::now() + self.core.config.heartbeat;
        self.current.send_replace(Current::Up(Arc::clone(&process)));
        self.restore(process);
    }

    /// Loads everything that should be loaded (S4), in the background.
    fn restore(&self, process: Arc<Process>) {
        let bundles = self.core.bundles_of(&self.name);
        let commands = self.commands.clone();
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            for bundle in bundles {
                core.restore(&bundle, &process).await;
            }
            if let Some(commands) = commands.upgrade() {
                drop(commands.send(Command::Restored(process.incarnation)));
            }
        });
    }

    fn cannot_start(&mut self, error: RuntimeError) -> Option<Instant> {
        let reason = error.to_string();
        lock(&self.view).problem = Some(reason.clone());
        self.core.events.emit(EventKind::StartFailed { worker: self.name.clone(), reason });
        let _ = self.input(Input::CannotStart);
        for bundle in self.core.bundles_of(&self.name) {
            let failure = Failure::BundleUnavailable {
                bundle: bundle.name.clone(),
                problem: error.to_string(),
            };
            bundle.set_route(Route::Down(BundleState::Failed, Box::new(failure)));
        }
        self.current.send_replace(Current::Down(Some(Box::new(error))));
        None
    }

    /// Whether the process ended because the system's loader did not find a
    /// library that the program is linked with, such as libpython: starting it
    /// again would not help.
    async fn unloadable(&mut self, end: End) -> Option<RuntimeError> {
        /// What ld.so(8) exits with.
        const LOADER_FAILED: i32 = 127;
        let child = self.child.as_mut()?;
        if end != End::Exit(LOADER_FAILED) || child.process.is_some() {
            return None;
        }
        drop(tokio::time::timeout(STDERR_PATIENCE, &mut child.stderr_done).await);
        let lines = child.tail.lines();
        let problem = lines.iter().find(|line| line.contains("shared libraries"))?.clone();
        drop(std::fs::remove_dir_all(&child.scratch));
        Some(RuntimeError::Loader(LoaderError::RuntimeMissing {
            runtime: format!("the library that the worker '{}' is linked with", self.name),
            problem,
            remedy: "Install it, or build the worker again; `menagerie doctor` says more"
                .to_owned(),
        }))
    }

    fn died(&mut self, end: End) -> Action {
        let Some(child) = self.child.take() else { return Action::None };
        let requested = matches!(self.life.state(), State::Draining { .. });
        let reason = child.process.as_ref().and_then(|p| p.kill_reason()).or(child.reason.clone());
        let cause = match &reason {
            Some(reason) => format!("{} after {reason}", end.describe()),
            None => end.describe(),
        };
        let mut running = Vec::new();
        if let Some(process) = &child.process {
            let failure = || Failure::WorkerCrashed {
                worker: self.name.clone(),
                cause: cause.clone(),
                started: true,
            };
            running = process.died(failure, |bundle, lane| {
                bundle.replace_lane(lane, Route::Waiting(BundleState::Waiting));
            });
        }
        self.current.send_replace(Current::Coming);
        let scratch = child.scratch;
        tokio::task::spawn_blocking(move || drop(std::fs::remove_dir_all(scratch)));
        if requested {
            let action = self.input(Input::Died);
            if *self.life.state() == State::Stopped {
                self.current.send_replace(Current::Down(None));
            }
            return action;
        }
        let report = CrashReport {
            worker: self.name.clone(),
            time_ms: now_ms(),
            pid: child.pid,
            incarnation: self.life.incarnation(),
            cause,
            signal: if let End::Signal(signal) = end { Some(signal) } else { None },
            exit_code: if let End::Exit(code) = end { Some(code) } else { None },
            reason,
            running,
            stderr: child.tail.lines(),
            uptime_ms: u64::try_from(child.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let action = self.input(Input::Died);
        self.report(report, child.tail, child.stderr_done);
        action
    }

    /// Publishes a crash report, once the last of the standard error is in.
    fn report(
        &self,
        mut report: CrashReport,
        tail: Tail,
        stderr_done: tokio::task::JoinHandle<()>,
    ) {
        lock(&self.view).last_crash = Some(report.clone());
        let (core, view) = (Arc::clone(&self.core), Arc::clone(&self.view));
        tokio::spawn(async move {
            // A forked child may keep the pipe open for ever.
            drop(tokio::time::timeout(STDERR_PATIENCE, stderr_done).await);
            report.stderr = tail.lines();
            {
                let mut view = lock(&view);
                let same = view.last_crash.as_ref().is_some_and(|last| last.pid == report.pid);
                if same {
                    view.last_crash = Some(report.clone());
                }
            }
            core.crashed(report);
        });
    }

    fn heartbeat(&mut self) {
        let config = &self.core.config;
        let Some(child) = &mut self.child else { return };
        if child.kill_at.is_some() {
            spawn::signal(&child.pidfd, Signal::SIGKILL);
            child.kill_at = None;
            child.next_ping = Instant::now() + config.heartbeat;
            return;
        }
        child.next_ping = Instant::now() + config.heartbeat;
        let Some(process) = &child.process else { return };
        let missed = child.pings - process.pong.load(Ordering::Relaxed).min(child.pings);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        if missed >= config.heartbeat_warn && !child.warned {
            child.warned = true;
            let worker = self.name.clone();
            self.core.events.emit(EventKind::WorkerUnresponsive { worker, missed });
        } else if missed == 0 {
            child.warned = false;
        }
        if missed >= config.heartbeat_kill && child.reason.is_none() {
            let reason = format!("{missed} missed heartbeats");
            child.reason = Some(reason);
            spawn::signal(&child.pidfd, Signal::SIGABRT);
            child.kill_at = Some(Instant::now() + config.term_timeout);
            return;
        }
        child.pings += 1;
        process.send(&ToWorker::Ping { nonce: child.pings });
    }

    /// Ends the process in an orderly way: calls may finish, bundles run their
    /// hooks; then SIGTERM, then SIGKILL. A call, a load or a hook that hangs
    /// does not keep anybody waiting for longer than all may drain (S6).
    fn drain(&self) {
        let Some(child) = &self.child else { return };
        let pidfd = Arc::clone(&child.pidfd);
        let Some(process) = child.process.clone() else {
            spawn::signal(&pidfd, Signal::SIGKILL);
            return;
        };
        let restart = matches!(self.life.state(), State::Draining { restart: true });
        let mut bundles = self.core.bundles_of(&self.name);
        // Dependents before what they depend on.
        bundles.reverse();
        let core = Arc::clone(&self.core);
        tokio::spawn(async move {
            let retired = async {
                for bundle in &bundles {
                    core.retire(bundle, &process, restart).await;
                }
            };
            let limit = core.config.drain;
            let mut patience = core.config.term_timeout;
            if tokio::time::timeout(limit, retired).await.is_err() {
                patience = Duration::ZERO;
                for bundle in &bundles {
                    bundle.set_route(Core::retired(restart));
                }
            }
            process.send(&ToWorker::Shutdown);
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                tokio::select! {
                    () = process.ended() => return,
                    () = tokio::time::sleep(patience) => spawn::signal(&pidfd, signal),
                }
                patience = core.config.term_timeout;
            }
        });
    }

    /// The supervisor's last handle is gone without a shutdown.
    fn abandon(self) {
        if let Some(child) = self.child {
            spawn::signal(&child.pidfd, Signal::SIGKILL);
            let pidfd = Arc::clone(&child.pidfd);
            tokio::spawn(async move { drop(reap::wait(pidfd).await) });
        }
    }

    fn environment(&self, token: &str, scratch: &std::path::Path) -> BTreeMap<OsString, OsString> {
        /// Variables of the host that a worker may see (P1); and every one
        /// that begins with `LC_` or `DOTNET_`.
        const ALLOWED: [&str; 15] = [
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "TZ",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "VIRTUAL_ENV",
            "PYTHONHOME",
            "RUST_BACKTRACE",
            "RUST_LOG",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "MENAGERIE_DOTNET_ROOT",
            "MENAGERIE_DOTNET_BRIDGE",
        ];
        let allowed = |name: &OsString| {
            name.to_str().is_some_and(|name| {
                ALLOWED.contains(&name) || name.starts_with("LC_") || name.starts_with("DOTNET_")
            })
        };
        let mut env: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| allowed(name)).collect();
        let config = &self.core.config;
        if let Some(venv) = &config.python_venv {
            env.insert("MENAGERIE_PYTHON_VENV".into(), venv.into());
        }
        for (name, value) in &config.worker_env {
            env.insert(name.into(), value.into());
        }
        env.insert(ENV_SOCKET.into(), self.core.control.path().into());
        env.insert(ENV_TOKEN.into(), token.into());
        env.insert(ENV_SCRATCH.into(), scratch.into());
        env
    }
}
