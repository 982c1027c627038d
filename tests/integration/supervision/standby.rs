//! Rule S8: a standby takes over from a worker that dies. And S4: everything
//! is loaded again, providers first.

use menagerie_supervisor::{EventKind, StandbyStatus, Supervisor};
use menagerie_tests::LANGUAGES;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::{answers, crash, load, lua, lua_with};
use crate::support::{
    Recorder, config, exists, ready_after, run, slay, start_with, wait_for, worker,
};

fn start_with_a_standby() -> Supervisor {
    let mut config = config();
    config.standby = 1;
    start_with(config)
}

async fn standby_other_than(supervisor: &Supervisor, pid: u32) -> StandbyStatus {
    wait_for("a standby", || {
        supervisor.status().standbys.into_iter().find(|standby| standby.pid != pid)
    })
    .await
}

#[test]
fn s8_a_standby_takes_over_and_is_replaced() {
    run(async {
        let supervisor = start_with_a_standby();
        let probe = load(&supervisor, lua("probe")).await;
        let mut before = 0;
        for _ in 0..3 {
            let standby = standby_other_than(&supervisor, before).await;
            before = standby.pid;
            slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
            let serves = wait_for("the standby to serve", || {
                worker(&supervisor, "lua").filter(|worker| worker.pid == Some(standby.pid))
            })
            .await;
            answers(&probe).await;
            ready_after(&supervisor, "lua", serves.incarnation - 1).await;
        }
        let standby = standby_other_than(&supervisor, before).await;
        supervisor.shutdown().await;
        wait_for("the standby to end", || (!exists(standby.pid)).then_some(())).await;
    });
}

/// A child of the host has a copy of everything that is in memory, and none of the
/// processes is its own.
#[test]
fn s7_a_fork_of_the_host_that_drops_the_supervisor_ends_nothing() {
    run(async {
        let supervisor = start_with_a_standby();
        let probe = load(&supervisor, lua("probe")).await;
        let standby = standby_other_than(&supervisor, 0).await.pid;
        let serves = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let last = supervisor.clone();
        // SAFETY: the child does nothing but drop a value, and ends; what it waits for in
        // vain the test's limit ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // As if it were the last.
                drop((last, supervisor));
                // SAFETY: it ends without anything that was registered for the parent's end.
                unsafe { libc::_exit(7) }
            }
            ForkResult::Parent { child } => {
                drop(last);
                let ended = tokio::task::spawn_blocking(move || waitpid(child, None));
                assert_eq!(ended.await.unwrap(), Ok(WaitStatus::Exited(child, 7)));
            }
        }
        answers(&probe).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, Some(serves));
        slay(serves);
        wait_for("the standby to serve", || {
            worker(&supervisor, "lua").filter(|worker| worker.pid == Some(standby))
        })
        .await;
        answers(&probe).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s8_a_standby_takes_over_at_a_restart_that_was_asked_for() {
    run(async {
        let supervisor = start_with_a_standby();
        let one = load(&supervisor, lua("one")).await;
        let by_hand = standby_other_than(&supervisor, 0).await.pid;
        assert_eq!(supervisor.restart("lua").await.unwrap().pid, Some(by_hand));
        answers(&one).await;
        let rolling = standby_other_than(&supervisor, by_hand).await.pid;
        assert_eq!(supervisor.restart_rolling("lua").await.unwrap().pid, Some(rolling));
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s8_a_standby_that_dies_itself_is_replaced() {
    run(async {
        let supervisor = start_with_a_standby();
        let probe = load(&supervisor, lua("probe")).await;
        let mut pid = 0;
        for _ in 0..3 {
            pid = standby_other_than(&supervisor, pid).await.pid;
            slay(pid);
        }
        let standby = standby_other_than(&supervisor, pid).await;
        crash(&probe).await;
        answers(&probe).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().pid, Some(standby.pid));
        supervisor.shutdown().await;
    });
}

/// One that was stopped would be no help.
#[test]
fn s8_a_standby_that_does_not_run_is_passed_over() {
    run(async {
        let supervisor = start_with_a_standby();
        let probe = load(&supervisor, lua("probe")).await;
        let standby = standby_other_than(&supervisor, 0).await;
        let raw = Pid::from_raw(standby.pid.try_into().unwrap());
        kill(raw, Signal::SIGSTOP).unwrap();
        let stat = format!("/proc/{}/stat", standby.pid);
        wait_for("the stop", || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat[stat.rfind(')').unwrap()..].starts_with(") T").then_some(())
        })
        .await;
        crash(&probe).await;
        answers(&probe).await;
        assert_ne!(worker(&supervisor, "lua").unwrap().pid, Some(standby.pid));
        supervisor.shutdown().await;
        wait_for("the standby to end", || (!exists(standby.pid)).then_some(())).await;
    });
}

/// Nobody waits for it, so it may prepare for bundles; a worker that is waited
/// for has better things to do.
#[test]
fn s8_a_standby_is_told_that_it_is_one() {
    run(async {
        let supervisor = start_with_a_standby();
        load(&supervisor, lua("probe")).await;
        let standby = standby_other_than(&supervisor, 0).await;
        let is_told = |pid: u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
            environment.split(|byte| *byte == 0).any(|variable| variable == b"MENAGERIE_STANDBY=1")
        };
        assert!(is_told(standby.pid));
        assert!(!is_told(worker(&supervisor, "lua").unwrap().pid.unwrap()));
        supervisor.shutdown().await;
    });
}

