//! Rule S9: workers that have nothing to do, or have done enough.

use std::time::Duration;

use menagerie_supervisor::{EventKind, WorkerState};

use super::{Load, answers, load, lua};
use crate::support::{Recorder, config, exists, run, start_with, wait_for, worker};

#[test]
fn s9_a_worker_that_nobody_calls_stops_and_the_next_call_starts_it() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(50);
        config.idle_stop = Some(Duration::from_millis(500));
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        for n in 1..=2 {
            let pid = wait_for("the worker to run", || worker(&supervisor, "lua")?.pid).await;
            answers(&one).await;
            wait_for("the worker to stop", || {
                worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Stopped)
            })
            .await;
            assert!(!exists(pid));
            answers(&one).await;
            let after = worker(&supervisor, "lua").unwrap();
            assert!(after.incarnation > n && after.restarts == 0, "{after:?}");
        }
        // A blocking caller, and a load, start it just as well.
        wait_for("the worker to stop", || {
            worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Stopped)
        })
        .await;
        let two = load(&supervisor, lua("two")).await;
        answers(&two).await;
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_a_worker_is_recycled_after_so_many_calls_and_no_call_fails() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(50);
        config.recycle_after_calls = Some(50);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let one = load(&supervisor, lua("one")).await;
        let before = worker(&supervisor, "lua").unwrap();
        let calls = Load::on(&one, 2);
        for count in 1..=2 {
            let replaced = |event: &&EventKind| matches!(event, EventKind::WorkerReplaced { .. });
            wait_for("the worker to be recycled", || {
                (events.all().iter().filter(replaced).count() >= count).then_some(())
            })
            .await;
            calls.more(10).await;
        }
        assert_eq!(calls.end().await, []);
        let after = worker(&supervisor, "lua").unwrap();
        assert!(after.incarnation > before.incarnation && after.restarts == 0, "{after:?}");
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_a_worker_is_recycled_by_its_memory() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(50);
        config.recycle_after_rss = Some(1);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let one = load(&supervisor, lua("one")).await;
        let recycled = |event: &EventKind| match event {
            EventKind::WorkerRecycled { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        let reason = events.wait("the recycling", recycled).await;
        assert!(reason.contains("bytes of memory"), "{reason}");
        // A fresh process is beyond such a limit: that is said, and said once.
        let said = |text: &str| text.contains("as soon as it has loaded its bundles");
        let times = || supervisor.logs().iter().filter(|entry| said(&entry.message)).count();
        wait_for("the warning", || (times() == 1).then_some(())).await;
        let replaced = |event: &EventKind| matches!(event, EventKind::WorkerReplaced { .. });
        events.wait("the next process", |event| replaced(event).then_some(())).await;
        answers(&one).await;
        assert_eq!(times(), 1);
        supervisor.shutdown().await;
    });
}
