//! Reloading a bundle, and those that want to be initialised again with it
//! (`DESIGN.md` rules L6, R4).

use std::sync::Arc;

use futures_util::future::join_all;
use menagerie_protocol::loader::manifest::MANIFEST_FILE;
use menagerie_protocol::{LoaderError, ManifestData, RuntimeError};

use crate::bundle::{Bundle, Content, Serving};
use crate::core::Core;
use crate::events::{EventKind, Step};
use crate::hand_over::Change;
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::replicate::first_then_others;
use crate::sandbox::are_same;
use crate::status::BundleStatus;
use crate::worker::handle::Worker;
use crate::worker::process::Process;

impl Core {
    /// Reloads a bundle while it serves, and then the bundles that use it and
    /// whose manifests ask for that. One of these that fails goes on as it is;
    /// an event says so.
    ///
    /// One that is listed as broken is loaded.
    pub(crate) async fn reload(&self, name: &str) -> Result<BundleStatus, RuntimeError> {
        let name = name.to_owned();
        // Half a hand-over would leave nobody who serves, and half of the rest bundles of
        // different generations.
        self.to_its_end(|core| async move { core.reload_with_dependents(&name).await }).await
    }

    async fn reload_with_dependents(&self, name: &str) -> Result<BundleStatus, RuntimeError> {
        let known = lock(&self.registry).get(name).is_ok();
        if !known && let Some((_, dir)) = self.broken_dir(name) {
            // By hand it gets another chance (S5).
            lock(&self.blame).forget(name);
            let outcome = self.load_dir(&dir).await;
            if let Err(error) = &outcome {
                let manifest = ManifestData::read(&dir).ok().map(|parsed| parsed.manifest);
                self.list_broken(&dir, manifest.as_ref(), error);
            }
            return outcome;
        }
        let status = self.reload_one(name, Step::Reload).await?;
        let dependents = lock(&self.registry).to_reinitialise(name);
        for dependent in dependents {
            drop(self.reload_one(&dependent, Step::Reinitialise).await);
        }
        Ok(status)
    }

    async fn reload_one(&self, name: &str, step: Step) -> Result<BundleStatus, RuntimeError> {
        let bundle = lock(&self.registry).get(name)?;
        let outcome = self.reload_bundle(&bundle).await;
        match &outcome {
            Ok(status) => self.events.emit(EventKind::BundleReloaded {
                bundle: name.to_owned(),
                generation: status.generation,
            }),
            Err(error) => self.events.bundle_failed(name, step, error),
        }
        outcome
    }

    async fn reload_bundle(&self, bundle: &Arc<Bundle>) -> Result<BundleStatus, RuntimeError> {
        loop {
            if let Some(status) = self.try_to_reload(bundle).await? {
                return Ok(status);
            }
        }
    }

    /// Reloads a bundle; `None` if that is to be begun anew, as a process has been told to
    /// end meanwhile that was to take the new generation.
    async fn try_to_reload(
        &self,
        bundle: &Arc<Bundle>,
    ) -> Result<Option<BundleStatus>, RuntimeError> {
        let workers = self.workers_of(bundle)?;
        let up = processes(&workers).await?;
        self.check_enabled(bundle, &workers, &up)?;
        // A worker ends with its last handle, and its host may be gone before this is done.
        drop(workers);
        // From here on: of two reloads the one that reads later serves later.
        let slots = bundle.seats.lock_all().await;
        if !lock(&self.registry).holds(bundle) {
            return Err(RuntimeError::BundleNotFound { bundle: bundle.name.clone() });
        }
        let seats = bundle.seats.iter().zip(&slots).zip(&up);
        let left = seats.filter(|((_, slot), up)| is_left(slot.as_ref(), up.as_ref()));
        let left: Vec<WorkerName> = left.map(|((seat, _), _)| seat.home()).collect();
        if !left.is_empty() {
            drop(slots);
            for home in left {
                self.worker_named(&home)?.process().await?;
            }
            return Ok(None);
        }
        let (content, told) = match bundle.path() {
            Some(dir) => {
                let fetched = self.fetch(&dir, Some(&bundle.content())).await?;
                let told = fetched.told();
                (Arc::new(fetched.content), told)
            }
            None => (bundle.content(), Vec::new()),
        };
        self.check_same(bundle, &content)?;
        lock(&self.registry).begin_reload(bundle, &content.manifest, self.host())?;
        let _begun = Begun { core: self, bundle, manifest: Arc::clone(&content.manifest) };
        let (mut seats, mut idle, mut builds) = (Vec::new(), Vec::new(), Vec::new());
        let mut built_in = Vec::new();
        for ((seat, slot), up) in bundle.seats.iter().zip(slots).zip(up) {
            let serves = |old: &&Serving| !old.process.is_dead();
            let old = slot.as_ref().filter(serves).map(|old| Arc::clone(&old.process));
            // Where nothing runs that could hand over, it is loaded anew.
            let hands_over = old.is_some();
            let down = |up: &Arc<Process>| bundle.seats.are_many() && up.is_leaving();
            // It hands over to its worker's next process, if its own leaves.
            let stays = old.filter(|old| !old.is_leaving());
            match stays.or(up.filter(|up| !down(up))) {
                Some(process) => {
                    built_in.push(Arc::clone(&process));
                    builds.push(self.build(bundle, &content, process, hands_over));
                    seats.push((seat, slot, hands_over));
                }
                // Its worker comes back with what serves then: not before that
                // is known.
                None => idle.push(slot),
            }
        }
        if builds.is_empty() {
            let worker = bundle.status().worker;
            let problem = "all of its replicas have died just now".to_owned();
            return Err(RuntimeError::WorkerUnavailable { worker, problem });
        }
        let built = match first_then_others(builds).await {
            Err(RuntimeError::WorkerUnavailable { .. })
                if built_in.iter().any(|process| process.is_leaving() && !process.is_ending()) =>
            {
                return Ok(None);
            }
            outcome => outcome,
        };
        told.into_iter().for_each(|event| self.events.emit(event));
        let built = built?;
        let changes = seats.into_iter().zip(built);
        let change = |((seat, slot, hands_over), new)| Change { seat, slot, hands_over, new };
        let changes = changes.map(change).collect();
        self.change_over(bundle, Arc::clone(&content), changes).await?;
        drop(idle);
        Ok(Some(bundle.status()))
    }

