//! Starting worker processes, from threads that outlive them: the parent-death signal
//! belongs to the thread that forked (prctl(2), PR_SET_PDEATHSIG; rule S7). Most are
//! started by one thread that lives as long as the supervisor.

mod slice;
mod start;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::mpsc;

pub(crate) use slice::{Slice, set_slice};
use start::Plan;
use tokio::sync::oneshot;

/// What a worker's process is started with.
#[derive(Debug)]
pub(crate) struct SpawnRequest {
    pub(crate) program: PathBuf,
    /// The whole environment: nothing of the host's own is added.
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) dir: PathBuf,
    pub(crate) stdio: Stdio,
    /// What else it gets, with the number [`FIRST_DESCRIPTOR`].
    pub(crate) descriptor: Option<OwnedFd>,
    pub(crate) limits: Limits,
}

/// The first number after a process's standard input, output and error.
pub(crate) const FIRST_DESCRIPTOR: RawFd = 3;

/// A process's standard input, which is empty, output and error.
#[derive(Debug)]
pub(crate) struct Stdio {
    theirs: [OwnedFd; 3],
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Stdio {
    pub(crate) fn new() -> io::Result<Self> {
        let stdin = File::open("/dev/null")?.into();
        let (stdout, their_stdout) = std::io::pipe()?;
        let (stderr, their_stderr) = std::io::pipe()?;
        let theirs = [stdin, their_stdout.into(), their_stderr.into()];
        Ok(Self { theirs, stdout: stdout.into(), stderr: stderr.into() })
    }
}

/// Limits on a worker's process (P1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) memory: Option<u64>,
    pub(crate) descriptors: u64,
    pub(crate) processes: Option<u64>,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A process on its way. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Spawning {
    answer: oneshot::Receiver<io::Result<Spawned>>,
}

impl Spawning {
    /// Waits until it runs its program.
    pub(crate) async fn done(mut self) -> io::Result<Spawned> {
        let gone = |_| io::Error::other("the spawning thread has ended");
        (&mut self.answer).await.map_err(gone)?
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        // What comes later the thread ends.
        self.answer.close();
        if let Ok(Ok(unwanted)) = self.answer.try_recv() {
            end(&unwanted.pidfd);
        }
    }
}

/// A process that a thread is to start.
#[derive(Debug)]
pub(crate) struct Job {
    request: SpawnRequest,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

impl Job {
    /// The job, and what comes of it.
    pub(crate) fn new(request: SpawnRequest) -> (Self, Spawning) {
        let (reply, answer) = oneshot::channel();
        (Self { request, reply }, Spawning { answer })
    }

    /// Starts the process, which ends with this thread at the latest; returns its pid
    /// when it runs its program, if it does.
    pub(crate) fn run(self) -> Option<u32> {
        let spawned = spawn(self.request);
        let pid = spawned.as_ref().ok().map(|spawned| spawned.pid);
        if let Err(Ok(unwanted)) = self.reply.send(spawned) {
            end(&unwanted.pidfd);
            return None;
        }
        pid
    }
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
            set_slice(Slice::Short);
            for job in queue {
                job.run();
            }
        })?;
        Ok(Self { jobs })
    }

    /// The start is under way when this returns.
    pub(crate) fn carry_out(&self, job: Job) {
        // If the thread has ended it drops the job, and its end of the channel.
        drop(self.jobs.send(job));
    }
}

fn spawn(request: SpawnRequest) -> io::Result<Spawned> {
    let SpawnRequest { program, env, dir, stdio, descriptor, limits } = request;
    let Stdio { theirs, stdout, stderr } = stdio;
    let theirs = theirs.into_iter().chain(descriptor).map(above_theirs);
    let theirs = theirs.collect::<io::Result<_>>()?;
    let pid = Plan::new(&program, env, &dir, theirs, limits)?.start()?;
    match pidfd_open(pid.unsigned_abs()) {
        Ok(pidfd) => Ok(Spawned { pid: pid.unsigned_abs(), pidfd, stdout, stderr }),
        Err(error) => {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(error)
        }
    }
}

/// Waits, on the thread that has started it, until a process has ended; others reap it.
pub(crate) fn outlive(pid: u32) {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
    loop {
        // SAFETY: the structure is ours, and outlives the call. Once the process is
        // reaped its pid is no child's, or another child's: then this waits for longer.
        let waited = unsafe {
            libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT)
        };
        if waited == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// The same file at a number above those that a process begins with: a host that has
/// closed its own gets these numbers for what it opens.
fn above_theirs(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > FIRST_DESCRIPTOR {
        return Ok(fd);
    }
    let above = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST_DESCRIPTOR + 1);
    let raw = nix::fcntl::fcntl(&fd, above)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only. The child has not been waited for, so the
    // pid is still its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
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

/// Ends a process of which nobody takes care.
pub(super) fn end(pidfd: &OwnedFd) {
    signal(pidfd, nix::sys::signal::Signal::SIGKILL);
    super::reap::reap_soon(pidfd);
}

#[cfg(test)]
mod tests;
