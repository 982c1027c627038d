//! Starting a process and waiting for its hello.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use menagerie_protocol::{LoaderError, RuntimeError};
use nix::sys::signal::Signal;

use super::child::Child;
use super::dying::Dying;
use super::environment::Environment;
use super::listener::{Connected, Refusal};
use super::reap::{End, Ended};
use super::scratch::Scratch;
use super::spare::Spare;
use super::spawn::{Job, Limits, SpawnRequest, Spawning, Stdio};
use crate::config::Config;
use crate::core::Core;
use crate::events::{EventKind, Events, NextEvent};
use crate::lane::Draft;
use crate::locate;
use crate::random;

/// A process that has said hello.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) connected: Connected,
    /// A lane for the bundle that it loads first.
    pub(crate) lane: Option<Draft>,
    /// Tells that it dies a little before it has ended, where that can be told.
    pub(crate) dying: Option<Dying>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// It cannot be started, and trying again would not help.
    Impossible(RuntimeError),
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
    dying: Option<Dying>,
    /// From before the start on: what the process says may be refused before we know
    /// its pid.
    events: Events,
    expected: Expected,
}

/// What a loader's processes are started with.
#[derive(Debug)]
pub(crate) struct Order {
    loader: String,
    program: PathBuf,
    env: Environment,
}

impl Order {
    /// For a worker of this loader. A standby learns that it is one.
    pub(super) fn new(core: &Core, loader: &str, standby: bool) -> Result<Self, LaunchError> {
        let program =
            locate::worker_program(&core.config, loader).map_err(LaunchError::Impossible)?;
        let env = Environment::new(&core.config, core.control.path(), standby);
        Ok(Self { loader: loader.to_owned(), program, env })
    }

    /// Whether its program is still there.
    fn is_current(&self) -> bool {
        locate::is_program(&self.program)
    }
}

impl Begun {
    /// Begins to start a process for a worker. A standby learns that it is one.
    pub(crate) fn new(core: &Arc<Core>, loader: &str, standby: bool) -> Result<Self, LaunchError> {
        let (begun, job) = Self::of(core, Order::new(core, loader, standby)?)?;
        core.spawner.carry_out(job);
        Ok(begun)
    }

    /// The same where nobody has a moment to lose; the job is the caller's to carry out.
    pub(super) fn planned(core: &Arc<Core>, loader: &str) -> Result<(Self, Job), LaunchError> {
        let kept = core.spares.order(loader).filter(Order::is_current);
        Self::of(core, kept.map_or_else(|| Order::new(core, loader, false), Ok)?)
    }

    fn of(core: &Arc<Core>, order: Order) -> Result<(Self, Job), LaunchError> {
        let Order { loader, program, env } = order;
        let cannot = |error: io::Error| unavailable(&loader, error.to_string());
        let Spare { scratch, stdio, lane, dying } = core.spares.take().map_err(cannot)?;
        let stdio = stdio.map_or_else(Stdio::new, Ok).map_err(cannot)?;
        let events = core.events.subscribe();
        let expected = Expected::new(core);
        let config = &core.config;
        let request = SpawnRequest {
            program,
            env: env.of(&expected.token, scratch.path()),
            dir: scratch.path().to_owned(),
            stdio,
            limits: Limits {
                memory: config.memory_limit,
                descriptors: config.max_descriptors,
                processes: config.max_processes,
            },
        };
        let (job, spawning) = Job::new(request);
        Ok((Self { loader, scratch, lane, dying, events, expected, spawning }, job))
    }

    /// Waits for its hello. `started` learns its pid.
    pub(crate) async fn launched(
        self,
        started: impl FnOnce(u32) + Send,
    ) -> Result<Launched, LaunchError> {
        let Self { loader, scratch, lane, dying, events, expected, spawning } = self;
        let cannot = |error| unavailable(&loader, format!("it cannot be started: {error}"));
        let spawned = spawning.done().await.map_err(cannot)?;
        let core = Arc::clone(&expected.core);
        let child = Child::adopt(&core, &loader, spawned, scratch).map_err(cannot)?;
        started(child.pid);
        let reason = match handshake(&core.config, &loader, &child, expected, events).await {
            Ok(Some(connected)) => return Ok(Launched { child, connected, lane, dying }),
            Ok(None) => None,
            Err(reason) => {
                child.signal(Signal::SIGKILL);
                Some(reason)
            }
        };
        let ended = child.ended().await;
        if reason.is_none() && ended.end == End::Exit(LOADER_FAILED) {
            return Err(unloadable(&loader, child, ended).await);
        }
        Err(LaunchError::Died { child: Box::new(child), ended, reason })
    }
}

fn unavailable(loader: &str, problem: String) -> LaunchError {
    LaunchError::Impossible(RuntimeError::WorkerUnavailable { worker: loader.to_owned(), problem })
}

/// A token that is waited for; no longer when this is dropped.
#[derive(Debug)]
struct Expected {
    core: Arc<Core>,
    token: String,
    connected: tokio::sync::oneshot::Receiver<Result<Connected, Refusal>>,
}

impl Expected {
    fn new(core: &Arc<Core>) -> Self {
        let token = random::token();
        let connected = core.control.expect(token.clone());
        Self { core: Arc::clone(core), token, connected }
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
    mut expected: Expected,
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
            event = events.next() => {
                if let Some(NextEvent::Event(event)) = event
                    && let EventKind::PeerRefused { pid: Some(refused), reason } = event.kind
                    && refused == child.pid
                {
                    return Err(format!("handshake failed: {reason}"));
                }
            }
            connected = &mut expected.connected => return match connected {
                Ok(Ok(connected)) => check_hello(loader, child, connected).map(Some),
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

fn check_hello(loader: &str, child: &Child, connected: Connected) -> Result<Connected, String> {
    if connected.pid != Some(child.pid) {
        let pid = connected.pid;
        return Err(format!("protocol violation: the hello came from process {pid:?}"));
    }
    if connected.hello.loader != loader {
        let loader: String = connected.hello.loader.chars().take(64).collect();
        return Err(format!("protocol violation: it is the loader '{loader}'"));
    }
    Ok(connected)
}

/// What ld.so(8) exits with.
const LOADER_FAILED: i32 = 127;

/// Whether the process ended because the system's loader did not find a library
/// that the program is linked with, such as libpython: starting it again would
/// not help.
async fn unloadable(loader: &str, mut child: Child, ended: Ended) -> LaunchError {
    let lines = child.stderr_lines().await;
    let problem = lines.into_iter().find(|line| line.contains("shared libraries"));
    let Some(problem) = problem else {
        return LaunchError::Died { child: Box::new(child), ended, reason: None };
    };
    LaunchError::Impossible(RuntimeError::Loader(LoaderError::RuntimeMissing {
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
        let ahead = || core.spares.provide_for(core, "native");
        let planned = || Begun::planned(core, "native").map(drop);
        ahead();
        assert!(core.spares.order("native").is_some_and(|order| order.program == program));
        assert!(core.spares.order("native").is_none(), "it is for one process");
        planned().unwrap();
        ahead();
        std::fs::remove_file(&program).unwrap();
        let problem = planned().unwrap_err();
        let LaunchError::Impossible(RuntimeError::WorkerNotFound { looked_in, .. }) = problem
        else {
            panic!("{problem:?}")
        };
        assert_eq!(looked_in, [program.to_str().unwrap()]);
        // Nor is there one to be ordered.
        ahead();
        assert!(core.spares.order("native").is_none());
        symlink("/usr/bin/yes", &program).unwrap();
        planned().unwrap();
    }
}
