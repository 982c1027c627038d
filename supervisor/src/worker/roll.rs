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

/// Which bundles of a worker have to be loaded into the process that is to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Whoever asks learns that one cannot be.
    All,
    /// Not those that could not be loaded before: nothing would be lost with them, and they
    /// are tried again in whichever process serves (S4).
    WhatServes,
}

/// Loads the bundles of a worker into another process, beside the one that
/// serves.
pub(super) async fn prepare(
    core: Arc<Core>,
    name: WorkerName,
    process: Arc<Process>,
    extent: Extent,
) -> Result<Prepared, RuntimeError> {
    let mut bundles = core.bundles_of(&name);
    if extent == Extent::WhatServes {
        bundles.retain(|bundle| !bundle.seats.at(process.seat).has_failed());
    }
    let mut prepared = Vec::new();
    for layer in layers(&bundles, core.config.compatibility) {
        let mut loads = Vec::new();
        for bundle in layer.into_iter().filter(|bundle| !bundle.is_quarantined()) {
            loads.push(prepare_one(bundle, Arc::clone(&process)));
        }
        let mut loads = stream::iter(loads).buffer_unordered(AT_ONCE);
        while let Some((bundle, outcome)) = loads.next().await {
            match outcome {
                Ok(ready) => prepared.push((bundle, ready)),
                // It was unloaded meanwhile, and its folder may have gone with it. What has
                // cost this process its life is no less a failure for that.
                Err(_) if !process.is_ending() && !core.is_of(&name, &bundle) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Prepared { process, bundles: prepared })
}

async fn prepare_one(
    bundle: Arc<Bundle>,
    process: Arc<Process>,
) -> (Arc<Bundle>, Result<Ready, RuntimeError>) {
    let content = bundle.content();
    let loaded = process.load(&bundle, &content, false).await;
    (bundle, loaded.map(|loaded| Ready { content, loaded }))
}

/// What was prepared is not needed after all.
pub(super) async fn discard(prepared: Prepared) {
    for (_, ready) in prepared.bundles {
        drop(prepared.process.unload(ready.loaded).await);
    }
}

/// Switches the bundles over to the process where they are prepared, and empties
/// the old one, which leaves.
pub(super) async fn change_over(
    core: Arc<Core>,
    name: WorkerName,
    prepared: Prepared,
    old: Arc<Process>,
) {
    let Prepared { process: new, bundles } = prepared;
    let change = ChangeOver { core: &core, name: &name, old: &old, new: &new };
    let mut left = Vec::new();
    for (bundle, ready) in bundles {
        change.go_over(&bundle, Some(ready), &mut left).await;
    }
    // And those that were loaded, reloaded or moved here meanwhile; last those whose loads
    // have not ended yet.
    for bundle in core.bundles_in(&name, &old) {
        change.go_over(&bundle, None, &mut left).await;
    }
    empty(left).await;
    // Those that the registry has no more are taken out by others.
    old.vacated().await;
}

/// A worker's bundles go over from one process to another.
struct ChangeOver<'c> {
    core: &'c Core,
    name: &'c WorkerName,
    old: &'c Arc<Process>,
    new: &'c Arc<Process>,
}

impl ChangeOver<'_> {
    /// Switches one bundle over, and tells of it. The old process does not serve it from
    /// then on, whatever comes of that; what did so is added to `left` first: whatever the
    /// host's code does then, nobody is left behind.
    async fn go_over(
        &self,
        bundle: &Arc<Bundle>,
        prepared: Option<Ready>,
        left: &mut Vec<Serving>,
    ) {
        drop(caught(self.switch(bundle, prepared, left)).await);
    }

    async fn switch(&self, bundle: &Arc<Bundle>, prepared: Option<Ready>, left: &mut Vec<Serving>) {
        let seat = bundle.seats.at(self.new.seat);
        let mut slot = seat.serving.lock().await;
        if !self.concerns(bundle, slot.as_ref()) {
            drop(slot);
            return self.unload(prepared).await;
        }
        let outcome = self.fresh(bundle, prepared, slot.as_ref()).await;
        let (before, outcome) = match outcome {
            Ok(loaded) => {
                let generation = loaded.lane.generation;
                let serving = Serving { process: Arc::clone(self.new), loaded };
                (seat.serve(&mut slot, serving), Ok(generation))
            }
            Err(error) => (slot.take(), Err(error)),
        };
        if let Some(before) = before.filter(|before| !before.process.is_dead()) {
            if outcome.is_err() {
                self.core.let_wait(bundle, seat, !*self.core.stopping.borrow());
            }
            // Who was about to send to it looks at the route again.
            before.loaded.lane.close();
            left.push(before);
        }
        match outcome {
            Ok(generation) => {
                drop(slot);
                let (bundle, worker) = (bundle.name.clone(), self.new.worker.clone());
                self.core.events.emit(EventKind::BundleLoaded { bundle, worker, generation });
            }
            // Its next process loads it, or the worker that it has moved to.
            Err(_) if self.new.is_leaving() || !seat.is_in(self.name) => {}
            Err(error) => self.core.has_failed(bundle, self.new.seat, Step::Restart, &error),
        }
    }

    /// Whether it is for us to say who serves a bundle: it is wanted, and nobody else does
    /// already.
    fn concerns(&self, bundle: &Arc<Bundle>, serving: Option<&Serving>) -> bool {
        let is_loaded = {
            let registry = lock(&self.core.registry);
            registry.get(&bundle.name).is_ok_and(|known| Arc::ptr_eq(&known, bundle))
        };
        let is_elsewhere = serving.is_some_and(|serving| serving.has_followed(self.old));
        is_loaded && !bundle.is_quarantined() && !is_elsewhere
    }

    /// Loads a bundle, unless it is prepared, and that still is what it was prepared for:
    /// a reload meanwhile has a later generation, or has begun before it and ended after it.
    async fn fresh(
        &self,
        bundle: &Arc<Bundle>,
        prepared: Option<Ready>,
        serving: Option<&Serving>,
    ) -> Result<Loaded, RuntimeError> {
        let content = bundle.content();
        let served = serving.map_or(0, |serving| serving.loaded.lane.generation);
        let is_had = !self.new.is_leaving() && bundle.is_in(self.name);
        match prepared {
            Some(Ready { content: of, loaded })
                if is_had && loaded.lane.generation > served && Arc::ptr_eq(&of, &content) =>
            {
                return Ok(loaded);
            }
            stale => self.unload(stale).await,
        }
        if !bundle.is_in(self.name) {
            let (worker, problem) = (self.new.worker.clone(), "it has moved".to_owned());
            return Err(RuntimeError::WorkerUnavailable { worker, problem });
        }
        self.new.load(bundle, &content, false).await
    }

    async fn unload(&self, prepared: Option<Ready>) {
        if let Some(ready) = prepared {
            drop(self.new.unload(ready.loaded).await);
        }
    }
}

/// Empties the processes that served: calls finish there, or meet their deadlines.
async fn empty(left: Vec<Serving>) {
    let emptied = left.into_iter().map(|serving| async move {
        if serving.process.empty(&serving.loaded.lane).await {
            drop(serving.process.unload(serving.loaded).await);
            return None;
        }
        Some(serving)
    });
    let stuck: Vec<Serving> = join_all(emptied).await.into_iter().flatten().collect();
    // Only now: it costs whatever else runs there.
    if let Some(Serving { process, loaded }) = stuck.first() {
        let bundle = &loaded.bundle;
        let reason = format!("a call of '{bundle}' did not end before its rolling restart");
        process.kill_stuck(reason, bundle).await;
    }
    for Serving { process, loaded } in stuck {
        drop(process.unload(loaded).await);
    }
}
