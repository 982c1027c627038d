//! Rule S3: a restart by hand comes at any time, and ends whatever the worker
//! was doing.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use menagerie_supervisor::{RuntimeError, Supervisor, WorkerState, worker_program};

use super::{answers, load, lua};
use crate::support::{
    Bundle, PATIENCE, config, run, run_on_one_thread, start_with, wait_for, worker,
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