#[test]
fn s8_standbys_of_every_language_take_over() {
    run(async {
        let supervisor = start_with_a_standby();
        for language in LANGUAGES.iter().filter(|language| language.suffix != "c") {
            supervisor.load(language.bundle("greeter")).await.unwrap();
            let name = format!("greeter-{}/greeter@1", language.suffix);
            let greeter = supervisor.contract(&name).unwrap();
            let standby = wait_for("a standby", || {
                let standbys = supervisor.status().standbys;
                standbys.into_iter().find(|standby| standby.loader == language.loader)
            })
            .await;
            slay(worker(&supervisor, language.loader).unwrap().pid.unwrap());
            wait_for("the standby to serve", || {
                worker(&supervisor, language.loader).filter(|w| w.pid == Some(standby.pid))
            })
            .await;
            let text: String = greeter.call("greet", ("Ada",)).await.unwrap();
            assert_eq!(text, "Hello, Ada");
        }
        supervisor.shutdown().await;
    });
}

#[test]
fn s4_providers_are_loaded_again_before_those_that_need_them() {
    run(async {
        let supervisor = start_with(config());
        let mut chain = vec![load(&supervisor, lua("link0")).await];
        for n in 1..6 {
            let provider = n - 1;
            let manifest =
                format!("[[dependency]]\nkind = 'guest'\ncontract = 'link{provider}@1'\n");
            chain.push(load(&supervisor, lua_with(&format!("link{n}"), "", &manifest)).await);
        }
        // And one that is loaded beside them.
        chain.push(load(&supervisor, lua("alone")).await);
        for restarts in 1..=2 {
            let events = Recorder::of(&supervisor);
            crash(&chain[0]).await;
            for guest in &chain {
                answers(guest).await;
            }
            let status = ready_after(&supervisor, "lua", restarts).await;
            assert_eq!(status.bundles.len(), 7);
            let loaded = |event: EventKind| match event {
                EventKind::BundleLoaded { bundle, .. } if bundle.starts_with("link") => {
                    Some(bundle)
                }
                _ => None,
            };
            let order: Vec<String> = wait_for("the loads", || {
                let order: Vec<_> = events.all().into_iter().filter_map(loaded).collect();
                (order.len() == 6).then_some(order)
            })
            .await;
            assert_eq!(order, ["link0", "link1", "link2", "link3", "link4", "link5"]);
        }
        supervisor.shutdown().await;
    });
}
