//! What all parts of a supervisor share, and the operations on bundles.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use menagerie_protocol::contract::ContractRequest;
use menagerie_protocol::loader::manifest::ParsedManifest;
use menagerie_protocol::{BundleSource, Failure, LoaderError, ManifestData, RuntimeError};
use tokio::sync::watch;

use crate::blame::{Blame, Verdict};
use crate::bundle::{Bundle, Place, Route, Serving};
use crate::config::Config;
use crate::counters::CallCounts;
use crate::discovery::Broken;
use crate::events::{EventBus, EventKind, Step};
use crate::host::HostContracts;
use crate::lane::lock;
use crate::locate::LOADERS;
use crate::outcall;
use crate::placement::WorkerName;
use crate::registry::Registry;
use crate::replicate::first_then_others;
use crate::runtime_dir::RuntimeDir;
use crate::seat::Seat;
use crate::signature::Fetched;
use crate::status::{BundleState, BundleStatus, CrashReport};
use crate::timer::Timers;
use crate::waits::Waits;
use crate::worker::handle::{Command, Current, Worker};
use crate::worker::listener::ControlSocket;
use crate::worker::process::{KillCause, OutcallRouter, Process};
use crate::worker::reap::Reaper;
use crate::worker::spare::Spares;
use crate::worker::spawn::Spawner;
use crate::worker::standby::Standbys;

pub(crate) struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) timers: Timers,
    pub(crate) events: Arc<EventBus>,
    pub(crate) spawner: Spawner,
    pub(crate) control: ControlSocket,
    pub(crate) dir: RuntimeDir,
    /// True from the beginning of the shutdown on.
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) registry: Mutex<Registry>,
    /// Bundles that were found and could not be loaded.
    pub(crate) broken: Mutex<Broken>,
    /// What the host itself provides.
    pub(crate) host: Arc<HostContracts>,
    pub(crate) workers: Mutex<BTreeMap<WorkerName, Arc<Worker>>>,
    pub(crate) standbys: Standbys,
    pub(crate) blame: Mutex<Blame>,
    /// Processes that another one has replaced and that have not ended yet.
    pub(crate) leaving: watch::Sender<u32>,
    pub(crate) spares: Spares,
    pub(crate) reaper: Reaper,
    /// Copies of bundles that were made.
    pub(crate) copies: AtomicU64,
    pub(crate) crashes: Mutex<VecDeque<CrashReport>>,
    pub(crate) waits: Waits,
    pub(crate) started: Instant,
    pub(crate) this: Weak<Core>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Core")
    }
}

impl Core {
    /// The workers that a bundle lives in, one for each of its seats.
    pub(crate) fn workers_of(&self, bundle: &Bundle) -> Result<Vec<Arc<Worker>>, RuntimeError> {
        bundle.homes().iter().map(|home| self.worker_named(home)).collect()
    }

    /// A worker; its task is started if there is none yet.
    pub(crate) fn worker_named(&self, name: &WorkerName) -> Result<Arc<Worker>, RuntimeError> {
        let Some(this) = self.this.upgrade() else { return Err(RuntimeError::ShuttingDown) };
        let loader = &name.loader;
        if !LOADERS.contains(&loader.as_str()) {
            return Err(RuntimeError::Loader(LoaderError::NoLoaderForName {
                loader: loader.clone(),
                available: LOADERS.map(str::to_owned).to_vec(),
            }));
        }
        let mut workers = lock(&self.workers);
        // With the lock: an end of everything takes it after it has said so.
        if *self.stopping.borrow() {
            return Err(RuntimeError::ShuttingDown);
        }
        let worker = workers.entry(name.clone()).or_insert_with(|| Worker::start(name, &this));
        Ok(Arc::clone(worker))
    }

    /// A call waits for a bundle: its workers are started if they were stopped
    /// for idleness.
    pub(crate) fn need(&self, bundle: &Bundle) {
        for home in bundle.homes() {
            self.wake(&home);
        }
    }

    /// A worker is started if it was stopped for idleness.
    pub(crate) fn wake(&self, name: &WorkerName) {
        self.ask(name, Command::Needed);
    }

    fn ask(&self, name: &WorkerName, command: Command) {
        if let Some(worker) = lock(&self.workers).get(name) {
            worker.send(command);
        }
    }

    /// Ends a worker that was made for one bundle, when that has left it.
    pub(crate) fn release(&self, name: &WorkerName) {
        if name.bundle.is_none() {
            return;
        }
        let mut workers = lock(&self.workers);
        let is_needed = lock(&self.registry).is_inhabited(name);
        let worker = if is_needed { None } else { workers.remove(name) };
        // Before it can be missed among the workers.
        let leaving = worker.as_ref().and_then(|_| self.this.upgrade()).map(Self::leaving);
        drop(workers);
        let Some(worker) = worker else { return };
        worker.send(Command::Stop);
        let mut current = worker.current.clone();
        self.runtime.spawn(async move {
            drop(current.wait_for(|now| matches!(now, Current::Down(_))).await);
            drop(leaving);
        });
    }

