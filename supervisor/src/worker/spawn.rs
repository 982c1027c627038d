//! Starting worker processes, all from one thread that lives as long as the
//! supervisor: the parent-death signal belongs to the thread that forked
//! (prctl(2), PR_SET_PDEATHSIG; rule S7).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use tokio::sync::oneshot;

/// What a worker's process is started with.
#[derive(Debug)]
pub(crate) struct SpawnRequest {
    pub(crate) program: PathBuf,
    /// The whole environment: nothing of the host's own is added.
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
}

/// Limits on a worker's process (P1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) memory: Option<u64>,
    pub(crate) descriptors: u64,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

struct Job {
    request: SpawnRequest,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

/// The thread that forks. It ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    jobs: mpsc::Sender<Job>,
}

impl Spawner {
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("menagerie-spawn".to_owned()).spawn(move || {
            for Job { request, reply } in queue {
                if let Err(Ok(unwanted)) = reply.send(spawn(request)) {
                    // Nobody waits any more.
                    signal(&unwanted.pidfd, nix::sys::signal::Signal::SIGKILL);
                    super::reap::reap_soon(&unwanted.pidfd);
                }
            }
        })?;
        Ok(Self { jobs })
    }

    pub(crate) async fn spawn(&self, request: SpawnRequest) -> io::Result<Spawned> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawning thread has ended");
        self.jobs.send(Job { request, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that starts workers")]
fn spawn(request: SpawnRequest) -> io::Result<Spawned> {
    let SpawnRequest { program, env, dir, limits } = request;
    let parent = std::process::id();
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(env)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: `prepare` makes only async-signal-safe calls between fork and
    // exec: system calls, and no allocation.
    unsafe { command.pre_exec(move || prepare(parent, limits)) };
    let mut child = command.spawn()?;
    let pidfd = match pidfd_open(child.id()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            return Err(error);
        }
    };
    let missing = || io::Error::other("a pipe of the child is missing");
    let stdout = child.stdout.take().ok_or_else(missing)?.into();
    let stderr = child.stderr.take().ok_or_else(missing)?.into();
    Ok(Spawned { pid: child.id(), pidfd, stdout, stderr })
}

/// The steps between fork and exec, in order.
fn prepare(parent: u32, limits: Limits) -> io::Result<()> {
    // 1. Die with the supervisor, however it dies. If it is dead already the
    //    signal will not come: our parent is then another one.
    check(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into()))?;
    // SAFETY: takes no arguments and cannot fail.
    if unsafe { libc::getppid() }.unsigned_abs() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // 2. A session of its own: no terminal's signals, and one group to signal.
    // SAFETY: takes no arguments.
    check(unsafe { libc::setsid() })?;
    // 3. No new privileges by set-uid programs.
    check(prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    // 4. Limits.
    set_limit(libc::RLIMIT_CORE, 0)?;
    set_limit(libc::RLIMIT_NOFILE, limits.descriptors)?;
    if let Some(memory) = limits.memory {
        // Not RLIMIT_AS: .NET reserves hundreds of gigabytes of address space
        // that it never touches, and would not start.
        set_limit(libc::RLIMIT_DATA, memory)?;
    }
    // 5. Only the descriptors that it needs: all others close at exec.
    // SAFETY: takes integers only.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // Linux before 5.11 does not have it; the standard library opens every
    // descriptor with close-on-exec, and only the host's own may leak there.
    if closed != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
        return Err(io::Error::last_os_error());
    }
    // 6. Signals as a fresh process has them, whatever the host blocks.
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: initialises the set that it is given.
    check(unsafe { libc::sigemptyset(none.as_mut_ptr()) })?;
    // SAFETY: the set was initialised by `sigemptyset`; the old one is not
    // asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) })
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> libc::c_int {
    let zero: libc::c_ulong = 0;
    // SAFETY: the two options used take an integer and no pointers.
    unsafe { libc::prctl(option, value, zero, zero, zero) }
}

fn set_limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: points to a live rlimit.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only. The child has not been waited for, so the
    // pid is still its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    check(fd)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process of a pidfd; a process that has ended takes
/// no harm.
pub(crate) fn signal(pidfd: &OwnedFd, signal: nix::sys::signal::Signal) {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open, and a null siginfo is what kill(2) does.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            info,
            0_u32,
        );
    }
}

#[cfg(test)]
mod tests;
