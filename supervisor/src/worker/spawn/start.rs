//! The start itself: what posix_spawn(3) does, with a worker's own steps between
//! clone and exec.
//!
//! fork(2) copies the host's page tables, which takes the longer the larger the
//! host is, and turns the host's next write to each of its pages into a fault. The
//! child of a clone(2) with `CLONE_VM` and `CLONE_VFORK` copies nothing: it runs in
//! the host's memory, on a stack of its own, while the thread that has started it
//! stands still until it has become another program. So it makes system calls
//! only, allocates nothing, takes no lock, and writes nothing but its stack, the
//! thread's `errno`, and [`Plan::error`]. Descriptors, signal handlers, limits and
//! folder are its own from the beginning.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{Limits, Slice, set_slice};

/// The child's stack, in bytes: twice what the C library gives its own.
const STACK: usize = 64 << 10;
/// The child could not become a worker; [`Plan::error`] says why.
const FAILED: c_int = 127;
/// Signals are numbered from 1 to this.
const LAST_SIGNAL: c_int = 64;

/// Everything that the child needs, ready to be handed to the kernel.
#[derive(Debug)]
pub(super) struct Plan {
    program: CString,
    env: Vec<CString>,
    dir: CString,
    /// What becomes its descriptors from 0 on; each has a number above theirs.
    descriptors: Vec<OwnedFd>,
    limits: Limits,
    parent: u32,
    /// The error number of the step that has failed, told by the child.
    error: AtomicI32,
}

impl Plan {
    pub(super) fn new(
        program: &Path,
        env: BTreeMap<OsString, OsString>,
        dir: &Path,
        descriptors: Vec<OwnedFd>,
        limits: Limits,
    ) -> io::Result<Self> {
        let variable = |(name, value): (OsString, OsString)| {
            c_string([name.as_os_str(), OsStr::new("="), &value].map(OsStr::as_bytes).concat())
        };
        Ok(Self {
            program: c_string(program.as_os_str().as_bytes())?,
            env: env.into_iter().map(variable).collect::<io::Result<_>>()?,
            dir: c_string(dir.as_os_str().as_bytes())?,
            descriptors,
            limits,
            parent: std::process::id(),
            error: AtomicI32::new(0),
        })
    }

    /// Starts the process; returns its pid when it runs its program.
    pub(super) fn start(self) -> io::Result<libc::pid_t> {
        let argv = pointers([&*self.program]);
        let env = pointers(self.env.iter().map(CString::as_c_str));
        let child = Child { plan: &self, argv: &argv, env: &env };
        let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
        // Stacks grow downwards on every machine that Linux runs Rust on, and an
        // array of `u128` ends where one may begin.
        let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
        // No handler of the host's may run in the child.
        let blocked = Blocked::all()?;
        // SAFETY: the stack is ours and large enough for `run`; `child` and all that
        // it points to live until this thread goes on, which it does when the child
        // does not use this memory any more (CLONE_VFORK).
        let pid = unsafe {
            libc::clone(
                run,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                (&raw const child).cast_mut().cast(),
            )
        };
        let failed = io::Error::last_os_error();
        drop(blocked);
        if pid < 0 {
            return Err(failed);
        }
        match self.error.load(Ordering::Relaxed) {
            0 => Ok(pid),
            error => {
                // It has ended already.
                let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}

/// What the child is shown.
struct Child<'p> {
    plan: &'p Plan,
    argv: &'p [*const c_char],
    env: &'p [*const c_char],
}

/// The child's only function.
extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: `start` has handed over a `Child` that outlives this process's use of
    // it, and nobody writes to it meanwhile.
    let child = unsafe { &*child.cast_const().cast::<Child<'_>>() };
    let error = match child.prepare() {
        Ok(()) => child.become_worker(),
        Err(error) => error,
    };
    child.plan.error.store(error.raw_os_error().unwrap_or(libc::EINVAL), Ordering::Relaxed);
    FAILED
}

impl Child<'_> {
    /// The steps before the program begins, in order.
    fn prepare(&self) -> io::Result<()> {
        let Plan { descriptors, dir, limits, parent, .. } = self.plan;
        // 1. Die with the supervisor, however it dies. If it is dead already the
        //    signal will not come: our parent is then another one.
        check(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into()))?;
        // SAFETY: takes no arguments and cannot fail.
        if unsafe { libc::getppid() }.unsigned_abs() != *parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // 2. A session of its own: no terminal's signals, and one group to signal.
        // SAFETY: takes no arguments.
        check(unsafe { libc::setsid() })?;
        // 3. No new privileges by set-uid programs.
        check(prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
        // 4. Limits.
        set_limit(libc::RLIMIT_CORE, 0)?;
        set_limit(libc::RLIMIT_NOFILE, limits.descriptors.min(most_descriptors()?))?;
        if let Some(memory) = limits.memory {
            // Not RLIMIT_AS: .NET reserves hundreds of gigabytes of address space
            // that it never touches, and would not start.
            set_limit(libc::RLIMIT_DATA, memory)?;
        }
        if let Some(processes) = limits.processes {
            set_limit(libc::RLIMIT_NPROC, processes)?;
        }
        // 5. Its folder.
        // SAFETY: the path is a C string that lives longer than this process needs it.
        check(unsafe { libc::chdir(dir.as_ptr()) })?;
        // 6. Only the descriptors that it needs: all others close at exec.
        for (target, fd) in (0..).zip(descriptors) {
            // SAFETY: takes integers only.
            check(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
        }
        // SAFETY: takes integers only.
        let closed = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                descriptors.len(),
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        // Linux before 5.11 does not have it; the standard library opens every
        // descriptor with close-on-exec, and only the host's own may leak there.
        if closed != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
            return Err(io::Error::last_os_error());
        }
        // 7. Signals as a fresh process has them, whatever the host handles, ignores
        //    or blocks; the handlers first, which would run here.
        let default = zeroed_action();
        for signal in 1..=LAST_SIGNAL {
            // SAFETY: points to a live action, and the old one is not asked for. Where
            // the kernel or the C library do not let a signal be changed, nothing is.
            unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
        }
        let none = signal_set(libc::sigemptyset)?;
        // SAFETY: points to a live set; the old one is not asked for.
        check(unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
        })?;
        // 8. Not the slices of the thread that has started it.
        set_slice(Slice::Usual);
        Ok(())
    }

