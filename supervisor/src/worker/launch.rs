//! Starting a process and waiting for its hello.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use menagerie_protocol::message::{EXIT_NO_SANDBOX, FEATURE_FIRST_LOAD};
use menagerie_protocol::sandbox::{FEATURE_SANDBOX, Kernel, SandboxError};
use menagerie_protocol::{LoaderError, RuntimeError};
use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use super::child::Child;
use super::dying::Dying;
use super::environment::Environment;
use super::first_load::{Chosen, FirstLoad, Way};
use super::listener::{Connected, Refusal};
use super::reap::{End, Ended};
use super::scratch::Scratch;
use super::spare::Spare;
use super::spawn::{FIRST_DESCRIPTOR, Job, Limits, SpawnRequest, Spawning, Stdio};
use crate::bundle::Bundle;
use crate::config::Config;
use crate::core::Core;
use crate::events::{EventKind, Events, NextEvent};
use crate::lane::{Draft, lock};
use crate::locate;
use crate::placement::WorkerName;
use crate::random;
use crate::sandbox::Rights;

/// How long the hello of a process that has ended may take to be read.
const LATE: Duration = Duration::from_millis(100);

/// A process that has said hello.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) connected: Connected,
    /// A lane for the bundle that it loads first.
    pub(crate) lane: Option<Draft>,
    /// That load, if it is on its way already.
    pub(crate) first_load: Option<FirstLoad>,
    /// Tells that it dies a little before it has ended, where that can be told.
    pub(crate) dying: Option<Dying>,
    /// What it may do in its sandbox, if it is in one.
    pub(crate) rights: Option<Arc<Rights>>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// There was no process, or none that could run its program; that may pass.
    NotStarted(RuntimeError),
    /// It ended before it had said hello, or was ended for a reason.
    Died { child: Box<Child>, ended: Ended, reason: Option<String> },
}

/// A process whose start is under way. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Begun {
    loader: String,
    // It ends before its folder goes.
    spawning: Spawning,
    scratch: Scratch,
    lane: Option<Draft>,
    /// Where it learns what to load first.
    first_load: Option<UnixStream>,
    dying: Option<Dying>,
    rights: Option<Arc<Rights>>,
    /// From before the start on: what the process says may be refused before we know
    /// its pid.
    events: Events,
    expected: Expected,
}

/// What a loader's processes are started with.
#[derive(Debug)]
pub(crate) struct Order {
    loader: String,
    standby: bool,
    program: PathBuf,
    env: Environment,
    /// Its sandbox, if it is in one.
    rights: Option<Arc<Rights>>,
}

impl Order {
    /// For a process of this worker. A standby, of its loader's, learns that it is one.
    pub(super) fn new(core: &Core, name: &WorkerName, standby: bool) -> Result<Self, LaunchError> {
        let loader = &name.loader;
        let rights = rights_of(core, name);
        if rights.is_some() {
            let lacking = |error: SandboxError| unavailable(loader, error.to_string());
            Kernel::current().check().map_err(lacking)?;
        }
        let program =
            locate::worker_program(&core.config, loader).map_err(LaunchError::NotStarted)?;
        let env = Environment::new(&core.config, core.control.path(), standby);
        Ok(Self { loader: loader.clone(), standby, program, env, rights })
    }

    /// Whether its program is still there.
    fn is_current(&self) -> bool {
        locate::is_program(&self.program)
    }
}

/// What a worker's processes may do in their sandbox: what its bundle gets. `None` if they
/// are in none.
fn rights_of(core: &Core, name: &WorkerName) -> Option<Arc<Rights>> {
    let bundle = name.bundle.as_ref().filter(|_| name.is_in_sandbox(&core.config))?;
    let bundle = lock(&core.registry).of_name(bundle);
    // Who is about to stop may do nothing.
    Some(bundle.and_then(|bundle| bundle.content().rights.clone()).unwrap_or_default())
}

impl Begun {
    /// Begins to start a process for a worker. A standby learns that it is one.
    pub(crate) fn new(
        core: &Arc<Core>,
        name: &WorkerName,
        standby: bool,
    ) -> Result<Self, LaunchError> {
        let (begun, job) = Self::of(core, Order::new(core, name, standby)?)?;
        core.spawner.carry_out(job);
        Ok(begun)
    }

    /// The same where nobody has a moment to lose; the job is the caller's to carry out.
    pub(super) fn planned(core: &Arc<Core>, name: &WorkerName) -> Result<(Self, Job), LaunchError> {
        let kept = core.spares.order(core, name).filter(Order::is_current);
        Self::of(core, kept.map_or_else(|| Order::new(core, name, false), Ok)?)
    }

