//! Loading into all replicas, unloading from all, restarting each.

use std::time::Duration;

use menagerie_supervisor::{Failure, Isolation, RuntimeError, WorkerState};

use super::super::{Load, answers, crash, load, lua, status};
use super::{
    LOADERS, all_ready, bundle, code, names, pids, processes, start_and, started, worker, workers,
};
use crate::support::{exists, run, wait_for};

#[test]
fn s9_an_unload_leaves_none_and_a_load_that_fails_neither() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            let calls = Load::on(&one, 4);
            calls.more(20).await;
            supervisor.unload("one").await.unwrap();
            for failure in calls.end().await {
                assert!(matches!(failure, Failure::StaleHandle { .. }), "{failure:?}");
            }
            let outcome = one.call::<_, u32>("pid", ()).await;
            assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
            assert!(supervisor.status().bundles.is_empty());
            let shown = workers(&supervisor);
            assert!(shown.iter().all(|worker| worker.bundles.is_empty()), "{shown:?}");
            // One that loads in all but one replica is loaded in none.
            let odd = worker(&supervisor, &format!("{loader}#2")).pid.unwrap();
            let (file, broken) = if loader == "lua" {
                let odd = format!("if pid() == {odd} then error('no') end\nlocal kept, keeps");
                ("main.lua", code(loader, 1).replace("local kept, keeps", &odd))
            } else {
                ("main.py", code(loader, 1) + &format!("\nassert os.getpid() != {odd}\n"))
            };
            one.bundle.write(file, &broken);
            let outcome = supervisor.load(one.bundle.path()).await;
            assert!(matches!(outcome, Err(RuntimeError::Loader(_))), "{outcome:?}");
            assert!(supervisor.status().bundles.is_empty());
            assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
            one.bundle.write(file, &code(loader, 1));
            supervisor.load(one.bundle.path()).await.unwrap();
            let one = supervisor.contract("one@1").unwrap();
            assert_eq!(processes(&one, 3).await.len(), 3);
            supervisor.shutdown().await;
        }
    });
}

#[test]
fn s9_s8_a_rolling_restart_of_replicas_fails_no_call() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            let calls = Load::on(&one, 6);
            calls.more(30).await;
            let before = pids(&supervisor);
            supervisor.restart_rolling(loader).await.unwrap();
            all_ready(&supervisor, 3).await;
            let after = pids(&supervisor);
            assert!(before.iter().all(|pid| !after.contains(pid)), "{before:?} {after:?}");
            for pid in before {
                wait_for("the old process to end", || (!exists(pid)).then_some(())).await;
            }
            // One of them alone, by its name; and all, with a pause in each.
            supervisor.restart_rolling(&format!("{loader}#2")).await.unwrap();
            let now = pids(&supervisor);
            assert_eq!((now[0], now[2]), (after[0], after[2]));
            assert_ne!(now[1], after[1]);
            calls.more(30).await;
            supervisor.restart(loader).await.unwrap();
            all_ready(&supervisor, 3).await;
            assert!(pids(&supervisor).iter().all(|pid| !now.contains(pid)));
            calls.more(30).await;
            assert_eq!(calls.end().await, []);
            assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
            let unknown = supervisor.restart(&format!("{loader}#4")).await;
            assert!(matches!(unknown, Err(RuntimeError::WorkerUnavailable { .. })), "{unknown:?}");
            supervisor.shutdown().await;
        }
    });
}

#[test]
fn s9_a_replica_that_sleeps_is_woken_when_the_others_are_busy() {
    run(async {
        let supervisor = start_and("lua", 2, |config| {
            config.heartbeat = Duration::from_millis(50);
            config.idle_stop = Some(Duration::from_millis(500));
        });
        let one = load(&supervisor, bundle("lua", 1)).await;
        let asleep = || workers(&supervisor).iter().all(|w| w.state == WorkerState::Stopped);
        wait_for("all to sleep", || asleep().then_some(())).await;
        // The first call wakes all of them. Whoever has nothing to do goes to
        // sleep again, and so it is their incarnations that tell.
        let before: Vec<u64> = workers(&supervisor).iter().map(|w| w.incarnation).collect();
        answers(&one).await;
        wait_for("both to wake", || {
            let now = workers(&supervisor);
            let woken = now.iter().zip(&before).all(|(now, before)| now.incarnation > *before);
            woken.then_some(())
        })
        .await;
        // Then one is kept busy, and the other goes to sleep.
        let busy = {
            let one = one.contract.clone();
            tokio::spawn(async move { one.call::<_, ()>("sleep", (600_000,)).await })
        };
        let sleeper = wait_for("the other to sleep", || {
            let now = workers(&supervisor);
            let busy = status(&supervisor, "one").calls.in_flight == 1;
            let ready = now.iter().any(|worker| worker.state == WorkerState::Ready);
            let sleeper = now.into_iter().find(|worker| worker.state == WorkerState::Stopped);
            sleeper.filter(|_| busy && ready)
        })
        .await;
        // The next call goes behind the busy one; but it wakes the other.
        let next = {
            let one = one.contract.clone();
            tokio::spawn(async move { one.call::<_, i64>("inc", (1,)).await })
        };
        wait_for("the sleeper to wake", || {
            (worker(&supervisor, &sleeper.name).incarnation > sleeper.incarnation).then_some(())
        })
        .await;
        busy.abort();
        assert_eq!(next.await.unwrap().unwrap(), 2);
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_replicas_of_bundles_that_have_workers_of_their_own() {
    run(async {
        let supervisor = start_and("lua", 2, |config| config.isolation = Isolation::Bundle);
        let one = load(&supervisor, bundle("lua", 1)).await;
        let two = load(&supervisor, lua("two")).await;
        assert_eq!(names(&supervisor), ["lua/one#1", "lua/one#2", "lua/two#1", "lua/two#2"]);
        assert_eq!(status(&supervisor, "one").worker, "lua/one");
        assert_eq!(processes(&one, 2).await.len(), 2);
        crash(&two).await;
        answers(&two).await;
        let before = pids(&supervisor);
        supervisor.restart_rolling("lua/one").await.unwrap();
        let after = pids(&supervisor);
        assert!(!after.contains(&before[0]) && !after.contains(&before[1]));
        supervisor.unload("one").await.unwrap();
        wait_for("its workers to go", || {
            (names(&supervisor) == ["lua/two#1", "lua/two#2"]).then_some(())
        })
        .await;
        supervisor.shutdown().await;
    });
}