    /// Returns only if it does not work.
    fn become_worker(&self) -> io::Error {
        let (program, argv, env) = (&self.plan.program, self.argv, self.env);
        // SAFETY: C strings, and lists of such that end in a null pointer.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// All signals are blocked on this thread until it is dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> io::Result<Self> {
        let all = signal_set(libc::sigfillset)?;
        let mut before = signal_set(libc::sigemptyset)?;
        // SAFETY: both sets are alive.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) })?;
        Ok(Self(before))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: points to a live set; the other one is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

fn signal_set(
    fill: unsafe extern "C" fn(*mut libc::sigset_t) -> c_int,
) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `fill` is one of the two functions that initialise the set they get.
    check(unsafe { fill(set.as_mut_ptr()) })?;
    // SAFETY: it was initialised by `fill`.
    Ok(unsafe { set.assume_init() })
}

/// The default action of a signal.
const fn zeroed_action() -> libc::sigaction {
    // SAFETY: a plain C structure of integers and pointers; all zeros is `SIG_DFL`
    // with no flags and an empty mask.
    unsafe { std::mem::zeroed() }
}

fn c_string(bytes: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// A list of strings as execve(2) takes it.
fn pointers<'s>(strings: impl IntoIterator<Item = &'s CStr>) -> Vec<*const c_char> {
    strings.into_iter().map(CStr::as_ptr).chain([std::ptr::null()]).collect()
}

fn prctl(option: c_int, value: libc::c_ulong) -> c_int {
    let zero: libc::c_ulong = 0;
    // SAFETY: the two options used take an integer and no pointers.
    unsafe { libc::prctl(option, value, zero, zero, zero) }
}

/// Linux counts the descriptors that are on their way in sockets for all of a user's
/// processes together, and lets a process send more as long as these are not beyond its own
/// limit (unix(7), `ETOOMANYREFS`): workers stop before the host does, which is here the
/// limit that it has still. One message takes 253 beyond the limit.
fn most_descriptors() -> io::Result<u64> {
    const TWO_MESSAGES: u64 = 512;
    let hosts = limit(libc::RLIMIT_NOFILE)?.rlim_cur;
    Ok(hosts - TWO_MESSAGES.min(hosts / 2))
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: points to a live rlimit.
    check(unsafe { libc::getrlimit(resource, &raw mut now) })?;
    Ok(now)
}

/// A hard limit that is lower already stays: to raise it takes a privilege that
/// hardly any host has.
fn set_limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let most = most.min(limit(resource)?.rlim_max);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: points to a live rlimit.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
