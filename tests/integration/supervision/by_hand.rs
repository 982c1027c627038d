//! Rule S3: a restart by hand comes at any time, and ends whatever the worker
//! was doing.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use menagerie_supervisor::{
    BundleState, Config, Failure, Isolation, RuntimeError, Supervisor, WorkerState, worker_program,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;

use super::first_load::Gated;
use super::rolling::children;
use super::strays::at_work;
use super::{answers, in_state, load, lua, lua_with, status};
use crate::support::{
    Bundle, PATIENCE, config, hold_at, is_held, run, run_on_one_thread, start_with, wait_for,
    worker,
};

/// A restart, which ends by itself.
async fn restart(supervisor: &Supervisor) -> Result<u64, RuntimeError> {
    let restarted = tokio::time::timeout(PATIENCE, supervisor.restart("lua")).await;
    let outcome = restarted.unwrap_or_else(|_| {
        panic!("the restart hangs; the worker: {:?}", worker(supervisor, "lua"))
    });
    outcome.map(|worker| worker.incarnation)
}

/// What an operator sees of the worker has changed when the request arrives: the
/// start that somebody else has asked for has failed meanwhile. On one thread, so
/// that nothing else happens in between.
#[test]
fn s3_a_restart_by_hand_while_a_start_fails() {
    run_on_one_thread(async {
        let mut config = config();
        let folder = tempfile::tempdir().unwrap();
        let (program, aside) = (folder.path().join("worker"), folder.path().join("aside"));
        std::fs::copy(worker_program(&config, "lua").unwrap(), &program).unwrap();
        config.worker_programs.insert("lua".to_owned(), program.clone());
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        std::fs::rename(&program, &aside).unwrap();
        // That this one lacks its interpreter is found out by starting it.
        std::fs::write(&program, "#!/nonexistent/interpreter\n").unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, executable).unwrap();
        let fails = |outcome| {
            let Err(RuntimeError::WorkerUnavailable { problem, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(problem.contains("it cannot be started"), "{problem}");
        };
        fails(restart(&supervisor).await);
        for _ in 0..10 {
            let first = supervisor.clone();
            let first = tokio::spawn(async move { restart(&first).await });
            let starts = || worker(&supervisor, "lua").unwrap().state == WorkerState::Starting;
            while !starts() && !first.is_finished() {
                tokio::task::yield_now().await;
            }
            // The start has failed by then, and nobody has had the time to notice.
            std::thread::sleep(Duration::from_millis(50));
            fails(restart(&supervisor).await);
            fails(first.await.unwrap());
        }
        std::fs::rename(&aside, &program).unwrap();
        restart(&supervisor).await.unwrap();
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// It would stay where it goes: nobody calls it.
#[test]
fn s9_a_restart_by_hand_while_an_idle_worker_stops() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(50);
        config.idle_stop = Some(Duration::from_millis(500));
        let supervisor = start_with(config);
        let (manifest, code) = (
            "name = 'slow'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
             provides = ['slow@1']",
            "local menagerie = require 'menagerie'\n\
             return { ['slow@1'] = { inc = function(n) return n + 1 end },\n\
                on_unload = function() menagerie.sleep(1000) end }",
        );
        let slow = Bundle::of(&[("manifest.toml", manifest), ("main.lua", code)]);
        let slow = load(&supervisor, slow).await;
        let before = wait_for("the worker to stop", || {
            worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Draining)
        })
        .await;
        assert!(restart(&supervisor).await.unwrap() > before.incarnation);
        answers(&slow).await;
        supervisor.shutdown().await;
    });
}

/// Who restarts what is being ended learns that, and does not wait for it.
#[test]
fn s3_a_restart_by_hand_while_everything_ends() {
    run(async {
        let supervisor = start_with(config());
        let _one = load(&supervisor, lua("one")).await;
        let operators: Vec<_> = (0..8)
            .map(|_| {
                let supervisor = supervisor.clone();
                tokio::spawn(async move {
                    // Until there is nothing left that could be restarted.
                    while restart(&supervisor).await.is_ok() {}
                })
            })
            .collect();
        supervisor.shutdown().await;
        for operator in operators {
            operator.await.unwrap();
        }
    });
}

