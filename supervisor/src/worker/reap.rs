//! Noticing deaths: by the child's pidfd, whatever the cause (S2).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use menagerie_protocol::lane::asymmetric;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::spawn::{Slice, set_slice};
use crate::lane::lock;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
    /// Somebody else has waited for it.
    Unknown,
}

/// What a process had used when it ended (getrusage(2)).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceUsage {
    /// The most memory that was resident, in bytes.
    pub max_rss_bytes: u64,
    /// Processor time in its own code, in seconds.
    pub user_seconds: f64,
    /// Processor time in the kernel, in seconds.
    pub system_seconds: f64,
}

/// How a process ended, and what it had used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) usage: Option<ResourceUsage>,
}

impl End {
    /// In words: `signal 9 (SIGKILL)`, `exit code 1`.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Exit(code) => format!("exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => format!("signal {number} ({signal})"),
                Err(_) => format!("signal {number}"),
            },
            Self::Unknown => "ended, and somebody else has reaped it".to_owned(),
        }
    }
}

/// Reaps processes when they have ended, on a thread of its own: it is woken at once,
/// whatever the host's runtime has to do, and reaps also when there is none any more.
#[derive(Debug)]
pub(crate) struct Reaper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    /// Readable when no process comes any more.
    closed: EventFd,
    awaited: Mutex<HashMap<u64, Awaited>>,
    /// 0 is `closed`.
    next: AtomicU64,
}

struct Awaited {
    pidfd: Arc<OwnedFd>,
    /// What the thread does at once.
    first: Box<dyn FnOnce() + Send>,
    ended: watch::Sender<Option<Ended>>,
}

impl std::fmt::Debug for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Awaited").field("pidfd", &self.pidfd).finish_non_exhaustive()
    }
}

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let closed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        epoll.add(&closed, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let (awaited, next) = (Mutex::default(), AtomicU64::new(1));
        let shared = Arc::new(Shared { epoll, closed, awaited, next });
        let reaping = Arc::clone(&shared);
        std::thread::Builder::new().name("menagerie-reap".to_owned()).spawn(move || {
            set_slice(Slice::Short);
            // It has time for this now.
            asymmetric::prepare();
            reaping.reap_all();
        })?;
        Ok(Self(shared))
    }

    /// Takes care of a process; what is returned tells of its end, after `first`, which
    /// must not block: it runs on the thread that reaps.
    pub(crate) fn reap(
        &self,
        pidfd: &Arc<OwnedFd>,
        first: impl FnOnce() + Send + 'static,
    ) -> io::Result<watch::Receiver<Option<Ended>>> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, ended) = watch::channel(None);
        let awaited = Awaited { pidfd: Arc::clone(pidfd), first: Box::new(first), ended: sender };
        lock(&self.0.awaited).insert(number, awaited);
        // A pidfd is readable from the process's end on (pidfd_open(2)).
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        if let Err(error) = self.0.epoll.add(&**pidfd, event) {
            lock(&self.0.awaited).remove(&number);
            return Err(error.into());
        }
        Ok(ended)
    }
}

impl Drop for Reaper {
    /// The thread ends when the processes that it was given have ended.
    fn drop(&mut self) {
        let _ = self.0.closed.write(1);
    }
}

impl Shared {
    fn reap_all(&self) {
        let mut events = [EpollEvent::empty(); 16];
        let mut is_closed = false;
        while !is_closed || !lock(&self.awaited).is_empty() {
            // It fails when a signal interrupts it, and only then.
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            for event in &events[..count] {
                if event.data() == 0 {
                    is_closed = true;
                    let _ = self.epoll.delete(&self.closed);
                    continue;
                }
                let awaited = lock(&self.awaited).remove(&event.data());
                if let Some(Awaited { pidfd, first, ended }) = awaited {
                    let _ = self.epoll.delete(&*pidfd);
                    let end = reap(&pidfd);
                    first();
                    ended.send_replace(Some(end));
                }
            }
        }
    }
}

/// Waits, on this thread, for a process that was killed just now.
pub(super) fn reap_soon(pidfd: &OwnedFd) {
    // A process in uninterruptible sleep must not hold up those to come.
    has_ended(pidfd, PollTimeout::from(1000_u16));
    let _ = reap(pidfd);
}

/// Whether a process has ended, or does within so long.
pub(super) fn has_ended(pidfd: &OwnedFd, patience: PollTimeout) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, patience).is_ok_and(|count| count > 0)
}

/// Reaps a process that has ended, and ends what it has started.
fn reap(pidfd: &OwnedFd) -> Ended {
    // Before the process is reaped: its number cannot be another's.
    if let Some((info, _)) = wait(pidfd, libc::WEXITED | libc::WNOWAIT) {
        // SAFETY: `waitid` has succeeded, so this is a SIGCHLD's siginfo, whose member
        // is the process.
        end_group(unsafe { info.si_pid() });
    }
    let Some((info, usage)) = wait(pidfd, libc::WEXITED) else {
        end_group_of_reaped(pidfd);
        return Ended { end: End::Unknown, usage: None };
    };
    // SAFETY: `waitid` has succeeded, so this is a SIGCHLD's siginfo, whose
    // member is the status.
    let status = unsafe { info.si_status() };
    let end = match info.si_code {
        libc::CLD_EXITED => End::Exit(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => End::Signal(status),
        _ => End::Unknown,
    };
    let seconds = |time: libc::timeval| {
        let whole = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
        (whole + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))).as_secs_f64()
    };
    let usage = ResourceUsage {
        // In kibibytes, on Linux.
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        user_seconds: seconds(usage.ru_utime),
        system_seconds: seconds(usage.ru_stime),
    };
    Ended { end, usage: Some(usage) }
}

