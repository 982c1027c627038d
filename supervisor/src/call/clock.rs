//! A call's time.

use std::time::{Duration, Instant};

use crate::counters::{SAMPLE_EVERY, Taken};

/// The deadline has passed.
pub(super) struct TimedOut;

/// A call's clock. It is read only when the call has to wait, or is sampled:
/// reading it costs a tenth of a hot call.
pub(super) struct Clock {
    pub(super) limit: Duration,
    pub(super) started: Option<Instant>,
    /// How many calls this one stands for, if it need not wait: 0 if it is not
    /// in the sample.
    weight: u64,
}

impl Clock {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, started: None, weight: 0 }
    }

    /// The call is in the sample.
    pub(super) fn sample(&mut self) {
        self.start();
        self.weight = SAMPLE_EVERY;
    }

    /// How long it has taken, if that is known.
    #[inline]
    pub(super) fn taken(&self) -> Option<Taken> {
        let took = self.started?.elapsed();
        // One that had to wait has its time taken always: it stands for itself.
        Some(Taken { took, weight: self.weight.max(1) })
    }

    /// It has run for so long already, if it has not been started.
    pub(super) fn ran(&mut self, time: Duration) {
        if self.started.is_none() && !time.is_zero() {
            self.started = Instant::now().checked_sub(time);
        }
    }

    fn start(&mut self) -> Instant {
        *self.started.get_or_insert_with(Instant::now)
    }

    /// When the call's time is up; `None` for never.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let started = self.start();
        self.weight = 0;
        if self.limit.is_zero() { None } else { started.checked_add(self.limit) }
    }

    pub(super) fn left(&mut self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(super) fn check(&mut self) -> Result<(), TimedOut> {
        if self.left() == Some(Duration::ZERO) { Err(TimedOut) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn s6_time_that_was_slept_before_counts() {
        let mut clock = Clock::new(HOUR);
        clock.ran(Duration::ZERO);
        assert_eq!(clock.started, None);
        clock.ran(HOUR / 2);
        assert!(clock.left().is_some_and(|left| left <= HOUR / 2), "{:?}", clock.left());
        // It runs already.
        clock.ran(HOUR);
        assert!(clock.check().is_ok());
        let mut clock = Clock::new(HOUR);
        clock.ran(HOUR);
        assert!(clock.check().is_err());
    }
}