/// What is on its way out of a process that dies meanwhile may be served by the next
/// one already, and stays there. On one thread, so that the next process comes first.
fn stays_with_the_next_process(in_time: bool) {
    run_on_one_thread(async move {
        let mut config = config();
        config.standby = 1;
        config.drain = if in_time { PATIENCE } else { Duration::from_secs(1) };
        config.load_timeout = PATIENCE;
        config.deadline = PATIENCE;
        let supervisor = start_with(config);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        // While the file is there, its load says so and waits.
        let waits = format!(
            "local function is_there(name)\n\
             local file = io.open(name)\n\
             return file and file:close()\n\
             end\n\
             while is_there('{}') do io.open('{}', 'w'):close() menagerie.sleep(2) end",
            file("held").display(),
            file("begun").display()
        );
        let one = load(&supervisor, lua_with("one", &waits, "")).await;
        let two = load(&supervisor, lua("two")).await;
        let three = load(&supervisor, lua_with("three", &waits, "")).await;
        let standbys = || supervisor.status().standbys.len();
        wait_for("the standby", || (standbys() == 1).then_some(())).await;
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        // They leave one after the other, and this one cannot yet.
        let working = at_work(&two).await;
        let restarting = supervisor.clone();
        let restarting = tokio::spawn(async move { restart(&restarting).await });
        let state = || worker(&supervisor, "lua").unwrap().state;
        wait_for("the restart", || (state() == WorkerState::Draining).then_some(())).await;
        std::fs::write(file("held"), "").unwrap();
        // On a slow machine its time may be over already.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        assert!(working.await.unwrap().is_err());
        wait_for("the next process", || file("begun").exists().then_some(())).await;
        if !in_time {
            // This one is up by now, and until the old process's time is over.
            in_state(&supervisor, "two", BundleState::Ready).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        std::fs::remove_file(file("held")).unwrap();
        restarting.await.unwrap().unwrap();
        for bundle in [&one, &two, &three] {
            answers(bundle).await;
        }
        supervisor.shutdown().await;
    });
}

#[test]
fn s3_a_restart_takes_nothing_from_the_next_process() {
    stays_with_the_next_process(true);
}

#[test]
fn s3_a_restart_whose_time_is_over_takes_nothing_from_the_next_process() {
    stays_with_the_next_process(false);
}

/// It left while the worker waited for another one's calls.
#[test]
fn r2_what_is_unloaded_while_its_worker_restarts_is_stale() {
    run(async {
        let supervisor = start_with(config());
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        let working = {
            let two = two.clone();
            tokio::spawn(async move { two.call::<_, ()>("sleep", (1000,)).await })
        };
        wait_for("the call to be sent", || {
            (status(&supervisor, "two").calls.in_flight > 0).then_some(())
        })
        .await;
        let restarting = {
            let supervisor = supervisor.clone();
            tokio::spawn(async move { restart(&supervisor).await })
        };
        // The last one to come is the first to go.
        in_state(&supervisor, "two", BundleState::Waiting).await;
        supervisor.unload("one").await.unwrap();
        working.await.unwrap().unwrap();
        restarting.await.unwrap().unwrap();
        answers(&two).await;
        let outcome = one.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
        supervisor.shutdown().await;
    });
}

fn is_not_needed<T: std::fmt::Debug>(outcome: Result<T, RuntimeError>) {
    let Err(RuntimeError::WorkerUnavailable { problem, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(problem.contains("no bundle needs it any more"), "{problem}");
}

fn each_by_itself() -> Config {
    let mut config = config();
    config.isolation = Isolation::Bundle;
    config
}

/// The worker goes with its bundle before it is back, and there is another one of its name
/// when whoever asked looks again.
#[test]
fn s3_a_restart_by_hand_ends_with_its_worker_and_not_with_the_next_one_of_its_name() {
    run(async {
        let supervisor = start_with(each_by_itself());
        let one = load(&supervisor, lua("one")).await;
        let hold = hold_at("state: Draining");
        let asked = supervisor.clone();
        let asked = tokio::spawn(async move { asked.restart("lua/one").await });
        is_held().await;
        supervisor.unload("one").await.unwrap();
        let one = load(&supervisor, one.bundle).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().incarnation, 1);
        drop(hold);
        let outcome = tokio::time::timeout(PATIENCE, asked).await;
        is_not_needed(outcome.expect("the restart hangs").unwrap());
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// Two that are restarted at once by the name of their loader, while new processes wait.
async fn all_together(gated: &Gated, rolling: bool) -> JoinHandle<Result<String, RuntimeError>> {
    gated.close();
    let supervisor = gated.supervisor.clone();
    tokio::spawn(async move {
        let outcome = if rolling {
            supervisor.restart_rolling("lua").await
        } else {
            supervisor.restart("lua").await
        };
        outcome.map(|last| format!("{} {}", last.name, last.incarnation))
    })
}

/// The last one of them has gone before it was its turn.
#[test]
fn s3_a_restart_by_hand_leaves_out_a_worker_that_has_gone() {
    run(async {
        let gated = Gated::start_with(each_by_itself());
        let supervisor = &gated.supervisor;
        let one = load(supervisor, lua("one")).await;
        let _two = load(supervisor, lua("two")).await;
        let asked = all_together(&gated, false).await;
        wait_for("the first one to start", || {
            let first = worker(supervisor, "lua").unwrap();
            (first.state == WorkerState::Starting).then_some(())
        })
        .await;
        supervisor.unload("two").await.unwrap();
        gated.open();
        assert_eq!(asked.await.unwrap().unwrap(), "lua/one 2");
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// The first one of them goes while its next process is started.
#[test]
fn s8_a_rolling_restart_leaves_out_a_worker_that_goes() {
    run(async {
        let gated = Gated::start_with(each_by_itself());
        let supervisor = &gated.supervisor;
        let _one = load(supervisor, lua("one")).await;
        let two = load(supervisor, lua("two")).await;
        let asked = all_together(&gated, true).await;
        wait_for("the next process of the first one", || (children() == 3).then_some(())).await;
        supervisor.unload("one").await.unwrap();
        gated.open();
        assert_eq!(asked.await.unwrap().unwrap(), "lua/two 2");
        answers(&two).await;
        // Where nobody is left, it says so.
        let asked = all_together(&gated, true).await;
        wait_for("the next process", || (children() == 2).then_some(())).await;
        supervisor.unload("two").await.unwrap();
        is_not_needed(asked.await.unwrap());
        supervisor.shutdown().await;
    });
}

/// What a restart by hand ends is not everything.
#[test]
fn s8_a_rolling_restart_that_another_one_ends_says_so() {
    run(async {
        let gated = Gated::start_with(config());
        let supervisor = &gated.supervisor;
        let one = load(supervisor, lua("one")).await;
        let rolling = all_together(&gated, true).await;
        wait_for("the next process", || (children() == 2).then_some(())).await;
        let restarted = supervisor.clone();
        let restarted = tokio::spawn(async move { restart(&restarted).await });
        let outcome = rolling.await.unwrap();
        let Err(RuntimeError::WorkerUnavailable { problem, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(problem.contains("it was restarted meanwhile"), "{problem}");
        gated.open();
        restarted.await.unwrap().unwrap();
        answers(&one).await;
        supervisor.shutdown().await;
    });
}