    fn of(core: &Arc<Core>, order: Order) -> Result<(Self, Job), LaunchError> {
        let Order { loader, standby, program, env, rights } = order;
        let cannot = |error: io::Error| unavailable(&loader, error.to_string());
        let Spare { scratch, stdio, first_load, lane, dying } =
            core.spares.take().map_err(cannot)?;
        let stdio = stdio.map_or_else(Stdio::new, Ok).map_err(cannot)?;
        // Nothing is known of what a standby will load.
        let (first_load, descriptor) = first_load.filter(|_| !standby).map(Way::into_ends).unzip();
        let events = core.events.subscribe();
        let expected = Expected::new(core, rights.is_some());
        let config = &core.config;
        let number = descriptor.as_ref().map(|_| FIRST_DESCRIPTOR);
        let limits = rights.as_ref().map(|rights| &rights.limits);
        let env = env.of(&expected.token, scratch.path(), number, limits);
        let request = SpawnRequest {
            program,
            env: env.map_err(|error| unavailable(&loader, error.to_string()))?,
            dir: scratch.path().to_owned(),
            stdio,
            descriptor,
            limits: Limits {
                memory: config.memory_limit,
                descriptors: config.max_descriptors,
                processes: config.max_processes,
            },
        };
        let (job, spawning) = Job::new(request);
        let begun =
            Self { loader, scratch, lane, first_load, dying, rights, events, expected, spawning };
        Ok((begun, job))
    }

    /// Waits for its hello. `started` learns its pid. If `first` comes before it, that
    /// bundle's load is sent beforehand.
    pub(super) async fn launched(
        self,
        first: Option<oneshot::Receiver<Arc<Bundle>>>,
        started: impl FnOnce(u32) + Send,
    ) -> Result<Launched, LaunchError> {
        let Self {
            loader,
            scratch,
            mut lane,
            mut first_load,
            dying,
            rights,
            events,
            mut expected,
            spawning,
        } = self;
        let cannot = |error| unavailable(&loader, format!("it cannot be started: {error}"));
        let spawned = spawning.done().await.map_err(cannot)?;
        let core = Arc::clone(&expected.core);
        let child = Child::adopt(&core, &loader, spawned, scratch).map_err(cannot)?;
        started(child.pid);
        let mut first_sent = None;
        let outcome = {
            let handshake = handshake(&core.config, &loader, &child, &mut expected, events);
            let chosen = async { Chosen::new(first?.await.ok()?, rights.as_ref()).await };
            let (mut handshake, mut chosen) =
                (std::pin::pin!(handshake), std::pin::pin!(chosen.fuse()));
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut handshake => break outcome,
                    Some(chosen) = &mut chosen => {
                        let way = lane.take().zip(first_load.take());
                        let send = |(lane, socket)| chosen.send(&core.config, lane, socket);
                        first_sent = way.and_then(send);
                    }
                }
            }
        };
        let outcome = match outcome {
            // It says hello before it reads that, and may have ended before we read it.
            Ok(None) if first_sent.as_ref().is_some_and(FirstLoad::was_read) => {
                late_hello(&loader, &child, &mut expected).await
            }
            outcome => outcome,
        };
        let reason = match outcome {
            Ok(Some(connected)) => {
                let takes_it = connected.hello.has(FEATURE_FIRST_LOAD);
                let first_load = first_sent.filter(|_| takes_it);
                return Ok(Launched { child, connected, lane, first_load, dying, rights });
            }
            Ok(None) => None,
            Err(reason) => {
                child.signal(Signal::SIGKILL);
                Some(reason)
            }
        };
        let ended = child.ended().await;
        match (&reason, ended.end) {
            (None, End::Exit(LOADER_FAILED)) => {
                let cannot = |problem| unloadable(&loader, problem);
                Err(explained(child, ended, "shared libraries", cannot).await)
            }
            (None, End::Exit(EXIT_NO_SANDBOX)) => {
                let cannot = |problem| unavailable(&loader, problem);
                Err(explained(child, ended, "sandbox", cannot).await)
            }
            _ => Err(LaunchError::Died { child: Box::new(child), ended, reason }),
        }
    }
}

fn unavailable(loader: &str, problem: String) -> LaunchError {
    LaunchError::NotStarted(RuntimeError::WorkerUnavailable { worker: loader.to_owned(), problem })
}

/// A token that is waited for; no longer when this is dropped.
#[derive(Debug)]
struct Expected {
    core: Arc<Core>,
    token: String,
    /// Whether it has to be in a sandbox.
    in_sandbox: bool,
    connected: oneshot::Receiver<Result<Connected, Refusal>>,
}

impl Expected {
    fn new(core: &Arc<Core>, in_sandbox: bool) -> Self {
        let token = random::token();
        let connected = core.control.expect(token.clone());
        Self { core: Arc::clone(core), token, in_sandbox, connected }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.core.control.forget(&self.token);
    }
}

