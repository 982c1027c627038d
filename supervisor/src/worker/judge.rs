//! Carrying out what [`Blame`](crate::blame::Blame) says (S5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::handle::Command;
use crate::blame::Verdict;
use crate::bundle::Bundle;
use crate::core::Core;
use crate::events::EventKind;
use crate::lane::lock;
use crate::placement::WorkerName;

/// A worker has died, and these bundles are to blame. Returns whether one of
/// them is not loaded into it any more.
pub(super) fn judge(core: &Core, worker: &WorkerName, suspects: &[String]) -> bool {
    let names: BTreeSet<&str> = suspects.iter().map(String::as_str).collect();
    let found: Vec<Arc<Bundle>> = {
        let registry = lock(&core.registry);
        // One that was being loaded for the first time has no place to lose.
        names.iter().filter_map(|name| registry.get(name).ok()).collect()
    };
    let running = names.iter().map(|name| (*name, core.config.blame_policy(name)));
    let verdicts = lock(&core.blame).died(running, Instant::now());
    let mut gone = false;
    for (name, verdict) in verdicts {
        let Some(bundle) = found.iter().find(|bundle| bundle.name == name) else { continue };
        match verdict {
            Verdict::Noted(_) => {}
            Verdict::Isolate(_) => gone |= isolate(core, worker, bundle),
            Verdict::Quarantine(crashes) => {
                bundle.quarantine();
                evict(core, bundle);
                let bundle = bundle.name.clone();
                core.events.emit(EventKind::BundleQuarantined { bundle, crashes });
                gone = true;
            }
        }
    }
    gone
}

/// It may be loaded in other workers than the one that has died.
fn evict(core: &Core, bundle: &Arc<Bundle>) {
    let Some(core) = core.this.upgrade() else { return };
    let bundle = Arc::clone(bundle);
    core.runtime.clone().spawn(async move { core.evict(&bundle).await });
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
