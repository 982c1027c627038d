//! A worker whose control thread has died and whose other threads live on: for as
//! long as a large process gives its memory back it looks the same.

use nix::sys::signal::Signal;

use super::{Stage, hasty_once};
use crate::support::{exists, ready_after, run, runtime_dir, wait_for};

/// Ends the control thread of a worker, and nothing else, and waits until a second
/// process has begun.
async fn begin_to_die(pid: u32) {
    // The environment, by which it is found, is the first thread's, and goes with it.
    let starts = runtime_dir(pid).unwrap().join("misbehaved");
    // SAFETY: takes integers only; the worker has not been reaped.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    let len = || std::fs::metadata(&starts).map_or(0, |counted| counted.len());
    wait_for("the next process", || (len() == 2).then_some(())).await;
}

/// The child that is neither of these.
fn child_beside(known: &[u32]) -> Option<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(|c| c.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    children.into_iter().find(|child| !known.contains(child))
}

#[test]
fn s3_the_next_process_starts_while_the_one_before_dies_and_serves_when_it_has_ended() {
    run(async {
        let stage = Stage::set(hasty_once("half-dead")).await;
        let probe = stage.load().await;
        ready_after(&stage.supervisor, "native", 0).await;
        let old = stage.worker();
        let pid = old.pid.unwrap();
        begin_to_die(pid).await;
        // Until it has ended, it is the one that serves.
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        let now = stage.worker();
        assert_eq!((now.pid, now.state, now.incarnation), (old.pid, old.state, 1));
        let bystander = crate::support::worker(&stage.supervisor, "lua").unwrap().pid.unwrap();
        let next = wait_for("the next process", || child_beside(&[pid, bystander])).await;

        let process = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
        assert_eq!(stage.report(1).await.signal, Some(9));
        ready_after(&stage.supervisor, "native", 1).await;
        let now = stage.worker();
        assert_eq!((now.pid, now.incarnation, now.restarts), (Some(next), 2, 1));
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}

#[test]
fn s7_a_next_process_that_is_not_needed_goes() {
    run(async {
        let stage = Stage::set(hasty_once("half-dead")).await;
        stage.load().await;
        ready_after(&stage.supervisor, "native", 0).await;
        let pid = stage.worker().pid.unwrap();
        begin_to_die(pid).await;
        let bystander = crate::support::worker(&stage.supervisor, "lua").unwrap().pid.unwrap();
        let next = wait_for("the next process", || child_beside(&[pid, bystander])).await;
        stage.end().await;
        for pid in [pid, next] {
            wait_for("the process to be gone", || (!exists(pid)).then_some(())).await;
        }
    });
}

#[test]
fn s8_a_standby_is_chosen_while_the_one_before_dies() {
    run(async {
        let mut config = hasty_once("half-dead");
        config.standby = 1;
        let stage = Stage::set(config).await;
        let probe = stage.load().await;
        ready_after(&stage.supervisor, "native", 0).await;
        let native = || {
            let standbys = stage.supervisor.status().standbys;
            standbys.into_iter().find(|standby| standby.loader == "native")
        };
        let standby = wait_for("the standby", native).await;
        let pid = stage.worker().pid.unwrap();
        begin_to_die(pid).await;
        wait_for("the choice", || native().is_none().then_some(())).await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        assert_eq!(stage.worker().pid, Some(pid));

        let process = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
        ready_after(&stage.supervisor, "native", 1).await;
        assert_eq!(stage.worker().pid, Some(standby.pid));
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}
