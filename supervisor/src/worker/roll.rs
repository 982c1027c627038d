//! A rolling restart (S8): another process is started beside the one that
//! serves, everything is loaded there, calls are switched over lane by lane,
//! and the old process ends when its last call has. No call fails or waits.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use menagerie_protocol::RuntimeError;

use super::process::{Loaded, Process};
use super::restore::layers;
use crate::bundle::{Bundle, Content, Serving};
use crate::core::Core;
use crate::events::{EventKind, Step};
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::to_its_end::caught;

/// What was loaded into the process that is to take over.
#[derive(Debug)]
pub(crate) struct Prepared {
    process: Arc<Process>,
    bundles: Vec<(Arc<Bundle>, Ready)>,
}

/// A generation, and what was loaded for it.
#[derive(Debug)]
struct Ready {
    content: Arc<Content>,
    loaded: Loaded,
}

/// Bundles that are loaded at the same time, at most: the old process is at
/// work meanwhile.
const AT_ONCE: usize = 2;

/// Loads every bundle of a worker into another process, beside the one that
/// serves.
pub(super) async fn prepare(
    core: Arc<Core>,
    name: WorkerName,
    process: Arc<Process>,
) -> Result<Prepared, RuntimeError> {
    let bundles = core.bundles_of(&name);
    let mut prepared = Vec::new();
    for layer in layers(&bundles, core.config.compatibility) {
        let mut loads = Vec::new();
        for bundle in layer.into_iter().filter(|bundle| !bundle.is_quarantined()) {
            loads.push(prepare_one(bundle, Arc::clone(&process)));
        }
        let mut loads = stream::iter(loads).buffer_unordered(AT_ONCE);
        while let Some(outcome) = loads.next().await {
            prepared.push(outcome?);
        }
    }
    Ok(Prepared { process, bundles: prepared })
}

async fn prepare_one(
    bundle: Arc<Bundle>,
    process: Arc<Process>,
) -> Result<(Arc<Bundle>, Ready), RuntimeError> {
    let content = bundle.content();
    let loaded = process.load(&bundle, &content, false).await?;
    Ok((bundle, Ready { content, loaded }))
}

/// What was prepared is not needed after all.
pub(super) async fn discard(prepared: Prepared) {
    for (_, ready) in prepared.bundles {
        drop(prepared.process.unload(ready.loaded).await);
    }
}

/// Switches the bundles over to the process where they are prepared, and empties
/// the old one.
pub(super) async fn change_over(
    core: Arc<Core>,
    name: WorkerName,
    prepared: Prepared,
    old: Arc<Process>,
) {
    let Prepared { process: new, bundles } = prepared;
    let mut left = Vec::new();
    for (bundle, ready) in bundles {
        go_over(&core, &bundle, Some(ready), (&old, &new), &mut left).await;
    }
    // And those that were loaded, reloaded or moved here meanwhile.
    for bundle in core.bundles_of(&name) {
        go_over(&core, &bundle, None, (&old, &new), &mut left).await;
    }
    empty(&old, left).await;
    // Those that the registry has no more are taken out by others.
    old.vacated().await;
}

/// Switches one bundle over, and tells of it. What served it before is added to `left`
/// first: whatever the host's code does then, nobody is left behind.
async fn go_over(
    core: &Core,
    bundle: &Arc<Bundle>,
    prepared: Option<Ready>,
    (old, new): (&Arc<Process>, &Arc<Process>),
    left: &mut Vec<Serving>,
) {
    let goes_over = async {
        match switch(core, bundle, prepared, old, new).await {
            Ok(None) => {}
            Ok(Some(Switched { generation, before })) => {
                left.extend(before);
                let (bundle, worker) = (bundle.name.clone(), new.worker.clone());
                core.events.emit(EventKind::BundleLoaded { bundle, worker, generation });
            }
            Err(error) => core.events.bundle_failed(&bundle.name, Step::Restart, &error),
        }
    };
    drop(caught(goes_over).await);
}

/// Empties the process that served: its calls finish there, or meet their deadlines.
async fn empty(old: &Process, left: Vec<Serving>) {
    let emptied = left.into_iter().map(|Serving { loaded, .. }| async move {
        if old.empty(&loaded.lane).await {
            drop(old.unload(loaded).await);
            return None;
        }
        Some(loaded)
    });
    let stuck: Vec<Loaded> = join_all(emptied).await.into_iter().flatten().collect();
    // Only now: it costs whatever else runs there.
    if let Some(loaded) = stuck.first() {
        let bundle = &loaded.bundle;
        let reason = format!("a call of '{bundle}' did not end before its rolling restart");
        old.kill_stuck(reason, bundle).await;
    }
    for loaded in stuck {
        drop(old.unload(loaded).await);
    }
}

/// A bundle that was switched over.
struct Switched {
    generation: u32,
    /// What served it before, unless that has died.
    before: Option<Serving>,
}

/// Switches one bundle over. What was prepared is used if the bundle is still
/// the one that it was prepared for. `None` if it is not for this process any more.
async fn switch(
    core: &Core,
    bundle: &Arc<Bundle>,
    prepared: Option<Ready>,
    old: &Arc<Process>,
    new: &Arc<Process>,
) -> Result<Option<Switched>, RuntimeError> {
    let seat = bundle.seats.at(new.seat);
    let mut serving = seat.serving.lock().await;
    let stays = lock(&core.registry).holds(bundle) && !bundle.is_quarantined();
    let serves = serving.as_ref().filter(|serving| Arc::ptr_eq(&serving.process, old));
    let Some(serves) = serves.filter(|_| stays) else {
        // It was unloaded, or is on its way already.
        drop(serving);
        return match prepared {
            Some(ready) => new.unload(ready.loaded).await.map(|()| None),
            None => Ok(None),
        };
    };
    // A reload meanwhile has a later generation than what was prepared, or has
    // begun before it and ended after it.
    let content = bundle.content();
    let is_fresh = |ready: &Ready| {
        ready.loaded.lane.generation > serves.loaded.lane.generation
            && Arc::ptr_eq(&ready.content, &content)
    };
    let (fresh, stale) = match prepared {
        Some(ready) if is_fresh(&ready) => (Some(ready.loaded), None),
        stale => (None, stale),
    };
    if let Some(stale) = stale {
        drop(new.unload(stale.loaded).await);
    }
    let loaded = match fresh {
        Some(loaded) => loaded,
        None => new.load(bundle, &content, false).await?,
    };
    let generation = loaded.lane.generation;
    let before = seat.serve(&mut serving, Serving { process: Arc::clone(new), loaded });
    drop(serving);
    let before = before.filter(|before| !before.process.is_dead());
    if let Some(before) = &before {
        // Who was about to send to it looks at the route again.
        before.loaded.lane.close();
    }
    Ok(Some(Switched { generation, before }))
}
