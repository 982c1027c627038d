//! Building a generation of a bundle in all of its workers (`DESIGN.md` rules
//! L5, L6, S9): nothing of it serves before it is everywhere.

use std::sync::Arc;

use futures_util::future::join_all;
use menagerie_protocol::RuntimeError;
use tokio::runtime::Handle;

use crate::bundle::{Bundle, Content, Serving};
use crate::core::Core;
use crate::seat::Seat;
use crate::worker::handle::Worker;
use crate::worker::process::Process;

/// A generation that serves nobody yet; it is unloaded if nothing comes of it.
#[derive(Debug)]
pub(crate) struct Fresh {
    serving: Option<Serving>,
    runtime: Handle,
}

impl Fresh {
    /// It is not fresh any more.
    pub(crate) fn keep(mut self) -> Option<Serving> {
        self.serving.take()
    }

    pub(crate) const fn serving(&self) -> Option<&Serving> {
        self.serving.as_ref()
    }

    /// Unloads it, and returns when that is done.
    pub(crate) async fn discard(mut self) {
        if let Some(Serving { process, loaded }) = self.serving.take() {
            drop(process.unload(loaded).await);
        }
    }
}

impl Drop for Fresh {
    /// Whoever built it has gone.
    fn drop(&mut self) {
        if let Some(Serving { process, loaded }) = self.serving.take() {
            self.runtime.spawn(async move { drop(process.unload(loaded).await) });
        }
    }
}

/// Unloads what was built in vain.
pub(crate) async fn discard_all(built: impl IntoIterator<Item = Fresh>) {
    join_all(built.into_iter().map(Fresh::discard)).await;
}

/// Builds in the first place, and, if that went well, in all others at the same
/// time: what kills whoever loads it kills one, and not all. If one fails,
/// nothing is left of the others.
pub(crate) async fn first_then_others<F>(builds: Vec<F>) -> Result<Vec<Fresh>, RuntimeError>
where
    F: Future<Output = Result<Fresh, RuntimeError>>,
{
    let mut builds = builds.into_iter();
    let mut built = Vec::new();
    if let Some(first) = builds.next() {
        built.push(first.await?);
    }
    let mut failed = None;
    for outcome in join_all(builds).await {
        match outcome {
            Ok(fresh) => built.push(fresh),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    match failed {
        None => Ok(built),
        Some(error) => {
            discard_all(built).await;
            Err(error)
        }
    }
}

impl Core {
    /// Builds a generation in a process.
    pub(crate) async fn build(
        &self,
        bundle: &Arc<Bundle>,
        content: &Arc<Content>,
        process: Arc<Process>,
        reload: bool,
    ) -> Result<Fresh, RuntimeError> {
        let loaded = process.load(bundle, content, reload).await?;
        let serving = Some(Serving { process, loaded });
        Ok(Fresh { serving, runtime: self.runtime.clone() })
    }

    /// Builds a bundle's first generation in a worker, which is started if it
    /// does not run.
    pub(crate) async fn build_in(
        &self,
        bundle: &Arc<Bundle>,
        worker: Arc<Worker>,
    ) -> Result<Fresh, RuntimeError> {
        let content = bundle.content();
        let mut is_first = true;
        loop {
            let process = worker.process().await?;
            if !process.suits(&content) {
                // A sandbox stays as it was entered. The bundle that it was entered for is
                // being unloaded, and has its time for that (L7).
                process.vacated().await;
                drop(worker.begin_restart().await);
                worker.turned_from(&process).await;
                continue;
            }
            let outcome = self.build(bundle, &content, Arc::clone(&process), false).await;
            if !matches!(outcome, Err(RuntimeError::WorkerUnavailable { .. }))
                || !process.is_leaving()
            {
                return outcome;
            }
            if !process.is_ending() {
                // Nothing was begun there.
                worker.turned_from(&process).await;
                continue;
            }
            process.ended().await;
            worker.turned_from(&process).await;
            // It may have died of another bundle, by somebody else's kill, or because it
            // was asked to stop: one more try tells. What has killed it would do so again.
            if !is_first || process.died_of(&bundle.name) {
                return outcome;
            }
            is_first = false;
        }
    }

    /// Takes out of a seat what does not serve any more: calls in flight finish
    /// there, or meet their deadlines. One that cannot be ended otherwise costs the
    /// worker its life, and it is known whose doing that is.
    pub(crate) async fn vacate(&self, bundle: &Bundle, serving: Option<Serving>, why: &str) {
        let Some(Serving { process, loaded }) = serving.filter(|old| !old.process.is_dead()) else {
            return;
        };
        loaded.lane.close();
        if !process.empty(&loaded.lane).await {
            let reason = format!("a call did not end before the {why} of '{}'", bundle.name);
            process.kill_stuck(reason, &bundle.name).await;
        }
        drop(process.unload(loaded).await);
    }

    /// The same beside whatever follows, for a bundle that another worker has now: one that
    /// was isolated when a process died that its worker had already replaced.
    pub(crate) fn vacate_later(&self, bundle: &Arc<Bundle>, before: Option<Serving>) {
        let Some(before) = before.filter(|before| !before.process.is_dead()) else { return };
        let Some(core) = self.this.upgrade() else { return };
        // No call goes there from here on, whoever holds a handle.
        before.loaded.lane.close();
        let bundle = Arc::clone(bundle);
        let vacated = async move { core.vacate(&bundle, Some(before), "move").await };
        drop(self.runtime.spawn(self.telling(vacated)));
    }

    /// Takes a bundle that was quarantined out of the workers that have it still
    /// (S5), unless somebody gives it another chance meanwhile.
    pub(crate) async fn evict(&self, bundle: &Arc<Bundle>) {
        let mut evicted = Vec::new();
        for seat in bundle.seats.iter() {
            evicted.push(self.evict_from(bundle, seat));
        }
        join_all(evicted).await;
    }

    async fn evict_from(&self, bundle: &Bundle, seat: &Seat) {
        let mut serving = seat.serving.lock().await;
        if bundle.is_quarantined() {
            // It may have been loaded here while its last crash was judged.
            seat.set_route(bundle.quarantined_route());
            self.vacate(bundle, serving.take(), "quarantine").await;
        }
    }
}
