//! A worker's life, carried out: the task that starts its processes, notices
//! their ends and starts them again. What to do is decided by
//! [`Lifecycle`]; this module only does it.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{Failure, RuntimeError};
use tokio::sync::{mpsc, watch};

use super::alive::Alive;
use super::crash::{self, Death};
use super::handle::{Command, Current, View};
use super::idle::Due;
use super::judge::{Outlook, judge};
use super::launch::{LaunchError, Launched};
use super::launching::{Early, Launching, attend, launched};
use super::process::{KillCause, Process};
use super::reap::Ended;
use super::restore::{self, Pace, restore};
use super::rolling::Rolling;
use super::stop;
use crate::bundle::Route;
use crate::core::Core;
use crate::events::{self, EventKind, Open};
use crate::lane::lock;
use crate::lifecycle::{Action, Input, Lifecycle, State, WorkerState};
use crate::placement::WorkerName;
use crate::random;
use crate::restart::UNNEEDED;
use crate::status::{Activity, BundleState};

/// How long what can wait does so when a worker has become ready.
const CALLERS_FIRST: Duration = Duration::from_millis(2);
/// What panics again and again leaves the others the CPU.
const AFTER_PANIC: Duration = Duration::from_millis(100);

pub(super) struct Actor {
    pub(super) name: WorkerName,
    pub(super) core: Arc<Core>,
    pub(super) life: Lifecycle,
    queue: mpsc::UnboundedReceiver<Command>,
    pub(super) commands: mpsc::WeakUnboundedSender<Command>,
    pub(super) current: watch::Sender<Current>,
    pub(super) view: Arc<Mutex<View>>,
    /// When the life wants [`Input::Timer`].
    timer: Option<Instant>,
    /// A process that has not said hello yet.
    launching: Option<Launching>,
    /// The process after the one that serves, which has begun to die.
    pub(super) early: Option<Early>,
    /// The process that serves.
    pub(super) alive: Option<Alive>,
    /// A rolling restart that is under way.
    pub(super) rolling: Option<Rolling>,
    /// Whether the last process died while it loaded several bundles.
    pace: Pace,
    /// No recycling for its memory before then, whichever process serves.
    memory_not_before: Option<Instant>,
    /// Whether it was said that the limit of its memory is too low.
    has_complained: bool,
    /// Whether nobody will ask for anything any more.
    closed: bool,
    /// Whether the crash that is being handled is known to everybody.
    pub(super) crash_is_told: bool,
    /// It has something to tell until its end.
    _open: Open,
}

/// What an actor waits for.
enum Happening {
    Launched(Box<Result<Launched, LaunchError>>),
    Ended(Ended),
    Dying,
    NextLaunched(Box<Result<Launched, LaunchError>>),
    NextEnded(Ended),
    Command(Option<Command>),
    Beat,
    Timer,
}

async fn dying(alive: Option<&Alive>) {
    match alive {
        Some(alive) => alive.dying().await,
        None => std::future::pending().await,
    }
}

