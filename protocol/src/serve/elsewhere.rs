//! A new thread's first CPU.

use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

/// Has a thread that was just started begin on another CPU than this one, which goes on
/// here. The kernel places it once, where this thread runs if no other CPU is idle just
/// then, and leaves it there when one is a moment later (sched_setaffinity(2) moves it at
/// once). Where that does not work it is no harm.
pub(super) fn begin_elsewhere<T>(thread: &JoinHandle<T>) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a plain C structure of integers; all zeros is the set without CPUs.
    let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is alive, and as large as is said.
    let known = unsafe { libc::sched_getaffinity(0, size, &raw mut all) } == 0;
    // SAFETY: takes no arguments.
    let here = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
    let Some(here) = here.filter(|here| known && *here < 8 * size) else { return };
    let mut others = all;
    // SAFETY: the number is one of the set's.
    unsafe { libc::CPU_CLR(here, &mut others) };
    // The second lets it go on wherever it likes.
    for set in [others, all] {
        // SAFETY: the thread was not joined, as its handle is there; the set is alive.
        let moved =
            unsafe { libc::pthread_setaffinity_np(thread.as_pthread_t(), size, &raw const set) };
        if moved != 0 {
            // There is no other CPU.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    use super::*;

    const SELF: Pid = Pid::from_raw(0);

    /// What a thread may use that this one has made and moved.
    fn of_moved() -> CpuSet {
        let (moved, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            wait.recv().unwrap();
            sched_getaffinity(SELF).unwrap()
        });
        begin_elsewhere(&thread);
        moved.send(()).unwrap();
        thread.join().unwrap()
    }

    #[test]
    fn a_thread_that_began_elsewhere_may_use_every_cpu() {
        assert_eq!(of_moved(), sched_getaffinity(SELF).unwrap());
    }

    #[test]
    fn a_thread_of_one_cpu_begins_there() {
        let only = std::thread::spawn(|| {
            let all = sched_getaffinity(SELF).unwrap();
            let mut one = CpuSet::new();
            one.set((0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap()).unwrap()).unwrap();
            sched_setaffinity(SELF, &one).unwrap();
            (one, of_moved())
        });
        let (one, moved) = only.join().unwrap();
        assert_eq!(moved, one);
    }
}
