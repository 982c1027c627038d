//! When a worker has nothing to do, or has done enough (S9), as a pure account.

use std::time::{Duration, Instant};

use crate::config::Config;

/// What is known of a worker's work at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Calls so far.
    pub(super) calls: u64,
    /// Whether a call, a load or a hook runs.
    pub(super) busy: bool,
    /// Resident memory, where it is known.
    pub(super) rss_bytes: Option<u64>,
}

/// What is to be done with the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// It may stop until somebody calls.
    Stop,
    /// Another process should take over, and why.
    Recycle(String),
}

/// After a recycling that has failed, the next is tried so much later.
const RECYCLE_PAUSE: Duration = Duration::from_secs(60);

/// A process's work so far.
#[derive(Debug)]
pub(super) struct Account {
    calls: u64,
    /// When it was last seen at work.
    worked: Instant,
    /// No recycling before then.
    not_before: Instant,
}

impl Account {
    pub(super) fn new(now: Instant) -> Self {
        Self { calls: 0, worked: now, not_before: now }
    }

    /// Looks at a process, at this moment.
    pub(super) fn look(&mut self, work: Work, now: Instant, config: &Config) -> Due {
        if work.busy || work.calls != self.calls {
            self.worked = now;
            self.calls = work.calls;
        }
        if now >= self.not_before
            && let Some(why) = worn_out(work, config)
        {
            self.not_before = now + RECYCLE_PAUSE;
            return Due::Recycle(why);
        }
        let idle = now.saturating_duration_since(self.worked);
        match config.idle_stop {
            Some(limit) if idle >= limit => Due::Stop,
            _ => Due::Nothing,
        }
    }
}

fn worn_out(work: Work, config: &Config) -> Option<String> {
    if let Some(limit) = config.recycle_after_calls
        && work.calls >= limit
    {
        return Some(format!("{} calls", work.calls));
    }
    let (limit, rss) = (config.recycle_after_rss?, work.rss_bytes?);
    (rss >= limit).then(|| format!("{rss} bytes of memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Work = Work { calls: 0, busy: false, rss_bytes: Some(1000) };

    fn second(start: Instant, n: u64) -> Instant {
        start + Duration::from_secs(n)
    }

    #[test]
    fn s9_idle_stop_and_recycling_are_off_by_default() {
        let (start, config) = (Instant::now(), Config::default());
        let mut account = Account::new(start);
        let worn = Work { calls: u64::MAX, busy: false, rss_bytes: Some(u64::MAX) };
        assert_eq!(account.look(worn, start, &config), Due::Nothing);
        assert_eq!(account.look(worn, second(start, 1_000_000), &config), Due::Nothing);
    }

    #[test]
    fn s9_a_worker_that_nobody_calls_stops_after_a_while() {
        let (start, mut config) = (Instant::now(), Config::default());
        config.idle_stop = Some(Duration::from_secs(10));
        let mut account = Account::new(start);
        assert_eq!(account.look(IDLE, second(start, 9), &config), Due::Nothing);
        let called = Work { calls: 1, ..IDLE };
        assert_eq!(account.look(called, second(start, 10), &config), Due::Nothing);
        let busy = Work { busy: true, ..called };
        assert_eq!(account.look(busy, second(start, 30), &config), Due::Nothing);
        assert_eq!(account.look(called, second(start, 39), &config), Due::Nothing);
        assert_eq!(account.look(called, second(start, 40), &config), Due::Stop);
    }

    #[test]
    fn s9_a_worker_is_recycled_after_calls_or_by_its_memory() {
        let (start, mut config) = (Instant::now(), Config::default());
        config.recycle_after_calls = Some(100);
        let mut account = Account::new(start);
        let at = |calls| Work { calls, ..IDLE };
        assert_eq!(account.look(at(99), start, &config), Due::Nothing);
        assert_eq!(account.look(at(100), start, &config), Due::Recycle("100 calls".to_owned()));
        // It is under way, or has failed.
        assert_eq!(account.look(at(101), second(start, 59), &config), Due::Nothing);
        assert!(matches!(account.look(at(101), second(start, 60), &config), Due::Recycle(_)));
        config.recycle_after_rss = Some(500);
        let mut account = Account::new(start);
        let why = Due::Recycle("1000 bytes of memory".to_owned());
        assert_eq!(account.look(at(0), start, &config), why);
    }
}
