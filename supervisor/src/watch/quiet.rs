//! When files that change have come to rest. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Waits until nothing has changed for a while, but not for ever.
#[derive(Debug)]
pub(super) struct Quiet {
    quiet: Duration,
    longest: Duration,
    /// The first and the last change that nobody has looked at yet.
    changes: Option<(Instant, Instant)>,
}

impl Quiet {
    pub(super) const fn new(quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, changes: None }
    }

    /// Something has changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let first = self.changes.map_or(now, |(first, _)| first);
        self.changes = Some((first, now));
    }

    /// When it is time to look; `None` if nothing has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.changes.map(|(first, last)| (last + self.quiet).min(first + self.longest))
    }

    /// Somebody looks now.
    pub(super) const fn over(&mut self) {
        self.changes = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_a_while_after_the_last_change() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut quiet = Quiet::new(ms(100), ms(1000));
        assert_eq!(quiet.due(), None);
        quiet.changed(start);
        assert_eq!(quiet.due(), Some(start + ms(100)));
        quiet.changed(start + ms(70));
        assert_eq!(quiet.due(), Some(start + ms(170)));
        quiet.over();
        assert_eq!(quiet.due(), None);
    }

    #[test]
    fn quiet_does_not_wait_for_ever() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut quiet = Quiet::new(ms(100), ms(1000));
        for step in 0..50 {
            quiet.changed(start + ms(50) * step);
        }
        assert_eq!(quiet.due(), Some(start + ms(1000)));
    }
}
