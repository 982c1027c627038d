//! Timers: when which of the script's timers is due.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// The script's number of a timer.
pub(crate) type TimerId = u32;

/// The longest delay: longer ones would overflow a browser's timer as well.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// The pending timers of one bundle. Those of the same instant fire in the
/// order in which they were set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeMap<(Instant, u64), TimerId>,
    by_id: HashMap<TimerId, (Instant, u64)>,
    set: u64,
}

impl Timers {
    /// Sets, or sets again, a timer for `delay` from `now`.
    pub(crate) fn set(&mut self, id: TimerId, now: Instant, delay: Duration) {
        self.clear(id);
        self.set += 1;
        let key = (now + delay.min(LONGEST), self.set);
        self.by_time.insert(key, id);
        self.by_id.insert(id, key);
    }

    /// Forgets a timer; nothing happens if there is none.
    pub(crate) fn clear(&mut self, id: TimerId) {
        if let Some(key) = self.by_id.remove(&id) {
            self.by_time.remove(&key);
        }
    }

    /// Takes the next timer that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<TimerId> {
        let (&key, &id) = self.by_time.first_key_value()?;
        if key.0 > now {
            return None;
        }
        self.by_time.remove(&key);
        self.by_id.remove(&id);
        Some(id)
    }

    /// When the next timer is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|(key, _)| key.0)
    }

    /// Whether no timer is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_of_time_then_of_setting() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut timers = Timers::default();
        for (id, delay) in [(1, 20), (2, 10), (3, 10), (4, 0), (5, 10)] {
            timers.set(id, now, ms(delay));
        }
        timers.clear(5);
        timers.clear(99);
        assert_eq!(timers.next(), Some(now));
        assert_eq!(timers.take_due(now), Some(4));
        assert_eq!(timers.take_due(now), None);
        let later = now + ms(20);
        let fired: Vec<_> = std::iter::from_fn(|| timers.take_due(later)).collect();
        assert_eq!(fired, [2, 3, 1]);
        assert!(timers.is_empty());
    }

    #[test]
    fn timers_set_again_move() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(1, now, Duration::ZERO);
        timers.set(1, now, Duration::MAX);
        assert_eq!(timers.take_due(now + Duration::from_secs(3600)), None);
    }
}
