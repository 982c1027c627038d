//! Reloads: every replica has the new code, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use menagerie_supervisor::{BundleState, RuntimeError, WorkerState};

use super::super::{Load, load, status};
use super::{
    LOADERS, all_have, all_ready, ask, ask_until, bundle, code, pids, replicas, start, start_and,
    started, worker,
};
use crate::support::{run, slay, wait_for};

#[test]
fn s9_a_reload_under_load_reaches_every_replica_and_fails_no_call() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            let calls = Load::on(&one, 6);
            let file = if loader == "lua" { "main.lua" } else { "main.py" };
            for version in 2..=4 {
                calls.more(30).await;
                one.bundle.write(file, &code(loader, version));
                let before = pids(&supervisor);
                let shown = supervisor.reload("one").await.unwrap();
                assert_eq!(shown.replicas, replicas(3, 3));
                // From here on nobody has the old code.
                let seen: Vec<u32> = ask(&one, "version", 12).await;
                assert!(seen.iter().all(|seen| *seen == version), "{seen:?}");
                assert_eq!(pids(&supervisor), before);
            }
            calls.more(30).await;
            assert_eq!(calls.end().await, []);
            assert_eq!(ask_until(&one, "both", 3).await, all_have(&supervisor, 4));
            supervisor.shutdown().await;
        }
    });
}

/// Who calls one after the other never sees the old code after the new.
#[test]
fn s9_a_reload_swaps_all_replicas_in_one_step() {
    run(async {
        let (supervisor, one) = started("lua", 3).await;
        for version in 2..=6 {
            one.bundle.write("main.lua", &code("lua", version));
            let asking = {
                let one = one.contract.clone();
                tokio::spawn(async move {
                    let mut last = 0;
                    while last < version {
                        let seen: u32 = one.call("version", ()).await.unwrap();
                        assert!(seen >= last, "{seen} after {last}");
                        last = seen;
                    }
                })
            };
            supervisor.reload("one").await.unwrap();
            asking.await.unwrap();
        }
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_a_reload_that_fails_leaves_the_old_code_in_every_replica() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            let file = if loader == "lua" { "main.lua" } else { "main.py" };
            let calls = Load::on(&one, 4);
            // One that does not load, and one whose hook fails in one replica
            // only, when the others may have gone over already.
            let odd = worker(&supervisor, &format!("{loader}#2")).pid.unwrap();
            let hook = if loader == "lua" {
                let broken =
                    format!("on_load = function(context) if pid() == {odd} then error('no') end;");
                code(loader, 2).replace("on_load = function(context)", &broken)
            } else {
                let broken = format!("def on_load(context):\n    assert os.getpid() != {odd}\n");
                code(loader, 2).replace("def on_load(context):\n", &broken)
            };
            let serves = status(&supervisor, "one").generation;
            for broken in ["this is neither Lua nor Python", &hook] {
                one.bundle.write(file, broken);
                let outcome = supervisor.reload("one").await;
                assert!(matches!(outcome, Err(RuntimeError::Loader(_))), "{outcome:?}");
                assert_eq!(ask_until(&one, "both", 3).await, all_have(&supervisor, 1));
                let now = status(&supervisor, "one");
                assert_eq!((now.replicas, now.generation), (replicas(3, 3), serves));
            }
            assert_eq!(calls.end().await, []);
            assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
            one.bundle.write(file, &code(loader, 3));
            assert!(supervisor.reload("one").await.unwrap().generation > serves);
            assert_eq!(ask::<u32>(&one, "version", 3).await, [3, 3, 3]);
            supervisor.shutdown().await;
        }
    });
}

/// An edit serves nowhere before it is reloaded, and one that could not be
/// reloaded nowhere at all: whoever comes back, of whatever cause.
#[test]
fn s9_a_replica_that_comes_back_has_the_code_of_the_others() {
    run(async {
        for loader in LOADERS {
            let made = bundle(loader, 1);
            // Beside the code, in a folder of its own, by a link, and by one that
            // leads to where it is.
            let (file, import) = if loader == "lua" {
                ("main.lua", "local part = require 'part'\n")
            } else {
                ("main.py", "import part\n")
            };
            let part = if loader == "lua" { "part.lua" } else { "part.py" };
            let elsewhere = tempfile::tempdir().unwrap();
            std::fs::write(elsewhere.path().join(part), "").unwrap();
            std::os::unix::fs::symlink(elsewhere.path().join(part), made.path().join(part))
                .unwrap();
            std::os::unix::fs::symlink(".", made.path().join("round")).unwrap();
            std::os::unix::fs::symlink("nowhere", made.path().join("dangling")).unwrap();
            made.write(file, &format!("{import}{}", code(loader, 1)));
            let supervisor = start_and(loader, 2, |config| config.bundle_crash_limit = 1000);
            let one = load(&supervisor, made).await;
            let comes_back = async |version: u32| {
                let name = format!("{loader}#2");
                let before = worker(&supervisor, &name);
                slay(before.pid.unwrap());
                wait_for("the replica to come back", || {
                    (worker(&supervisor, &name).incarnation > before.incarnation).then_some(())
                })
                .await;
                all_ready(&supervisor, 2).await;
                assert_eq!(ask_until(&one, "both", 2).await, all_have(&supervisor, version));
            };
            one.bundle.write(file, &code(loader, 2));
            comes_back(1).await;
            supervisor.restart_rolling(&format!("{loader}#1")).await.unwrap();
            assert_eq!(ask_until(&one, "both", 2).await, all_have(&supervisor, 1));
            supervisor.reload("one").await.unwrap();
            assert_eq!(ask_until(&one, "both", 2).await, all_have(&supervisor, 2));
            one.bundle.write(file, "this is neither Lua nor Python");
            assert!(supervisor.reload("one").await.is_err());
            comes_back(2).await;
            // Not even without the folder.
            std::fs::remove_dir_all(one.bundle.path()).unwrap();
            comes_back(2).await;
            assert_eq!(status(&supervisor, "one").problem, None);
            supervisor.shutdown().await;
        }
    });
}

