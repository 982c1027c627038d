//! Whose fault it was, as a pure account: which bundles ran when workers died,
//! with the clock as an argument (`DESIGN.md`, rule S5).
//!
//! A death at which one bundle ran is that bundle's. At a death at which
//! several ran nobody can say whose it was: all of them are suspected, and none
//! is quarantined for suspicions alone. They are parted instead, each in a
//! worker of its own, where the next death tells.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How many deaths a bundle may be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlamePolicy {
    /// At so many it moves to a worker of its own; `None` for never.
    pub(crate) isolate_after: Option<u32>,
    /// At so many it is quarantined.
    pub(crate) limit: u32,
    /// Within this time.
    pub(crate) window: Duration,
}

/// What is to be done with a bundle after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Verdict {
    /// Nothing yet: it has been at so many.
    Noted(u32),
    /// It gets a worker of its own.
    Isolate(u32),
    /// It is not loaded again before somebody asks for it.
    Quarantine(u32),
}

#[derive(Clone, Copy, Debug)]
struct Death {
    /// When it does not count any more.
    until: Instant,
    /// Whether others ran at the time too.
    shared: bool,
}

/// The account of all bundles.
#[derive(Debug, Default)]
pub(crate) struct Blame {
    deaths: BTreeMap<String, VecDeque<Death>>,
}

impl Blame {
    /// A worker has died, and these bundles ran: what each has to expect. `beside_others`:
    /// so did some that have no account any more.
    pub(crate) fn died<'b>(
        &mut self,
        running: impl IntoIterator<Item = (&'b str, BlamePolicy)>,
        beside_others: bool,
        now: Instant,
    ) -> Vec<(&'b str, Verdict)> {
        let running: BTreeMap<&str, BlamePolicy> = running.into_iter().collect();
        let shared = running.len() > 1 || beside_others;
        let mut verdicts = Vec::new();
        for (bundle, policy) in running {
            let deaths = self.deaths.entry(bundle.to_owned()).or_default();
            deaths.push_back(Death { until: now + policy.window, shared });
            // What lies before the limit decides nothing any more.
            while deaths.len() > policy.limit as usize {
                deaths.pop_front();
            }
            verdicts.push((bundle, self.standing(bundle, policy, now)));
        }
        verdicts
    }

    /// At its last death a bundle was killed because it had hung for so long. Such time does
    /// not count, now and the next time: else one that hangs for as long as the window is
    /// would have to expect nothing, ever.
    pub(crate) fn hung(&mut self, bundle: &str, time: Duration) {
        for death in self.deaths.get_mut(bundle).into_iter().flatten() {
            death.until += time;
        }
    }

    /// What a bundle has to expect that may have been loaded never yet: nobody else keeps
    /// whether that is quarantined.
    pub(crate) fn standing(&mut self, bundle: &str, policy: BlamePolicy, now: Instant) -> Verdict {
        // Of a bundle that is never loaded again nothing stays.
        self.deaths.retain(|_, deaths| {
            deaths.retain(|death| now < death.until);
            !deaths.is_empty()
        });
        let Some(deaths) = self.deaths.get(bundle) else { return Verdict::Noted(0) };
        let count = u32::try_from(deaths.len()).unwrap_or(u32::MAX);
        let only_suspected = deaths.iter().all(|death| death.shared);
        if count >= policy.limit && !only_suspected {
            Verdict::Quarantine(count)
        } else if count >= policy.limit || policy.isolate_after.is_some_and(|after| count >= after)
        {
            Verdict::Isolate(count)
        } else {
            Verdict::Noted(count)
        }
    }

    /// How long the first death counts that is a bundle's still.
    pub(crate) fn remembered_for(&self, bundle: &str, now: Instant) -> Duration {
        let deaths = self.deaths.get(bundle).into_iter().flatten();
        let first = deaths.min_by_key(|death| death.until);
        first.map_or(Duration::ZERO, |first| first.until.saturating_duration_since(now))
    }

    /// A bundle starts anew: it was quarantined, reloaded by hand, or unloaded.
    pub(crate) fn forget(&mut self, bundle: &str) {
        self.deaths.remove(bundle);
    }
}

#[cfg(test)]
mod tests;
