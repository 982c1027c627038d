//! Calls in flight whose generation is to go: each has its own time, and nobody else
//! pays for it (rules L7, S8, S5).

use std::time::Duration;

use menagerie_supervisor::{BundleState, Config, EventKind, Failure, Supervisor, WorkerState};
use tokio::task::JoinHandle;

use super::strays::{self, at_work, strict};
use super::{Guest, answers, in_state, load, lua, status};
use crate::support::{
    Bundle, Gate, PATIENCE, Recorder, config, report, run, run_here, run_with, start_with,
    wait_for, worker,
};

/// Whatever takes longer than these times has another reason to be let live.
fn impatient() -> Config {
    let mut config = config();
    config.deadline = Duration::from_millis(100);
    config.drain = Duration::from_millis(100);
    config.grace = Duration::from_millis(100);
    config
}

/// Longer than all of these together.
const LATER: Duration = Duration::from_secs(1);

/// A call that waits at the closed gate, and may do so for longer than others.
pub(super) async fn at_the_gate(gate: &Gate, guest: &Guest) -> JoinHandle<Result<(), Failure>> {
    gate.close();
    let contract = guest.contract.clone().with_timeout(PATIENCE);
    let working = tokio::spawn(async move { contract.call("pass", ()).await });
    gate.noted("one called", 1).await;
    working
}