/// Waits for the hello of the process that was started: `None` if the process
/// ended first.
async fn handshake(
    config: &Config,
    loader: &str,
    child: &Child,
    expected: &mut Expected,
    mut events: Events,
) -> Result<Option<Connected>, String> {
    // Starting a .NET or JavaScript VM takes its time (S6).
    let slow = matches!(loader, "dotnet" | "js");
    let limit = if slow { config.slow_start_timeout } else { config.start_timeout };
    let mut too_late = std::pin::pin!(tokio::time::sleep(limit));
    loop {
        tokio::select! {
            biased;
            // What it said was no hello, or not its own: nobody else tells us.
            Some(event) = events.next() => {
                if let NextEvent::Event(event) = event
                    && let EventKind::PeerRefused { pid: Some(refused), reason } = event.kind
                    && refused == child.pid
                {
                    return Err(format!("handshake failed: {reason}"));
                }
            }
            connected = &mut expected.connected => return match connected {
                Ok(Ok(connected)) => {
                    check_hello(loader, child, expected.in_sandbox, connected).map(Some)
                }
                Ok(Err(refusal)) => Err(format!("handshake failed: {refusal}")),
                Err(_) => Err("handshake failed: nobody listens".to_owned()),
            },
            _ = child.ended() => return Ok(None),
            () = &mut too_late => {
                return Err(format!("handshake failed: no hello within {limit:?}"));
            }
        }
    }
}

/// The hello of a process that has said it, and has ended.
async fn late_hello(
    loader: &str,
    child: &Child,
    expected: &mut Expected,
) -> Result<Option<Connected>, String> {
    match tokio::time::timeout(LATE, &mut expected.connected).await {
        Ok(Ok(Ok(connected))) => {
            check_hello(loader, child, expected.in_sandbox, connected).map(Some)
        }
        _ => Ok(None),
    }
}

fn check_hello(
    loader: &str,
    child: &Child,
    in_sandbox: bool,
    connected: Connected,
) -> Result<Connected, String> {
    if connected.pid != Some(child.pid) {
        let pid = connected.pid;
        return Err(format!("protocol violation: the hello came from process {pid:?}"));
    }
    if connected.hello.loader != loader {
        let loader: String = connected.hello.loader.chars().take(64).collect();
        return Err(format!("protocol violation: it is the loader '{loader}'"));
    }
    if in_sandbox && !connected.hello.has(FEATURE_SANDBOX) {
        return Err("handshake failed: it is not in the sandbox that it should be in".to_owned());
    }
    Ok(connected)
}

/// What ld.so(8) exits with.
const LOADER_FAILED: i32 = 127;

/// The end of a process that says by a line with this word why it could not begin, which is
/// no crash; without the line it is.
async fn explained(
    mut child: Child,
    ended: Ended,
    word: &str,
    cannot: impl FnOnce(String) -> LaunchError,
) -> LaunchError {
    let lines = child.stderr_lines().await;
    match lines.into_iter().find(|line| line.contains(word)) {
        Some(problem) => cannot(problem),
        None => LaunchError::Died { child: Box::new(child), ended, reason: None },
    }
}

/// The system's loader did not find a library that the program is linked with, such as
/// libpython.
fn unloadable(loader: &str, problem: String) -> LaunchError {
    LaunchError::NotStarted(RuntimeError::Loader(LoaderError::RuntimeMissing {
        runtime: format!("the library that the worker '{loader}' is linked with"),
        problem,
        remedy: "Install it, or build the worker again; `menagerie doctor` says more".to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::Supervisor;

    #[tokio::test]
    async fn s3_what_was_ordered_ahead_is_there_still_or_is_looked_for_anew() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("worker");
        symlink("/usr/bin/yes", &program).unwrap();
        let mut config = Config::default();
        config.worker_programs.insert("native".to_owned(), program.clone());
        let supervisor = Supervisor::builder().config(config).start().unwrap();
        let core = supervisor.core();
        let native = WorkerName::shared("native");
        let ahead = || core.spares.provide_for(core, &native);
        let planned = || Begun::planned(core, &native).map(drop);
        ahead();
        assert!(core.spares.order(core, &native).is_some_and(|order| order.program == program));
        assert!(core.spares.order(core, &native).is_none(), "it is for one process");
        planned().unwrap();
        ahead();
        std::fs::remove_file(&program).unwrap();
        let problem = planned().unwrap_err();
        let LaunchError::NotStarted(RuntimeError::WorkerNotFound { looked_in, .. }) = problem
        else {
            panic!("{problem:?}")
        };
        assert_eq!(looked_in, [program.to_str().unwrap()]);
        // Nor is there one to be ordered.
        ahead();
        assert!(core.spares.order(core, &native).is_none());
        symlink("/usr/bin/yes", &program).unwrap();
        planned().unwrap();
    }
}
