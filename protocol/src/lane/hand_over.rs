//! One leader at a time, and nobody left behind when it goes.
//!
//! Many threads and tasks wait on a lane, and one of them reads for all. Who
//! cannot have the lead may sleep, so the leader must not leave without a look
//! at what came while it led. A caller therefore leaves a mark before it tries for
//! the last time, and a leader looks for marks after it has let go: one of them sees
//! the other. Callers that sleep are rare, and leaders leave with every hot call, so
//! the fences between are of the [asymmetric] kind.

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

use super::asymmetric;

const FREE: u32 = 0;
/// Somebody leads.
const LED: u32 = 1;

/// What the leader works with. It is a lock that nobody waits for, in one word,
/// because a hot call takes it and gives it up.
pub struct HandOver<T> {
    state: AtomicU32,
    /// Not zero if somebody wanted to lead and could not.
    wanted: AtomicU32,
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
        Self {
            state: AtomicU32::new(FREE),
            wanted: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lead, if it is to be had.
    #[inline]
    pub fn take(&self) -> Option<Led<'_, T>> {
        // SYNC: lead free. Pairs with the release store of `Led::drop`: we see what the
        // leader before did.
        let free = self.state.compare_exchange(FREE, LED, Ordering::AcqRel, Ordering::Relaxed);
        match free {
            Ok(_) => Some(Led { seat: self, _owns: PhantomData }),
            Err(_) => None,
        }
    }

    /// As [`take`](Self::take). On `None` somebody else has the lead, who will see all
    /// that this thread did before, or hand the lead on to somebody who does.
    #[cold]
    pub fn take_or_ask(&self) -> Option<Led<'_, T>> {
        // An exchange, so that who takes the mark away sees what all did who left it.
        self.wanted.fetch_or(1, Ordering::AcqRel);
        // SYNC: lead wanted. Pairs with the light half in `leave`: if we find the lead
        // taken, its leader has not let go, and finds the mark when it has.
        asymmetric::heavy();
        // Whoever has the lead next takes the mark away, and looks.
        self.take()
    }

    /// Gives the lead up. It comes back if somebody wanted it meanwhile: then
    /// there may be something that the leader has not seen.
    #[inline]
    pub fn leave<'l>(&'l self, led: Led<'l, T>) -> Option<Led<'l, T>> {
        // Gives it up.
        drop(led);
        // SYNC: lead wanted. Pairs with the heavy half in `take_or_ask`.
        asymmetric::light();
        if self.wanted.load(Ordering::Relaxed) == 0 { None } else { self.take_again() }
    }

    /// Takes the lead for those who wanted it. On `None` somebody else has it now, and
    /// finds the mark.
    #[cold]
    fn take_again(&self) -> Option<Led<'_, T>> {
        let led = self.take()?;
        self.wanted.swap(0, Ordering::AcqRel);
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
        // SYNC: lead free, as in `take`.
        self.seat.state.store(FREE, Ordering::Release);
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
        assert!(seat.take().is_none() && seat.take_or_ask().is_none());
        let led = seat.leave(led).expect("somebody wanted it");
        assert!(seat.leave(led).is_none());
        assert!(seat.take().is_some());
    }

    #[test]
    fn hand_over_keeps_the_mark_for_the_next_leader() {
        let seat = HandOver::new(1);
        let led = seat.take().unwrap();
        assert!(seat.take_or_ask().is_none());
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
