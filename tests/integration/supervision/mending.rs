//! Rule S4, where a bundle cannot be loaded again after a restart: it is tried again until
//! it can be.

use std::time::Duration;

use menagerie_supervisor::{BundleState, EventKind, Failure, Isolation, Supervisor, WorkerState};

use super::{Guest, answers, in_state, load, lua_with};
use crate::support::{
    Bundle, Recorder, config, ready_after, run, slay, start_with, wait_for, worker,
};

/// A Lua bundle that cannot be loaded while there is a file `broken` in the folder; each
/// attempt adds to that file.
fn breakable(name: &str, folder: &tempfile::TempDir, manifest: &str) -> Bundle {
    let code = format!(
        "local file = io.open('{}', 'r+')\n\
         if file then\n  file:seek('end')\n  file:write('x')\n  file:close()\n  \
         error('it is broken')\nend",
        folder.path().join("broken").display()
    );
    lua_with(name, &code, manifest)
}

/// Waits for some more attempts.
async fn attempts(folder: &tempfile::TempDir, count: u64) {
    let made = || Some(folder.path().join("broken").metadata().ok()?.len());
    let before = made().unwrap();
    wait_for("some attempts", || made().filter(|made| *made >= before + count)).await;
}

fn set_broken(folder: &tempfile::TempDir, broken: bool) {
    let file = folder.path().join("broken");
    if broken {
        std::fs::write(file, "").unwrap();
    } else {
        std::fs::remove_file(file).unwrap();
    }
}

fn failures(events: &Recorder, name: &str) -> usize {
    let failed = |event: &&EventKind| {
        matches!(event, EventKind::BundleFailed { bundle, step, .. }
            if bundle == name && step == "restore")
    };
    events.all().iter().filter(failed).count()
}

fn loads(events: &Recorder, name: &str) -> usize {
    let loaded = |event: &&EventKind| matches!(event, EventKind::BundleLoaded { bundle, .. } if bundle == name);
    events.all().iter().filter(loaded).count()
}

async fn fails(guest: &Guest, with: &str) {
    let outcome = guest.call::<_, i64>("inc", (1,)).await;
    let Err(Failure::BundleUnavailable { problem, .. }) = &outcome else { panic!("{outcome:?}") };
    assert!(problem.contains(with), "{problem}");
}

/// Its worker is killed, and comes back without it.
async fn comes_back_without(supervisor: &Supervisor, name: &str) {
    let mut workers = supervisor.status().workers.into_iter();
    let own = workers.find(|worker| worker.bundles.iter().any(|b| b == name)).unwrap();
    slay(own.pid.unwrap());
    in_state(supervisor, name, BundleState::Failed).await;
}

#[test]
fn s4_a_bundle_that_cannot_be_loaded_again_is_tried_until_it_can() {
    run(async {
        let mut config = config();
        config.restart.initial_delay = Duration::from_millis(5);
        config.restart.max_delay = Duration::from_millis(50);
        config.restart.limit = 100;
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let folder = tempfile::tempdir().unwrap();
        let one = load(&supervisor, breakable("one", &folder, "")).await;
        let two = load(&supervisor, lua_with("two", "", "")).await;
        for times in 1..=3 {
            set_broken(&folder, true);
            comes_back_without(&supervisor, "one").await;
            fails(&one, "it is broken").await;
            // Nobody else is disturbed, and nobody is told of each attempt.
            answers(&two).await;
            attempts(&folder, 3).await;
            fails(&one, "it is broken").await;
            assert_eq!(failures(&events, "one"), times);
            set_broken(&folder, false);
            in_state(&supervisor, "one", BundleState::Ready).await;
            answers(&one).await;
            wait_for("the event", || (loads(&events, "one") == times + 1).then_some(())).await;
        }
        // What was unloaded is not.
        set_broken(&folder, true);
        comes_back_without(&supervisor, "one").await;
        supervisor.unload("one").await.unwrap();
        set_broken(&folder, false);
        let one = load(&supervisor, breakable("one", &folder, "")).await;
        answers(&one).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().restarts, 4);
        supervisor.shutdown().await;
    });
}

