//! Rule S8: a rolling restart, under load, fails no call.

use std::time::Duration;

use menagerie_supervisor::{EventKind, Failure, RuntimeError, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::first_load::Gated;
use super::strays::at_work;
use super::{Load, answers, load, lua, lua_that_aborts_in_a_load, lua_with};
use crate::support::{
    PATIENCE, Recorder, config, exists, per_language, ready_after, report, run, setup_with, start,
    start_with, wait_for, worker,
};

#[test]
fn s8_a_rolling_restart_under_load_fails_no_call() {
    run(async {
        let supervisor = start();
        let events = Recorder::of(&supervisor);
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        let (load_one, load_two) = (Load::on(&one, 4), Load::on(&two, 4));
        for n in 1..=3 {
            let before = worker(&supervisor, "lua").unwrap();
            load_one.more(50).await;
            let after = supervisor.restart_rolling("lua").await.unwrap();
            assert_ne!(after.pid, before.pid);
            assert_eq!((after.incarnation, after.restarts), (before.incarnation + 1, 0));
            load_one.more(50).await;
            load_two.more(50).await;
            let gone = before.pid.unwrap();
            wait_for("the old process to end", || (!exists(gone)).then_some(())).await;
            let replaced = |event: &&EventKind| matches!(event, EventKind::WorkerReplaced { .. });
            assert_eq!(events.all().iter().filter(replaced).count(), n);
        }
        assert_eq!(load_one.end().await, []);
        assert_eq!(load_two.end().await, []);
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

/// How many processes this one has started.
pub(super) fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.map(|task| {
        let children = task.unwrap().path().join("children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        children.split_ascii_whitespace().count()
    });
    children.sum()
}

/// The one that serves dies, and what takes its place has not loaded yet when the process
/// has that was to replace it.
#[test]
fn s8_a_process_that_starts_after_a_crash_is_not_replaced() {
    run(async {
        let gated = Gated::start();
        let supervisor = &gated.supervisor;
        // It waits while there is a file with the number of its process.
        let slow = tempfile::tempdir().unwrap();
        let code = format!(
            "local pid = io.open('/proc/self/stat'):read('*n')\n\
             while io.open('{}/' .. pid) do menagerie.sleep(5) end",
            slow.path().display()
        );
        let one = load(supervisor, lua_with("one", &code, "")).await;
        gated.close();
        let rolling = supervisor.clone();
        let rolling = tokio::spawn(async move { rolling.restart_rolling("lua").await });
        wait_for("the process that is to replace it", || (children() == 2).then_some(())).await;
        let started = slow.path().join(gated.is_killed().await.to_string());
        std::fs::write(&started, "").unwrap();
        gated.open();
        let outcome = rolling.await.unwrap();
        let given_up = matches!(&outcome, Err(RuntimeError::WorkerUnavailable { .. }));
        assert!(given_up, "{outcome:?}");
        let meanwhile = worker(supervisor, "lua").unwrap();
        assert_eq!((meanwhile.state, meanwhile.incarnation), (WorkerState::Starting, 2));
        std::fs::remove_file(started).unwrap();
        let ready = ready_after(supervisor, "lua", 1).await;
        assert_eq!(ready.incarnation, 2);
        answers(&one).await;
        gated.ends_well().await;
    });
}

/// A call that takes long ends in the old process, which lives until then.
#[test]
fn s8_a_long_call_ends_where_it_began() {
    run(async {
        let supervisor = start();
        let one = load(&supervisor, lua("one")).await;
        let old = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let working = {
            let one = one.clone();
            tokio::spawn(async move { one.call::<_, ()>("sleep", (1500,)).await })
        };
        wait_for("the call to be sent", || {
            (supervisor.status().bundles[0].calls.in_flight > 0).then_some(())
        })
        .await;
        supervisor.restart_rolling("lua").await.unwrap();
        answers(&one).await;
        working.await.unwrap().unwrap();
        wait_for("the old process to end", || (!exists(old)).then_some(())).await;
        supervisor.shutdown().await;
    });
}

/// An operator restarts what hangs: its last calls do not wait for their deadlines, of
/// which this one has none.
#[test]
fn s8_an_old_process_that_hangs_ends_by_its_heartbeats() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(100);
        config.heartbeat_kill = 50;
        config.drain = Duration::from_secs(3600);
        config.deadline = Duration::ZERO;
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let old = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let working = at_work(&one).await;
        kill(Pid::from_raw(old.cast_signed()), Signal::SIGSTOP).unwrap();
        // On a slow machine it is ended before it could be replaced.
        drop(supervisor.restart_rolling("lua").await);
        let outcome = working.await.unwrap();
        assert!(
            matches!(outcome, Err(Failure::WorkerCrashed { started: true, .. })),
            "{outcome:?}"
        );
        let report = report(&supervisor, "lua", 1).await;
        assert!(report.pid == old && report.missed_heartbeats > 0, "{report:?}");
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s8_what_does_not_load_leaves_the_old_process_serving() {
    run(async {
        let supervisor = start();
        let one = load(&supervisor, lua("one")).await;
        let _two = load(&supervisor, lua("two")).await;
        let before = worker(&supervisor, "lua").unwrap();
        one.bundle.write("main.lua", "this is no Lua");
        let outcome = supervisor.restart_rolling("lua").await;
        assert!(matches!(outcome, Err(RuntimeError::Loader(_))), "{outcome:?}");
        answers(&one).await;
        let after = worker(&supervisor, "lua").unwrap();
        assert_eq!((after.pid, after.incarnation), (before.pid, before.incarnation));
        assert!(supervisor.crashes().is_empty());
        supervisor.shutdown().await;
    });
}

#[test]
fn s8_a_next_process_that_dies_leaves_the_old_one_serving() {
    run(async {
        let supervisor = start();
        let (bundle, flag) = lua_that_aborts_in_a_load("one");
        let one = load(&supervisor, bundle).await;
        let before = worker(&supervisor, "lua").unwrap();
        std::fs::write(flag.path(), "now").unwrap();
        let outcome = supervisor.restart_rolling("lua").await;
        assert!(matches!(outcome, Err(RuntimeError::WorkerUnavailable { .. })), "{outcome:?}");
        answers(&one).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, before.pid);
        std::fs::write(flag.path(), "").unwrap();
        supervisor.restart_rolling("lua").await.unwrap();
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// Whoever asks again at once gets a rolling restart of its own, and not the end of the
/// one before.
#[test]
fn s8_a_rolling_restart_ends_by_its_own_outcome() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 1000;
        let supervisor = start_with(config);
        let (bundle, flag) = lua_that_aborts_in_a_load("one");
        let one = load(&supervisor, bundle).await;
        for _ in 0..50 {
            std::fs::write(flag.path(), "now").unwrap();
            let outcome = supervisor.restart_rolling("lua").await;
            assert!(matches!(outcome, Err(RuntimeError::WorkerUnavailable { .. })), "{outcome:?}");
            std::fs::write(flag.path(), "").unwrap();
            supervisor.restart_rolling("lua").await.unwrap();
        }
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// The old process is killed in the middle of it: the next one, or the one
/// after it, serves everything.
#[test]
fn s8_a_death_in_the_middle_of_a_rolling_restart() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 1000;
        config.restart.limit = 1000;
        config.restart.initial_delay = std::time::Duration::from_millis(1);
        config.restart.max_delay = std::time::Duration::from_millis(1);
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        for n in 0..10_u64 {
            let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
            let rolling = {
                let supervisor = supervisor.clone();
                tokio::spawn(async move { supervisor.restart_rolling("lua").await })
            };
            tokio::time::sleep(std::time::Duration::from_millis(n * 3)).await;
            let _ = kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL);
            drop(rolling.await.unwrap());
            for contract in [&*one, &*two] {
                let outcome = contract.call::<_, i64>("inc", (1,)).await;
                let carried = matches!(outcome, Ok(2) | Err(Failure::WorkerCrashed { .. }));
                assert!(carried, "{outcome:?}");
                answers(contract).await;
            }
            wait_for("the worker to be ready", || {
                let worker = worker(&supervisor, "lua").unwrap();
                let ready = worker.state == menagerie_supervisor::WorkerState::Ready;
                (ready && worker.pid != Some(pid)).then_some(())
            })
            .await;
        }
        supervisor.shutdown().await;
    });
}

/// In the languages whose VMs take their time to start and to end: callers notice
/// nothing, and a call that takes long ends where it began.
async fn s8_a_rolling_restart_fails_no_call_in(suffix: &str) {
    let setup = setup_with(suffix, config()).await;
    let (supervisor, loader) = (&setup.supervisor, setup.language.loader);
    let events = Recorder::of(supervisor);
    // They wait for as long as this machine may need; for ever is a bug.
    let calls = Load::on(&setup.probe.clone().with_timeout(PATIENCE), 3);
    for n in 1..=2 {
        let before = worker(supervisor, loader).unwrap();
        calls.more(50).await;
        let probe = setup.probe.clone().with_timeout(PATIENCE);
        let long = tokio::spawn(async move { probe.call::<_, ()>("sleep_ms", (1000,)).await });
        calls.more(10).await;
        let after = supervisor.restart_rolling(loader).await.unwrap();
        assert_ne!(after.pid, before.pid);
        assert_eq!((after.incarnation, after.restarts), (before.incarnation + 1, 0));
        calls.more(50).await;
        long.await.unwrap().unwrap();
        let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
        let gone = before.pid.unwrap();
        wait_for("the old process to end", || (!exists(gone)).then_some(())).await;
        let replaced = |event: &&EventKind| matches!(event, EventKind::WorkerReplaced { .. });
        wait_for("the event", || (events.all().iter().filter(replaced).count() == n).then_some(()))
            .await;
    }
    assert_eq!(calls.end().await, []);
    assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
    supervisor.shutdown().await;
}

per_language!(py, js, dotnet; {
    s8_a_rolling_restart_fails_no_call_in,
});