/// Ends every process of a worker's group: those that it has started, and that have not
/// made a group of their own. Where the worker leads no group, as it has never run its
/// program, there is none.
fn end_group(leader: libc::pid_t) {
    // To kill(2), 0 is the host's own group and 1 stands for everybody.
    if leader > 1 {
        let group = nix::unistd::Pid::from_raw(leader);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}

/// The same of a worker that is reaped already, by the host's own code or by the kernel,
/// which does so where the host ignores SIGCHLD. Its number may be another's by now; the
/// pidfd means what it always has (Linux 6.9, before that nothing is done).
fn end_group_of_reaped(pidfd: &OwnedFd) {
    /// `PIDFD_SIGNAL_PROCESS_GROUP`.
    const GROUP: libc::c_uint = 1 << 2;
    let info: *const libc::siginfo_t = std::ptr::null();
    let (pidfd, kill) = (pidfd.as_raw_fd(), libc::SIGKILL);
    // SAFETY: a descriptor of ours and numbers; without a siginfo the kernel reads no
    // memory of ours (pidfd_send_signal(2)).
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, kill, info, GROUP) };
}

/// As waitid(2); `None` where there is no such child.
fn wait(pidfd: &OwnedFd, options: libc::c_int) -> Option<(libc::siginfo_t, libc::rusage)> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both structures are ours, of the types that the system call
    // fills in (waitid(2); its fifth argument, which the C library does not
    // pass on, is a `struct rusage *`), and outlive the call.
    let waited = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            info.as_mut_ptr(),
            options,
            usage.as_mut_ptr(),
        )
    };
    if waited != 0 {
        return None;
    }
    // SAFETY: all zeroes is a valid value, and the kernel has filled it in.
    let info = unsafe { info.assume_init() };
    // SAFETY: as above.
    let usage = unsafe { usage.assume_init() };
    Some((info, usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_described_in_words() {
        assert_eq!(End::Exit(3).describe(), "exit code 3");
        assert_eq!(End::Signal(9).describe(), "signal 9 (SIGKILL)");
        assert_eq!(End::Signal(35).describe(), "signal 35");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, clippy::zombie_processes, reason = "a process to reap")]
    async fn s2_the_end_of_a_process_and_what_it_used_are_told() {
        let reaper = Reaper::start().unwrap();
        for (script, end) in [("exit 3", End::Exit(3)), ("kill -9 $$", End::Signal(9))] {
            let child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pidfd = Arc::new(super::super::spawn::pidfd_open(child.id()).unwrap());
            let first = Arc::new(AtomicU64::new(0));
            let at_once = Arc::clone(&first);
            let at_once = move || {
                at_once.fetch_add(1, Ordering::SeqCst);
            };
            let mut watch = reaper.reap(&pidfd, at_once).unwrap();
            let ended = watch.wait_for(Option::is_some).await.unwrap().unwrap();
            assert_eq!(ended.end, end);
            assert_eq!(first.load(Ordering::SeqCst), 1);
            let usage = ended.usage.unwrap();
            assert!(usage.max_rss_bytes > 100_000 && usage.user_seconds < 60.0, "{usage:?}");
        }
    }

    /// As by a host that waits for any child, or ignores SIGCHLD.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a process to reap")]
    fn s7_what_a_worker_has_started_ends_although_somebody_else_has_reaped_it() {
        use std::io::Read;
        use std::os::unix::process::CommandExt;

        let mut leader = std::process::Command::new("sh")
            .args(["-c", "sleep 3600 & exit 3"])
            .process_group(0)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = super::super::spawn::pidfd_open(leader.id()).unwrap();
        let mut output = leader.stdout.take().unwrap();
        leader.wait().unwrap();
        assert_eq!(reap(&pidfd), Ended { end: End::Unknown, usage: None });
        // The one that it has started holds the pipe until its end.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, clippy::zombie_processes, reason = "a process to reap")]
    async fn s7_what_has_not_ended_when_the_reaper_goes_is_reaped_still() {
        let reaper = Reaper::start().unwrap();
        let child = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
        let pidfd = Arc::new(super::super::spawn::pidfd_open(child.id()).unwrap());
        let mut watch = reaper.reap(&pidfd, || {}).unwrap();
        let shared = Arc::downgrade(&reaper.0);
        drop(reaper);
        super::super::spawn::signal(&pidfd, nix::sys::signal::Signal::SIGKILL);
        let ended = watch.wait_for(Option::is_some).await.unwrap().unwrap();
        assert_eq!(ended.end, End::Signal(9));
        // And then its thread ends.
        while shared.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
