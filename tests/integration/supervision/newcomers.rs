//! Rule S5 for bundles that kill whoever loads them for the first time.

use menagerie_supervisor::{
    Activity, BundleState, EventKind, Failure, Isolation, RuntimeError, Supervisor, WorkerState,
};

use super::{answers, crash, load, lua, lua_that_aborts_in_a_load, lua_with, status};
use crate::support::{Bundle, Recorder, config, ready_after, run, start_with, wait_for, worker};

/// A Lua bundle that aborts its worker whenever it is loaded.
fn deadly(name: &str) -> Bundle {
    lua_with(name, "menagerie.abort()", "")
}

/// Loads it, and it dies of that.
async fn dies_of(supervisor: &Supervisor, bundle: &Bundle) -> String {
    let outcome = supervisor.load(bundle.path()).await;
    let Err(RuntimeError::WorkerUnavailable { problem, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    problem
}

#[test]
fn s5_bundles_that_kill_whoever_loads_them_take_nobody_with_them() {
    run(async {
        let mut config = config();
        config.restart.limit = 1;
        let supervisor = start_with(config);
        let bundles = ["x1", "x2", "x3"].map(deadly);
        let good = lua("good");
        let mut paths: Vec<_> = bundles.iter().map(Bundle::path).collect();
        paths.push(good.path());
        let outcomes = supervisor.load_all(&paths).await;
        assert_eq!(outcomes.len(), 4);
        for ((_, outcome), name) in outcomes.iter().zip(["x1", "x2", "x3"]) {
            let Err(RuntimeError::WorkerUnavailable { problem, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(problem.contains(&format!("'load' of '{name}'")), "{problem}");
            assert!(problem.contains("signal 6 (SIGABRT)"), "{problem}");
        }
        assert!(outcomes[3].1.is_ok(), "{outcomes:?}");
        answers(&supervisor.contract("good@1").unwrap()).await;
        // Each has cost one death.
        ready_after(&supervisor, "lua", 3).await;
        let crashes = wait_for("the reports", || {
            let crashes = supervisor.crashes();
            (crashes.len() >= 3).then_some(crashes)
        })
        .await;
        let ran: Vec<_> = crashes
            .iter()
            .flat_map(|crash| &crash.running)
            .map(|running| (&*running.bundle, running.activity))
            .collect();
        assert_eq!(ran, ["x1", "x2", "x3"].map(|name| (name, Activity::Load)));
        // What else it dies of counts as ever.
        let good = supervisor.contract("good@1").unwrap();
        let outcome = good.call::<_, ()>("crash", ()).await;
        assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        answers(&good).await;
        drop(good.call::<_, ()>("crash", ()).await);
        wait_for("its quarantine", || {
            (worker(&supervisor, "lua")?.state == WorkerState::Quarantined).then_some(())
        })
        .await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_the_third_first_load_that_kills_its_worker_quarantines_the_bundle() {
    run(async {
        let supervisor = start_with(config());
        let events = Recorder::of(&supervisor);
        let good = load(&supervisor, lua("good")).await;
        let (bad, flag) = lua_that_aborts_in_a_load("bad");
        std::fs::write(flag.path(), "now").unwrap();
        let load_all = async || supervisor.load_all(&[bad.path()]).await.remove(0).1;
        for n in 1..=3 {
            let outcome = load_all().await;
            let died = matches!(outcome, Err(RuntimeError::WorkerUnavailable { .. }));
            assert!(died, "{outcome:?}");
            ready_after(&supervisor, "lua", n).await;
        }
        let quarantined = |event: &EventKind| match event {
            EventKind::BundleQuarantined { bundle, crashes } => Some((bundle.clone(), *crashes)),
            _ => None,
        };
        assert_eq!(events.wait("the event", quarantined).await, ("bad".to_owned(), 3));
        assert_eq!(status(&supervisor, "bad").state, BundleState::Quarantined);
        // It is not tried again, whatever it would do by now.
        std::fs::write(flag.path(), "").unwrap();
        let outcome = load_all().await;
        let Err(RuntimeError::BundleQuarantined { bundle, crashes: 3, wait_ms }) = &outcome else {
            panic!("{outcome:?}")
        };
        assert!(bundle == "bad" && (1..=60_000).contains(wait_ms), "{outcome:?}");
        assert_eq!(status(&supervisor, "bad").state, BundleState::Quarantined);
        assert_eq!(worker(&supervisor, "lua").unwrap().restarts, 3);
        answers(&good).await;
        // By hand it gets another chance, and another account.
        supervisor.reload("bad").await.unwrap();
        let bad = supervisor.contract("bad@1").unwrap();
        answers(&bad).await;
        crash(&bad).await;
        answers(&bad).await;
        supervisor.shutdown().await;
    });
}

/// What is loaded at last, and crashes then, was at these deaths too.
#[test]
fn s5_a_death_at_the_first_load_counts_when_the_bundle_is_loaded() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 2;
        let supervisor = start_with(config);
        let (bad, flag) = lua_that_aborts_in_a_load("bad");
        std::fs::write(flag.path(), "now").unwrap();
        dies_of(&supervisor, &bad).await;
        std::fs::write(flag.path(), "").unwrap();
        let bad = load(&supervisor, bad).await;
        crash(&bad).await;
        super::in_state(&supervisor, "bad", BundleState::Quarantined).await;
        supervisor.shutdown().await;
    });
}

/// It has no worker of its own before it is loaded there.
#[test]
fn s10_a_bundle_is_told_to_be_isolated_when_it_is_loaded() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Auto;
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let (bad, flag) = lua_that_aborts_in_a_load("bad");
        std::fs::write(flag.path(), "now").unwrap();
        for n in 1..=2 {
            dies_of(&supervisor, &bad).await;
            ready_after(&supervisor, "lua", n).await;
        }
        std::fs::write(flag.path(), "").unwrap();
        let manifest = std::fs::read_to_string(bad.path().join("manifest.toml")).unwrap();
        bad.write("manifest.toml", &format!("{manifest}\nbundle_dependencies = ['nobody']"));
        supervisor.load(bad.path()).await.unwrap_err();
        let told = || {
            let moved = |event: &&EventKind| matches!(event, EventKind::BundleIsolated { .. });
            events.all().iter().filter(moved).count()
        };
        let failed = |event: &EventKind| match event {
            EventKind::BundleFailed { reason, .. } => reason.contains("'nobody'").then_some(()),
            _ => None,
        };
        events.wait("the failure", failed).await;
        assert_eq!(told(), 0);
        bad.write("manifest.toml", &manifest);
        assert_eq!(supervisor.load(bad.path()).await.unwrap().worker, "lua/bad");
        wait_for("the event", || (told() == 1).then_some(())).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_with_isolation_auto_the_third_first_load_is_in_a_worker_of_its_own() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Auto;
        let supervisor = start_with(config);
        let good = load(&supervisor, lua("good")).await;
        let (bad, flag) = lua_that_aborts_in_a_load("bad");
        std::fs::write(flag.path(), "now").unwrap();
        for n in 1..=2 {
            dies_of(&supervisor, &bad).await;
            ready_after(&supervisor, "lua", n).await;
        }
        let before = worker(&supervisor, "lua").unwrap();
        std::fs::write(flag.path(), "").unwrap();
        let bad = load(&supervisor, bad).await;
        answers(&bad).await;
        assert_eq!(status(&supervisor, "bad").worker, "lua/bad");
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, before.pid);
        answers(&good).await;
        supervisor.shutdown().await;
    });
}

/// Whoever is loaded beside another one that kills the worker is loaded into the next.
#[test]
fn s5_a_first_load_is_tried_again_if_it_was_another_bundles_doing() {
    run(async {
        let supervisor = start_with(config());
        let bad = load(&supervisor, lua("bad")).await;
        let folder = tempfile::tempdir().unwrap();
        let (begun, gate) = (folder.path().join("begun"), folder.path().join("gate"));
        let code = format!(
            "io.open('{}', 'w'):close()\n\
             while not os.rename('{gate}', '{gate}') do menagerie.sleep(5) end",
            begun.display(),
            gate = gate.display()
        );
        let slow = lua_with("slow", &code, "");
        let loading = {
            let (supervisor, path) = (supervisor.clone(), slow.path());
            tokio::spawn(async move { supervisor.load(path).await })
        };
        wait_for("the load to begin", || begun.exists().then_some(())).await;
        crash(&bad).await;
        std::fs::write(&gate, "").unwrap();
        loading.await.unwrap().unwrap();
        answers(&supervisor.contract("slow@1").unwrap()).await;
        supervisor.shutdown().await;
    });
}
