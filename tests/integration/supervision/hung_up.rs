//! Operations whose caller goes in their midst, as an HTTP client does that hangs up:
//! what has begun comes to its end (rules L6, L7, R4, S3, S8).

use std::future::Future;

use menagerie_supervisor::{EventKind, Failure, Isolation, RuntimeError, Supervisor, WorkerState};
use tokio::task::JoinHandle;

use super::{Guest, answers, load};
use crate::support::{Gate, Recorder, config, run, start, start_with, wait_for};

/// Asks for something and, when `begun` has come, waits for it no longer.
async fn hang_up<T: Send + 'static>(
    asked: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
    begun: impl Future<Output = ()>,
) {
    let asked = tokio::spawn(asked);
    begun.await;
    asked.abort();
    assert!(asked.await.is_err_and(|error| error.is_cancelled()), "it has ended before");
}

/// A call that waits at the closed gate.
async fn at_the_gate(gate: &Gate, guest: &Guest) -> JoinHandle<Result<(), Failure>> {
    gate.close();
    let contract = guest.contract.clone();
    let working = tokio::spawn(async move { contract.call("pass", ()).await });
    gate.noted(&format!("{} called", guest.contract.bundle()), 1).await;
    working
}

async fn is_gone(supervisor: &Supervisor, contract: &str) {
    let gone = || supervisor.contract(contract).is_err().then_some(());
    wait_for("nobody to find it any more", gone).await;
}

async fn unloaded(events: &Recorder, name: &str) {
    let unloaded =
        |event: &EventKind| matches!(event, EventKind::BundleUnloaded { bundle } if bundle == name);
    events.wait("the end of the unload", |event| unloaded(event).then_some(())).await;
}

async fn is_stale(guest: &Guest) {
    let outcome = guest.contract.call::<_, i64>("inc", (1,)).await;
    assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
}

#[test]
fn l7_an_unload_whose_caller_goes_comes_to_its_end() {
    run(async {
        for isolation in [Isolation::Shared, Isolation::Bundle] {
            let mut config = config();
            config.isolation = isolation;
            let supervisor = start_with(config);
            let gate = Gate::new();
            let one = load(&supervisor, gate.bundle("one", "", "")).await;
            let events = Recorder::of(&supervisor);
            let working = at_the_gate(&gate, &one).await;
            let unload = supervisor.clone();
            let unload = async move { unload.unload("one").await };
            hang_up(unload, is_gone(&supervisor, "one@1")).await;
            gate.open();
            working.await.unwrap().unwrap();
            unloaded(&events, "one").await;
            gate.noted("one unloaded", 1).await;
            is_stale(&one).await;
            let workers = usize::from(isolation == Isolation::Shared);
            wait_for("its own worker to go", || {
                (supervisor.status().workers.len() == workers).then_some(())
            })
            .await;
            supervisor.shutdown().await;
        }
    });
}

#[test]
fn r4_a_cascade_whose_caller_goes_takes_down_all() {
    run(async {
        let supervisor = start();
        let gate = Gate::new();
        let provider = load(&supervisor, gate.bundle("provider", "", "")).await;
        let needs = "bundle_dependencies = ['provider']";
        let user = load(&supervisor, gate.bundle("user", "", needs)).await;
        let events = Recorder::of(&supervisor);
        let working = at_the_gate(&gate, &user).await;
        let unload = supervisor.clone();
        let unload = async move { unload.unload_cascade("provider").await };
        hang_up(unload, is_gone(&supervisor, "provider@1")).await;
        gate.open();
        working.await.unwrap().unwrap();
        for (name, guest) in [("user", &user), ("provider", &provider)] {
            unloaded(&events, name).await;
            gate.noted(&format!("{name} unloaded"), 1).await;
            is_stale(guest).await;
        }
        supervisor.shutdown().await;
    });
}

#[test]
fn l6_a_reload_whose_caller_goes_comes_to_its_end() {
    run(async {
        let supervisor = start();
        let gate = Gate::new();
        let load_slowly = "pass 'provider loaded'";
        let provider = load(&supervisor, gate.bundle("provider", load_slowly, "")).await;
        let needs = "needs_reinit_on_dep_reload = true\nbundle_dependencies = ['provider']";
        let user = load(&supervisor, gate.bundle("user", "", needs)).await;
        let events = Recorder::of(&supervisor);
        gate.close();
        let reload = supervisor.clone();
        let reload = async move { reload.reload("provider").await };
        hang_up(reload, gate.noted("provider loaded", 2)).await;
        gate.open();
        for name in ["provider", "user"] {
            let reloaded = |event: &EventKind| matches!(event, EventKind::BundleReloaded { bundle, generation: 2 } if bundle == name);
            events.wait("the reload", |event| reloaded(event).then_some(())).await;
        }
        answers(&provider).await;
        answers(&user).await;
        supervisor.shutdown().await;
    });
}

async fn a_restart_whose_caller_goes_restarts_all(rolling: bool) {
    let mut config = config();
    config.isolation = Isolation::Bundle;
    let supervisor = start_with(config);
    let gate = Gate::new();
    let one = load(&supervisor, gate.bundle("one", "pass 'one loaded'", "")).await;
    let two = load(&supervisor, gate.bundle("two", "", "")).await;
    gate.close();
    let restart = supervisor.clone();
    let restart = async move {
        if rolling { restart.restart_rolling("lua").await } else { restart.restart("lua").await }
    };
    hang_up(restart, gate.noted("one loaded", 2)).await;
    gate.open();
    wait_for("both workers to be back", || {
        let workers = supervisor.status().workers;
        let back = |state, incarnation| state == WorkerState::Ready && incarnation == 2;
        workers.iter().all(|worker| back(worker.state, worker.incarnation)).then_some(())
    })
    .await;
    answers(&one).await;
    answers(&two).await;
    supervisor.shutdown().await;
}

#[test]
fn s3_a_restart_whose_caller_goes_restarts_all() {
    run(a_restart_whose_caller_goes_restarts_all(false));
}

#[test]
fn s8_a_rolling_restart_whose_caller_goes_replaces_all() {
    run(a_restart_whose_caller_goes_restarts_all(true));
}
