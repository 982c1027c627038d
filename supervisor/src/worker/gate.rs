//! How much a worker may say, or who is refused at the status service: beyond it
//! lines are dropped and counted, so that who floods the log costs the host neither its
//! time nor its memory.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lane::lock;

/// How much may be said.
#[derive(Debug)]
pub(crate) struct Limits {
    lines: Budget,
    bytes: Budget,
    /// How often it is said that lines were dropped.
    tell_every: Duration,
}

/// So much at once, and so much more in each second.
#[derive(Debug)]
struct Budget {
    at_once: f64,
    a_second: f64,
}

/// Of one incarnation of a worker, on all its ways.
const WORKER: Limits = Limits {
    lines: Budget { at_once: 10_000.0, a_second: 1_000.0 },
    bytes: Budget { at_once: 8_388_608.0, a_second: 1_048_576.0 },
    tell_every: Duration::from_secs(1),
};

/// Of refusals: whoever may connect can have one for each request. At this pace they take
/// a day to fill the log that is kept, and say often enough who knocks.
pub(crate) const REFUSALS: Limits = Limits {
    lines: Budget { at_once: 50.0, a_second: 0.1 },
    bytes: Budget { at_once: 65_536.0, a_second: 1_024.0 },
    tell_every: Duration::from_secs(10),
};

/// Counts what is said.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    limits: &'static Limits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// What is left of the budgets at this time.
    at: Option<Instant>,
    lines: f64,
    bytes: f64,
    /// Lines that were dropped and that nobody was told of.
    dropped: u64,
    told: Option<Instant>,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether it is logged.
    pub(crate) passes: bool,
    /// So many were dropped, and it is time to say so.
    pub(crate) dropped: Option<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(&WORKER)
    }
}

impl Gate {
    pub(crate) fn new(limits: &'static Limits) -> Self {
        let (lines, bytes) = (limits.lines.at_once, limits.bytes.at_once);
        let state = State { at: None, lines, bytes, dropped: 0, told: None };
        Self { limits, state: Arc::new(Mutex::new(state)) }
    }

    /// Judges a line of so many bytes.
    pub(crate) fn judge(&self, bytes: usize, now: Instant) -> Verdict {
        let Limits { lines, bytes: volume, tell_every } = self.limits;
        let mut state = lock(&self.state);
        let since = state.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let refill = |left: f64, budget: &Budget| {
            (left + since.as_secs_f64() * budget.a_second).min(budget.at_once)
        };
        state.lines = refill(state.lines, lines);
        state.bytes = refill(state.bytes, volume);
        state.at = Some(now);
        // The first line that is too long for what is left passes: a budget may
        // be owed for, and that keeps out what follows.
        let passes = state.lines >= 1.0 && state.bytes >= 0.0;
        if passes {
            state.lines -= 1.0;
            #[allow(clippy::cast_precision_loss, reason = "a budget, not an account")]
            let bytes = bytes as f64;
            state.bytes -= bytes;
        } else {
            state.dropped += 1;
        }
        let due = state.told.is_none_or(|told| now.saturating_duration_since(told) >= *tell_every);
        let mut dropped = None;
        if state.dropped > 0 && due {
            dropped = Some(std::mem::take(&mut state.dropped));
            state.told = Some(now);
        }
        Verdict { passes, dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(gate: &Gate, bytes: usize, now: Instant) -> bool {
        gate.judge(bytes, now).passes
    }

    #[test]
    fn gate_drops_what_is_too_much_and_counts_it() {
        let (gate, now) = (Gate::default(), Instant::now());
        for _ in 0..10_000 {
            assert_eq!(gate.judge(10, now), Verdict { passes: true, dropped: None });
        }
        assert_eq!(gate.judge(10, now), Verdict { passes: false, dropped: Some(1) });
        for _ in 0..6 {
            assert_eq!(gate.judge(10, now), Verdict { passes: false, dropped: None });
        }
        let later = now + WORKER.tell_every;
        assert_eq!(gate.judge(10, later), Verdict { passes: true, dropped: Some(6) });
        for _ in 0..999 {
            assert_eq!(gate.judge(10, later), Verdict { passes: true, dropped: None });
        }
        assert_eq!(gate.judge(10, later), Verdict { passes: false, dropped: None });
    }

    #[test]
    fn gate_lets_few_refusals_through() {
        let (gate, now) = (Gate::new(&REFUSALS), Instant::now());
        assert_eq!((0..1000).filter(|_| passes(&gate, 300, now)).count(), 50);
        let a_day = (1..=86_400).map(|second| now + Duration::from_secs(second));
        assert!(a_day.filter(|at| passes(&gate, 300, *at)).count() < 9_000);
    }

    #[test]
    fn gate_counts_bytes_as_well_as_lines() {
        let (gate, now) = (Gate::default(), Instant::now());
        assert!(passes(&gate, (8 << 20) + 1000, now));
        assert!(!passes(&gate, 1, now));
        assert!(passes(&gate, 1, now + Duration::from_secs(1)));
        // However long it was quiet, no more is saved than what may come at once.
        let much_later = now + Duration::from_secs(3600);
        assert!(passes(&gate, (8 << 20) + 1, much_later));
        assert!(!passes(&gate, 1, much_later));
    }
}
