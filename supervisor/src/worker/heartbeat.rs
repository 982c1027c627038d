//! Whether a worker answers its heartbeats, as a pure count (S6). They are
//! answered by the worker's control thread, outside the VM and its locks.

use crate::config::Config;

/// What a moment of heartbeat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Send this nonce.
    Ping(u64),
    /// Send this nonce; and say that so many in a row were missed.
    Unresponsive(u64, u32),
    /// So many were missed that the worker is given up.
    GiveUp(u32),
}

/// The heartbeats of one process.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    sent: u64,
    warned: bool,
}

impl Heartbeat {
    /// How many were sent and not answered; `answered` is the last nonce that
    /// was.
    pub(crate) fn missed(&self, answered: u64) -> u32 {
        u32::try_from(self.sent.saturating_sub(answered)).unwrap_or(u32::MAX)
    }

    /// It is time for the next one.
    pub(crate) fn beat(&mut self, answered: u64, config: &Config) -> Beat {
        let missed = self.missed(answered);
        if missed >= config.heartbeat_kill {
            return Beat::GiveUp(missed);
        }
        self.sent += 1;
        let warns = missed >= config.heartbeat_warn && !self.warned;
        self.warned = missed > 0 && (self.warned || warns);
        if warns { Beat::Unresponsive(self.sent, missed) } else { Beat::Ping(self.sent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_three_missed_warn_once_and_fifteen_give_up() {
        let (mut heart, config) = (Heartbeat::default(), Config::default());
        for n in 1..=3 {
            assert_eq!(heart.beat(0, &config), Beat::Ping(n));
        }
        assert_eq!(heart.beat(0, &config), Beat::Unresponsive(4, 3));
        for n in 5..=15 {
            assert_eq!(heart.beat(0, &config), Beat::Ping(n));
        }
        assert_eq!(heart.beat(0, &config), Beat::GiveUp(15));
    }

    #[test]
    fn s6_an_answer_makes_good_for_all_before_it() {
        let (mut heart, config) = (Heartbeat::default(), Config::default());
        for _ in 0..10 {
            let _ = heart.beat(0, &config);
        }
        assert_eq!(heart.missed(10), 0);
        assert_eq!(heart.beat(10, &config), Beat::Ping(11));
        for n in 12..=13 {
            assert_eq!(heart.beat(10, &config), Beat::Ping(n));
        }
        assert_eq!(heart.beat(10, &config), Beat::Unresponsive(14, 3));
    }
}
