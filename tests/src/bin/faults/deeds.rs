//! How faults are committed: by calling the guilty bundle, or by what happens
//! to it from outside.

use std::time::Duration;

use menagerie_supervisor::{Failure, RuntimeError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bundles::Guilty;
use crate::stage::{Problem, Stage, step, until};

/// How long the guilty call may take.
const DEADLINE: Duration = Duration::from_millis(500);

/// And one that is struck from outside: its worker's end is what ends it.
const LONG: Duration = Duration::from_secs(30);

/// Whether a fault needs a worker program of its own.
pub(crate) fn harms_the_program(fault: &str) -> bool {
    matches!(fault, "replaced" | "deleted")
}

/// Commits a fault; what its caller is told.
pub(crate) async fn play(stage: &Stage<'_>, fault: &str) -> Result<String, Problem> {
    match fault {
        "killed" => struck(stage, |pid| kill(pid, Signal::SIGKILL)).await,
        "stopped" => struck(stage, |pid| kill(pid, Signal::SIGSTOP)).await,
        "double" => twice(stage).await,
        "loop" => again_and_again(stage).await,
        "init" => {
            let bad = Guilty::at(stage.guilty.language, "init")?;
            let load = async { Ok::<_, Problem>(stage.supervisor.load(&bad.path).await) };
            match step(&stage.supervisor, "load what aborts", load).await? {
                Ok(_) => Err("what aborts in its init was loaded".into()),
                Err(error) => Ok(format!("load: {}", kind(&error))),
            }
        }
        "unload" => {
            let bad = Guilty::at(stage.guilty.language, "unload")?;
            let supervisor = &stage.supervisor;
            step(supervisor, "load what aborts later", supervisor.load(&bad.path)).await?;
            let unload = async { Ok::<_, Problem>(supervisor.unload("guilty-unload").await) };
            Ok(match step(supervisor, "unload what aborts", unload).await? {
                Ok(()) => "unload: done".to_owned(),
                Err(error) => format!("unload: {}", kind(&error)),
            })
        }
        "replaced" => {
            // As an upgrade does it: another file of the same name.
            let new = stage.program.with_extension("new");
            std::fs::copy(&stage.program, &new)?;
            std::fs::rename(new, &stage.program)?;
            Ok(told(&call(stage, "abort").await))
        }
        "deleted" => deleted(stage).await,
        _ => Ok(told(&call(stage, fault).await)),
    }
}

async fn call(stage: &Stage<'_>, fault: &str) -> Result<rmpv::Value, Failure> {
    call_within(stage, fault, DEADLINE).await
}

async fn call_within(
    stage: &Stage<'_>,
    fault: &str,
    deadline: Duration,
) -> Result<rmpv::Value, Failure> {
    let (function, arguments) = stage.guilty.call(fault);
    stage.culprit.clone().with_timeout(deadline).call_value(function, &arguments).await
}

/// A fault from outside, while the bundle is at a call.
///
/// A call that was sent may not have begun: then it goes on to the next process
/// (C4), and there comes another blow, after longer and longer pauses.
async fn struck(
    stage: &Stage<'_>,
    blow: impl Fn(Pid) -> nix::Result<()>,
) -> Result<String, Problem> {
    let name = stage.guilty.name();
    let strike = async {
        let mut pause = Duration::from_millis(50);
        loop {
            until("the call to run", || {
                let bundles = stage.supervisor.status().bundles;
                bundles.iter().any(|b| b.name == name && b.calls.in_flight == 1).then_some(())
            })
            .await?;
            if let Some(pid) = pid(stage) {
                // It may have ended since.
                let _ = blow(pid);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    };
    tokio::select! {
        outcome = call_within(stage, "sleep", LONG) => Ok(told(&outcome)),
        problem = strike => problem,
    }
}

/// A second blow as soon as there is another process, long before it is ready.
async fn twice(stage: &Stage<'_>) -> Result<String, Problem> {
    let first = pid(stage).ok_or("the guilty has no worker")?;
    let outcome = struck(stage, |pid| kill(pid, Signal::SIGKILL)).await?;
    let second = until("the next process", || pid(stage).filter(|pid| *pid != first)).await?;
    // It may have ended by itself since.
    let _ = kill(second, Signal::SIGKILL);
    Ok(outcome)
}

/// Crashes until the bundle is quarantined, which a reload by hand ends.
async fn again_and_again(stage: &Stage<'_>) -> Result<String, Problem> {
    let until_quarantined = async {
        let mut crashes = 0;
        loop {
            match call(stage, "abort").await {
                Err(Failure::Quarantined { .. }) => return Ok(crashes),
                Err(Failure::WorkerCrashed { .. }) if crashes < 20 => crashes += 1,
                // It is on its way back.
                Err(Failure::DeadlineExceeded { .. }) => {}
                other => {
                    return Err(format!("after {crashes} crashes: {}", told(&other)));
                }
            }
        }
    };
    let crashes = step(&stage.supervisor, "crash until quarantine", until_quarantined).await?;
    let name = stage.guilty.name();
    step(&stage.supervisor, "reload it", stage.supervisor.reload(&name)).await?;
    Ok(format!("quarantined after {crashes} crashes"))
}

/// The program is gone when the worker has to be started again, and comes back.
async fn deleted(stage: &Stage<'_>) -> Result<String, Problem> {
    let aside = stage.program.with_extension("aside");
    std::fs::rename(&stage.program, &aside)?;
    let outcome = told(&call(stage, "abort").await);
    let problem = until("the worker's problem", || {
        let workers = stage.supervisor.status().workers;
        workers.into_iter().find(|w| w.loader == stage.guilty.language.loader)?.problem
    });
    problem.await?;
    std::fs::rename(&aside, &stage.program)?;
    Ok(outcome)
}

fn pid(stage: &Stage<'_>) -> Option<Pid> {
    let workers = stage.supervisor.status().workers;
    let worker = workers.into_iter().find(|w| w.loader == stage.guilty.language.loader)?;
    i32::try_from(worker.pid?).ok().map(Pid::from_raw)
}

/// An outcome, for the table.
fn told(outcome: &Result<rmpv::Value, Failure>) -> String {
    match outcome {
        Ok(_) => "a value".to_owned(),
        Err(Failure::Guest(error)) => format!("its error: {}", error.type_name),
        Err(Failure::DeadlineExceeded { .. }) => "deadline exceeded".to_owned(),
        Err(Failure::WorkerCrashed { .. }) => "worker crashed".to_owned(),
        Err(Failure::BundleUnavailable { .. }) => "unavailable".to_owned(),
        Err(failure) => failure.to_string(),
    }
}

/// The kind of an error.
fn kind(error: &RuntimeError) -> String {
    let shown = format!("{error:?}");
    shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
