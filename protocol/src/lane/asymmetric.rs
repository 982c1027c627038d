//! A fence in two halves that do not cost the same, for two threads of one process
//! that each store something and then look for what the other has stored: the one
//! that does so often pays next to nothing, and the rare one for both.
//!
//! [`light`] between a thread's store and its look, and [`heavy`] between the other's,
//! order them as two sequentially consistent fences would: at least one sees the
//! other's store. The heavy half has the kernel interrupt every thread of the process
//! that runs (membarrier(2), `MEMBARRIER_CMD_PRIVATE_EXPEDITED`): a third of a
//! microsecond. The C++ committee's paper P1202 has the idea and the names.
//!
//! Where the kernel has no such thing, or a sandbox does not allow it, both halves are
//! such fences.

#[cfg(loom)]
use loom::sync::atomic::fence;
use std::sync::atomic::Ordering;
#[cfg(not(loom))]
use std::sync::atomic::fence;
#[cfg(not(any(loom, miri)))]
use std::sync::atomic::{AtomicBool, compiler_fence};

/// Whether the kernel has taken note that this process uses the heavy half.
#[cfg(not(any(loom, miri)))]
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Makes the light half cheap from now on, if that can be had. In a process that has
/// several threads the kernel takes some ten milliseconds for it, once.
pub fn prepare() {
    #[cfg(not(any(loom, miri)))]
    register();
}

/// The half of who does this often.
#[inline]
pub fn light() {
    #[cfg(not(any(loom, miri)))]
    if REGISTERED.load(Ordering::Acquire) {
        // SYNC: asymmetric. Pairs with `heavy`.
        compiler_fence(Ordering::SeqCst);
        return;
    }
    fence(Ordering::SeqCst);
}

/// The half of who does this rarely.
#[cold]
pub fn heavy() {
    // Registered here if nobody has: a light half that begins meanwhile may count on it.
    #[cfg(not(any(loom, miri)))]
    if membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        || register() && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    {
        return;
    }
    // The kernel has allowed it before, and does no more. A light half may be under way
    // that has counted on it: it has a few instructions to go.
    #[cfg(not(any(loom, miri)))]
    if REGISTERED.swap(false, Ordering::SeqCst) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    fence(Ordering::SeqCst);
}

#[cfg(not(any(loom, miri)))]
fn register() -> bool {
    let registered = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    if registered {
        REGISTERED.store(true, Ordering::SeqCst);
    }
    registered
}

#[cfg(not(any(loom, miri)))]
fn membarrier(command: libc::membarrier_cmd) -> bool {
    // SAFETY: takes no pointers; at worst it fails.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(all(test, not(any(loom, miri))))]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Two threads that each store and look, again and again: never both too early.
    #[test]
    fn asymmetric_halves_order_as_two_fences_do() {
        const ROUNDS: u64 = 50_000;
        prepare();
        let (light_at, heavy_at) = (AtomicU64::new(0), AtomicU64::new(0));
        let rounds = |ours: &AtomicU64, theirs: &AtomicU64, fence: fn()| {
            let mut missed = Vec::new();
            for round in 1..=ROUNDS {
                while theirs.load(Ordering::Relaxed) < round - 1 {
                    std::thread::yield_now();
                }
                ours.store(round, Ordering::Relaxed);
                fence();
                if theirs.load(Ordering::Relaxed) < round {
                    missed.push(round);
                }
            }
            missed
        };
        let (first, second) = std::thread::scope(|scope| {
            let heavy = scope.spawn(|| rounds(&heavy_at, &light_at, heavy));
            let light = rounds(&light_at, &heavy_at, light);
            (light, heavy.join().unwrap())
        });
        let both = first.iter().find(|round| second.binary_search(round).is_ok());
        assert_eq!(both, None, "in that round neither has seen the other");
    }
}
