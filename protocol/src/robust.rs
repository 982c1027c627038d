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

use std::cell::Cell;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::shm::{Access, Mapping};

/// The feature in a hello that asks for [`ToWorker::RobustFutex`].
///
/// [`ToWorker::RobustFutex`]: crate::message::ToWorker::RobustFutex
pub const FEATURE: &str = "robust-futex";

/// The shared memory in bytes. Each of its first words of 64 bits has a futex in its low
/// half.
pub const LEN: usize = 4096;
/// How many words are marked. The kernel wakes one thread for each: whoever wants to be
/// sure that one is woken at once waits for each word on other CPUs.
pub const WORDS: usize = 2;

/// Has the kernel mark the words when this thread dies. Nothing else of the
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
    for word in &mapping.words()[..WORDS] {
        // Without the flag the kernel would mark it, and wake nobody.
        word.store(u64::from(thread | libc::FUTEX_WAITERS), Ordering::Release);
    }
    let own = OWN.with(|own| own.as_ptr().cast_const());
    let entries = own.wrapping_byte_add(offset_of!(Own, entries)).cast::<Entry>();
    let list = own.wrapping_byte_add(offset_of!(Own, list)).cast::<List>();
    let first = mapping.words()[0].as_ptr().addr().cast_signed();
    let futex_offset = first.wrapping_sub(entries.addr().cast_signed());
    OWN.set(Own {
        // The entries are as far from each other as the words are.
        entries: [Entry { next: entries.wrapping_add(1) }, Entry { next: list.cast() }],
        list: List { first: entries, futex_offset, pending: std::ptr::null() },
    });
    // The process's end frees it.
    std::mem::forget(mapping);
    // SAFETY: the list is of the kernel's layout and a ring of its entries, it and the
    // futexes live for longer than the thread, and only the kernel reads them.
    let set = unsafe { libc::syscall(libc::SYS_set_robust_list, list, size_of::<List>()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

thread_local! {
    /// In memory of the thread's own, which is nobody else's before the kernel has been
    /// through the list: where the C library has its own list, whose place this takes.
    static OWN: Cell<Own> = const { Cell::new(Own::NONE) };
}

/// A list and its entries.
#[derive(Clone, Copy)]
struct Own {
    entries: [Entry; WORDS],
    list: List,
}

impl Own {
    const NONE: Self = Self {
        entries: [Entry { next: std::ptr::null() }; WORDS],
        list: List { first: std::ptr::null(), futex_offset: 0, pending: std::ptr::null() },
    };
}

/// `struct robust_list`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    next: *const Entry,
}

/// `struct robust_list_head`. It ends its own list, so its first member is an entry.
#[derive(Clone, Copy)]
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
    fn robust_the_end_of_a_thread_marks_its_futexes() {
        let memory = sealed_memfd("test", LEN).unwrap();
        let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadOnly).unwrap();
        let words = |mapping: &Mapping| {
            mapping.words()[..WORDS].iter().map(|word| word.load(Ordering::Acquire)).collect()
        };
        let died = u64::from(libc::FUTEX_OWNER_DIED);
        let at_work = std::thread::spawn(move || {
            mark_at_death(&memory).unwrap();
            words(&Mapping::new(memory.as_fd(), LEN, Access::ReadOnly).unwrap())
        });
        let marked_by_itself: Vec<u64> = at_work.join().unwrap();
        assert_eq!(marked_by_itself.len(), WORDS);
        for word in marked_by_itself {
            assert_ne!(word & u64::from(libc::FUTEX_WAITERS), 0);
            assert_eq!(word & died, 0);
        }
        // The kernel marks them before anybody can have joined the thread.
        let marked: Vec<u64> = words(&mapping);
        assert!(marked.iter().all(|word| word & died == died), "{marked:?}");
    }
}
