//! Carrying out what [`Blame`](crate::blame::Blame) says (S5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::crash::Death;
use super::handle::Command;
use crate::blame::Verdict;
use crate::bundle::Bundle;
use crate::core::Core;
use crate::events::EventKind;
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::status::Activity;

/// What the death of a worker says of its next process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Outlook {
    /// It may die as well.
    Open,
    /// What was blamed is not loaded into it any more.
    CulpritGone,
    /// What was blamed was being loaded for the first time: it was never one of those
    /// that are loaded again, and says nothing of them.
    Untouched,
}

/// Judges who is to blame for the death of a worker's process.
pub(super) fn judge(core: &Core, worker: &WorkerName, death: &Death) -> Outlook {
    let suspects: BTreeSet<&str> = death.suspects.iter().map(String::as_str).collect();
    let is_loaded = |name: &str| {
        let mut running = death.report.running.iter();
        running.any(|call| call.bundle == name && call.activity == Activity::Load)
    };
    let (names, found, verdicts) = {
        let registry = lock(&core.registry);
        let mut blame = lock(&core.blame);
        // One that is being unloaded leaves no account to another one of its name.
        let (left, names): (BTreeSet<&str>, BTreeSet<&str>) =
            suspects.iter().partition(|name| death.is_of_one_that_left(name, &registry));
        let policies = names.iter().map(|name| (*name, core.config.blame_policy(name)));
        let verdicts = blame.died(policies, !left.is_empty(), Instant::now());
        for name in &names {
            if let Some(time) = death.hung(name) {
                blame.hung(name, time);
            }
        }
        let found = names.iter().filter_map(|name| registry.get(name).ok());
        let found = found.collect::<Vec<Arc<Bundle>>>();
        (names, found, verdicts)
    };
    let mut outlook = Outlook::Open;
    let are_new = !names.is_empty() && found.is_empty();
    if are_new && !death.is_ours && names.iter().all(|name| is_loaded(name)) {
        outlook = Outlook::Untouched;
    }
    for (name, verdict) in verdicts {
        let bundle = found.iter().find(|bundle| bundle.name == name);
        match (verdict, bundle) {
            // One that was being loaded for the first time has no place to lose, and its
            // account is what keeps it away.
            (Verdict::Noted(_), _) | (Verdict::Isolate(_), None) => {}
            (Verdict::Isolate(_), Some(bundle)) => {
                if isolate(core, worker, bundle) {
                    outlook = Outlook::CulpritGone;
                }
            }
            (Verdict::Quarantine(crashes), bundle) => {
                if let Some(bundle) = bundle {
                    bundle.quarantine();
                    // When it is let out it begins anew.
                    lock(&core.blame).forget(name);
                    evict(core, bundle);
                    outlook = Outlook::CulpritGone;
                }
                let bundle = name.to_owned();
                core.events.emit(EventKind::BundleQuarantined { bundle, crashes });
            }
        }
    }
    if let Some(process) = death.process.as_ref().filter(|_| death.is_certain) {
        process.blame(&names);
    }
    outlook
}

/// It may be loaded in other workers than the one that has died.
fn evict(core: &Core, bundle: &Arc<Bundle>) {
    let Some(core) = core.this.upgrade() else { return };
    let bundle = Arc::clone(bundle);
    let (runtime, evicted) = (core.runtime.clone(), Arc::clone(&core));
    runtime.spawn(core.telling(async move { evicted.evict(&bundle).await }));
}

fn isolate(core: &Core, from: &WorkerName, bundle: &Arc<Bundle>) -> bool {
    if from.bundle.is_some() {
        return false;
    }
    let to = from.own_in_place(&bundle.name);
    let Ok(worker) = core.worker_named(&to) else { return false };
    bundle.seat_in(from).move_to(to.clone());
    core.events.emit(EventKind::BundleIsolated {
        bundle: bundle.name.clone(),
        from: from.to_string(),
        to: to.to_string(),
    });
    worker.send(Command::Wanted);
    // If it runs already, because the bundle has been there before.
    worker.send(Command::Restore);
    true
}
