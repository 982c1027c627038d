//! A worker whose control thread has died and whose other threads live on: for as
//! long as a large process gives its memory back it looks the same.

use std::time::Duration;

use menagerie_supervisor::{Config, Contract, StandbyStatus, Supervisor, WorkerState};

use super::{Stage, hasty_once};
use crate::support::{PATIENCE, exists, ready_after, run_here, runtime_dir, slay, wait_for};

fn half_dead(standby: u32) -> Config {
    let mut config = hasty_once("half-dead");
    config.standby = standby;
    // Nobody answers heartbeats, and that shall not be what ends it.
    config.heartbeat_warn = 10_000;
    config.heartbeat_kill = 20_000;
    // Nor does the supervisor end it.
    config.term_timeout = PATIENCE;
    config
}

/// A worker that has begun to die, and what comes after it.
struct Dying {
    stage: Stage,
    probe: Contract,
    old: u32,
    /// The process that was begun, or the standby that was chosen.
    next: u32,
}

impl Dying {
    /// Where no standby is: the next process was started.
    async fn alone(config: Config) -> Self {
        let mut dying = Self::begin(config).await;
        let bystander = crate::support::worker(&dying.stage.supervisor, "lua").unwrap().pid;
        let known = [dying.old, bystander.unwrap()];
        dying.next = wait_for("the next process", || child_beside(&known)).await;
        dying
    }

    /// Where one is: it was chosen.
    async fn with_a_standby() -> Self {
        let dying = Self::begin(half_dead(1)).await;
        // Right after its start it may have been replaced at once.
        let stands_by = || dying.standby().is_some_and(|standby| standby.pid == dying.next);
        wait_for("the choice", || (!stands_by()).then_some(())).await;
        dying
    }

    async fn begin(config: Config) -> Self {
        let with_a_standby = config.standby > 0;
        let stage = Stage::set(config).await;
        let probe = stage.load().await;
        ready_after(&stage.supervisor, "native", 0).await;
        let next = match with_a_standby {
            true => wait_for("the standby", || standby(&stage.supervisor)).await.pid,
            false => 0,
        };
        let old = stage.worker().pid.unwrap();
        begin_to_die(old).await;
        Self { stage, probe, old, next }
    }

    fn standby(&self) -> Option<StandbyStatus> {
        standby(&self.stage.supervisor)
    }

