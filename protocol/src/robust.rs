//! Learning that a process dies before it has ended: a robust futex
//! (get_robust_list(2); the kernel's `robust-futexes.rst`).
//!
//! What a process's end takes is the giving back of its memory, which comes before
//! its descriptors are closed and its pidfd is readable: 0.7 ms for a small process,
//! 6 for .NET, more than a second for tens of gigabytes. A futex that a thread has
//! put on its robust list is marked by the kernel as soon as that thread dies, which
//! is a tenth of a millisecond after a SIGKILL.
//!
//! It is a hint: a worker can write the mark by itself, and its control thread can
//! end without the others. That it has ended only the pidfd says.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::shm::{Access, Mapping};

/// The feature in a hello that asks for [`ToWorker::RobustFutex`].
///
/// [`ToWorker::RobustFutex`]: crate::message::ToWorker::RobustFutex
pub const FEATURE: &str = "robust-futex";

/// The shared memory in bytes: its first four are the futex.
pub const LEN: usize = 4096;

/// Has the kernel mark the memory when this thread dies. Nothing else of the
/// thread's may have robust futexes, as the mutexes of pthread_mutexattr_setrobust(3)
/// are: it has one list.
///
/// # Errors
///
/// The memory cannot be mapped, or the kernel has no robust futexes.
pub fn mark_at_death(memory: &OwnedFd) -> io::Result<()> {
    let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadWrite)?;
    mapping.keep_from_forks()?;
    // SAFETY: takes no arguments and cannot fail.
    let thread = unsafe { libc::gettid() }.unsigned_abs();
    let word = &mapping.words()[0];
    // Without the flag the kernel would mark it, and wake nobody.
    word.store(u64::from(thread | libc::FUTEX_WAITERS), Ordering::Release);
    // For as long as the thread lives, and all that is in it: the process's end
    // frees them.
    let entry = Box::leak(Box::new(Entry { next: std::ptr::null() }));
    let entry_at = std::ptr::from_ref(entry).addr().cast_signed();
    let list = Box::leak(Box::new(List {
        first: entry,
        futex_offset: word.as_ptr().addr().cast_signed().wrapping_sub(entry_at),
        pending: std::ptr::null(),
    }));
    entry.next = std::ptr::from_ref(list).cast();
    std::mem::forget(mapping);
    // SAFETY: the list is of the kernel's layout and a ring of one entry, it and the
    // futex are never freed, and only the kernel reads them.
    let set =
        unsafe { libc::syscall(libc::SYS_set_robust_list, &raw const *list, size_of::<List>()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct robust_list`.
#[repr(C)]
struct Entry {
    next: *const Entry,
}

/// `struct robust_list_head`. It ends its own list, so its first member is an entry.
#[repr(C)]
struct List {
    first: *const Entry,
    /// From an entry to its futex.
    futex_offset: isize,
    pending: *const Entry,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::sealed_memfd;

    #[test]
    fn robust_the_end_of_a_thread_marks_its_futex() {
        let memory = sealed_memfd("test", LEN).unwrap();
        let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadOnly).unwrap();
        let word = || mapping.words()[0].load(Ordering::Acquire);
        let died = u64::from(libc::FUTEX_OWNER_DIED);
        let at_work = std::thread::spawn(move || {
            mark_at_death(&memory).unwrap();
            word_of(&memory)
        });
        let marked_by_itself = at_work.join().unwrap();
        assert_ne!(marked_by_itself & u64::from(libc::FUTEX_WAITERS), 0);
        assert_eq!(marked_by_itself & died, 0);
        // The kernel marks it before anybody can have joined the thread.
        assert_eq!(word() & died, died);
    }

    fn word_of(memory: &OwnedFd) -> u64 {
        let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadOnly).unwrap();
        mapping.words()[0].load(Ordering::Acquire)
    }
}
