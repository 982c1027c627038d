//! Peers of the control socket that have not said hello yet: how many may wait
//! at once, in all and for each process, so that nobody can keep workers out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lane::lock;

/// Peers that have not said hello yet, at most. Workers are let in beyond it.
const MAX_WAITING: usize = 64;
/// Of one process: a worker connects once.
const MAX_OF_ONE: usize = 4;
/// How often it is said that a process was sent away: it may come as often as
/// it likes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Those who wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strangers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    by_pid: HashMap<u32, usize>,
    total: usize,
    told: Option<Instant>,
}

/// A peer's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Strangers,
    pid: u32,
}

impl Strangers {
    /// Lets a peer of this process wait, if there is a place. `is_child` says
    /// whether the process is one that this supervisor's has started; it is
    /// asked only when all places are taken.
    pub(crate) fn enter(&self, pid: u32, is_child: impl FnOnce() -> bool) -> Option<Place> {
        let mut waiting = lock(&self.0);
        let of_one = waiting.by_pid.get(&pid).copied().unwrap_or(0);
        if of_one >= MAX_OF_ONE || (waiting.total >= MAX_WAITING && !is_child()) {
            return None;
        }
        waiting.by_pid.insert(pid, of_one + 1);
        waiting.total += 1;
        Some(Place { strangers: self.clone(), pid })
    }

    /// Whether it is time to say that somebody was sent away.
    pub(crate) fn worth_telling(&self, now: Instant) -> bool {
        let mut waiting = lock(&self.0);
        let worth = waiting.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        if worth {
            waiting.told = Some(now);
        }
        worth
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.strangers.0);
        waiting.total -= 1;
        if let Some(count) = waiting.by_pid.get_mut(&self.pid) {
            *count -= 1;
            if *count == 0 {
                waiting.by_pid.remove(&self.pid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_of_one_process_have_few_places_and_give_them_back() {
        let strangers = Strangers::default();
        let mut places: Vec<Place> =
            (0..MAX_OF_ONE).map(|_| strangers.enter(7, || true).unwrap()).collect();
        assert!(strangers.enter(7, || true).is_none());
        assert!(strangers.enter(8, || false).is_some());
        places.pop();
        assert!(strangers.enter(7, || false).is_some());
        drop(places);
        let waiting = lock(&strangers.0);
        assert_eq!((waiting.total, waiting.by_pid.len()), (0, 0));
    }

    #[test]
    fn strangers_in_a_crowd_do_not_keep_workers_out() {
        let strangers = Strangers::default();
        let crowd: Vec<Place> =
            (0..64).map(|pid| strangers.enter(pid, || false).unwrap()).collect();
        assert_eq!(crowd.len(), MAX_WAITING);
        assert!(strangers.enter(100, || false).is_none());
        assert!(strangers.enter(101, || true).is_some());
    }

    #[test]
    fn strangers_are_told_of_once_in_a_while() {
        let strangers = Strangers::default();
        let now = Instant::now();
        assert!(strangers.worth_telling(now));
        assert!(!strangers.worth_telling(now));
        assert!(strangers.worth_telling(now + TELL_EVERY));
    }
}