/// New code that kills whoever loads it kills one replica; the others have the
/// old code, and so has the one that comes back.
#[test]
fn s9_a_reload_that_kills_its_worker_kills_one() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            // It dies once: the others would have it too, if they were asked.
            let flag = tempfile::NamedTempFile::new().unwrap();
            let path = flag.path().display();
            let (file, deadly) = if loader == "lua" {
                let die = format!("if os.remove('{path}') then menagerie.abort() end\nlocal kept");
                ("main.lua", code(loader, 1).replacen("local kept", &die, 1))
            } else {
                let die = format!(
                    "\nif os.path.exists('{path}'):\n    os.remove('{path}')\n    os.abort()\n"
                );
                ("main.py", code(loader, 1) + &die)
            };
            one.bundle.write(file, &deadly);
            let outcome = supervisor.reload("one").await;
            assert!(matches!(outcome, Err(RuntimeError::WorkerUnavailable { .. })), "{outcome:?}");
            wait_for("the report", || (!supervisor.crashes().is_empty()).then_some(())).await;
            all_ready(&supervisor, 3).await;
            assert_eq!(ask::<u32>(&one, "version", 3).await, [1, 1, 1]);
            assert_eq!(supervisor.crashes().len(), 1);
            supervisor.shutdown().await;
        }
    });
}

#[test]
fn s9_a_replica_that_is_down_at_a_reload_comes_back_with_the_new_code() {
    run(async {
        let supervisor = start_and("lua", 2, |config| {
            // Long enough, as a rule, for the reload to come in between.
            config.restart.initial_delay = Duration::from_secs(3);
            config.restart.window = Duration::from_secs(120);
        });
        let one = load(&supervisor, bundle("lua", 1)).await;
        // The first restart is at once, the second waits.
        slay(worker(&supervisor, "lua#2").pid.unwrap());
        wait_for("the second incarnation", || {
            let two = worker(&supervisor, "lua#2");
            (two.incarnation == 2 && two.state == WorkerState::Ready).then_some(())
        })
        .await;
        slay(worker(&supervisor, "lua#2").pid.unwrap());
        wait_for("the pause", || {
            let two = worker(&supervisor, "lua#2");
            (two.state == WorkerState::Backoff || two.incarnation > 2).then_some(())
        })
        .await;
        one.bundle.write("main.lua", &code("lua", 2));
        let shown = supervisor.reload("one").await.unwrap();
        assert_eq!(shown.state, BundleState::Ready);
        assert_eq!(ask::<u32>(&one, "version", 2).await, [2, 2]);
        all_ready(&supervisor, 2).await;
        assert_eq!(ask_until(&one, "both", 2).await, all_have(&supervisor, 2));
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_state_is_handed_over_within_each_replica() {
    run(async {
        let (supervisor, one) = started("lua", 3).await;
        let mut given = BTreeMap::new();
        let mut value = 0_u32;
        while given.len() < 3 {
            value += 1;
            let pid: u32 = one.call("keep", (value,)).await.unwrap();
            given.insert(pid, value);
        }
        let given: BTreeSet<(u32, u32)> = given.into_iter().collect();
        supervisor.reload("one").await.unwrap();
        assert_eq!(ask_until(&one, "kept", 3).await, given);
        // A reload that fails in one gives the others theirs back.
        let odd = worker(&supervisor, "lua#3").pid.unwrap();
        let broken = format!("on_load = function(context) if pid() == {odd} then error('no') end;");
        let broken = code("lua", 2).replace("on_load = function(context)", &broken);
        one.bundle.write("main.lua", &broken);
        assert!(supervisor.reload("one").await.is_err());
        assert_eq!(ask_until(&one, "kept", 3).await, given);
        supervisor.shutdown().await;
    });
}

/// L6: half a hand-over would leave nobody who serves.
#[test]
fn l6_a_reload_goes_on_when_who_asked_for_it_goes() {
    run(async {
        let supervisor = start("lua", 1);
        let one = load(&supervisor, bundle("lua", 1)).await;
        let slow = code("lua", 2)
            .replace("on_unload = function()", "on_unload = function() menagerie.sleep(300);");
        one.bundle.write("main.lua", &slow);
        supervisor.reload("one").await.unwrap();
        one.bundle.write("main.lua", &code("lua", 3));
        let reload = {
            let supervisor = supervisor.clone();
            tokio::spawn(async move { supervisor.reload("one").await })
        };
        wait_for("the hand-over", || {
            let waits = status(&supervisor, "one").state == BundleState::Waiting;
            (waits || reload.is_finished()).then_some(())
        })
        .await;
        reload.abort();
        wait_for("the new code", || {
            (status(&supervisor, "one").state == BundleState::Ready).then_some(())
        })
        .await;
        assert_eq!(ask::<u32>(&one, "version", 1).await, [3]);
        supervisor.shutdown().await;
    });
}
