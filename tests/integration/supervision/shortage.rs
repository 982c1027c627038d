//! Rule S3, where the system has too few threads and processes to give when a worker is
//! started again: it comes back as soon as they are there.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use menagerie_supervisor::{EventKind, WorkerState};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{answers, load, lua};
use crate::support::{PATIENCE, Recorder, config, run_within, slay, start_with, wait_for, worker};

/// Says that this process is a host of its own, which may be short of threads.
const ENV_HOST: &str = "MENAGERIE_SHORT_HOST";
/// A user whose processes are all ours: root is not limited.
const NOBODY: u32 = 54_321;
const TEST: &str = "supervision::shortage::s3_a_worker_comes_back_after_a_shortage_of_threads";

/// Threads of all processes of this user.
fn threads() -> u64 {
    let own = nix::unistd::geteuid().as_raw();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let count = processes.map(|process| {
        let ours = process.metadata().is_ok_and(|metadata| metadata.uid() == own);
        let tasks = ours.then(|| std::fs::read_dir(process.path().join("task")).ok()).flatten();
        tasks.map_or(0, |tasks| u64::try_from(tasks.count()).unwrap())
    });
    count.sum()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a host is no worker")]
fn s3_a_worker_comes_back_after_a_shortage_of_threads() {
    if std::env::var_os(ENV_HOST).is_none() {
        let mut host = Command::new(std::env::current_exe().unwrap());
        host.args(["--exact", TEST, "--nocapture"]).env(ENV_HOST, "1").current_dir("/");
        if nix::unistd::geteuid().is_root() {
            host.uid(NOBODY);
        }
        assert!(host.status().unwrap().success());
        return;
    }
    run_within(PATIENCE * 5, async {
        let mut config = config();
        // What is loaded is checked first, on a thread.
        config.replicas.insert("lua".to_owned(), 2);
        config.bundle_crash_limit = u32::MAX;
        config.restart.limit = 1000;
        config.restart.window = Duration::from_secs(3600);
        config.restart.max_delay = Duration::from_millis(100);
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let first = || worker(&supervisor, "lua").unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
        for lacking in 0..8 {
            let before = wait_for("both to be ready", || {
                let ready = |state| state == WorkerState::Ready;
                supervisor.status().workers.iter().all(|w| ready(w.state)).then(first)
            })
            .await;
            let events = Recorder::of(&supervisor);
            setrlimit(Resource::RLIMIT_NPROC, threads() - lacking, hard).unwrap();
            slay(before.pid.unwrap());
            wait_for("it to come back, or to fail", || {
                let came = first();
                let mut crashes = 0;
                let failed = events.all().iter().any(|event| match event {
                    EventKind::StartFailed { .. } | EventKind::BundleFailed { .. } => true,
                    EventKind::WorkerCrashed(_) => {
                        crashes += 1;
                        crashes > 1
                    }
                    _ => false,
                });
                let is_back = came.state == WorkerState::Ready && came.pid != before.pid;
                (failed || is_back).then_some(())
            })
            .await;
            setrlimit(Resource::RLIMIT_NPROC, hard, hard).unwrap();
            wait_for("it to come back", || {
                let bundle = super::status(&supervisor, "one");
                let all = bundle.replicas.ready == 2 && first().pid != before.pid;
                all.then_some(())
            })
            .await;
            answers(&one).await;
        }
        supervisor.shutdown().await;
    });
}