    /// A task that has something to tell: the stream of events does not end before it.
    pub(crate) fn telling<F: Future>(&self, task: F) -> impl Future<Output = F::Output> + use<F> {
        let open = self.events.open();
        async move {
            let outcome = task.await;
            drop(open);
            outcome
        }
    }

    /// Whether a worker should have a bundle loaded.
    pub(crate) fn is_of(&self, worker: &WorkerName, bundle: &Arc<Bundle>) -> bool {
        self.bundles_of(worker).iter().any(|it| Arc::ptr_eq(it, bundle))
    }

    /// The bundles that a worker should have loaded, providers first.
    pub(crate) fn bundles_of(&self, worker: &WorkerName) -> Vec<Arc<Bundle>> {
        lock(&self.registry).of_worker(worker)
    }

    /// The bundles that a worker's process has or should have, as far as they are wanted:
    /// those that the worker should, providers first, and then those that are being loaded
    /// into the process, or have moved. If it leaves, no other ones will be served there.
    pub(crate) fn bundles_in(&self, worker: &WorkerName, process: &Process) -> Vec<Arc<Bundle>> {
        let registry = lock(&self.registry);
        let mut found = registry.of_worker(worker);
        for bundle in process.bundles() {
            let is_known = found.iter().any(|known| Arc::ptr_eq(known, &bundle));
            if registry.holds(&bundle) && !is_known {
                found.push(bundle);
            }
        }
        found
    }

    /// A number for a copy of a bundle.
    pub(crate) fn next_copy(&self) -> u64 {
        self.copies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a process among those that no worker of ours has any more, until it is
    /// dropped.
    pub(crate) fn leaving(self: Arc<Self>) -> Leaving {
        self.leaving.send_modify(|count| *count += 1);
        Leaving(self)
    }

    /// The calls of every bundle, counted, by the bundle's name.
    pub(crate) fn call_counts(&self) -> Vec<(String, CallCounts)> {
        let bundles = lock(&self.registry).all();
        bundles.iter().map(|b| (b.name.clone(), b.counters.snapshot())).collect()
    }

    /// Whether the host serves a request.
    pub(crate) fn host(&self) -> impl Fn(&ContractRequest) -> bool + '_ {
        |request| self.host.serves(request, self.config.compatibility)
    }

    /// What hands guests' own calls on.
    pub(crate) fn router(&self) -> Arc<OutcallRouter> {
        let core = self.this.clone();
        let runtime = self.runtime.clone();
        Arc::new(move |outcall| {
            let Some(core) = core.upgrade() else { return };
            runtime.spawn(outcall::route(core, outcall));
        })
    }

    pub(crate) fn crashed(&self, report: CrashReport) {
        let mut crashes = lock(&self.crashes);
        if crashes.len() >= self.config.crash_history.max(1) {
            crashes.pop_front();
        }
        crashes.push_back(report.clone());
        drop(crashes);
        self.events.emit(EventKind::WorkerCrashed(Box::new(report)));
    }

    /// Sleeps until then, or until the runtime ends.
    pub(crate) async fn sleep_until(&self, deadline: Option<Instant>) {
        match deadline {
            Some(deadline) => self.timers.at(deadline).await,
            None => self.timers.end().await,
        }
    }

    /// Loads a bundle from its folder.
    pub(crate) async fn load_dir(&self, dir: &Path) -> Result<BundleStatus, RuntimeError> {
        let fetched = self.fetch(dir, None).await.inspect_err(|error| self.refused(error))?;
        let place = fetched.folder.clone().map(|folder| Place::of(folder, dir));
        let outcome = self.load(fetched, place.clone()).await;
        if let (Ok(_), Some(place)) = (&outcome, place) {
            lock(&self.broken).remove(&place.dir);
        }
        outcome
    }

    /// Loads a bundle that has no folder.
    pub(crate) async fn load_from_memory(
        &self,
        parsed: ParsedManifest,
        source: BundleSource,
    ) -> Result<BundleStatus, RuntimeError> {
        let fetched = self.fetch_from_memory(parsed, source);
        self.load(fetched.inspect_err(|error| self.refused(error))?, None).await
    }

