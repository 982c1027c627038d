//! A process that has begun to die, but not ended: its memory is being given back,
//! which can take longer than the start of the next process. That may begin now (S3);
//! everything else waits for the end, which only the pidfd tells (S2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use menagerie_protocol::message::Hello;
use menagerie_protocol::robust::{FEATURE, LEN};
use menagerie_protocol::shm::{Access, Mapping, sealed_memfd};
use tokio::sync::Notify;

use super::spawn::{Slice, set_slice};

/// Notices that a worker's control thread has died.
#[derive(Debug)]
pub(crate) struct Dying {
    begun: Arc<Notify>,
    /// What the worker is sent.
    memory: Option<OwnedFd>,
    _watch: Watch,
}

impl Dying {
    pub(crate) fn new() -> io::Result<Self> {
        let begun = Arc::new(Notify::new());
        let notified = Arc::clone(&begun);
        let (watch, memory) = Watch::start(move || notified.notify_one())?;
        Ok(Self { begun, memory: Some(memory), _watch: watch })
    }

    /// What goes to a worker that can do its part, once.
    pub(super) fn memory_for(&mut self, hello: &Hello) -> Option<OwnedFd> {
        self.memory.take().filter(|_| hello.has(FEATURE))
    }

    /// Waits until it begins to die; it does so once.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }
}

/// The end that waits for the mark; it waits no longer when this is dropped.
#[derive(Debug)]
struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mapping: Mapping,
    /// 1 when nobody wants to know any more. The thread sleeps on both words, and
    /// this one no worker can write.
    given_up: AtomicU32,
}

impl Watch {
    /// Makes the memory, and a thread that calls `then` once it is marked: never on a
    /// kernel before Linux 5.16, which has no futex_waitv(2). Returns the descriptor
    /// that goes to the worker.
    fn start(then: impl FnOnce() + Send + 'static) -> io::Result<(Self, OwnedFd)> {
        let memory = sealed_memfd("menagerie-robust", LEN)?;
        let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadOnly)?;
        let shared = Arc::new(Shared { mapping, given_up: AtomicU32::new(0) });
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("menagerie-dying".to_owned());
        thread.stack_size(STACK).spawn(move || {
            set_slice(Slice::Short);
            if seen.wait() {
                then();
            }
        })?;
        Ok((Self { shared }, memory))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.given_up.store(1, Ordering::SeqCst);
        // SAFETY: the word is aligned, and alive for as long as it is borrowed;
        // FUTEX_WAKE takes its address only.
        unsafe {
            let word = self.shared.given_up.as_ptr();
            libc::syscall(libc::SYS_futex, word, PRIVATE_WAKE, i32::MAX);
        }
    }
}

/// Enough for a wait and for waking a task, in bytes.
const STACK: usize = 64 << 10;
/// The same number on every architecture (Linux 5.16).
const SYS_FUTEX_WAITV: libc::c_long = 449;
const PRIVATE_WAKE: libc::c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
/// `FUTEX2_SIZE_U32`.
const SIZE_U32: u32 = 2;
/// `FUTEX2_PRIVATE`.
const PRIVATE: u32 = libc::FUTEX_PRIVATE_FLAG.unsigned_abs();

/// `struct futex_waitv`.
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl Waiter {
    fn new(word: *const u32, value: u32, flags: u32) -> Self {
        Self { value: value.into(), address: word.addr() as u64, flags, reserved: 0 }
    }
}

impl Shared {
    /// Whether it was marked before it was given up.
    fn wait(&self) -> bool {
        let word = self.mapping.words()[0].as_ptr().cast::<u32>().cast_const();
        while self.given_up.load(Ordering::SeqCst) == 0 {
            #[allow(clippy::cast_possible_truncation, reason = "the low half is the futex")]
            let value = self.mapping.words()[0].load(Ordering::Acquire) as u32;
            if value & libc::FUTEX_OWNER_DIED != 0 {
                return true;
            }
            let waiters = [
                Waiter::new(word, value, SIZE_U32),
                Waiter::new(self.given_up.as_ptr(), 0, SIZE_U32 | PRIVATE),
            ];
            let forever: *const libc::timespec = std::ptr::null();
            // SAFETY: two waiters of the kernel's layout, whose words are aligned and
            // mapped for as long as `self`; the kernel only reads them.
            let woken = unsafe {
                libc::syscall(
                    SYS_FUTEX_WAITV,
                    &raw const waiters,
                    2,
                    0,
                    forever,
                    libc::CLOCK_MONOTONIC,
                )
            };
            let error = io::Error::last_os_error().raw_os_error();
            // Woken, changed meanwhile, or interrupted: look again.
            if woken < 0 && !matches!(error, Some(libc::EAGAIN | libc::EINTR)) {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use menagerie_protocol::robust::mark_at_death;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn s2_the_end_of_a_control_thread_is_noticed() {
        let (sender, noticed) = mpsc::channel();
        let (watch, memory) = Watch::start(move || {
            let _ = sender.send(());
        })
        .unwrap();
        let (end, ends) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            mark_at_death(&memory).unwrap();
            let _ = ends.recv();
        });
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(noticed.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(end);
        assert_eq!(noticed.recv_timeout(PATIENCE), Ok(()));
        thread.join().unwrap();
        drop(watch);
    }

    #[test]
    fn s7_a_watch_that_is_dropped_ends_its_thread() {
        let (sender, noticed) = mpsc::channel::<()>();
        let (watch, _memory) = Watch::start(move || {
            let _ = sender.send(());
        })
        .unwrap();
        drop(watch);
        // The thread drops the sender unused.
        assert_eq!(noticed.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