#[test]
fn l7_an_unload_waits_for_a_call_until_that_calls_own_deadline() {
    run(async {
        let supervisor = start_with(impatient());
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let working = at_the_gate(&gate, &one).await;
        let unload = supervisor.clone();
        let unload = tokio::spawn(async move { unload.unload("one").await });
        tokio::time::sleep(LATER).await;
        gate.open();
        working.await.unwrap().unwrap();
        unload.await.unwrap().unwrap();
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// Its calls wait with an `await`: the end of a lane would end them.
fn asynchronous(gate: &Gate) -> Bundle {
    let manifest = "name = 'one'\nloader = 'python'\nfile = 'main.py'\nprovides = ['one@1']\n";
    let code = format!(
        "import asyncio\nimport menagerie\nimport os\n\
         @menagerie.export('one@1')\n\
         def inc(n: int) -> int:\n    return n + 1\n\
         async def wait() -> None:\n    \
             with open('{notes}', 'a') as file:\n        \
                 print('one called', file=file)\n    \
             while os.path.exists('{gate}'):\n        \
                 await asyncio.sleep(0.002)\n\
         wait.__name__ = 'pass'\n\
         menagerie.export('one@1')(wait)\n",
        notes = gate.notes().display(),
        gate = gate.closed().display()
    );
    Bundle::of(&[("manifest.toml", manifest), ("main.py", &code)])
}

async fn a_rolling_restart_waits(gate: Gate, bundle: Bundle) {
    let supervisor = start_with(impatient());
    let one = load(&supervisor, bundle).await;
    let working = at_the_gate(&gate, &one).await;
    let events = Recorder::of(&supervisor);
    let roll = supervisor.clone();
    let loader = supervisor.status().workers[0].loader.clone();
    let roll = tokio::spawn(async move { roll.restart_rolling(&loader).await });
    let replaced = |event: &EventKind| matches!(event, EventKind::WorkerReplaced { .. });
    events.wait("the change", |event| replaced(event).then_some(())).await;
    tokio::time::sleep(LATER).await;
    answers(&one.contract.clone().with_timeout(PATIENCE)).await;
    gate.open();
    working.await.unwrap().unwrap();
    roll.await.unwrap().unwrap();
    assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
    supervisor.shutdown().await;
}

#[test]
fn s8_a_rolling_restart_waits_for_a_call_until_that_calls_own_deadline() {
    run(async {
        let gate = Gate::new();
        let bundle = gate.bundle("one", "", "");
        a_rolling_restart_waits(gate, bundle).await;
    });
}

#[test]
fn s8_a_rolling_restart_waits_for_an_asynchronous_call_as_well() {
    run(async {
        let gate = Gate::new();
        let bundle = asynchronous(&gate);
        a_rolling_restart_waits(gate, bundle).await;
    });
}

/// A shutdown ends nothing earlier that was begun before it.
#[test]
fn s6_a_shutdown_waits_for_calls_of_a_process_that_was_replaced() {
    run(async {
        let mut config = config();
        config.drain = PATIENCE;
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let working = at_the_gate(&gate, &one).await;
        let events = Recorder::of(&supervisor);
        let roll = supervisor.clone();
        let roll = tokio::spawn(async move { roll.restart_rolling("lua").await });
        let switched = |event: &EventKind| matches!(event, EventKind::BundleLoaded { .. });
        events.wait("the change", |event| switched(event).then_some(())).await;
        let shutdown = supervisor.clone();
        let shutdown = tokio::spawn(async move { shutdown.shutdown().await });
        // The process that serves has nothing to wait for.
        let stopped = |event: &EventKind| {
            matches!(event, EventKind::WorkerState { state: WorkerState::Stopped, .. })
        };
        events.wait("the end of the other process", |event| stopped(event).then_some(())).await;
        assert!(!working.is_finished() && !shutdown.is_finished());
        gate.open();
        working.await.unwrap().unwrap();
        shutdown.await.unwrap();
        drop(roll.await.unwrap());
        gate.noted("one unloaded", 2).await;
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
    });
}

/// Nor does it wait for ever.
#[test]
fn s6_a_shutdown_ends_a_process_that_was_replaced_and_hangs() {
    run(async {
        let mut config = impatient();
        config.deadline = Duration::ZERO;
        config.grace = Duration::from_secs(3600);
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let working = at_the_gate(&gate, &one).await;
        let events = Recorder::of(&supervisor);
        let roll = supervisor.clone();
        let roll = tokio::spawn(async move { roll.restart_rolling("lua").await });
        let replaced = |event: &EventKind| matches!(event, EventKind::WorkerReplaced { .. });
        events.wait("the change", |event| replaced(event).then_some(())).await;
        supervisor.shutdown().await;
        let outcome = working.await.unwrap();
        assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        drop(roll.await.unwrap());
    });
}

/// It ends where the language has a soft way: its worker and its neighbours live on.
#[test]
fn l7_a_call_without_a_deadline_is_asked_to_stop_when_its_bundle_goes() {
    run(async {
        let mut config = impatient();
        config.deadline = Duration::ZERO;
        // So long that nothing but the soft stop can have ended it.
        config.grace = Duration::from_secs(3600);
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        let (leaves, stays) = (at_work(&one).await, at_work(&two).await);
        supervisor.unload("one").await.unwrap();
        let outcome = leaves.await.unwrap();
        assert!(matches!(outcome, Err(Failure::Cancelled)), "{outcome:?}");
        assert!(!stays.is_finished());
        assert_eq!(worker(&supervisor, "lua").unwrap().incarnation, 1);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        // Nor does the old process of a rolling restart wait for it for ever.
        supervisor.restart_rolling("lua").await.unwrap();
        let outcome = stays.await.unwrap();
        assert!(matches!(outcome, Err(Failure::Cancelled)), "{outcome:?}");
        answers(&two).await;
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// It ends where there is no soft way: the worker dies of it, and of nobody else.
#[test]
fn s5_what_an_unload_has_to_kill_for_is_that_bundles_doing() {
    let mut config = strict();
    config.drain = Duration::from_millis(100);
    config.grace = Duration::from_millis(100);
    run_with(config, |supervisor: Supervisor| async move {
        let (guilty, _bundle) = strays::load(&supervisor, "guilty").await;
        let (innocent, _other) = strays::load(&supervisor, "innocent").await;
        let events = Recorder::of(&supervisor);
        let (hangs, suffers) = (at_work(&guilty).await, at_work(&innocent).await);
        supervisor.unload("guilty").await.unwrap();
        assert!(hangs.await.unwrap().is_err());
        let outcome = suffers.await.unwrap();
        assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        let report = report(&supervisor, "native", 1).await;
        let reason = report.reason.clone().unwrap_or_default();
        assert!(reason.contains("the unload of 'guilty'"), "{report:?}");
        in_state(&supervisor, "innocent", BundleState::Ready).await;
        strays::answers(&innocent).await;
        let moved = |event: &EventKind| matches!(event, EventKind::BundleIsolated { .. });
        assert!(!events.all().iter().any(moved), "{:?}", events.all());
        let state = || worker(&supervisor, "native").filter(|worker| worker.name == "native");
        wait_for("its worker", || state().filter(|worker| worker.restarts == 1)).await;
    });
}

/// A bundle that is being unloaded has a call that takes longer than everything else, when
/// its worker is to end as well: the call ends where it began.
fn ends_before_its_process<T: Send + 'static>(
    end: impl AsyncFnOnce(&Supervisor) -> T + Send + 'static,
) {
    run_here(async move || {
        let mut config = impatient();
        config.drain = PATIENCE;
        config.term_timeout = Duration::from_millis(100);
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let two = load(&supervisor, lua("two")).await;
        let working = at_the_gate(&gate, &one).await;
        let unload = supervisor.clone();
        let unload = tokio::spawn(async move { unload.unload("one").await });
        let gone = || supervisor.contract("one@1").is_err().then_some(());
        wait_for("nobody to find it any more", gone).await;
        let opens = async {
            tokio::time::sleep(LATER).await;
            gate.open();
        };
        tokio::join!(end(&supervisor), opens);
        working.await.unwrap().unwrap();
        unload.await.unwrap().unwrap();
        gate.noted("one unloaded", 1).await;
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        drop(two);
        supervisor.shutdown().await;
    });
}

#[test]
fn l7_a_restart_waits_for_the_calls_of_a_bundle_that_is_being_unloaded() {
    ends_before_its_process(async |supervisor| supervisor.restart("lua").await.unwrap());
}

#[test]
fn l7_a_rolling_restart_waits_for_the_calls_of_a_bundle_that_is_being_unloaded() {
    ends_before_its_process(async |supervisor| supervisor.restart_rolling("lua").await.unwrap());
}

#[test]
fn l7_a_shutdown_waits_for_the_calls_of_a_bundle_that_is_being_unloaded() {
    ends_before_its_process(async |supervisor| supervisor.shutdown().await);
}

/// The process that another one has replaced, too.
#[test]
fn s6_a_shutdown_waits_for_the_last_calls_of_a_process_that_was_replaced() {
    run(async {
        let mut config = impatient();
        config.drain = PATIENCE;
        config.term_timeout = Duration::from_millis(100);
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let working = at_the_gate(&gate, &one).await;
        let roll = supervisor.clone();
        let roll = tokio::spawn(async move { roll.restart_rolling("lua").await });
        wait_for("the change", || (status(&supervisor, "one").generation == 2).then_some(())).await;
        let opens = async {
            tokio::time::sleep(LATER).await;
            gate.open();
        };
        tokio::join!(supervisor.shutdown(), opens);
        working.await.unwrap().unwrap();
        drop(roll.await.unwrap());
    });
}