    async fn answers(&self) {
        assert_eq!(self.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    }

    /// Everybody knows, and nothing else has followed from it yet.
    async fn is_told(&self) {
        let told = || (self.stage.worker().state == WorkerState::Crashed).then_some(());
        wait_for("the crash to be told", told).await;
        assert!(exists(self.old));
        // Until it has ended, it is the one that serves.
        self.answers().await;
        let now = self.stage.worker();
        assert_eq!((now.pid, now.incarnation, now.restarts), (None, 1, 0));
        assert!(self.stage.supervisor.crashes().is_empty());
    }

    /// Its end, and the next one's start.
    async fn ends(&self) {
        slay(self.old);
        assert_eq!(self.stage.report(1).await.signal, Some(9));
        self.next_serves().await;
    }

    /// The next one serves, and the old one has ended.
    async fn next_serves(&self) {
        ready_after(&self.stage.supervisor, "native", 1).await;
        assert!(!exists(self.old));
        let now = self.stage.worker();
        assert_eq!((now.pid, now.incarnation, now.restarts), (Some(self.next), 2, 1));
    }

    async fn end(self) {
        let (old, next) = (self.old, self.next);
        self.stage.end().await;
        for pid in [old, next] {
            wait_for("the process to be gone", || (!exists(pid)).then_some(())).await;
        }
    }
}

fn standby(supervisor: &Supervisor) -> Option<StandbyStatus> {
    let standbys = supervisor.status().standbys;
    standbys.into_iter().find(|standby| standby.loader == "native")
}

/// Ends the control thread of a worker, and nothing else, and waits until a second
/// process has begun.
async fn begin_to_die(pid: u32) {
    // It is asked to tell of its death when it is ready, and may not have heard of it yet.
    let maps = || std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let tells = || maps().contains("menagerie-robust").then_some(());
    wait_for("the worker to watch its control thread", tells).await;
    // The environment, by which it is found, is the first thread's, and goes with it.
    let starts = runtime_dir(pid).unwrap().join("misbehaved");
    // SAFETY: takes integers only; the worker has not been reaped.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    let len = || std::fs::metadata(&starts).map_or(0, |counted| counted.len());
    wait_for("the next process", || (len() >= 2).then_some(())).await;
}

/// The child that is none of these.
fn child_beside(known: &[u32]) -> Option<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(|c| c.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    children.into_iter().find(|child| !known.contains(child))
}

/// A test where no standby is.
fn alone(config: Config, test: impl AsyncFnOnce(&Dying) + Send + 'static) {
    run_here(async move || {
        let dying = Dying::alone(config).await;
        test(&dying).await;
        dying.end().await;
    });
}

/// A test where one is.
fn with_a_standby(test: impl AsyncFnOnce(&Dying) + Send + 'static) {
    run_here(async move || {
        let dying = Dying::with_a_standby().await;
        test(&dying).await;
        dying.end().await;
    });
}

#[test]
fn s3_the_next_process_starts_while_the_one_before_dies_and_serves_when_it_has_ended() {
    alone(half_dead(0), async |dying| {
        dying.is_told().await;
        dying.ends().await;
        dying.answers().await;
    });
}

fn soon() -> Config {
    let mut config = half_dead(0);
    config.term_timeout = Duration::from_millis(100);
    config
}

#[test]
fn s2_a_process_that_does_not_end_with_its_control_thread_is_killed() {
    is_killed(soon());
}

/// Any bytes will do for the name of a thread.
#[test]
fn s2_nor_do_threads_whose_names_are_no_text_keep_it_alive() {
    let mut config = soon();
    config.worker_env.insert("MISBEHAVE".to_owned(), "half-dead:nameless".to_owned());
    is_killed(config);
}

fn is_killed(config: Config) {
    alone(config, async |dying| {
        let report = dying.stage.report(1).await;
        let reason = report.reason.unwrap_or_default();
        assert!(reason.contains("its control thread has ended"), "{reason}");
        assert_eq!((report.signal, report.pid), (Some(9), dying.old));
        dying.next_serves().await;
        dying.answers().await;
    });
}

#[test]
fn s7_a_next_process_that_is_not_needed_goes() {
    alone(soon(), async |_| {});
}

#[test]
fn s8_a_standby_is_chosen_while_the_one_before_dies() {
    with_a_standby(async |dying| {
        dying.is_told().await;
        dying.ends().await;
        dying.answers().await;
    });
}

/// The bundle is unloaded, and its worker stays: it comes back with nothing.
#[test]
fn s8_a_standby_that_was_chosen_serves_although_the_bundle_was_unloaded() {
    with_a_standby(async |dying| {
        dying.stage.supervisor.unload("victim").await.unwrap();
        dying.ends().await;
        assert!(dying.stage.worker().bundles.is_empty());
        dying.stage.load().await;
        dying.stage.serves_again().await;
    });
}

#[test]
fn s8_a_standby_that_was_chosen_and_dies_is_passed_over() {
    with_a_standby(async |dying| {
        slay(dying.next);
        wait_for("its end", || (!exists(dying.next)).then_some(())).await;
        dying.is_told().await;
        slay(dying.old);
        ready_after(&dying.stage.supervisor, "native", 1).await;
        dying.answers().await;
        let now = dying.stage.worker().pid.unwrap();
        assert!(now != dying.next && now != dying.old);
        let another = wait_for("another standby", || dying.standby()).await;
        assert!(another.pid != dying.next && another.pid != now);
    });
}
