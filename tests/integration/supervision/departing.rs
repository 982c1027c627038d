//! A process that is to end takes nothing in any more, and whatever it has goes elsewhere
//! first (rules S3, S4, S8, L7).

use std::time::Duration;

use menagerie_supervisor::{
    BundleState, EventKind, Isolation, NextEvent, RuntimeError, Supervisor, WorkerState,
};
use tokio::task::JoinHandle;

use super::leaving::at_the_gate;
use super::rolling::children;
use super::{Guest, Load, answers, in_state, load, lua, lua_with, status};
use crate::support::{
    Bundle, Gate, PATIENCE, Recorder, config, exists, ready_after, run, run_with, slay, start,
    start_with, wait_for, worker,
};

/// Long enough for what must not happen to have happened.
const A_WHILE: Duration = Duration::from_millis(300);

fn rolls(supervisor: &Supervisor) -> JoinHandle<Result<(), RuntimeError>> {
    let supervisor = supervisor.clone();
    tokio::spawn(async move { supervisor.restart_rolling("lua").await.map(drop) })
}

fn restarts(supervisor: &Supervisor) -> JoinHandle<Result<(), RuntimeError>> {
    let supervisor = supervisor.clone();
    tokio::spawn(async move { supervisor.restart("lua").await.map(drop) })
}

fn loads(supervisor: &Supervisor, bundle: &Bundle) -> JoinHandle<Result<(), RuntimeError>> {
    let (supervisor, path) = (supervisor.clone(), bundle.path());
    tokio::spawn(async move { supervisor.load(path).await.map(drop) })
}

fn reloads(supervisor: &Supervisor, name: &'static str) -> JoinHandle<Result<(), RuntimeError>> {
    let supervisor = supervisor.clone();
    tokio::spawn(async move { supervisor.reload(name).await.map(drop) })
}

async fn is_replaced(events: &Recorder) {
    let replaced = |event: &EventKind| matches!(event, EventKind::WorkerReplaced { .. });
    events.wait("the change", |event| replaced(event).then_some(())).await;
}

async fn is(supervisor: &Supervisor, state: WorkerState) {
    wait_for("the worker's state", || {
        (worker(supervisor, "lua").unwrap().state == state).then_some(())
    })
    .await;
}

