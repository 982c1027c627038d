//! Which replica a call goes to.

use std::collections::BTreeSet;
use std::time::Instant;

use menagerie_supervisor::{BundleState, ConfigError, StartError, Supervisor, WorkerState};

use super::super::{answers, load, status};
use super::{LOADERS, bundle, names, pids, processes, replicas, start, started, workers};
use crate::support::{Bundle, PATIENCE, config, run, wait_for};

#[test]
fn s9_replicas_all_serve_in_turn() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 3).await;
            let wanted: Vec<String> = (1..=3).map(|n| format!("{loader}#{n}")).collect();
            assert_eq!(names(&supervisor), wanted);
            for worker in workers(&supervisor) {
                assert_eq!(
                    (worker.state, &*worker.bundles),
                    (WorkerState::Ready, &["one".into()][..])
                );
            }
            let shown = status(&supervisor, "one");
            assert_eq!((shown.state, shown.replicas), (BundleState::Ready, replicas(3, 3)));
            assert_eq!((shown.worker.as_str(), shown.problem), (loader, None));
            // Nothing else runs: all are equal, and have turns.
            let asked = processes(&one, 3).await;
            assert_eq!(asked, pids(&supervisor).into_iter().collect());
            // A second bundle of the loader is in the same workers.
            let other = Bundle::copy_of(&bundle(loader, 1).path(), "two", "");
            supervisor.load(other.path()).await.unwrap();
            assert_eq!(names(&supervisor), wanted);
            // The counters are the bundle's.
            assert!(status(&supervisor, "one").calls.ok >= 3);
            let blocking = one.contract.clone();
            let call = move || blocking.call_blocking::<_, u32>("pid", ());
            let answer = tokio::task::spawn_blocking(call).await.unwrap().unwrap();
            assert!(asked.contains(&answer));
            supervisor.shutdown().await;
        }
    });
}

/// Each call ends only when the others run too: in one Python they never would.
#[test]
fn s9_slow_calls_run_at_the_same_time_in_python() {
    run(async {
        let (supervisor, one) = started("python", 3).await;
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().to_str().unwrap();
            wait_for("the calls before to be counted", || {
                (status(&supervisor, "one").calls.in_flight == 0).then_some(())
            })
            .await;
            let meet = || one.call::<_, u32>("meet", (path, 3));
            let (a, b, c) = tokio::join!(meet(), meet(), meet());
            let met: BTreeSet<u32> = [a, b, c].into_iter().map(Result::unwrap).collect();
            assert_eq!(met.len(), 3);
        }
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_calls_go_round_a_replica_that_is_busy() {
    run(async {
        for loader in LOADERS {
            let (supervisor, one) = started(loader, 2).await;
            let long = {
                let one = one.contract.clone();
                tokio::spawn(async move { one.call::<_, ()>("sleep", (600_000,)).await })
            };
            wait_for("the long call to be sent", || {
                (status(&supervisor, "one").calls.in_flight > 0).then_some(())
            })
            .await;
            let mut seen = BTreeSet::new();
            for _ in 0..10 {
                seen.extend(processes(&one, 1).await);
                wait_for("it to be counted", || {
                    (status(&supervisor, "one").calls.in_flight == 1).then_some(())
                })
                .await;
            }
            assert_eq!(seen.len(), 1);
            long.abort();
            supervisor.shutdown().await;
        }
    });
}

/// A bundle of one worker calls one of several.
#[test]
fn s9_c5_bundles_calls_are_spread_too() {
    run(async {
        let (supervisor, _one) = started("python", 3).await;
        let caller = Bundle::of(&[
            (
                "manifest.toml",
                "name = 'caller'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                 provides = ['caller@1']\n[[dependency]]\nkind = 'guest'\ncontract = 'one@1'\n",
            ),
            (
                "main.lua",
                "local menagerie = require 'menagerie'\n\
                 return { ['caller@1'] = { pids = function(n)\n\
                   local pids = {}\n\
                   for at = 1, n do pids[at] = menagerie.call('one@1', 'pid') end\n\
                   return pids\n\
                 end } }",
            ),
        ]);
        let caller = load(&supervisor, caller).await;
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        while seen.len() < 3 {
            assert!(Instant::now() < deadline, "{seen:?}");
            seen.extend(caller.call::<_, Vec<u32>>("pids", (6,)).await.unwrap());
        }
        supervisor.shutdown().await;
    });
}

/// What is let in does not depend on which replicas happen to be up.
#[test]
fn s9_c5_a_chain_that_comes_back_is_a_cycle_in_whatever_replica() {
    run(async {
        let manifest = |name: &str, calls: &str| {
            format!(
                "name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                 provides = ['{name}@1']\n[[dependency]]\ncontract = '{calls}@1'\n"
            )
        };
        // Somebody else provides what the first one calls while they are loaded:
        // no ring then.
        let code = |name: &str, calls: &str| {
            format!(
                "local menagerie = require 'menagerie'\n\
                 return {{ ['{name}@1'] = {{ go = function(depth)\n\
                   if depth == 0 then return 'no cycle' end\n\
                   local ok, answer = pcall(menagerie.call, '{calls}@1', 'go', depth - 1)\n\
                   return ok and answer or answer.kind\n\
                 end }} }}\n"
            )
        };
        let made = |file: &str, name: &str, provides: &str, calls: &str| {
            let manifest = manifest(provides, calls).replacen(provides, name, 1);
            Bundle::of(&[("manifest.toml", &manifest), (file, &code(provides, calls))])
        };
        let supervisor = start("lua", 3);
        let stand_in = Bundle::of(&[
            (
                "manifest.toml",
                "name = 'z'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                 provides = ['one@1']\n",
            ),
            ("main.lua", "return { ['one@1'] = { go = function() return 'z' end } }"),
        ]);
        supervisor.load(stand_in.path()).await.unwrap();
        let two = made("main.lua", "two", "two", "one");
        supervisor.load(two.path()).await.unwrap();
        // By name it comes before the stand-in.
        let one = made("main.lua", "a", "one", "two");
        supervisor.load(one.path()).await.unwrap();
        let chain = supervisor.contract("a/one@1").unwrap();
        for _ in 0..7 {
            assert_eq!(chain.call::<_, String>("go", (1,)).await.unwrap(), "no cycle");
            assert_eq!(chain.call::<_, String>("go", (2,)).await.unwrap(), "CycleDetected");
        }
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_other_loaders_have_no_replicas() {
    run(async {
        let supervisor = start("python", 3);
        let one = load(&supervisor, bundle("lua", 1)).await;
        answers(&one).await;
        assert_eq!(names(&supervisor), ["lua"]);
        assert_eq!(status(&supervisor, "one").replicas, replicas(1, 1));
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_a_number_of_replicas_that_cannot_be_is_refused_at_start() {
    for (loader, count) in [("lua", 0), ("lua", 65), ("cobol", 2)] {
        let started = Supervisor::builder().config(config()).replicas(loader, count).start();
        let error = started.unwrap_err();
        let StartError::Config(error) = error else { panic!("{error:?}") };
        match error {
            ConfigError::Replicas { loader: said, replicas } => {
                assert_eq!((&*said, replicas), (loader, count));
            }
            ConfigError::NoSuchLoader { loader: said } => {
                assert_eq!((&*said, loader), ("cobol", "cobol"))
            }
            other => panic!("{other:?}"),
        }
    }
}
