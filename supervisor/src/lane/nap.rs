//! How a thread that waits begins to, where it has woken the worker.

use std::time::Duration;

/// How long a thread may sleep before it looks at the clock, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nap(u32);

impl Nap {
    /// What a short function takes in a worker that has slept, many times over; and no
    /// more than a deadline can be late by.
    pub(super) const SHORT: Self = Self(1_000);
    /// Longer than the kernel's tick, of 10 ms at most. A timer that is the next one to
    /// expire has to be programmed, and taken back: that is the hypervisor's work in a
    /// virtual machine, and has taken 14 of a cold call's 39 µs.
    const LONG: Self = Self(20_000);

    /// That of a call with this deadline; zero is none.
    pub(crate) fn within(deadline: Duration) -> Self {
        if deadline.is_zero() {
            return Self::LONG;
        }
        let micros = u32::try_from(deadline.as_micros()).unwrap_or(u32::MAX);
        Self(micros.clamp(1, Self::LONG.0))
    }

    pub(super) fn time(self) -> Duration {
        Duration::from_micros(self.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_a_nap_is_no_longer_than_the_deadline() {
        let micros = |micros| Nap::within(Duration::from_micros(micros)).time().as_micros();
        assert_eq!((micros(1), micros(7), micros(5_000)), (1, 7, 5_000));
        assert_eq!((micros(20_000), micros(20_001), micros(u64::MAX)), (20_000, 20_000, 20_000));
        // The kernel counts from one microsecond on, and zero is no deadline.
        assert_eq!(Nap::within(Duration::from_nanos(1)).time().as_micros(), 1);
        assert_eq!(micros(0), 20_000);
    }
}