/// Each of its deaths takes as long as a load may, which would be longer than the window.
#[test]
fn s5_a_bundle_whose_load_hangs_after_a_restart_is_quarantined() {
    run(async {
        let mut config = config();
        config.load_timeout = Duration::from_secs(2);
        config.bundle_crash_window = Duration::from_secs(4);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let two = load(&supervisor, lua_with("two", "", "")).await;
        let folder = tempfile::tempdir().unwrap();
        let hangs = folder.path().join("hangs");
        let code = format!("while io.open('{}') do menagerie.sleep(100) end", hangs.display());
        let one = load(&supervisor, lua_with("one", &code, "")).await;
        std::fs::write(&hangs, "").unwrap();
        slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
        let quarantined = |event: &EventKind| match event {
            EventKind::BundleQuarantined { bundle, crashes } => Some((bundle.clone(), *crashes)),
            _ => None,
        };
        let told = events.wait("the quarantine", quarantined).await;
        assert_eq!(told, ("one".to_owned(), 3));
        answers(&two).await;
        drop(one);
        supervisor.shutdown().await;
    });
}

/// No limit is on how often it is tried.
#[test]
fn s4_a_bundle_that_cannot_be_loaded_again_is_not_tried_without_a_pause() {
    run(async {
        let mut config = config();
        config.restart = super::at_once_and_for_ever();
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        let one = load(&supervisor, breakable("one", &folder, "")).await;
        set_broken(&folder, true);
        comes_back_without(&supervisor, "one").await;
        let made = || folder.path().join("broken").metadata().unwrap().len();
        let (begun, before) = (std::time::Instant::now(), made());
        attempts(&folder, 3).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let more = u128::from(made() - before);
        let elapsed = begun.elapsed().as_millis();
        assert!(more <= elapsed / 100 + 1, "{more} attempts in {elapsed} ms");
        fails(&one, "it is broken").await;
        supervisor.shutdown().await;
    });
}

/// Nobody waits for that, also where it takes most of the time.
#[test]
fn s9_a_worker_stops_for_idleness_although_a_bundle_is_tried_again_there() {
    run(async {
        let mut config = config();
        config.restart = super::at_once_and_for_ever();
        config.heartbeat = Duration::from_millis(50);
        config.heartbeat_kill = u32::MAX;
        config.idle_stop = Some(Duration::from_secs(1));
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        let code = format!(
            "if io.open('{}') then\n  menagerie.sleep(900)\n  error('it is broken')\nend",
            folder.path().join("broken").display()
        );
        let two = load(&supervisor, lua_with("two", "", "")).await;
        let one = load(&supervisor, lua_with("one", &code, "")).await;
        set_broken(&folder, true);
        comes_back_without(&supervisor, "one").await;
        wait_for("the worker to stop", || {
            worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Stopped)
        })
        .await;
        set_broken(&folder, false);
        answers(&two).await;
        answers(&one).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().restarts, 1);
        supervisor.shutdown().await;
    });
}

/// So that nothing is tried again for its time.
fn slowly(config: &mut menagerie_supervisor::Config) {
    config.restart.initial_delay = Duration::from_secs(1200);
    config.restart.max_delay = Duration::from_secs(1200);
    config.restart.window = Duration::from_secs(7200);
    config.restart.limit = 1;
}

