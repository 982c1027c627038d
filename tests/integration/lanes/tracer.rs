//! Counts the system calls of one thread of another process, by ptrace(2). A
//! thread that makes none is not disturbed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The system calls of a thread so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    /// Sleeps on a lane: futex(2) on shared memory.
    pub(super) waits: u64,
    /// Wake-ups of who sleeps there, by futex or by socket.
    pub(super) wakes: u64,
    /// All others, by number.
    pub(super) others: BTreeMap<u64, u64>,
    /// What this thread has done, all in all: grows with each.
    pub(super) all: u64,
}

impl Calls {
    pub(super) fn others(&self) -> u64 {
        self.others.values().sum()
    }

    fn count(&mut self, number: u64, arguments: [u64; 6]) {
        let is = |call: libc::c_long| i64::try_from(number) == Ok(call);
        // Where the kernel cannot show the clock to user space, looking at it is a
        // system call; nothing sleeps or is woken by it. And a wait that the
        // tracing itself has interrupted goes on by itself.
        if is(libc::SYS_clock_gettime) || is(libc::SYS_restart_syscall) {
            return;
        }
        self.all += 1;
        // What threads of one process do among themselves has the flag
        // FUTEX_PRIVATE, and is none of the lane's.
        match i32::try_from(arguments[1]) {
            Ok(libc::FUTEX_WAIT) if is(libc::SYS_futex) => self.waits += 1,
            Ok(libc::FUTEX_WAKE) if is(libc::SYS_futex) => self.wakes += 1,
            _ if is(libc::SYS_sendto) => self.wakes += 1,
            // A spin that goes on, and lets others have its CPU for a moment.
            _ if is(libc::SYS_sched_yield) => {}
            _ => *self.others.entry(number).or_default() += 1,
        }
    }
}

/// Watches a thread until it ends. `each` is called at each of its system calls,
/// before the call is made.
///
/// # Errors
///
/// This machine does not allow it, or cannot tell what system calls are made.
pub(super) fn watch(
    thread: u32,
    each: impl Fn() + Send + 'static,
) -> Result<Arc<Mutex<Calls>>, Errno> {
    let calls = Arc::new(Mutex::new(Calls::default()));
    let counted = Arc::clone(&calls);
    let (begun, has_begun) = std::sync::mpsc::channel();
    // A thread's tracer is one thread. When this one ends, its tracing does.
    std::thread::spawn(move || {
        let thread = Pid::from_raw(i32::try_from(thread).unwrap());
        let seized = ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD)
            .and_then(|()| ptrace::interrupt(thread))
            .and_then(|()| waitpid(thread, Some(WaitPidFlag::__WALL)))
            .and_then(|_| ptrace::syscall_info(thread).map(drop))
            .and_then(|()| ptrace::syscall(thread, None));
        let failed = seized.is_err();
        let _ = begun.send(seized);
        if failed {
            return;
        }
        loop {
            let go_on = match waitpid(thread, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceSyscall(_)) => {
                    let Ok(info) = ptrace::syscall_info(thread) else { return };
                    if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                        each();
                        // SAFETY: `op` says that this is the member that is set.
                        let entry = unsafe { info.u.entry };
                        counted.lock().unwrap().count(entry.nr, entry.args);
                    }
                    ptrace::syscall(thread, None)
                }
                Ok(WaitStatus::Stopped(_, signal)) => ptrace::syscall(thread, signal),
                Ok(WaitStatus::PtraceEvent(..)) => ptrace::syscall(thread, None),
                // It has ended.
                _ => return,
            };
            if go_on.is_err() {
                return;
            }
        }
    });
    has_begun.recv().unwrap_or(Err(Errno::ESRCH))?;
    Ok(calls)
}