    /// A bundle is not loaded for its signature.
    fn refused(&self, error: &RuntimeError) {
        if let RuntimeError::Loader(
            LoaderError::UnsignedBundle { bundle }
            | LoaderError::SignatureVerificationFailed { bundle, .. }
            | LoaderError::UntrustedSigningKey { bundle, .. }
            | LoaderError::TrustStoreUnusable { bundle, .. },
        ) = error
        {
            self.events.bundle_failed(bundle, Step::Load, error);
        }
    }

    async fn load(
        &self,
        fetched: Fetched,
        place: Option<Place>,
    ) -> Result<BundleStatus, RuntimeError> {
        let mut told = fetched.told();
        let Fetched { content, warnings, .. } = fetched;
        let name = content.manifest.name.clone();
        for warning in warnings {
            tracing::warn!(bundle = name, "{warning}");
        }
        let outcome = match self.places_of(&content.manifest, &mut told) {
            Ok(places) => {
                let bundle = Bundle::in_workers(content, place, places, self.this.clone());
                self.load_new(bundle, told).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            self.events.bundle_failed(&name, Step::Load, error);
        }
        outcome
    }

    /// Where a bundle is to be loaded for the first time: nowhere, if it has killed who
    /// loaded it too often, or alone, if it has done so now and then (S5): what is to be
    /// told of that is added to `told`.
    fn places_of(
        &self,
        manifest: &ManifestData,
        told: &mut Vec<EventKind>,
    ) -> Result<(WorkerName, Vec<WorkerName>), RuntimeError> {
        let bundle = &manifest.name;
        let (first, others) = WorkerName::places(&self.config, &manifest.loader, bundle);
        match self.standing(bundle) {
            Verdict::Noted(_) => Ok((first, others)),
            Verdict::Isolate(_) => {
                let own = |place: &WorkerName| place.own_in_place(bundle);
                for from in std::iter::once(&first).chain(&others).filter(|p| p.bundle.is_none()) {
                    let (bundle, to) = (bundle.clone(), own(from).to_string());
                    let from = from.to_string();
                    told.push(EventKind::BundleIsolated { bundle, from, to });
                }
                Ok((own(&first), others.iter().map(own).collect()))
            }
            Verdict::Quarantine(crashes) => {
                let wait = lock(&self.blame).remembered_for(bundle, Instant::now());
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                Err(RuntimeError::BundleQuarantined { bundle: bundle.clone(), crashes, wait_ms })
            }
        }
    }

    /// What becomes of a bundle that is not loaded, by its account.
    pub(crate) fn standing(&self, bundle: &str) -> Verdict {
        let policy = self.config.blame_policy(bundle);
        lock(&self.blame).standing(bundle, policy, Instant::now())
    }

    /// Loads a bundle that is not loaded yet; what is `told` is told when nothing but the
    /// bundle itself may be in the way.
    async fn load_new(
        &self,
        bundle: Arc<Bundle>,
        told: Vec<EventKind>,
    ) -> Result<BundleStatus, RuntimeError> {
        {
            let mut registry = lock(&self.registry);
            registry.check_dependencies(&bundle.manifest(), self.host())?;
            registry.reserve(&bundle)?;
        }
        let mut reserved = Reserved { core: self, bundle: &bundle, keep: false };
        // They stay from here on, as they have a bundle.
        let workers = self.workers_of(&bundle)?;
        told.into_iter().for_each(|event| self.events.emit(event));
        bundle.content().prepare();
        let mut slots = bundle.seats.lock_all().await;
        if bundle.seats.are_many() {
            // They start at the same time.
            workers.iter().for_each(|worker| worker.send(Command::Wanted));
        }
        let mut builds = Vec::new();
        for worker in workers {
            builds.push(self.build_in(&bundle, worker));
        }
        let built = first_then_others(builds).await?;
        lock(&self.registry).publish(&bundle.name);
        reserved.keep = true;
        for ((seat, slot), fresh) in bundle.seats.iter().zip(&mut slots).zip(built) {
            let Some(serving) = fresh.keep() else { continue };
            let process = Arc::clone(&serving.process);
            let generation = serving.loaded.lane.generation;
            seat.serve(slot, serving);
            if process.is_closed() {
                // Its next process may have looked for its bundles before this was one.
                self.ask(&seat.home(), Command::Restore);
                continue;
            }
            let (bundle, worker) = (bundle.name.clone(), process.worker.clone());
            self.events.emit(EventKind::BundleLoaded { bundle, worker, generation });
        }
        Ok(bundle.status())
    }

    /// Loads a bundle again in a new incarnation of its worker (S4). What the system has
    /// too little for is tried again, with the pauses of restarts; and then in another
    /// process, as the limits may be this one's. What fails for the bundle's own sake fails
    /// its calls, and is tried again beside them.
    pub(crate) async fn restore(&self, bundle: &Arc<Bundle>, process: &Arc<Process>) {
        const TRIES: u32 = 5;
        let seat = bundle.seats.at(process.seat);
        for number in 1..=TRIES {
            let error = {
                let mut slot = seat.serving.lock().await;
                match self.try_to_restore(bundle, process, &mut slot).await {
                    Ok(()) => return,
                    Err(error) if lacks_something(&error) => error,
                    Err(error) => {
                        return self.has_failed(bundle, process.seat, Step::Restore, &error);
                    }
                }
            };
            if number == 1 {
                self.events.bundle_failed(&bundle.name, Step::Restore, &error);
            }
            if number == TRIES {
                let reason = format!("'{}' could not be loaded again: {error}", bundle.name);
                return process.kill(KillCause::Supervisor, reason);
            }
            tokio::time::sleep(self.config.restart.delay(number)).await;
        }
    }

    /// Loads a bundle into a process, unless it is not wanted there, or that process is to
    /// end: its next incarnation tries again. `slot` is what its seat's
    /// [`serving`](Seat::serving) guards.
    pub(crate) async fn try_to_restore(
        &self,
        bundle: &Arc<Bundle>,
        process: &Arc<Process>,
        slot: &mut Option<Serving>,
    ) -> Result<(), RuntimeError> {
        let seat = bundle.seats.at(process.seat);
        if !lock(&self.registry).holds(bundle) || bundle.is_quarantined() {
            return Ok(());
        }
        // Loaded into this very process already, by an operation that came first.
        if slot.as_ref().is_some_and(|serving| Arc::ptr_eq(&serving.process, process)) {
            return Ok(());
        }
        match process.load(bundle, &bundle.content(), false).await {
            Ok(loaded) => {
                let generation = loaded.lane.generation;
                let fresh = Serving { process: Arc::clone(process), loaded };
                // A crash in another of its workers may have been judged meanwhile.
                if bundle.is_quarantined() {
                    self.vacate(bundle, Some(fresh), "quarantine").await;
                    return Ok(());
                }
                let before = seat.serve(slot, fresh);
                self.vacate_later(bundle, before);
                if bundle.is_quarantined() {
                    seat.set_route(bundle.quarantined_route());
                }
                self.events.emit(EventKind::BundleLoaded {
                    bundle: bundle.name.clone(),
                    worker: process.worker.clone(),
                    generation,
                });
            }
            Err(_) if process.is_leaving() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes a bundle out of a worker that is to stop; it stays wanted.
    pub(crate) async fn retire(&self, bundle: &Arc<Bundle>, process: &Arc<Process>, restart: bool) {
        let seat = bundle.seats.at(process.seat);
        let mut serving = seat.serving.lock().await;
        // This process has died meanwhile, or the bundle has moved.
        if serving.as_ref().is_some_and(|serving| serving.has_followed(process)) {
            return;
        }
        self.let_wait(bundle, seat, restart);
        let ours = serving.take_if(|serving| Arc::ptr_eq(&serving.process, process));
        if let Some(Serving { loaded, .. }) = ours
            && !process.is_dead()
        {
            loaded.lane.close();
            process.drain(&loaded.lane, self.config.drain).await;
            drop(process.unload(loaded).await);
        }
        // Who stops workers does it for their memory; no call waits for the next
        // process as after a crash.
        bundle.content().artifact.give_back().await;
    }

    /// The worker of a seat stops: its calls wait until it comes back, unless the bundle is
    /// quarantined or was unloaded.
    pub(crate) fn let_wait(&self, bundle: &Arc<Bundle>, seat: &Seat, comes_back: bool) {
        // Who unloads it takes it out of the registry before it makes its handles stale.
        let registry = lock(&self.registry);
        if registry.holds(bundle) && !bundle.is_quarantined() {
            seat.retire(comes_back);
        }
    }
}

/// Whether a bundle is not loaded because there is no thread, no memory or no descriptor,
/// here or there.
fn lacks_something(error: &RuntimeError) -> bool {
    match error {
        RuntimeError::WorkerUnavailable { .. } => true,
        RuntimeError::Loader(error) => error.is_no_thread(),
        _ => false,
    }
}

/// A process that leaves; see [`Core::leaving`].
pub(crate) struct Leaving(Arc<Core>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leaving.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// A name that is reserved while its bundle is loaded; given back if the load
/// fails or its future is dropped.
struct Reserved<'c> {
    core: &'c Core,
    bundle: &'c Arc<Bundle>,
    keep: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.keep {
            lock(&self.core.registry).remove(&self.bundle.name);
            for home in self.bundle.homes() {
                self.core.release(&home);
            }
            let gone = Failure::StaleHandle { bundle: self.bundle.name.clone() };
            self.bundle.set_all_routes(&Route::Down(BundleState::Unloading, Box::new(gone)));
        }
    }
}
