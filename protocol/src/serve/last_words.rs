//! What a worker says last, if it is a bundle or its loader that ends it: whose doing
//! that was. Nobody else can tell, where several bundles ran or none did.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use libc::{SI_TKILL, c_int, siginfo_t};

use crate::control::frame;
use crate::lane::worker::Outbox;
use crate::message::{ENDED_BY, LogLevel, LogRecord, ToSupervisor};
use crate::runtime::Logger;

/// The control socket, for who cannot ask for it: a handler of signals.
static CONTROL: AtomicI32 = AtomicI32::new(-1);
/// The process that speaks by it, the worker. One that a bundle forks has the socket
/// and the handlers as well, and its end is not the worker's.
static SPEAKER: AtomicI32 = AtomicI32::new(0);
/// Whether somebody has said whose doing the end is.
static SAID: AtomicBool = AtomicBool::new(false);
/// Those of all bundles that have been here, by name.
static KNOWN: Mutex<BTreeMap<String, &'static LastWords>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Of the bundle that this thread works for. It has no destructor, so that it can
    /// be asked for until the thread is gone.
    static OURS: Cell<Option<&'static LastWords>> = const { Cell::new(None) };
}

/// What a worker says that dies of a bundle's code, put together beforehand: neither a
/// handler of signals nor one of exits may allocate or wait for anybody.
#[derive(Debug)]
pub struct LastWords(Box<[u8]>);

impl LastWords {
    /// Those for a bundle; they stay as long as the process, once for each name.
    #[must_use]
    pub fn of(bundle: &str) -> &'static Self {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = known.get(bundle) {
            return words;
        }
        let message = format!("code of the bundle '{bundle}' ends the worker");
        let record = ToSupervisor::Log(last_words(Some(bundle.to_owned()), message));
        // A name that fits no message is in no manifest either.
        let words = Self(frame(&record).unwrap_or_default().into());
        let words: &'static Self = Box::leak(Box::new(words));
        known.insert(bundle.to_owned(), words);
        words
    }

    /// Those of the bundle that this thread works for, if it does: a lane's thread, and
    /// one that a loader knows to be a bundle's.
    #[must_use]
    pub fn of_this_thread() -> Option<&'static Self> {
        OURS.get()
    }

    /// This thread works for a bundle from now on, or for none.
    pub fn belong_to_this_thread(words: Option<&'static Self>) {
        OURS.set(words);
    }

    /// Says them, unless this process has said whose doing its end is, or is a fork of
    /// the worker. A handler of signals may do so.
    pub fn say(&self) {
        let socket = CONTROL.load(Ordering::Relaxed);
        // In this order: a vfork(2) has the worker's own memory.
        if socket < 0 || is_fork() || SAID.swap(true, Ordering::Relaxed) {
            return;
        }
        let (start, len) = (self.0.as_ptr().cast(), self.0.len());
        // Somebody else may be sending and wait until there is room: then it is not said.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: so many bytes are there. The number of a descriptor that was closed is
        // refused, or is of another socket, which gets a message that it cannot read.
        unsafe { libc::send(socket, start, len, flags) };
    }
}

/// What is said from now on goes by this socket, and this process says it.
pub(super) fn speak_by(control: BorrowedFd<'_>) {
    SPEAKER.store(getpid(), Ordering::Relaxed);
    CONTROL.store(control.as_raw_fd(), Ordering::Relaxed);
}

fn getpid() -> libc::pid_t {
    // SAFETY: it takes nothing, and cannot fail.
    unsafe { libc::getpid() }
}

/// Whether this process was forked from the worker by a bundle.
fn is_fork() -> bool {
    SPEAKER.load(Ordering::Relaxed) != getpid()
}

/// A message is about to go to the supervisor, and may be this process's last words.
/// Whether it may go: a fork's end is nobody else's business.
///
/// A fork may log. One that has anything else to say has come back from the bundle's
/// code, as a second worker; it ends here.
pub(super) fn may_send(message: &ToSupervisor) -> bool {
    let is_fork = is_fork();
    let ToSupervisor::Log(record) = message else {
        if is_fork {
            let process = std::process::id();
            super::complain_text(&format!(
                "the forked process {process} came back to the worker's code, and was ended"
            ));
            // Nothing of C's streams: what is in them is the worker's.
            // SAFETY: `_exit` takes no pointers and does not return.
            unsafe { libc::_exit(1) };
        }
        return true;
    };
    let are_last = record.target == ENDED_BY && record.level == LogLevel::Error;
    if are_last && !is_fork {
        SAID.store(true, Ordering::Relaxed);
    }
    !(are_last && is_fork)
}

/// Whether the thread that got a signal has brought it about itself: by what it did, or
/// by `abort` or `raise`.
///
/// # Safety
///
/// The pointer is what the kernel gave to a handler of `SA_SIGINFO` that runs.
#[must_use]
pub unsafe fn is_own_doing(info: *const siginfo_t) -> bool {
    // SAFETY: the caller's promise.
    let info = unsafe { &*info };
    let code: c_int = info.si_code;
    if code != SI_TKILL {
        return code > 0;
    }
    // SAFETY: a signal with this code has a sender.
    let sender = unsafe { info.si_pid() };
    sender == getpid()
}

/// Ends the process if it is dropped while it is armed: its thread panics, or unwinds
/// because the bundle has called pthread_exit(3). The call that ran has been answered
/// on the way here, so it is said whose it was.
pub(super) struct AbortOnUnwind {
    armed: bool,
    outbox: Outbox,
    /// For whom it is at work; nobody, before a bundle has come.
    bundle: Option<String>,
}

impl AbortOnUnwind {
    pub(super) const fn armed(outbox: Outbox, bundle: Option<String>) -> Self {
        Self { armed: true, outbox, bundle }
    }

    /// Its thread has come to its end.
    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let message = match &self.bundle {
            None => "the loader has panicked before a bundle came".to_owned(),
            Some(bundle) if std::thread::panicking() => {
                format!("the loader has panicked at work for the bundle '{bundle}'")
            }
            Some(bundle) => ended_its_thread(bundle),
        };
        super::complain_text(&message);
        (self.outbox)(ToSupervisor::Log(last_words(self.bundle.clone(), message)));
        std::process::abort();
    }
}

/// Runs code of a bundle on its lane's thread, for a loader whose destructors cannot do
/// with a thread that ends in the midst of it: if the code calls pthread_exit(3), which
/// unwinds, the process says whose code it was and ends here, before them. A panic
/// passes; the lane sees to it.
pub fn watched<T>(bundle: &str, logger: &Logger, code: impl FnOnce() -> T) -> T {
    struct Watch<'a> {
        bundle: &'a str,
        logger: &'a Logger,
    }

    impl Drop for Watch<'_> {
        #[cold]
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            let message = ended_its_thread(self.bundle);
            super::complain_text(&message);
            self.logger.log(LogLevel::Error, ENDED_BY, &message);
            std::process::abort();
        }
    }

    let watch = Watch { bundle, logger };
    let outcome = code();
    std::mem::forget(watch);
    outcome
}

pub(super) fn ended_its_thread(bundle: &str) -> String {
    format!("the bundle '{bundle}' has ended its own thread, which is the worker's")
}

/// As the supervisor knows them.
pub(super) fn last_words(bundle: Option<String>, message: String) -> LogRecord {
    let (level, target) = (LogLevel::Error, ENDED_BY.to_owned());
    LogRecord { bundle, level, target, message }
}
