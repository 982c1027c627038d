//! Replicas that die: the others serve, and no call is lost that none had begun.

use std::time::Duration;

use menagerie_supervisor::{BundleState, Failure, Isolation, WorkerState, WorkerStatus};

use super::super::{Load, answers, crash, in_state, load, lua, lua_with, status};
use super::{
    LOADERS, all_ready, bundle, bundle_with, code, in_replicas, names, pids, processes, replicas,
    start, start_and, started, worker, workers,
};
use crate::support::{Bundle, run, slay, wait_for};

#[test]
fn s9_a_replica_that_is_killed_under_load_comes_back_and_nobody_waits_for_it() {
    run(async {
        for loader in LOADERS {
            // It is always the same bundle that runs, and it is not its fault.
            let supervisor = start_and(loader, 3, |config| config.bundle_crash_limit = 1000);
            let one = load(&supervisor, bundle(loader, 1)).await;
            for n in 1..=3 {
                let name = format!("{loader}#{n}");
                let calls = Load::on(&one, 8);
                calls.more(50).await;
                let before = worker(&supervisor, &name);
                let others = |name: &str| {
                    workers(&supervisor).into_iter().filter(move |w| w.name != name).collect()
                };
                let beside: Vec<WorkerStatus> = others(&name);
                slay(before.pid.unwrap());
                // It comes back alone, with the bundle.
                let after = wait_for("the replica to come back", || {
                    let now = worker(&supervisor, &name);
                    (now.state == WorkerState::Ready && now.incarnation > before.incarnation)
                        .then_some(now)
                })
                .await;
                all_ready(&supervisor, 3).await;
                calls.more(50).await;
                // Only what the killed one had begun has failed.
                for failure in calls.end().await {
                    let Failure::WorkerCrashed { worker, started: true, .. } = &failure else {
                        panic!("{failure:?}")
                    };
                    assert_eq!(*worker, name);
                }
                assert_eq!((after.restarts, &*after.bundles), (1, &["one".to_owned()][..]));
                let now: Vec<WorkerStatus> = others(&name);
                for (before, now) in beside.iter().zip(&now) {
                    assert_eq!((before.pid, before.incarnation), (now.pid, now.incarnation));
                }
                assert_eq!(processes(&one, 3).await, pids(&supervisor).into_iter().collect());
            }
            supervisor.shutdown().await;
        }
    });
}

/// One that goes down while the bundle is still loaded into the others has it when it is
/// back.
#[test]
fn s9_a_replica_that_is_killed_during_a_load_gets_the_bundle() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        // Whoever comes second waits at the gate.
        let code = format!(
            "local gate = '{}'\n\
             if not os.rename(gate .. '.first', gate .. '.done') then\n\
               io.open('{}', 'w'):close()\n\
               while not os.rename(gate, gate .. '.open') do menagerie.sleep(5) end\n\
               io.open(gate, 'w'):close()\n\
             end",
            gate.display(),
            folder.path().join("second").display()
        );
        let supervisor = start("lua", 2);
        let two = load(&supervisor, lua("two")).await;
        std::fs::write(gate.with_extension("first"), "").unwrap();
        let one = lua_with("one", &code, "");
        let loading = {
            let (supervisor, path) = (supervisor.clone(), one.path());
            tokio::spawn(async move { supervisor.load(path).await })
        };
        // Who has been first is done before the others begin.
        wait_for("the second load", || folder.path().join("second").exists().then_some(())).await;
        let before = worker(&supervisor, "lua#1");
        slay(before.pid.unwrap());
        wait_for("the replica to come back", || {
            let now = worker(&supervisor, "lua#1");
            (now.state == WorkerState::Ready && now.incarnation > before.incarnation).then_some(())
        })
        .await;
        std::fs::write(&gate, "").unwrap();
        loading.await.unwrap().unwrap();
        in_replicas(&supervisor, replicas(2, 2)).await;
        answers(&two).await;
        supervisor.shutdown().await;
    });
}

/// While one cannot come back, the others serve; with none, calls wait.
#[test]
fn s9_calls_wait_only_where_no_replica_is_up() {
    run(async {
        let flag = tempfile::NamedTempFile::new().unwrap();
        let code = format!(
            "while true do\n\
               local file = io.open('{}', 'r')\nlocal seen = file:read('*a')\nfile:close()\n\
               if seen == '' then break end\nmenagerie.sleep(5)\n\
             end",
            flag.path().display()
        );
        let supervisor = start("lua", 2);
        let one = load(&supervisor, lua_with("one", &code, "")).await;
        std::fs::write(flag.path(), "wait").unwrap();
        slay(worker(&supervisor, "lua#1").pid.unwrap());
        in_replicas(&supervisor, replicas(1, 2)).await;
        for _ in 0..20 {
            answers(&one).await;
        }
        let shown = status(&supervisor, "one");
        assert_eq!((shown.state, shown.replicas), (BundleState::Ready, replicas(1, 2)));
        slay(worker(&supervisor, "lua#2").pid.unwrap());
        in_replicas(&supervisor, replicas(0, 2)).await;
        assert_eq!(status(&supervisor, "one").state, BundleState::Waiting);
        let short = one
            .contract
            .clone()
            .with_timeout(Duration::from_millis(50))
            .call::<_, i64>("inc", (1,))
            .await;
        assert!(matches!(short, Err(Failure::DeadlineExceeded { .. })), "{short:?}");
        let waiting = {
            let one = one.contract.clone();
            tokio::spawn(async move { one.call::<_, i64>("inc", (1,)).await })
        };
        std::fs::write(flag.path(), "").unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
        all_ready(&supervisor, 2).await;
        supervisor.shutdown().await;
    });
}