async fn ended(alive: Option<&Alive>) -> Ended {
    match alive {
        Some(alive) => alive.child.ended().await,
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

impl Actor {
    pub(super) fn new(
        name: WorkerName,
        core: &Arc<Core>,
        queue: mpsc::UnboundedReceiver<Command>,
        commands: mpsc::WeakUnboundedSender<Command>,
        current: watch::Sender<Current>,
        view: Arc<Mutex<View>>,
    ) -> Self {
        Self {
            name,
            core: Arc::clone(core),
            life: Lifecycle::new(core.config.restart.clone()),
            queue,
            commands,
            current,
            view,
            timer: None,
            launching: None,
            early: None,
            alive: None,
            rolling: None,
            pace: Pace::Together,
            memory_not_before: None,
            has_complained: false,
            closed: false,
            crash_is_told: false,
            _open: core.events.open(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut has_panicked = false;
        loop {
            let life = async {
                if has_panicked {
                    self.recover();
                }
                self.live().await;
            };
            // What a panic leaves half done is thrown away.
            if AssertUnwindSafe(life).catch_unwind().await.is_ok() {
                return;
            }
            has_panicked = true;
            tokio::time::sleep(AFTER_PANIC).await;
        }
    }

    /// The task has panicked: a bug, or the host's `tracing` code. To the worker it is a
    /// crash as any other.
    fn recover(&mut self) {
        const PROBLEM: &str = "the supervisor's task for it has panicked";
        let error = self.unavailable(PROBLEM);
        self.give_up_rolling(&error);
        (self.early, self.launching) = (None, None);
        if let Some(alive) = &self.alive {
            // The rest follows from its end.
            return alive.process.kill(KillCause::Supervisor, PROBLEM);
        }
        self.show_state();
        let action = match self.life.state() {
            State::Starting { .. } => self.cannot_start(error),
            State::Draining { .. } => self.stopped(),
            State::Backoff { until } | State::Quarantined { until } => Action::WaitUntil(*until),
            State::Ready { .. } | State::Crashed | State::Stopped => self.input(Input::Died),
        };
        self.perform(action);
    }

    async fn live(&mut self) {
        while !self.is_over() {
            self.foresee();
            let happening = self.next().await;
            // Until this is done with, nobody else tells of the process's end.
            self.crash_is_told =
                self.alive.as_ref().is_some_and(|alive| alive.child.obituary.withdraw());
            let dies = matches!(happening, Happening::Dying);
            if self.crash_is_told && !dies && !matches!(happening, Happening::Ended(_)) {
                // What everybody knows comes first.
                self.choose_next();
                self.see_end().await;
            }
            self.handle(happening);
            if dies {
                self.see_end().await;
            }
        }
    }

    /// Waits for the end of the process that serves, which has begun to die. Nothing
    /// else is done until then, so that whatever comes finds what follows from it.
    async fn see_end(&mut self) {
        let Some(alive) = &self.alive else { return };
        let ended = tokio::select! {
            ended = alive.child.ended() => ended,
            never = attend(self.early.as_mut()) => match never {},
        };
        self.handle(Happening::Ended(ended));
    }

    fn handle(&mut self, happening: Happening) {
        let action = match happening {
            Happening::Launched(outcome) => self.launched(*outcome),
            Happening::Ended(ended) => self.died(ended),
            Happening::Dying => {
                self.tell();
                self.choose_next();
                Action::None
            }
            Happening::NextLaunched(outcome) => self.next_launched(*outcome),
            Happening::NextEnded(ended) => self.next_died(ended),
            Happening::Command(command) => self.command(command.unwrap_or(Command::End)),
            Happening::Beat => {
                let next = self.rolling.as_mut().and_then(|rolling| rolling.next.as_mut());
                for alive in self.alive.iter_mut().chain(next) {
                    alive.beat(&self.core);
                }
                self.look_at_work()
            }
            Happening::Timer => {
                self.timer = None;
                self.input(Input::Timer)
            }
        };
        self.perform(action);
    }

    /// Whether nothing is left to be done.
    fn is_over(&self) -> bool {
        self.closed && self.alive.is_none() && self.launching.is_none()
    }

    /// The supervisor is gone, or has no use for this worker.
    fn abandon(&mut self) -> Action {
        let drains = matches!(self.life.state(), State::Draining { .. });
        self.give_up_rolling(&self.unneeded());
        // Nor is it started again after a stop that is under way.
        let _ = self.input(Input::Stop { restart: false });
        match &self.alive {
            Some(_) if drains => Action::None,
            // Nobody waits for an orderly end.
            Some(alive) => {
                alive.process.kill(KillCause::Supervisor, "its supervisor is gone");
                Action::None
            }
            None if self.launching.take().is_some() => self.stopped(),
            None => {
                self.rest();
                Action::None
            }
        }
    }

    async fn next(&mut self) -> Happening {
        let alive = self.alive.as_ref();
        let (next_launching, next) = match &mut self.rolling {
            Some(rolling) => (rolling.launching.as_mut(), rolling.next.as_ref()),
            None => (None, None),
        };
        let beat = alive.into_iter().chain(next).map(Alive::wake_at).min();
        tokio::select! {
            biased;
            outcome = launched(self.launching.as_mut()) => Happening::Launched(outcome),
            ended = ended(alive) => Happening::Ended(ended),
            () = dying(alive) => Happening::Dying,
            never = attend(self.early.as_mut()) => match never {},
            outcome = launched(next_launching) => Happening::NextLaunched(outcome),
            ended = ended(next) => Happening::NextEnded(ended),
            command = self.queue.recv(), if !self.closed => Happening::Command(command),
            () = at(beat) => Happening::Beat,
            () = at(self.timer) => Happening::Timer,
        }
    }

    fn command(&mut self, command: Command) -> Action {
        match command {
            Command::End => {
                self.closed = true;
                self.abandon()
            }
            // What stops now is not started again.
            Command::Wanted | Command::Needed if *self.core.stopping.borrow() => {
                if self.alive.is_none() {
                    let error = Box::new(RuntimeError::ShuttingDown);
                    self.current.send_replace(Current::Down(Some(error)));
                }
                Action::None
            }
            Command::Wanted => self.input(Input::Wanted),
            Command::Needed => self.input(Input::Needed),
            Command::Restore => {
                if let Some(alive) = &self.alive {
                    self.restore(Arc::clone(&alive.process));
                }
                Action::None
            }
            Command::Restored(incarnation) => {
                let Some(alive) = self.serving(incarnation) else { return Action::None };
                alive.process.leave_first();
                self.pace = Pace::Together;
                self.look_at_memory();
                self.settle_soon(incarnation);
                self.input(Input::Loaded)
            }
            Command::Settled(incarnation) => {
                if let Some(alive) = self.serving(incarnation) {
                    alive.watch_for_death();
                    self.core.spares.provide_for(&self.core, &self.name);
                    self.core.standbys.refill(&self.core, &self.name);
                }
                Action::None
            }
            Command::Stop => {
                self.give_up_rolling(&self.unneeded());
                let action = self.input(Input::Stop { restart: false });
                // One that had no process has nothing to wait for.
                self.rest();
                action
            }
            // Whoever asked learns by the end of the channel.
            Command::Restart(_) if *self.core.stopping.borrow() => Action::None,
            Command::Restart(begun) => {
                self.give_up_rolling(&self.unavailable("it was restarted meanwhile"));
                let before = self.life.incarnation();
                let action = self.input(Input::Stop { restart: true });
                let _ = begun.send(before);
                action
            }
            Command::Roll(reply) => {
                self.roll(reply);
                Action::None
            }
            Command::Rolled(process, outcome) => {
                self.rolled(&process, *outcome);
                Action::None
            }
        }
    }

    /// Whether the process has nothing to do, or has done enough (S9).
    fn look_at_work(&mut self) -> Action {
        let Some(alive) = &mut self.alive else { return Action::None };
        if self.rolling.is_some() || !matches!(self.life.state(), State::Ready { .. }) {
            return Action::None;
        }
        match alive.look_at_work(&self.core.config, &mut self.memory_not_before) {
            Due::Nothing => Action::None,
            Due::Stop => self.input(Input::Idle),
            Due::Recycle(reason) => {
                let worker = self.name.to_string();
                self.core.events.emit(EventKind::WorkerRecycled { worker, reason });
                self.recycle();
                Action::None
            }
        }
    }

    /// Says so, once, if its process needs more memory than it may have as soon as it has
    /// loaded its bundles.
    fn look_at_memory(&mut self) {
        let Some(limit) = self.core.config.recycle_after_rss else { return };
        let rss = self.alive.as_ref().and_then(Alive::rss_bytes).filter(|rss| *rss >= limit);
        if let Some(rss) = rss.filter(|_| !self.has_complained) {
            self.has_complained = true;
            let worker = self.name.to_string();
            let text = format!(
                "worker {worker} has {rss} bytes of memory as soon as it has loaded its bundles: \
                 recycle_after_rss = {limit} recycles it again and again"
            );
            tracing::warn!("{text}");
            self.core.events.logs.push(LogLevel::Warn, Some(&worker), None, "supervisor", &text);
        }
    }

    fn perform(&mut self, mut action: Action) {
        loop {
            action = match action {
                Action::None => return,
                Action::WaitUntil(until) => {
                    self.timer = Some(until);
                    return;
                }
                Action::Drain => self.drain(),
                Action::Spawn => {
                    self.timer = None;
                    self.spawn();
                    return;
                }
            };
        }
    }

    /// Tells the life what happened, and everybody else where it led.
    pub(super) fn input(&mut self, input: Input) -> Action {
        let action = self.life.on(input, Instant::now(), random::fraction());
        let path = self.life.take_path();
        let pid = self.pid();
        {
            let mut view = lock(&self.view);
            view.state = Some(self.life.state().name());
            view.incarnation = self.life.incarnation();
            view.restarts = self.life.restarts();
            view.pid = pid;
        }
        for (state, incarnation) in path {
            let worker = self.name.to_string();
            let event = EventKind::WorkerState { worker, state, incarnation, pid };
            if state == WorkerState::Crashed && std::mem::take(&mut self.crash_is_told) {
                events::log(&event);
            } else {
                self.core.events.emit(event);
            }
        }
        self.show_state();
        action
    }

    /// What calls and loads can count on in this state.
    fn show_state(&self) {
        match self.life.state() {
            State::Quarantined { .. } => {
                self.current.send_replace(Current::Quarantined);
                let failure = Failure::Quarantined { what: format!("worker '{}'", self.name) };
                for bundle in self.core.bundles_of(&self.name) {
                    let seat = bundle.seat_in(&self.name);
                    if matches!(&**seat.route(), Route::Waiting(_)) {
                        let failure = Box::new(failure.clone());
                        seat.set_route(Route::Down(BundleState::Failed, failure));
                    }
                }
            }
            State::Backoff { .. } | State::Crashed => {
                self.current.send_replace(Current::Coming);
            }
            State::Starting { .. } if self.alive.is_none() => {
                self.current.send_replace(Current::Coming);
                for bundle in self.core.bundles_of(&self.name) {
                    let seat = bundle.seat_in(&self.name);
                    if matches!(&**seat.route(), Route::Down(..)) && !bundle.is_quarantined() {
                        seat.set_route(Route::Waiting(BundleState::Waiting));
                    }
                }
            }
            _ => {}
        }
    }

    fn pid(&self) -> Option<u32> {
        let alive = self.alive.as_ref().map(|alive| alive.child.pid);
        alive.or_else(|| self.launching.as_ref()?.pid())
    }

    /// Starts a process, unless one has been started that can take over.
    fn spawn(&mut self) {
        if let Some(next) = self.rolling.as_mut().and_then(|rolling| rolling.next.take()) {
            // What it has loaded already is not loaded again.
            self.serve(next);
            self.early = None;
            return;
        }
        let mut launching = match self.claim() {
            Some(Early::Waits(standby)) => return self.up(*standby),
            Some(Early::Starts(launching)) => {
                lock(&self.view).pid = launching.pid();
                launching
            }
            None => self.launch(),
        };
        let bundles = self.core.bundles_of(&self.name);
        if let Some(first) = restore::first(&bundles, self.core.config.compatibility) {
            launching.load_first(first);
        }
        self.launching = Some(launching);
    }

    fn launched(&mut self, outcome: Result<Launched, LaunchError>) -> Action {
        self.launching = None;
        match outcome {
            Ok(launched) => {
                self.up(launched);
                Action::None
            }
            Err(LaunchError::NotStarted(error)) => self.cannot_start(error),
            Err(LaunchError::Died { child, ended, reason }) => {
                let incarnation = self.life.incarnation();
                let death = crash::unserved(&self.name, incarnation, *child, ended, reason);
                self.mourn(death)
            }
        }
    }

    fn up(&mut self, launched: Launched) {
        let incarnation = self.life.incarnation();
        self.serve(Alive::begin(&self.core, &self.name, incarnation, launched));
    }

    /// From now on this process serves.
    fn serve(&mut self, alive: Alive) {
        {
            let mut view = lock(&self.view);
            view.pid = Some(alive.child.pid);
            view.show(&alive.hello);
            view.problem = None;
        }
        let process = Arc::clone(&alive.process);
        self.alive = Some(alive);
        self.current.send_replace(Current::Up(Arc::clone(&process)));
        self.restore(process);
    }

    /// Loads everything that should be loaded (S4), in the background.
    fn restore(&self, process: Arc<Process>) {
        let bundles = self.core.bundles_of(&self.name);
        let (commands, core, pace) = (self.commands.clone(), Arc::clone(&self.core), self.pace);
        let restored = async move {
            let restored = AssertUnwindSafe(restore(&core, &bundles, &process, pace));
            if restored.catch_unwind().await.is_err() {
                let reason = "the supervisor's task that loads its bundles has panicked";
                return process.kill(KillCause::Supervisor, reason);
            }
            if let Some(commands) = commands.upgrade() {
                drop(commands.send(Command::Restored(process.incarnation)));
            }
        };
        tokio::spawn(self.core.telling(restored));
    }

    /// The process that serves, if it is this one.
    fn serving(&mut self, incarnation: u64) -> Option<&mut Alive> {
        self.alive.as_mut().filter(|alive| alive.process.incarnation == incarnation)
    }

    /// Sees to the crash to come once those have been served who wait after the one
    /// before.
    fn settle_soon(&self, incarnation: u64) {
        let commands = self.commands.clone();
        drop(tokio::spawn(async move {
            tokio::time::sleep(CALLERS_FIRST).await;
            if let Some(commands) = commands.upgrade() {
                drop(commands.send(Command::Settled(incarnation)));
            }
        }));
    }

    /// What is the matter may pass: descriptors are short, or the program is just being
    /// replaced. Whoever has bundles here tries again as after a crash (S3).
    fn cannot_start(&mut self, error: RuntimeError) -> Action {
        let problem = error.to_string();
        lock(&self.view).problem = Some(problem.clone());
        let worker = self.name.to_string();
        self.core.events.emit(EventKind::StartFailed { worker, reason: problem.clone() });
        let bundles = self.core.bundles_of(&self.name);
        let action = self.input(Input::CannotStart { needed: !bundles.is_empty() });
        if matches!(self.life.state(), State::Quarantined { .. }) {
            for bundle in bundles.iter().filter(|bundle| !bundle.is_quarantined()) {
                let (bundle_name, problem) = (bundle.name.clone(), problem.clone());
                let failure = Failure::BundleUnavailable { bundle: bundle_name, problem };
                let route = Route::Down(BundleState::Failed, Box::new(failure));
                bundle.seat_in(&self.name).set_route(route);
            }
        }
        // Whoever loads something here learns why, and need not wait for the next start.
        self.current.send_replace(Current::Down(Some(Box::new(error))));
        action
    }

    /// The process that served has ended.
    fn died(&mut self, ended: Ended) -> Action {
        // Its end may be told before its beginning is.
        self.take_begun();
        let Some(alive) = self.alive.take() else { return Action::None };
        let death = crash::served(&self.name, alive, ended);
        let action = self.mourn(death);
        if action != Action::Spawn {
            // It is not wanted, or not yet.
            self.early = None;
        }
        action
    }

    fn mourn(&mut self, death: Death) -> Action {
        if matches!(self.life.state(), State::Draining { .. }) {
            self.current.send_replace(Current::Coming);
            return self.stopped();
        }
        let running = &death.report.running;
        let loads = running.iter().filter(|call| call.activity == Activity::Load);
        if loads.count() > 1 {
            self.pace = Pace::OneByOne;
        }
        lock(&self.view).problem = None;
        // Whoever waits for the judgement has it when the worker turns to what comes next.
        let action = match judge(&self.core, &self.name, &death) {
            Outlook::Open => self.input(Input::Died),
            Outlook::CulpritGone => {
                let _ = self.input(Input::CulpritGone);
                self.input(Input::Died)
            }
            Outlook::Untouched => self.input(Input::DiedOfNewcomer),
        };
        if matches!(self.life.state(), State::Quarantined { .. }) {
            self.give_up_rolling(&self.unavailable("it is quarantined"));
        }
        death.publish(&self.core, &self.view);
        action
    }

    /// It has ended because somebody had asked for it.
    fn stopped(&mut self) -> Action {
        let action = self.input(Input::Died);
        self.rest();
        action
    }

    /// If it is stopped, whoever waits for it learns so; and that it stays so, if
    /// everything ends.
    fn rest(&self) {
        if *self.life.state() != State::Stopped {
            return;
        }
        self.current.send_replace(Current::Down(None));
        if *self.core.stopping.borrow() {
            self.refuse_calls();
        }
    }

    /// Its bundles' calls fail, as everything ends.
    fn refuse_calls(&self) {
        let failure = Box::new(Failure::ShuttingDown);
        let route = Route::Down(BundleState::Unloading, failure);
        for bundle in self.core.bundles_of(&self.name) {
            bundle.seat_in(&self.name).set_route(route.clone());
        }
    }

    pub(super) fn unavailable(&self, problem: &str) -> RuntimeError {
        let worker = self.name.to_string();
        RuntimeError::WorkerUnavailable { worker, problem: problem.to_owned() }
    }

    /// Why it stops for good.
    fn unneeded(&self) -> RuntimeError {
        if *self.core.stopping.borrow() {
            return RuntimeError::ShuttingDown;
        }
        self.unavailable(UNNEEDED)
    }

    /// Ends the process in an orderly way, in the background.
    fn drain(&mut self) -> Action {
        let Some(alive) = &self.alive else {
            // It has not said hello: there is nothing that could be orderly.
            self.launching = None;
            return self.stopped();
        };
        alive.process.close();
        // Whoever wants a process waits for the next one.
        self.current.send_replace(Current::Coming);
        // Unless everything ends, its bundles wait: a call starts it again.
        let restart = !*self.core.stopping.borrow();
        let (core, process) = (Arc::clone(&self.core), Arc::clone(&alive.process));
        tokio::spawn(stop::drain(core, self.name.clone(), process, restart));
        Action::None
    }
}

impl Drop for Actor {
    /// If something is left to be done, the runtime has ended before: no task and no timer
    /// will do it.
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        let (state, before) = (WorkerState::Stopped, self.life.state().name());
        {
            let mut view = lock(&self.view);
            (view.state, view.pid) = (Some(state), None);
        }
        self.refuse_calls();
        // And those that were begun end with their process.
        drop(self.alive.take());
        if state != before {
            let (worker, incarnation) = (self.name.to_string(), self.life.incarnation());
            // Without the host's code, which may be what has panicked.
            self.core.events.tell(EventKind::WorkerState { worker, state, incarnation, pid: None });
        }
    }
}
