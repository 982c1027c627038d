//! One leader at a time, and nobody left behind when it goes.
//!
//! Many threads and tasks wait on a lane, and one of them reads for all. Who
//! cannot have the lead may sleep, so the leader must not leave without a look
//! at what came while it led. A caller therefore leaves a mark before it gives
//! up, and a leader lets go only where there is no mark, both by exchanges of one
//! word: one of them sees the other.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[cfg(not(loom))]
use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, Ordering},
};

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, Ordering},
};

const FREE: u32 = 0;
/// Bit: somebody leads.
const LED: u32 = 1;
/// Bit: somebody wanted to lead and could not.
const WANTED: u32 = 2;

/// What the leader works with. It is a lock that nobody waits for, in one word,
/// because a hot call takes it and gives it up.
pub struct HandOver<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached through a `Led` only, of which there is one at a
// time, and which stays on its thread.
unsafe impl<T: Send> Sync for HandOver<T> {}

impl<T> fmt::Debug for HandOver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver").finish_non_exhaustive()
    }
}

/// The lead. Dropped, it is given up, also by a panic; a leader that may have
/// left somebody behind calls [`HandOver::leave`].
pub struct Led<'l, T> {
    seat: &'l HandOver<T>,
    /// It gives out `&mut T`, and belongs to its thread as a mutex's guard does.
    _owns: PhantomData<*mut T>,
}

impl<T> fmt::Debug for Led<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Led").finish_non_exhaustive()
    }
}

impl<T> HandOver<T> {
    /// Nobody leads.
    pub fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Takes the lead. On `None` somebody else has it, who will see all that
    /// this thread did before, or hand the lead on to somebody who does.
    #[inline]
    pub fn take(&self) -> Option<Led<'_, T>> {
        let mut now = FREE;
        loop {
            let free = now & LED == 0;
            // SYNC: lead wanted. All exchanges of the state have one order. If
            // the leader's last came first, we have the lead, and see what it
            // did; if ours did, it finds the mark, and sees what we did before.
            // So the mark is set anew where it is set already.
            let next = now | if free { LED } else { WANTED };
            match self.state.compare_exchange(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if free => return Some(Led { seat: self, _owns: PhantomData }),
                Ok(_) => return None,
                Err(seen) => now = seen,
            }
        }
    }

    /// Gives the lead up. It comes back if somebody wanted it meanwhile: then
    /// there may be something that the leader has not seen.
    #[inline]
    pub fn leave<'l>(&'l self, led: Led<'l, T>) -> Option<Led<'l, T>> {
        // SYNC: lead wanted, as in `take`.
        if self.state.compare_exchange(LED, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            std::mem::forget(led);
            return None;
        }
        // Takes the mark away. Nobody else takes the lead meanwhile.
        self.state.swap(LED, Ordering::AcqRel);
        Some(led)
    }

    fn pointer(&self) -> *mut T {
        #[cfg(not(loom))]
        return self.value.get();
        #[cfg(loom)]
        return self.value.with_mut(|value| value);
    }
}

impl<T> Drop for Led<'_, T> {
    fn drop(&mut self) {
        // The mark stays: it is for who leads next.
        self.seat.state.fetch_and(!LED, Ordering::AcqRel);
    }
}

impl<T> Deref for Led<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: there is one `Led`, and it is borrowed for as long.
        unsafe { &*self.seat.pointer() }
    }
}

impl<T> DerefMut for Led<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: there is one `Led`, and it is borrowed for as long, by us only.
        unsafe { &mut *self.seat.pointer() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn hand_over_has_one_leader() {
        let seat = HandOver::new(1);
        let led = seat.take().unwrap();
        assert!(seat.take().is_none());
        let led = seat.leave(led).expect("somebody wanted it");
        assert!(seat.leave(led).is_none());
        assert!(seat.take().is_some());
    }

    #[test]
    fn hand_over_keeps_the_mark_for_the_next_leader() {
        let seat = HandOver::new(1);
        let led = seat.take().unwrap();
        assert!(seat.take().is_none());
        drop(led);
        let led = seat.take().unwrap();
        assert!(seat.leave(led).is_some(), "there may be something that nobody has seen");
    }

    #[test]
    fn hand_over_survives_a_panic_of_the_leader() {
        let seat = HandOver::new(1);
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let _led = seat.take().unwrap();
                    panic!("a leader");
                })
                .join()
        });
        assert!(panicked.is_err());
        assert!(seat.take().is_some());
    }
}
