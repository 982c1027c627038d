//! Rule S5: who is blamed for a death, and what becomes of it.

use menagerie_supervisor::{Activity, BundleState, EventKind, Failure, Isolation, RuntimeError};

use super::strays::at_work;
use super::{answers, crash, in_state, load, lua, lua_that_aborts_in_a_load, lua_with, status};
use crate::support::{
    Gate, Recorder, config, ready_after, report, run, slay, start_with, wait_for, worker,
};

#[test]
fn s5_third_death_quarantines_and_the_others_go_on() {
    run(async {
        let supervisor = start_with(config());
        let events = Recorder::of(&supervisor);
        let bad = load(&supervisor, lua("bad")).await;
        let good = load(&supervisor, lua("good")).await;
        for n in 1..=3 {
            crash(&bad).await;
            answers(&good).await;
            let report = report(&supervisor, "lua", n).await;
            assert_eq!(report.running.len(), 1, "{report:?}");
            assert_eq!(report.running[0].bundle, "bad");
            assert_eq!(report.running[0].activity, Activity::Call);
        }
        let outcome = bad.call::<_, i64>("inc", (1,)).await;
        let Err(Failure::Quarantined { what }) = outcome else { panic!("{outcome:?}") };
        assert!(what.contains("bad"), "{what}");
        assert_eq!(in_state(&supervisor, "bad", BundleState::Quarantined).await.worker, "lua");
        let quarantined = |event: &EventKind| match event {
            EventKind::BundleQuarantined { bundle, crashes } => Some((bundle.clone(), *crashes)),
            _ => None,
        };
        assert_eq!(events.wait("the event", quarantined).await, ("bad".to_owned(), 3));
        // The worker comes back without it, and its deaths are forgiven.
        ready_after(&supervisor, "lua", 3).await;
        answers(&good).await;
        // Another process does not make it better.
        supervisor.restart("lua").await.unwrap();
        let failure = bad.call::<_, i64>("inc", (1,)).await.unwrap_err();
        assert!(failure.to_string().contains("a reload tries a bundle again"), "{failure}");
        // By hand it gets another chance, and another account.
        supervisor.reload("bad").await.unwrap();
        answers(&bad).await;
        crash(&bad).await;
        answers(&bad).await;
        answers(&good).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_with_isolation_auto_the_second_death_moves_it_to_a_worker_of_its_own() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Auto;
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let bad = load(&supervisor, lua("bad")).await;
        let good = load(&supervisor, lua("good")).await;
        crash(&bad).await;
        answers(&bad).await;
        assert_eq!(status(&supervisor, "bad").worker, "lua");
        crash(&bad).await;
        // It answers from its new worker.
        answers(&bad).await;
        answers(&good).await;
        assert_eq!(status(&supervisor, "bad").worker, "lua/bad");
        assert_eq!(status(&supervisor, "good").worker, "lua");
        let moved = |event: &EventKind| match event {
            EventKind::BundleIsolated { bundle, from, to } => {
                Some((bundle.clone(), from.clone(), to.clone()))
            }
            _ => None,
        };
        let told = events.wait("the event", moved).await;
        assert_eq!(told, ("bad".to_owned(), "lua".to_owned(), "lua/bad".to_owned()));
        let shared = ready_after(&supervisor, "lua", 2).await;
        // What it does there is nobody else's trouble.
        crash(&bad).await;
        let outcome = bad.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::Quarantined { .. })), "{outcome:?}");
        let report = report(&supervisor, "lua/bad", 1).await;
        assert_eq!(report.running[0].bundle, "bad");
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, shared.pid);
        answers(&good).await;
        supervisor.shutdown().await;
    });
}

