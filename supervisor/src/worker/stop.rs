//! Ending a process in an orderly way: calls may finish, bundles run their
//! hooks; then SIGTERM, then SIGKILL (S6).

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use menagerie_protocol::Failure;
use menagerie_protocol::message::ToWorker;
use nix::sys::signal::Signal;

use super::alive::Alive;
use super::crash;
use super::handle::View;
use super::judge::judge;
use super::process::Process;
use crate::bundle::Bundle;
use crate::core::Core;
use crate::lane::lock;
use crate::placement::WorkerName;

/// How often it is looked whether anybody waits for what was replaced.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Takes the bundles out of a process that is closed, and ends it. `restart` if they wait for
/// another one.
pub(super) async fn drain(core: Arc<Core>, name: WorkerName, process: Arc<Process>, restart: bool) {
    let mut bundles = core.bundles_of(&name);
    // Dependents before what they depend on.
    bundles.reverse();
    let retired = async {
        for bundle in &bundles {
            core.retire(bundle, &process, restart).await;
        }
        // Those that the registry has no more are taken out by others.
        process.vacated().await;
    };
    let mut patience = core.config.term_timeout;
    // A call, a load or a hook that hangs keeps nobody waiting for longer than
    // all may drain; nor does a panic of ours.
    let retired = AssertUnwindSafe(retired).catch_unwind();
    if !matches!(tokio::time::timeout(core.config.drain, retired).await, Ok(Ok(()))) {
        patience = Duration::ZERO;
        // One that has moved is served elsewhere; and if this one has died meanwhile, all
        // may be by the next one already.
        let is_here = |bundle: &&Arc<Bundle>| !process.is_dead() && bundle.is_in(&name);
        for bundle in bundles.iter().filter(is_here) {
            core.let_wait(bundle, bundle.seats.at(process.seat), restart);
        }
    }
    end(&core, &process, patience).await;
}

/// Asks a process to end, and insists after `patience`.
async fn end(core: &Core, process: &Process, mut patience: Duration) {
    process.send(&ToWorker::Shutdown);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        tokio::select! {
            () = process.ended() => return,
            () = tokio::time::sleep(patience) => process.signal(signal),
        }
        patience = core.config.term_timeout;
    }
}

/// Ends a process that another one has replaced, once `emptied` has taken its
/// bundles out of it. What it dies of while its last calls run is reported as
/// any other death. When everything ends, they have as long as those of the others.
pub(super) async fn replaced(
    core: Arc<Core>,
    name: WorkerName,
    mut alive: Alive,
    view: Arc<Mutex<View>>,
    emptied: impl Future<Output = ()> + Send,
) {
    let process = Arc::clone(&alive.process);
    let mut stopping = core.stopping.subscribe();
    // Its last calls have the time that all calls have when everything ends; none, if
    // whoever would wait for that has gone.
    let drained = async {
        drop(stopping.wait_for(|stopping| *stopping).await);
        let until = Instant::now() + core.config.drain;
        while Instant::now() < until && !lock(&core.workers).is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let (mut emptied, mut drained) = (pin!(emptied), pin!(drained));
    let ended = loop {
        let beat_at = alive.wake_at();
        tokio::select! {
            ended = alive.child.ended() => break Some(ended),
            () = &mut emptied => break None,
            () = &mut drained => break None,
            () = tokio::time::sleep_until(beat_at.into()) => {}
        }
        // One that hangs would keep its last calls until their deadlines.
        alive.beat(&core);
    };
    if let Some(ended) = ended {
        let death = crash::served(&name, alive, ended);
        let _ = judge(&core, &name, &death);
        death.publish(&core, &view);
        return emptied.await;
    }
    tokio::select! {
        _ = alive.child.ended() => {}
        () = end(&core, &process, core.config.term_timeout) => {}
    }
    discard(Arc::clone(&core), alive).await;
}

/// Ends a process that nobody calls.
pub(super) fn discard(core: Arc<Core>, alive: Alive) -> impl Future<Output = ()> + Send {
    let leaving = core.leaving();
    async move {
        alive.child.signal(Signal::SIGKILL);
        let ended = alive.child.ended().await;
        let failure = || Failure::WorkerCrashed {
            worker: alive.process.worker.clone(),
            cause: ended.end.describe(),
            started: true,
        };
        drop(alive.process.died(failure, |bundle, lane| bundle.orphaned(lane)));
        drop(leaving);
    }
}
