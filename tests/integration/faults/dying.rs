//! A worker whose control thread has died and whose other threads live on: for as
//! long as a large process gives its memory back it looks the same.

use menagerie_supervisor::{Config, Contract, Isolation, StandbyStatus, Supervisor, WorkerStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Stage, hasty_once};
use crate::support::{exists, ready_after, run_here, runtime_dir, wait_for};

fn half_dead(standby: u32) -> Config {
    let mut config = hasty_once("half-dead");
    config.standby = standby;
    // Nobody answers heartbeats, and that shall not be what ends it.
    config.heartbeat_warn = 10_000;
    config.heartbeat_kill = 20_000;
    config
}

/// A worker that has begun to die, and what comes after it.
struct Dying {
    stage: Stage,
    probe: Contract,
    /// As it was before.
    old: WorkerStatus,
    /// The process that was begun, or the standby that was chosen.
    next: u32,
}

impl Dying {
    /// Where no standby is: the next process was started.
    async fn alone() -> Self {
        let mut dying = Self::begin(half_dead(0)).await;
        let bystander = crate::support::worker(&dying.stage.supervisor, "lua").unwrap().pid;
        let known = [dying.pid(), bystander.unwrap()];
        dying.next = wait_for("the next process", || child_beside(&known)).await;
        dying
    }

    /// Where one is: it was chosen.
    async fn with_a_standby(config: Config) -> Self {
        let dying = Self::begin(config).await;
        wait_for("the choice", || dying.standby().is_none().then_some(())).await;
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
        let old = stage.worker();
        begin_to_die(old.pid.unwrap()).await;
        Self { stage, probe, old, next }
    }

    fn pid(&self) -> u32 {
        self.old.pid.unwrap()
    }

    fn standby(&self) -> Option<StandbyStatus> {
        standby(&self.stage.supervisor)
    }

    async fn answers(&self) {
        assert_eq!(self.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    }

    /// It serves, as before.
    async fn is_as_it_was(&self) {
        self.answers().await;
        let now = self.stage.worker();
        assert_eq!((now.pid, now.state), (self.old.pid, self.old.state));
        assert_eq!((now.incarnation, now.restarts), (1, 0));
    }

    /// Its end, and the next one's start.
    async fn ends(&self) {
        slay(self.pid());
        assert_eq!(self.stage.report(1).await.signal, Some(9));
        ready_after(&self.stage.supervisor, "native", 1).await;
    }

    async fn end(self) {
        let (old, next) = (self.pid(), self.next);
        self.stage.end().await;
        for pid in [old, next] {
            wait_for("the process to be gone", || (!exists(pid)).then_some(())).await;
        }
    }
}

fn slay(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
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
    wait_for("the next process", || (len() == 2).then_some(())).await;
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
fn alone(test: impl AsyncFnOnce(&Dying) + Send + 'static) {
    run_here(async move || {
        let dying = Dying::alone().await;
        test(&dying).await;
        dying.end().await;
    });
}

/// A test where one is.
fn with_a_standby(config: Config, test: impl AsyncFnOnce(&Dying) + Send + 'static) {
    run_here(async move || {
        let dying = Dying::with_a_standby(config).await;
        test(&dying).await;
        dying.end().await;
    });
}

#[test]
fn s3_the_next_process_starts_while_the_one_before_dies_and_serves_when_it_has_ended() {
    alone(async |dying| {
        // Until it has ended, it is the one that serves.
        dying.is_as_it_was().await;
        dying.ends().await;
        let now = dying.stage.worker();
        assert_eq!((now.pid, now.incarnation, now.restarts), (Some(dying.next), 2, 1));
        dying.answers().await;
    });
}

#[test]
fn s7_a_next_process_that_is_not_needed_goes() {
    alone(async |_| {});
}

#[test]
fn s8_a_standby_is_chosen_while_the_one_before_dies() {
    with_a_standby(half_dead(1), async |dying| {
        dying.is_as_it_was().await;
        dying.ends().await;
        assert_eq!(dying.stage.worker().pid, Some(dying.next));
        dying.answers().await;
    });
}

/// The worker's only bundle is unloaded, and the worker is stopped.
#[test]
fn s8_a_standby_that_was_chosen_goes_back_when_its_worker_is_not_started_again() {
    let mut config = half_dead(1);
    config.isolation = Isolation::Bundle;
    with_a_standby(config, async |dying| {
        dying.is_as_it_was().await;
        dying.stage.supervisor.unload("victim").await.unwrap();
        let old = dying.pid();
        wait_for("the old process to end", || (!exists(old)).then_some(())).await;
        let back = wait_for("the standby", || dying.standby()).await;
        assert_eq!(back.pid, dying.next);
        // And it is as good as before.
        dying.stage.load().await;
        assert_eq!(dying.stage.worker().pid, Some(dying.next));
        dying.stage.serves_after(0).await;
        assert!(dying.stage.supervisor.crashes().is_empty());
    });
}

/// The bundle is unloaded, and its worker stays: it comes back with nothing.
#[test]
fn s8_a_standby_that_was_chosen_serves_although_the_bundle_was_unloaded() {
    with_a_standby(half_dead(1), async |dying| {
        dying.stage.supervisor.unload("victim").await.unwrap();
        dying.ends().await;
        let now = dying.stage.worker();
        assert_eq!((now.pid, now.bundles.len()), (Some(dying.next), 0), "{now:?}");
        dying.stage.load().await;
        dying.stage.serves_again().await;
    });
}

#[test]
fn s8_a_restart_by_hand_has_the_standby_that_was_chosen() {
    with_a_standby(half_dead(1), async |dying| {
        let now = dying.stage.supervisor.restart("native").await.unwrap();
        assert_eq!((now.pid, now.incarnation, now.restarts), (Some(dying.next), 2, 0));
        dying.answers().await;
        assert!(dying.stage.supervisor.crashes().is_empty());
    });
}

#[test]
fn s8_a_rolling_restart_has_the_standby_that_was_chosen() {
    with_a_standby(half_dead(1), async |dying| {
        let now = dying.stage.supervisor.restart_rolling("native").await.unwrap();
        assert_eq!((now.pid, now.incarnation, now.restarts), (Some(dying.next), 2, 0));
        dying.answers().await;
    });
}

#[test]
fn s8_a_rolling_restart_has_the_process_that_was_begun() {
    alone(async |dying| {
        let now = dying.stage.supervisor.restart_rolling("native").await.unwrap();
        assert_eq!((now.pid, now.incarnation, now.restarts), (Some(dying.next), 2, 0));
        dying.answers().await;
    });
}

#[test]
fn s8_a_standby_that_was_chosen_and_dies_is_passed_over() {
    with_a_standby(half_dead(1), async |dying| {
        slay(dying.next);
        wait_for("its end", || (!exists(dying.next)).then_some(())).await;
        dying.is_as_it_was().await;
        dying.ends().await;
        dying.answers().await;
        let now = dying.stage.worker().pid.unwrap();
        assert!(now != dying.next && now != dying.pid());
        let another = wait_for("another standby", || dying.standby()).await;
        assert!(another.pid != dying.next && another.pid != now);
    });
}