/// It would be called in the old process for ever, or until that ends under its calls.
#[test]
fn s8_a_bundle_that_was_being_loaded_goes_over_as_well() {
    run(async {
        let supervisor = start();
        let (busy, slow) = (Gate::new(), Gate::new());
        let one = load(&supervisor, busy.bundle("one", "", "")).await;
        let working = at_the_gate(&busy, &one).await;
        slow.close();
        let bundle = slow.bundle("two", "pass 'two loads'", "");
        let loading = loads(&supervisor, &bundle);
        slow.noted("two loads", 1).await;
        let old = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let events = Recorder::of(&supervisor);
        let rolling = rolls(&supervisor);
        is_replaced(&events).await;
        slow.open();
        loading.await.unwrap().unwrap();
        let two = supervisor.contract("two@1").unwrap();
        let calls = Load::on(&two, 4);
        let goes_over = || (status(&supervisor, "two").generation == 2).then_some(());
        wait_for("the bundle to go over", goes_over).await;
        calls.more(50).await;
        assert!(exists(old) && !rolling.is_finished());
        busy.open();
        working.await.unwrap().unwrap();
        rolling.await.unwrap().unwrap();
        calls.more(50).await;
        assert_eq!(calls.end().await, []);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// What was loaded since the next process was prepared, and cannot be loaded there, does
/// not keep the old one.
#[test]
fn s8_a_bundle_that_does_not_load_again_keeps_no_process() {
    run(async {
        let supervisor = start();
        let slow = Gate::new();
        let _one = load(&supervisor, lua("one")).await;
        slow.close();
        let bundle = slow.bundle("two", "pass 'two loads'", "");
        let loading = loads(&supervisor, &bundle);
        slow.noted("two loads", 1).await;
        let events = Recorder::of(&supervisor);
        let rolling = rolls(&supervisor);
        is_replaced(&events).await;
        let code = std::fs::read_to_string(bundle.path().join("main.lua")).unwrap();
        bundle.write("main.lua", "this is no Lua");
        slow.open();
        loading.await.unwrap().unwrap();
        rolling.await.unwrap().unwrap();
        in_state(&supervisor, "two", BundleState::Failed).await;
        bundle.write("main.lua", &code);
        in_state(&supervisor, "two", BundleState::Ready).await;
        answers(&supervisor.contract("two@1").unwrap()).await;
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// Its folder may go with it: that it is not there any more is no failure of the others.
#[test]
fn s8_a_bundle_that_goes_before_it_is_loaded_again_does_not_stop_a_rolling_restart() {
    run(async {
        let (supervisor, slow) = (start(), Gate::new());
        let one = load(&supervisor, slow.bundle("one", "pass 'one loads'", "")).await;
        let _two = load(&supervisor, slow.bundle("two", "pass 'two loads'", "")).await;
        // The next process loads two at once, and this one after them.
        let last = load(&supervisor, lua("zero")).await;
        slow.close();
        let rolling = rolls(&supervisor);
        slow.noted("one loads", 2).await;
        slow.noted("two loads", 2).await;
        supervisor.unload("zero").await.unwrap();
        drop(last);
        slow.open();
        rolling.await.unwrap().unwrap();
        answers(&one.contract).await;
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// That nobody wants the bundle any more does not make the process one that can take over.
#[test]
fn s8_a_bundle_that_hangs_in_its_next_load_and_goes_costs_the_old_process_nothing() {
    let mut config = config();
    config.load_timeout = Duration::from_secs(1);
    run_with(config, |supervisor| async move {
        let slow = Gate::new();
        let one = load(&supervisor, lua("one")).await;
        let _last = load(&supervisor, slow.bundle("zero", "pass 'zero loads'", "")).await;
        let old = worker(&supervisor, "lua").unwrap();
        slow.close();
        let rolling = rolls(&supervisor);
        slow.noted("zero loads", 2).await;
        supervisor.unload("zero").await.unwrap();
        assert!(rolling.await.unwrap().is_err());
        slow.open();
        answers(&one.contract).await;
        let now = worker(&supervisor, "lua").unwrap();
        assert_eq!((now.pid, now.restarts), (old.pid, old.restarts));
    });
}

/// The change waits at one bundle, and what is asked for the other meanwhile is the next
/// process's, with the state that the old one has left.
#[test]
fn s8_a_reload_during_a_rolling_restart_goes_over_with_its_state() {
    run(async {
        let supervisor = start();
        // It notes its loads down, and they wait in a process whose number is a file's name.
        let folder = tempfile::tempdir().unwrap();
        let code = format!(
            "local pid = io.open('/proc/self/stat'):read('*n')\n\
             local notes = io.open('{folder}/loads', 'a')\n\
             notes:write('x') notes:close()\n\
             while io.open('{folder}/' .. pid) do menagerie.sleep(5) end",
            folder = folder.path().display()
        );
        let one = load(&supervisor, lua_with("one", &code, "")).await;
        let two = load(&supervisor, counter("two", "bundle_dependencies = ['one']")).await;
        assert_eq!(two.call::<_, i64>("count", ()).await.unwrap(), 1);
        let old = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let waits = folder.path().join(old.to_string());
        std::fs::write(&waits, "").unwrap();
        let slow = reloads(&supervisor, "one");
        let notes = folder.path().join("loads");
        wait_for("the reload", || (std::fs::read(&notes).ok()?.len() == 2).then_some(())).await;
        let events = Recorder::of(&supervisor);
        let rolling = rolls(&supervisor);
        is_replaced(&events).await;
        supervisor.reload("two").await.unwrap();
        assert_eq!(two.call::<_, i64>("count", ()).await.unwrap(), 2);
        assert!(!slow.is_finished() && !rolling.is_finished());
        std::fs::remove_file(&waits).unwrap();
        slow.await.unwrap().unwrap();
        rolling.await.unwrap().unwrap();
        assert_eq!(two.call::<_, i64>("count", ()).await.unwrap(), 3);
        answers(&one).await;
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// A Lua bundle that counts its calls, and hands the count on.
fn counter(name: &str, manifest: &str) -> Bundle {
    let manifest = format!(
        "name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{name}@1']\n{manifest}"
    );
    let code = format!(
        "local n = 0\n\
         return {{\n\
           ['{name}@1'] = {{ count = function() n = n + 1 return n end }},\n\
           on_load = function(context) n = context.state or 0 end,\n\
           on_unload = function() return n end,\n\
         }}\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &code)])
}

/// Its process ends when the calls of the others have, and so would what is loaded into it.
#[test]
fn s3_a_process_that_is_to_end_takes_no_load_and_no_reload() {
    run(async {
        let mut config = config();
        config.drain = PATIENCE;
        let supervisor = start_with(config);
        let gate = Gate::new();
        let _two = load(&supervisor, lua("two")).await;
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let working = at_the_gate(&gate, &one).await;
        let restarting = restarts(&supervisor);
        is(&supervisor, WorkerState::Draining).await;
        let three = lua("three");
        let (loading, reloading) = (loads(&supervisor, &three), reloads(&supervisor, "two"));
        tokio::time::sleep(A_WHILE).await;
        assert!(!loading.is_finished() && !reloading.is_finished());
        gate.open();
        working.await.unwrap().unwrap();
        restarting.await.unwrap().unwrap();
        loading.await.unwrap().unwrap();
        reloading.await.unwrap().unwrap();
        assert_eq!(status(&supervisor, "three").generation, 1);
        for contract in ["two@1", "three@1"] {
            answers(&supervisor.contract(contract).unwrap()).await;
        }
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// What a crash had left to be loaded is the next process's.
#[test]
fn s4_a_process_that_is_to_end_loads_no_more_of_what_it_should() {
    run(async {
        let mut config = config();
        config.drain = PATIENCE;
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "pass 'one loads'", "")).await;
        let needs = "bundle_dependencies = ['one']";
        let two = load(&supervisor, gate.bundle("two", "note 'two loads'", needs)).await;
        gate.noted("two loads", 1).await;
        gate.close();
        slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
        gate.noted("one loads", 2).await;
        let restarting = restarts(&supervisor);
        is(&supervisor, WorkerState::Draining).await;
        gate.open();
        restarting.await.unwrap().unwrap();
        answers(&one).await;
        answers(&two).await;
        gate.noted("one loads", 3).await;
        gate.noted("two loads", 2).await;
        // It was loaded, and is unloaded as it should be.
        gate.noted("one unloaded", 1).await;
        supervisor.shutdown().await;
    });
}

/// A bundle goes to a worker of its own while the one that it was in is stopped, and
/// something there does not end in time.
#[test]
fn s5_a_stop_that_takes_too_long_leaves_a_bundle_that_has_moved_alone() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Auto;
        config.drain = Duration::from_secs(3);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let gate = Gate::new();
        gate.close();
        let moves = load(&supervisor, gate.bundle("one", "", "")).await;
        let hangs = load(&supervisor, gate.bundle("two", "", "")).await;
        let calls = |guest: &Guest| {
            let contract = guest.contract.clone().with_timeout(PATIENCE);
            tokio::spawn(async move { contract.call::<_, ()>("pass", ()).await })
        };
        // It runs at two deaths; at the second its worker has another process already.
        let dies = calls(&moves);
        gate.noted("one called", 1).await;
        slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
        assert!(dies.await.unwrap().is_err());
        let old = ready_after(&supervisor, "lua", 1).await.pid.unwrap();
        let dies = calls(&moves);
        gate.noted("one called", 2).await;
        let rolling = rolls(&supervisor);
        let goes_over = || (status(&supervisor, "two").generation == 3).then_some(());
        wait_for("the change", goes_over).await;
        let late = calls(&hangs);
        gate.noted("two called", 1).await;
        let restarting = restarts(&supervisor);
        is(&supervisor, WorkerState::Draining).await;
        slay(old);
        assert!(dies.await.unwrap().is_err());
        drop(rolling.await.unwrap());
        let moved = |event: &EventKind| matches!(event, EventKind::BundleIsolated { .. });
        events.wait("the move", |event| moved(event).then_some(())).await;
        restarting.await.unwrap().unwrap();
        assert!(late.await.unwrap().is_err());
        gate.open();
        answers(&moves).await;
        answers(&hangs).await;
        assert_eq!(status(&supervisor, "one").worker, "lua/one");
        supervisor.shutdown().await;
    });
}

/// Nothing is started for a supervisor that has gone, although somebody had asked it to.
#[test]
fn s7_a_restart_is_not_ended_when_the_supervisor_has_gone() {
    run(async {
        let mut config = config();
        config.drain = PATIENCE;
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let working = at_the_gate(&gate, &one).await;
        let mut events = supervisor.events();
        let restarting = restarts(&supervisor);
        is(&supervisor, WorkerState::Draining).await;
        restarting.abort();
        assert!(restarting.await.is_err());
        drop(supervisor);
        gate.open();
        drop(working.await.unwrap());
        let mut last = None;
        let ends = async {
            while let Some(next) = events.next().await {
                if let NextEvent::Event(event) = next
                    && let EventKind::WorkerState { state, .. } = event.kind
                {
                    last = Some(state);
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ends).await;
        assert!(ended.is_ok(), "its worker goes on: {last:?}");
        assert_eq!(last, Some(WorkerState::Stopped));
        wait_for("the processes to end", || (children() == 0).then_some(())).await;
        drop(one);
    });
}

/// Everything at once: calls go on, however long.
#[test]
fn s8_rolling_restarts_among_loads_and_reloads_fail_no_call() {
    run_with(config(), |supervisor| async move {
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        let (first, second) = (Load::on(&one, 2), Load::on(&two, 2));
        let three = lua("three");
        let changes = {
            let (supervisor, path) = (supervisor.clone(), three.path());
            tokio::spawn(async move {
                for n in 0..40_u64 {
                    supervisor.load(&path).await.unwrap();
                    let contract = supervisor.contract("three@1").unwrap();
                    answers(&contract).await;
                    supervisor.reload("one").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(n % 7)).await;
                    answers(&contract).await;
                    supervisor.unload("three").await.unwrap();
                }
            })
        };
        let mut rolled = 0;
        while !changes.is_finished() {
            supervisor.restart_rolling("lua").await.unwrap();
            rolled += 1;
        }
        changes.await.unwrap();
        assert!(rolled > 0);
        assert_eq!(first.end().await, []);
        assert_eq!(second.end().await, []);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
    });
}
