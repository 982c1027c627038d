//! Rule S3: a worker that dies, and cannot be started again for a while.

use std::path::PathBuf;
use std::time::Duration;

use menagerie_supervisor::{
    Config, EventKind, Failure, RuntimeError, Supervisor, WorkerState, worker_program,
};
use tempfile::TempDir;

use super::{Guest, answers, load, lua};
use crate::support::{Recorder, config, ready_after, run, slay, start_with, wait_for, worker};

/// A copy of the Lua worker's program, which can be put away.
struct Program {
    folder: TempDir,
}

impl Program {
    fn of(config: &mut Config) -> Self {
        let program = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::copy(worker_program(config, "lua").unwrap(), program.at("worker")).unwrap();
        config.worker_programs.insert("lua".to_owned(), program.at("worker"));
        program
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put_away(&self) {
        std::fs::rename(self.at("worker"), self.at("aside")).unwrap();
    }

    fn put_back(&self) {
        std::fs::rename(self.at("aside"), self.at("worker")).unwrap();
    }
}

fn slay_worker(supervisor: &Supervisor) {
    slay(worker(supervisor, "lua").unwrap().pid.unwrap());
}

/// A supervisor whose worker has died, and has no program to be started again by.
struct Lost {
    supervisor: Supervisor,
    events: Recorder,
    program: Program,
    /// What the worker had loaded.
    one: Guest,
}

impl Lost {
    async fn begin(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        let program = Program::of(&mut config);
        change(&mut config);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let one = load(&supervisor, lua("one")).await;
        program.put_away();
        slay_worker(&supervisor);
        Self { supervisor, events, program, one }
    }
}

fn failed_starts(events: &Recorder) -> usize {
    let failed = |event: &&EventKind| matches!(event, EventKind::StartFailed { .. });
    events.all().iter().filter(failed).count()
}

async fn call_later(one: &Guest) -> tokio::task::JoinHandle<Result<i64, Failure>> {
    let contract = one.contract.clone();
    tokio::spawn(async move { contract.call("inc", (1,)).await })
}

/// An upgrade takes the program away for a moment.
#[test]
fn s3_a_program_that_was_away_is_started_when_it_is_there_again() {
    run(async {
        let Lost { supervisor, events, program, one } = Lost::begin(|config| {
            // However often it fails here.
            config.restart.limit = 1000;
            config.restart.window = Duration::from_secs(3600);
            config.restart.max_delay = Duration::from_millis(200);
        })
        .await;
        wait_for("a second start to fail", || (failed_starts(&events) > 1).then_some(())).await;
        let shown = worker(&supervisor, "lua").unwrap();
        assert!(shown.problem.unwrap().contains("not found"));
        assert_eq!(supervisor.crashes().len(), 1, "nothing else has died");
        // As after a crash, a call waits, and an operator's request and a load are
        // answered at once.
        let called = call_later(&one).await;
        let by_hand = supervisor.restart("lua").await;
        assert!(matches!(by_hand, Err(RuntimeError::WorkerUnavailable { .. })), "{by_hand:?}");
        let two = lua("two");
        let loaded = supervisor.load(two.path()).await;
        assert!(matches!(loaded, Err(RuntimeError::WorkerNotFound { .. })), "{loaded:?}");
        program.put_back();
        assert_eq!(called.await.unwrap().unwrap(), 2);
        assert_eq!(ready_after(&supervisor, "lua", 1).await.problem, None);
        supervisor.shutdown().await;
    });
}

#[test]
fn s3_a_program_that_stays_away_quarantines_its_worker_until_a_trial_start() {
    run(async {
        let Lost { supervisor, program, one, .. } = Lost::begin(|config| {
            config.restart.limit = 2;
            config.restart.initial_delay = Duration::from_millis(10);
            config.restart.trial_interval = Duration::from_secs(1);
        })
        .await;
        // A call that waits learns why it has waited.
        let Err(Failure::BundleUnavailable { bundle, problem }) =
            call_later(&one).await.await.unwrap()
        else {
            panic!()
        };
        assert_eq!(bundle, "one");
        assert!(problem.contains("not found"), "{problem}");
        assert_eq!(worker(&supervisor, "lua").unwrap().state, WorkerState::Quarantined);
        program.put_back();
        wait_for("a trial start", || {
            worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Ready)
        })
        .await;
        answers(&one).await;
        supervisor.shutdown().await;
    });
}

/// It is not for a start to say that a bundle is back which was put away itself.
#[test]
fn s5_a_quarantined_bundle_stays_so_when_its_worker_cannot_be_started() {
    run(async {
        let mut config = config();
        let program = Program::of(&mut config);
        config.restart.limit = 2;
        config.restart.initial_delay = Duration::from_millis(10);
        config.bundle_crash_limit = 1;
        let supervisor = start_with(config);
        let (one, two) = (load(&supervisor, lua("one")).await, load(&supervisor, lua("two")).await);
        super::crash(&one).await;
        answers(&two).await;
        program.put_away();
        slay_worker(&supervisor);
        wait_for("the worker's quarantine", || {
            worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Quarantined)
        })
        .await;
        let outcome = one.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::Quarantined { .. })), "{outcome:?}");
        let outcome = two.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::BundleUnavailable { .. })), "{outcome:?}");
        supervisor.shutdown().await;
    });
}

/// Who waits for a worker that is not there learns that it will not come.
#[test]
fn c3_a_shutdown_ends_calls_and_loads_that_wait_for_a_worker_in_backoff() {
    run(async {
        let Lost { supervisor, events, one, program: _away } = Lost::begin(|config| {
            config.restart.initial_delay = Duration::from_secs(5);
            config.restart.window = Duration::from_secs(3600);
            config.restart.max_delay = Duration::from_secs(60);
        })
        .await;
        wait_for("a start to fail", || (failed_starts(&events) == 1).then_some(())).await;
        let called = call_later(&one).await;
        wait_for("the worker to wait", || {
            worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Backoff)
        })
        .await;
        supervisor.shutdown().await;
        let outcome = called.await.unwrap();
        assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
        let outcome = one.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
    });
}

#[test]
fn c3_a_call_after_the_shutdown_says_so_where_the_worker_had_stopped_for_idleness() {
    run(async {
        for dropped in [false, true] {
            let mut config = config();
            config.heartbeat = Duration::from_millis(50);
            config.idle_stop = Some(Duration::from_millis(200));
            let supervisor = start_with(config);
            let one = load(&supervisor, lua("one")).await;
            wait_for("the worker to stop", || {
                worker(&supervisor, "lua").filter(|worker| worker.state == WorkerState::Stopped)
            })
            .await;
            let Guest { contract, bundle: _bundle } = one;
            if dropped {
                drop(supervisor);
            } else {
                supervisor.shutdown().await;
            }
            let outcome = contract.call::<_, i64>("inc", (1,)).await;
            assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
        }
    });
}
