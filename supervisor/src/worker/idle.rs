//! When a worker has nothing to do, or has done enough (S9), as a pure account.

use std::fmt;
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

/// After a recycling that has failed, the next is tried so much later; after one for its
/// memory any other for that, as the next process may need no less.
const RECYCLE_PAUSE: Duration = Duration::from_secs(60);

/// What a worker's process is recycled for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WornOut {
    Calls(u64),
    Memory(u64),
}

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

    /// Looks at a process, at this moment. `memory_not_before` is the worker's, beyond this
    /// process.
    pub(super) fn look(
        &mut self,
        work: Work,
        now: Instant,
        config: &Config,
        memory_not_before: &mut Option<Instant>,
    ) -> Due {
        if work.busy || work.calls != self.calls {
            self.worked = now;
            self.calls = work.calls;
        }
        let rests = memory_not_before.is_some_and(|then| now < then);
        if now >= self.not_before
            && let Some(why) = worn_out(work, config)
            && !(rests && matches!(why, WornOut::Memory(_)))
        {
            self.not_before = now + RECYCLE_PAUSE;
            if let WornOut::Memory(_) = why {
                *memory_not_before = Some(self.not_before);
            }
            return Due::Recycle(why.to_string());
        }
        let idle = now.saturating_duration_since(self.worked);
        match config.idle_stop {
            Some(limit) if idle >= limit => Due::Stop,
            _ => Due::Nothing,
        }
    }
}

impl fmt::Display for WornOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(count) => write!(f, "{count} calls"),
            Self::Memory(rss) => write!(f, "{rss} bytes of memory"),
        }
    }
}

fn worn_out(work: Work, config: &Config) -> Option<WornOut> {
    if config.recycle_after_calls.is_some_and(|limit| work.calls >= limit) {
        return Some(WornOut::Calls(work.calls));
    }
    let (limit, rss) = (config.recycle_after_rss?, work.rss_bytes?);
    (rss >= limit).then_some(WornOut::Memory(rss))
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
        assert_eq!(account.look(worn, start, &config, &mut None), Due::Nothing);
        assert_eq!(account.look(worn, second(start, 1_000_000), &config, &mut None), Due::Nothing);
    }

    #[test]
    fn s9_a_worker_that_nobody_calls_stops_after_a_while() {
        let (start, mut config) = (Instant::now(), Config::default());
        config.idle_stop = Some(Duration::from_secs(10));
        let mut account = Account::new(start);
        assert_eq!(account.look(IDLE, second(start, 9), &config, &mut None), Due::Nothing);
        let called = Work { calls: 1, ..IDLE };
        assert_eq!(account.look(called, second(start, 10), &config, &mut None), Due::Nothing);
        let busy = Work { busy: true, ..called };
        assert_eq!(account.look(busy, second(start, 30), &config, &mut None), Due::Nothing);
        assert_eq!(account.look(called, second(start, 39), &config, &mut None), Due::Nothing);
        assert_eq!(account.look(called, second(start, 40), &config, &mut None), Due::Stop);
    }

    #[test]
    fn s9_a_worker_is_recycled_after_calls_or_by_its_memory() {
        let (start, mut config) = (Instant::now(), Config::default());
        config.recycle_after_calls = Some(100);
        let mut account = Account::new(start);
        let at = |calls| Work { calls, ..IDLE };
        assert_eq!(account.look(at(99), start, &config, &mut None), Due::Nothing);
        assert_eq!(
            account.look(at(100), start, &config, &mut None),
            Due::Recycle("100 calls".to_owned())
        );
        // It is under way, or has failed.
        assert_eq!(account.look(at(101), second(start, 59), &config, &mut None), Due::Nothing);
        assert!(matches!(
            account.look(at(101), second(start, 60), &config, &mut None),
            Due::Recycle(_)
        ));
        config.recycle_after_rss = Some(500);
        let mut account = Account::new(start);
        let why = Due::Recycle("1000 bytes of memory".to_owned());
        assert_eq!(account.look(at(0), start, &config, &mut None), why);
    }

    #[test]
    fn s9_a_limit_that_every_process_exceeds_recycles_now_and_then() {
        let (start, mut config) = (Instant::now(), Config::default());
        config.recycle_after_rss = Some(500);
        config.recycle_after_calls = Some(100);
        let mut not_before = None;
        let mut look = |calls, now| {
            Account::new(now).look(Work { calls, ..IDLE }, now, &config, &mut not_before)
        };
        assert!(matches!(look(0, start), Due::Recycle(_)));
        // The next process, and the one after that.
        assert_eq!(look(0, second(start, 1)), Due::Nothing);
        assert_eq!(look(99, second(start, 59)), Due::Nothing);
        // Its calls are another reason.
        assert_eq!(look(100, second(start, 59)), Due::Recycle("100 calls".to_owned()));
        assert!(matches!(look(0, second(start, 60)), Due::Recycle(_)));
        assert_eq!(look(0, second(start, 61)), Due::Nothing);
    }
}