#[test]
fn s4_a_bundle_is_tried_again_when_what_it_needs_is_there() {
    run(async {
        let mut config = config();
        slowly(&mut config);
        config.isolation = Isolation::Bundle;
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        let provider = load(&supervisor, breakable("provider", &folder, "")).await;
        let code = "menagerie.call('provider@1', 'inc', 1)";
        let needs = "[[dependency]]\ncontract = 'provider@1'\n";
        let user = load(&supervisor, lua_with("user", code, needs)).await;
        set_broken(&folder, true);
        comes_back_without(&supervisor, "provider").await;
        comes_back_without(&supervisor, "user").await;
        fails(&user, "it is broken").await;
        set_broken(&folder, false);
        supervisor.reload("provider").await.unwrap();
        answers(&provider).await;
        in_state(&supervisor, "user", BundleState::Ready).await;
        answers(&user).await;
        supervisor.shutdown().await;
    });
}

/// The bundle's task is not for one process only.
#[test]
fn s4_a_bundle_that_failed_is_tried_in_the_process_after_a_rolling_restart() {
    run(async {
        let mut config = config();
        slowly(&mut config);
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        let one = load(&supervisor, breakable("one", &folder, "")).await;
        set_broken(&folder, true);
        comes_back_without(&supervisor, "one").await;
        let before = ready_after(&supervisor, "lua", 0).await;
        // Where it fails, nothing changes.
        supervisor.restart_rolling("lua").await.unwrap_err();
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, before.pid);
        set_broken(&folder, false);
        supervisor.restart_rolling("lua").await.unwrap();
        in_state(&supervisor, "one", BundleState::Ready).await;
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// What fails now would fail in the next process, and is tried there again.
#[test]
fn s9_a_worker_is_recycled_although_one_of_its_bundles_has_failed() {
    run(async {
        let mut config = config();
        slowly(&mut config);
        config.heartbeat = Duration::from_millis(50);
        config.heartbeat_kill = u32::MAX;
        config.recycle_after_calls = Some(10);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let folder = tempfile::tempdir().unwrap();
        let one = load(&supervisor, breakable("one", &folder, "")).await;
        let two = load(&supervisor, lua_with("two", "", "")).await;
        set_broken(&folder, true);
        comes_back_without(&supervisor, "one").await;
        ready_after(&supervisor, "lua", 0).await;
        for _ in 0..10 {
            answers(&two).await;
        }
        let replaced = |event: &EventKind| matches!(event, EventKind::WorkerReplaced { .. });
        events.wait("the next process", |event| replaced(event).then_some(())).await;
        answers(&two).await;
        fails(&one, "it is broken").await;
        set_broken(&folder, false);
        supervisor.reload("one").await.unwrap();
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// By the list of what should be loaded, as at SIGHUP.
#[test]
fn s4_what_failed_is_tried_when_the_list_of_bundles_is_read_again() {
    run(async {
        let mut config = config();
        slowly(&mut config);
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        // In the order of their names: the first needs the second.
        let needs = "[[dependency]]\ncontract = 'b@1'\n";
        let b = load(&supervisor, breakable("b", &folder, "")).await;
        let code = "menagerie.call('b@1', 'inc', 1)";
        let a = load(&supervisor, lua_with("a", code, needs)).await;
        let paths = [a.bundle.path(), b.bundle.path()];
        set_broken(&folder, true);
        comes_back_without(&supervisor, "a").await;
        in_state(&supervisor, "b", BundleState::Failed).await;
        let done = supervisor.reconcile(&paths, &paths).await;
        assert!(done.loaded.is_empty() && done.unloaded.is_empty(), "{done:?}");
        let failed: Vec<_> = done.failed.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(failed, paths, "{done:?}");
        set_broken(&folder, false);
        let done = supervisor.reconcile(&paths, &paths).await;
        assert!(done.failed.is_empty(), "{done:?}");
        assert!(done.loaded.contains(&"b".to_owned()), "{done:?}");
        in_state(&supervisor, "a", BundleState::Ready).await;
        answers(&a).await;
        answers(&b).await;
        // And nothing more.
        let done = supervisor.reconcile(&paths, &paths).await;
        assert!(done.loaded.is_empty() && done.failed.is_empty(), "{done:?}");
        supervisor.shutdown().await;
    });
}