/// The second death may be that of a process which its worker has replaced: the one that
/// serves by then does not keep the bundle, nor do handles lead there.
#[test]
fn s5_what_is_isolated_by_the_end_of_a_replaced_process_runs_in_its_own_worker_only() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Auto;
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("left");
        let bundle = lua("bad");
        let main = std::fs::read_to_string(bundle.path().join("main.lua")).unwrap();
        let hook = format!(
            "return {{ on_unload = function() io.open('{}', 'w'):close() end,",
            left.display()
        );
        bundle.write("main.lua", &main.replace("return {", &hook));
        let bad = load(&supervisor, bundle).await;
        crash(&bad).await;
        answers(&bad).await;
        let old = ready_after(&supervisor, "lua", 1).await.pid.unwrap();
        let working = at_work(&bad).await;
        let rolling = {
            let supervisor = supervisor.clone();
            tokio::spawn(async move { supervisor.restart_rolling("lua").await })
        };
        wait_for("the next process to serve", || {
            (status(&supervisor, "bad").generation == 3).then_some(())
        })
        .await;
        // It calls there from now on.
        let handle = supervisor.contract("bad@1").unwrap();
        answers(&handle).await;
        slay(old);
        let outcome = working.await.unwrap();
        assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        let shared = worker(&supervisor, "lua").unwrap();
        wait_for("the bundle to leave", || left.exists().then_some(())).await;
        crash(&handle).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, shared.pid);
        rolling.await.unwrap().unwrap();
        supervisor.shutdown().await;
    });
}

