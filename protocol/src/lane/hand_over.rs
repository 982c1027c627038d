//! One leader at a time, and nobody left behind when it goes.
//!
//! Many threads and tasks wait on a lane, and one of them reads for all. Who
//! cannot have the lead may sleep, so the leader must not leave without a look
//! at what came while it led. A caller therefore leaves a mark before it gives
//! up, and a leader looks for the mark after it has let go: one of them sees the
//! other.

#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard, TryLockError,
    atomic::{AtomicBool, Ordering},
};

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
#[cfg(loom)]
use std::sync::TryLockError;

/// What the leader works with.
#[derive(Debug)]
pub struct HandOver<T> {
    led: Mutex<T>,
    /// Somebody wanted to lead and could not.
    wanted: AtomicBool,
}

impl<T> HandOver<T> {
    /// Nobody leads.
    pub fn new(value: T) -> Self {
        Self { led: Mutex::new(value), wanted: AtomicBool::new(false) }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.led.try_lock() {
            Ok(led) => Some(led),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes the lead. On `None` somebody else has it, who will see all that
    /// this thread did before, or hand the lead on to somebody who does.
    #[inline]
    pub fn take(&self) -> Option<MutexGuard<'_, T>> {
        if let Some(led) = self.try_lock() {
            return Some(led);
        }
        // SYNC: lead wanted. All exchanges of the mark have one order. If the
        // leader's came first, we see that it has let go; if ours did, it finds
        // the mark, and sees what we did before.
        self.wanted.swap(true, Ordering::AcqRel);
        self.try_lock()
    }

    /// Gives the lead up. It comes back if somebody wanted it meanwhile: then
    /// there may be something that the leader has not seen.
    #[inline]
    pub fn leave<'l>(&'l self, led: MutexGuard<'l, T>) -> Option<MutexGuard<'l, T>> {
        drop(led);
        // SYNC: lead wanted, as in `take`.
        if !self.wanted.swap(false, Ordering::AcqRel) {
            return None;
        }
        // Somebody else may lead by now. The mark that was taken away is set
        // again for them.
        self.take()
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