/// C4: what the dead one had not begun is sent to the other at once.
#[test]
fn s9_c4_calls_that_were_not_begun_go_to_another_replica() {
    run(async {
        let (supervisor, one) = started("lua", 2).await;
        let in_flight = async |calls: u32| {
            wait_for("the calls to be sent", || {
                (status(&supervisor, "one").calls.in_flight == calls).then_some(())
            })
            .await;
        };
        // Both are busy, and so each has calls that wait behind the busy one.
        let mut sleeping = Vec::new();
        for sent in 1..=2 {
            let one = one.contract.clone();
            let sleep = async move { one.call::<_, ()>("sleep", (600_000,)).await };
            sleeping.push(tokio::spawn(sleep));
            in_flight(sent).await;
        }
        let mut waiting = Vec::new();
        for sent in 3..=12 {
            let one = one.contract.clone();
            waiting.push(tokio::spawn(async move { one.call::<_, u32>("pid", ()).await }));
            in_flight(sent).await;
        }
        let killed = worker(&supervisor, "lua#1").pid.unwrap();
        slay(killed);
        sleeping.iter().for_each(|sleeping| sleeping.abort());
        for call in waiting {
            assert_ne!(call.await.unwrap().unwrap(), killed);
        }
        all_ready(&supervisor, 2).await;
        supervisor.shutdown().await;
    });
}

/// An idempotent call is run again, elsewhere.
#[test]
fn s9_c4_an_idempotent_call_is_run_again_by_another_replica() {
    run(async {
        let supervisor = start("lua", 2);
        let file = tempfile::NamedTempFile::new().unwrap();
        // It says where it is; the first time it stays there.
        let function = "pid_once = function(path)
            local file = io.open(path, 'a+')
            local seen = file:read('*a')
            file:write(pid(), '\\n')
            file:close()
            if seen == '' then menagerie.sleep(600000) end
            return pid()
          end, pid = pid,";
        let made = bundle_with("lua", 1, "[idempotent]\none = ['pid_once']\n");
        made.write("main.lua", &code("lua", 1).replace("pid = pid,", function));
        let one = load(&supervisor, made).await;
        let call = {
            let (one, path) = (one.contract.clone(), file.path().display().to_string());
            tokio::spawn(async move { one.call::<_, u32>("pid_once", (path,)).await })
        };
        let killed = wait_for("the call to begin", || {
            let said = std::fs::read_to_string(file.path()).unwrap();
            said.strip_suffix('\n')?.parse::<u32>().ok()
        })
        .await;
        slay(killed);
        let ran = call.await.unwrap().unwrap();
        assert_ne!(ran, killed);
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_s5_deaths_in_all_replicas_together_quarantine_a_bundle_everywhere() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            let good = Bundle::copy_of(&bundle(loader, 1).path(), "good", "");
            let text = std::fs::read_to_string(good.path().join("manifest.toml")).unwrap();
            good.write("manifest.toml", &text.replace("one@1", "good@1"));
            for file in ["main.lua", "main.py"] {
                if let Ok(text) = std::fs::read_to_string(good.path().join(file)) {
                    good.write(file, &text.replace("one@1", "good@1"));
                }
            }
            let good = load(&supervisor, good).await;
            for _ in 0..3 {
                crash(&one).await;
                answers(&good).await;
            }
            in_state(&supervisor, "one", BundleState::Quarantined).await;
            assert_eq!(status(&supervisor, "one").replicas, replicas(0, 3));
            for _ in 0..3 {
                let outcome = one.call::<_, i64>("inc", (1,)).await;
                assert!(matches!(outcome, Err(Failure::Quarantined { .. })), "{outcome:?}");
            }
            // It is in none of them, also when they have come back.
            wait_for("the others to be everywhere", || {
                (status(&supervisor, "good").replicas == replicas(3, 3)).then_some(())
            })
            .await;
            assert_eq!(status(&supervisor, "one").replicas, replicas(0, 3));
            assert_eq!(processes(&good, 3).await.len(), 3);
            // By hand it gets another chance, in all of them.
            let shown = supervisor.reload("one").await.unwrap();
            assert_eq!(shown.replicas, replicas(3, 3));
            assert_eq!(processes(&one, 3).await.len(), 3);
            supervisor.shutdown().await;
        }
    });
}

/// The seat whose worker died moves; the others stay until they die too.
#[test]
fn s9_s5_with_isolation_auto_the_replica_that_died_moves() {
    run(async {
        let supervisor = start_and("lua", 2, |config| config.isolation = Isolation::Auto);
        let one = load(&supervisor, bundle("lua", 1)).await;
        let good = load(&supervisor, lua("good")).await;
        for _ in 0..2 {
            crash(&one).await;
            all_ready(&supervisor, 2).await;
        }
        let own: Vec<String> =
            names(&supervisor).into_iter().filter(|name| name.starts_with("lua/one#")).collect();
        assert_eq!(own.len(), 1);
        assert_eq!(worker(&supervisor, &own[0]).bundles, ["one"]);
        assert_eq!(processes(&one, 2).await.len(), 2);
        answers(&good).await;
        crash(&one).await;
        in_state(&supervisor, "one", BundleState::Quarantined).await;
        answers(&good).await;
        supervisor.shutdown().await;
    });
}