/// Nobody can say which of two that ran was it: both are parted, and the next
/// death tells.
#[test]
fn s5_suspects_are_parted_and_the_innocent_is_not_quarantined() {
    run(async {
        let supervisor = start_with(config());
        let bad = load(&supervisor, lua("bad")).await;
        let good = load(&supervisor, lua("good")).await;
        for n in 1..=3 {
            let working = {
                let good = good.clone();
                tokio::spawn(async move { good.call::<_, ()>("sleep", (60_000,)).await })
            };
            wait_for("the innocent to be at work", || {
                (status(&supervisor, "good").calls.in_flight > 0).then_some(())
            })
            .await;
            // A call that is in flight is not yet begun; one more answer says so.
            let outcome = bad.call::<_, ()>("sleep", (50,)).await;
            assert!(outcome.is_ok(), "{outcome:?}");
            crash(&bad).await;
            assert!(working.await.unwrap().is_err());
            let report = report(&supervisor, "lua", n).await;
            assert_eq!(report.running.len(), 2, "{report:?}");
        }
        answers(&bad).await;
        answers(&good).await;
        assert_eq!(status(&supervisor, "bad").worker, "lua/bad");
        assert_eq!(status(&supervisor, "good").worker, "lua/good");
        // Alone, it is judged at once: the deaths before count too.
        crash(&bad).await;
        in_state(&supervisor, "bad", BundleState::Quarantined).await;
        answers(&good).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_a_crash_in_init_names_the_bundle_and_quarantines_it() {
    run(async {
        let supervisor = start_with(config());
        let good = load(&supervisor, lua("good")).await;
        // It loads well once, and never again.
        let (bundle, flag) = lua_that_aborts_in_a_load("bad");
        let bad = load(&supervisor, bundle).await;
        answers(&bad).await;
        std::fs::write(flag.path(), "now").unwrap();
        crash(&bad).await;
        in_state(&supervisor, "bad", BundleState::Quarantined).await;
        answers(&good).await;
        let crashes = supervisor.crashes();
        let in_load = |crash: &&menagerie_supervisor::CrashReport| {
            crash.running.iter().any(|r| r.bundle == "bad" && r.activity == Activity::Load)
        };
        assert_eq!(crashes.iter().filter(in_load).count(), 2, "{crashes:?}");
        // By hand it dies once more, and stays where it is.
        let outcome = supervisor.reload("bad").await;
        assert!(matches!(outcome, Err(RuntimeError::WorkerUnavailable { .. })), "{outcome:?}");
        answers(&good).await;
        assert_eq!(status(&supervisor, "bad").state, BundleState::Quarantined);
        std::fs::write(flag.path(), "").unwrap();
        supervisor.reload("bad").await.unwrap();
        answers(&bad).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_a_crash_in_on_unload_names_the_bundle_and_the_hook() {
    run(async {
        let supervisor = start_with(config());
        let good = load(&supervisor, lua("good")).await;
        let bundle = lua("bad");
        let main = std::fs::read_to_string(bundle.path().join("main.lua")).unwrap();
        let hook = "on_unload = function() menagerie.abort() end,\n";
        let main = main.replacen("return {", &format!("return {{ {hook}"), 1);
        bundle.write("main.lua", &main);
        let _bad = load(&supervisor, bundle).await;
        drop(supervisor.unload("bad").await);
        let report = report(&supervisor, "lua", 1).await;
        let running: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
        assert_eq!(running, [("bad", Activity::OnUnload)], "{report:?}");
        answers(&good).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_the_limit_is_configuration() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 1;
        let supervisor = start_with(config);
        let bad = load(&supervisor, lua("bad")).await;
        crash(&bad).await;
        in_state(&supervisor, "bad", BundleState::Quarantined).await;
        supervisor.unload("bad").await.unwrap();
        supervisor.shutdown().await;
    });
}

/// Another one of its name is loaded before it is gone: what that one does is counted, and
/// not forgotten with the first.
#[test]
fn s5_the_end_of_an_unload_forgets_nothing_of_the_next_bundle_of_its_name() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 2;
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let one = load(&supervisor, lua("one")).await;
        crash(&one).await;
        answers(&one).await;
        let working = at_work(&one).await;
        let unload = supervisor.clone();
        let unload = tokio::spawn(async move { unload.unload("one").await });
        let gone = || supervisor.contract("one@1").is_err().then_some(());
        wait_for("nobody to find it any more", gone).await;
        // It has an account of its own.
        let next = load(&supervisor, lua("one")).await;
        crash(&next).await;
        assert!(working.await.unwrap().is_err());
        unload.await.unwrap().unwrap();
        let unloaded = |event: &EventKind| matches!(event, EventKind::BundleUnloaded { .. });
        events.wait("the end of the unload", |event| unloaded(event).then_some(())).await;
        answers(&next).await;
        crash(&next).await;
        in_state(&supervisor, "one", BundleState::Quarantined).await;
        supervisor.shutdown().await;
    });
}

/// What it has done while it was unloaded is forgotten with it.
#[test]
fn s5_a_death_in_an_unload_is_no_account_of_who_comes_next() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 2;
        let supervisor = start_with(config);
        let code = "do return { on_unload = function() menagerie.abort() end,\n\
                    ['one@1'] = { inc = function(n) return n + 1 end } } end";
        let one = load(&supervisor, lua_with("one", code, "")).await;
        answers(&one).await;
        supervisor.unload("one").await.unwrap();
        assert_eq!(report(&supervisor, "lua", 1).await.running[0].bundle, "one");
        let next = load(&supervisor, lua("one")).await;
        crash(&next).await;
        answers(&next).await;
        crash(&next).await;
        in_state(&supervisor, "one", BundleState::Quarantined).await;
        supervisor.shutdown().await;
    });
}

/// Nor of one that has come already.
#[test]
fn s5_a_death_in_an_unload_is_no_account_of_who_has_come_meanwhile() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = 1;
        let supervisor = start_with(config);
        let gate = Gate::new();
        let code = "do return { on_unload = function() pass 'leaves' menagerie.abort() end,\n\
                    ['one@1'] = { inc = function(n) return n + 1 end } } end";
        let one = load(&supervisor, gate.bundle("one", code, "")).await;
        let two = load(&supervisor, lua("two")).await;
        gate.close();
        let unload = supervisor.clone();
        let unload = tokio::spawn(async move { unload.unload("one").await });
        gate.noted("leaves", 1).await;
        let next = load(&supervisor, lua("one")).await;
        answers(&next).await;
        gate.open();
        unload.await.unwrap().unwrap();
        let report = report(&supervisor, "lua", 1).await;
        assert_eq!(report.running.len(), 1, "{report:?}");
        assert_eq!(report.running[0].activity, Activity::OnUnload);
        answers(&next).await;
        answers(&two).await;
        // What it does itself is counted.
        crash(&next).await;
        in_state(&supervisor, "one", BundleState::Quarantined).await;
        drop(one);
        supervisor.shutdown().await;
    });
}