    /// Whether the configuration and the loader allow it (L3).
    fn check_enabled(
        &self,
        bundle: &Bundle,
        workers: &[Arc<Worker>],
        up: &[Option<Arc<Process>>],
    ) -> Result<(), RuntimeError> {
        let mut running = workers.iter().zip(up).filter(|(_, up)| up.is_some());
        let reason = if !self.config.hot_reload {
            "the configuration does not enable it"
        } else if !running.all(|(worker, _)| worker.supports_hot_reload()) {
            "its loader cannot do it"
        } else {
            return Ok(());
        };
        let (bundle, reason) = (bundle.name.clone(), reason.to_owned());
        Err(RuntimeError::HotReloadDisabled { bundle, reason })
    }

    /// A reload keeps the bundle's name and loader.
    fn check_same(&self, bundle: &Bundle, content: &Content) -> Result<(), RuntimeError> {
        let manifest = &content.manifest;
        let changed = if manifest.name != bundle.name {
            Some(("name", &bundle.name))
        } else if manifest.loader != bundle.loader {
            Some(("loader", &bundle.loader))
        } else {
            None
        };
        match changed {
            // A sandbox stays as it was entered.
            None if !are_same(content.rights.as_ref(), bundle.content().rights.as_ref()) => {
                Err(RuntimeError::HotReloadDisabled {
                    bundle: bundle.name.clone(),
                    reason: "it would get other rights in its sandbox than its worker has; unload \
                             it, and load it again"
                        .to_owned(),
                })
            }
            None => Ok(()),
            Some((key, before)) => Err(content
                .relocate(LoaderError::ManifestInvalid {
                    file: manifest.dir.join(MANIFEST_FILE),
                    line: None,
                    key: key.to_owned(),
                    message: format!("was '{before}' when the bundle was loaded; unload it first"),
                })
                .into()),
        }
    }
}

/// A reload that the registry knows of; it has ended when this is dropped.
struct Begun<'c> {
    core: &'c Core,
    bundle: &'c Bundle,
    manifest: Arc<ManifestData>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        lock(&self.core.registry).end_reload(self.bundle, &self.manifest);
    }
}

/// Whether a seat's next generation has nowhere to be built: what serves it, or else would,
/// leaves, and what comes after that is not there yet.
fn is_left(serving: Option<&Serving>, up: Option<&Arc<Process>>) -> bool {
    let serves = serving.map(|serving| &serving.process).filter(|process| !process.is_dead());
    let next_leaves = up.is_none_or(|up| up.is_leaving());
    match serves {
        Some(process) => process.is_leaving() && next_leaves,
        None => up.is_some() && next_leaves,
    }
}

/// The processes of workers: all that run, where there are several; one that
/// does not is started only if none runs.
async fn processes(workers: &[Arc<Worker>]) -> Result<Vec<Option<Arc<Process>>>, RuntimeError> {
    let running: Vec<_> = workers.iter().map(|worker| worker.running()).collect();
    if running.iter().any(Option::is_some) && workers.len() > 1 {
        return Ok(running);
    }
    let mut started = Vec::new();
    for worker in workers {
        started.push(worker.process());
    }
    let mut error = RuntimeError::ShuttingDown;
    let mut found = Vec::new();
    for outcome in join_all(started).await {
        found.push(outcome.map_err(|problem| error = problem).ok());
    }
    if found.iter().any(Option::is_some) { Ok(found) } else { Err(error) }
}
