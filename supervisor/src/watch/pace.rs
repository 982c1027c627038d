//! When a bundle is loaded again whose loads change its own files: else each would bring
//! about the next, without end. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// What changes later than this after a load was not changed by it.
const CALM: Duration = Duration::from_secs(2);
/// Loads that may follow each other at once: people save often, too.
const FREE: u32 = 5;
/// The pause after so many; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// How a bundle's loads have followed each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// The last of those that followed each other, and their number.
    row: Option<(Instant, u32)>,
    /// When the change that waits was seen first.
    seen: Option<Instant>,
    /// Whether the row's pauses have been told.
    is_told: bool,
}

impl Pace {
    /// Something has changed: when it may be loaded.
    pub(super) fn due(&mut self, now: Instant) -> Instant {
        let seen = *self.seen.get_or_insert(now);
        match self.row {
            Some((last, number)) if seen.saturating_duration_since(last) <= CALM => {
                last + pause(number)
            }
            _ => {
                *self = Self { seen: self.seen, ..Self::default() };
                now
            }
        }
    }

    /// It has been loaded, as far as that went.
    pub(super) fn loaded(&mut self, now: Instant) {
        let number = self.row.map_or(0, |(_, number)| number);
        self.row = Some((now, number.saturating_add(1)));
        self.seen = None;
    }

    /// Whether its pauses are still to be told; true once in each row.
    pub(super) const fn is_to_be_told(&mut self) -> bool {
        !std::mem::replace(&mut self.is_told, true)
    }
}

fn pause(number: u32) -> Duration {
    let Some(doubled) = number.checked_sub(FREE) else { return Duration::ZERO };
    FIRST.saturating_mul(1_u32.checked_shl(doubled).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Loads again and again, each with a change that comes so long after it; the pauses.
    fn pauses(pace: &mut Pace, now: &mut Instant, after: Duration, rounds: u32) -> Vec<u64> {
        let pause = |_| {
            *now += after;
            let due = pace.due(*now);
            let pause = due.saturating_duration_since(*now);
            // As often as it is looked at meanwhile.
            assert_eq!(pace.due(*now + pause / 2), due.max(*now + pause / 2));
            *now += pause;
            pace.loaded(*now);
            pause.as_secs()
        };
        (0..rounds).map(pause).collect()
    }

    #[test]
    fn pace_of_loads_that_bring_about_each_other_slows_down() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let waits = pauses(&mut pace, &mut now, Duration::ZERO, 14);
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30, 30]);
        assert!(pace.is_to_be_told() && !pace.is_to_be_told());
        // It has come to rest: as at the start.
        now += CALM + MS;
        assert_eq!(pace.due(now), now);
        pace.loaded(now);
        let waits = pauses(&mut pace, &mut now, Duration::ZERO, 6);
        assert_eq!(waits, [0, 0, 0, 0, 1, 2]);
        assert!(pace.is_to_be_told());
    }

    #[test]
    fn pace_of_loads_that_people_bring_about_stays() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let waits = pauses(&mut pace, &mut now, CALM + MS, 20);
        assert_eq!(waits, [0; 20]);
    }

    #[test]
    fn pace_of_a_change_that_waits_is_counted_from_when_it_came() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..1000 {
            pace.loaded(now);
        }
        let due = pace.due(now);
        assert_eq!(due, now + LONGEST);
        assert_eq!(pace.due(now + LONGEST - MS), due);
    }
}
