//! Rule S3, where it is the supervisor's own task that dies: the host's `tracing` code,
//! which runs there, panics.

use std::time::Duration;

use menagerie_supervisor::{Failure, RuntimeError};

use super::strays::at_work;
use super::{answers, at_once_and_for_ever, load, lua, status};
use crate::support::{
    Gate, PATIENCE, config, exists, has_stumbled, ready_after, report, run, slay, start,
    start_with, stumble_at, wait_for, worker,
};

#[test]
fn s3_a_panic_in_a_workers_task_is_a_crash_as_any_other() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = u32::MAX;
        config.restart = at_once_and_for_ever();
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        for word in ["state: Crashed", "state: Starting", "bundle loaded", "state: Ready"] {
            for _ in 0..3 {
                let before = ready_after(&supervisor, "lua", 0).await;
                stumble_at(word);
                slay(before.pid.unwrap());
                has_stumbled().await;
                let after = ready_after(&supervisor, "lua", before.incarnation).await;
                answers(&one).await;
                assert_ne!(after.pid, before.pid);
            }
        }
        // By hand as well, and in an orderly end.
        let before = ready_after(&supervisor, "lua", 0).await.incarnation;
        stumble_at("state: Stopped");
        let restarted = supervisor.restart("lua").await;
        has_stumbled().await;
        drop(restarted);
        ready_after(&supervisor, "lua", before).await;
        answers(&one).await;
        stumble_at("state: Draining");
        supervisor.shutdown().await;
        has_stumbled().await;
        wait_for("it to stop", || worker(&supervisor, "lua").is_none().then_some(())).await;
    });
}

/// Whoever runs then has nothing to do with it.
#[test]
fn s5_nobody_is_blamed_for_what_the_supervisor_kills_for_its_own_reasons() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 1;
        config.restart = at_once_and_for_ever();
        config.heartbeat = Duration::from_millis(50);
        config.heartbeat_kill = u32::MAX;
        config.recycle_after_calls = Some(1);
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        stumble_at("worker recycled");
        let working = at_work(&one).await;
        answers(&two).await;
        has_stumbled().await;
        let outcome = working.await.unwrap();
        assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        let report = report(&supervisor, "lua", 1).await;
        assert_eq!(report.running.len(), 1, "{report:?}");
        assert!(report.cause.contains("the supervisor's task"), "{report:?}");
        answers(&one).await;
        answers(&two).await;
        supervisor.shutdown().await;
    });
}

/// What was to come after it comes all the same.
#[test]
fn r4_a_panic_while_one_bundle_goes_leaves_no_other_half_gone() {
    run(async {
        let supervisor = start();
        let gate = Gate::new();
        let needs = "bundle_dependencies = ['provider']";
        let provider = load(&supervisor, gate.bundle("provider", "", "")).await;
        let user = load(&supervisor, gate.bundle("user", "", needs)).await;
        stumble_at("bundle unloaded");
        let outcome = supervisor.unload_cascade("provider").await;
        has_stumbled().await;
        let panicked = matches!(&outcome, Err(RuntimeError::Panicked { .. }));
        assert!(panicked, "{outcome:?}");
        for (name, guest) in [("user", &user), ("provider", &provider)] {
            gate.noted(&format!("{name} unloaded"), 1).await;
            let outcome = guest.call::<_, i64>("inc", (1,)).await;
            assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
        }
        let provider = load(&supervisor, provider.bundle).await;
        let user = load(&supervisor, user.bundle).await;
        answers(&provider).await;
        answers(&user).await;
        supervisor.shutdown().await;
    });
}

/// Nobody is left behind in the old process: neither a bundle nor a call.
#[test]
fn s8_a_panic_in_a_rolling_restart_leaves_nobody_behind() {
    run(async {
        for word in ["bundle loaded", "worker replaced"] {
            let supervisor = start();
            let gate = Gate::new();
            let bundle = gate.bundle("one", "", "");
            let one = load(&supervisor, bundle).await;
            let two = load(&supervisor, lua("two")).await;
            let before = worker(&supervisor, "lua").unwrap();
            let working = if word == "bundle loaded" {
                gate.close();
                let one = one.contract.clone().with_timeout(PATIENCE);
                Some(tokio::spawn(async move { one.call::<_, ()>("pass", ()).await }))
            } else {
                None
            };
            if working.is_some() {
                gate.noted("one called", 1).await;
            }
            stumble_at(word);
            let rolling = supervisor.clone();
            let rolling = tokio::spawn(async move { rolling.restart_rolling("lua").await });
            has_stumbled().await;
            // A call that comes before waits behind the one that waits at the gate.
            let serves = || (status(&supervisor, "one").generation > 1).then_some(());
            wait_for("the next process to serve", serves).await;
            for guest in [&one, &two] {
                answers(&guest.contract.clone().with_timeout(PATIENCE)).await;
            }
            if let Some(working) = working {
                gate.open();
                working.await.unwrap().unwrap();
            }
            drop(rolling.await.unwrap());
            let gone = before.pid.unwrap();
            wait_for("the old process to end", || (!exists(gone)).then_some(())).await;
            for guest in [&one, &two] {
                answers(guest).await;
            }
            supervisor.shutdown().await;
        }
    });
}
