//! A loaded bundle, as handles and workers share it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use menagerie_protocol::{
    BundleId, BundleSource, Failure, LoaderError, ManifestData, RuntimeError,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::counters::Counters;
use crate::lane::{Lane, lock};
use crate::placement::WorkerName;
use crate::signature::{SignatureStatus, Snapshot};
use crate::status::{BundleState, BundleStatus, ContractStatus};
use crate::worker::process::{Loaded, Process};

/// Where a bundle's calls go.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// To this lane.
    Up(Arc<Lane>),
    /// Nowhere yet: calls wait.
    Waiting(BundleState),
    /// Nowhere: calls fail with this.
    Down(BundleState, Box<Failure>),
}

/// The generation that serves a bundle, in the process that holds it.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) process: Arc<Process>,
    pub(crate) loaded: Loaded,
}

/// What is loaded of a bundle: manifest and code, as they were read together.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) manifest: Arc<ManifestData>,
    /// What workers are given.
    pub(crate) source: BundleSource,
    /// The copy that was checked, if `source` is one (R5).
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) signature: Option<SignatureStatus>,
}

impl Content {
    /// With no signature asked for.
    pub(crate) fn plain(manifest: ManifestData, source: BundleSource) -> Self {
        Self { manifest: Arc::new(manifest), source, snapshot: None, signature: None }
    }

    /// Whether it still is what was checked, where something was.
    pub(crate) async fn check(self: &Arc<Self>, runtime: &Handle) -> Result<(), RuntimeError> {
        if self.snapshot.is_none() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let check = runtime.spawn_blocking(move || {
            this.snapshot.as_ref().map_or(Ok(()), |snapshot| snapshot.check(&this.manifest.name))
        });
        Ok(check.await.map_err(|_| RuntimeError::ShuttingDown)??)
    }

    /// An error with the paths that the user knows.
    pub(crate) fn relocate(&self, error: LoaderError) -> LoaderError {
        match &self.snapshot {
            Some(snapshot) => snapshot.relocate(error),
            None => error,
        }
    }
}

/// A bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) name: String,
    pub(crate) id: BundleId,
    pub(crate) loader: String,
    /// The user's folder, unless it came from memory.
    folder: Option<PathBuf>,
    content: ArcSwap<Content>,
    route: ArcSwap<Route>,
    /// Counts the changes of `route`.
    changed: watch::Sender<u64>,
    /// The worker that it lives in.
    home: Mutex<WorkerName>,
    /// Whether it was running at too many crashes (S5): it is not loaded again
    /// before somebody reloads it.
    quarantined: AtomicBool,
    pub(crate) generation: AtomicU32,
    pub(crate) counters: Counters,
    /// What serves it. Locked while the bundle is loaded, reloaded, restored or
    /// unloaded: one at a time.
    pub(crate) serving: tokio::sync::Mutex<Option<Serving>>,
}

impl Bundle {
    pub(crate) fn new(content: Content, folder: Option<PathBuf>) -> Arc<Self> {
        let manifest = Arc::clone(&content.manifest);
        Arc::new(Self {
            home: Mutex::new(WorkerName::shared(&manifest.loader)),
            quarantined: AtomicBool::new(false),
            name: manifest.name.clone(),
            id: manifest.id,
            loader: manifest.loader.clone(),
            folder,
            content: ArcSwap::from_pointee(content),
            route: ArcSwap::from_pointee(Route::Waiting(BundleState::Loading)),
            changed: watch::Sender::new(0),
            generation: AtomicU32::new(0),
            counters: Counters::default(),
            serving: tokio::sync::Mutex::new(None),
        })
    }

    #[inline]
    pub(crate) fn route(&self) -> arc_swap::Guard<Arc<Route>> {
        self.route.load()
    }

    pub(crate) fn set_route(&self, route: Route) {
        self.route.store(Arc::new(route));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Sets the route if calls go to `lane` now; whether they did.
    pub(crate) fn replace_lane(&self, lane: &Arc<Lane>, route: Route) -> bool {
        let is_it = matches!(&**self.route(), Route::Up(up) if Arc::ptr_eq(up, lane));
        if is_it {
            self.set_route(route);
        }
        is_it
    }

    /// The worker that it lives in.
    pub(crate) fn home(&self) -> WorkerName {
        lock(&self.home).clone()
    }

    /// It lives in another worker from its next load on.
    pub(crate) fn move_to(&self, home: WorkerName) {
        *lock(&self.home) = home;
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Acquire)
    }

    /// Its calls fail until [`pardon`](Self::pardon).
    pub(crate) fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Release);
        let failure = Failure::Quarantined { what: format!("bundle '{}'", self.name) };
        self.set_route(Route::Down(BundleState::Quarantined, Box::new(failure)));
    }

    /// It may be loaded again.
    pub(crate) fn pardon(&self) {
        self.quarantined.store(false, Ordering::Release);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn next_generation(&self) -> u32 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    /// What is loaded now.
    pub(crate) fn content(&self) -> Arc<Content> {
        self.content.load_full()
    }

    /// From the next load on it is this.
    pub(crate) fn set_content(&self, content: Arc<Content>) {
        self.content.store(content);
    }

    /// Its manifest as it is now.
    pub(crate) fn manifest(&self) -> Arc<ManifestData> {
        Arc::clone(&self.content.load().manifest)
    }

    pub(crate) fn status(&self) -> BundleStatus {
        let Content { manifest, signature, .. } = &*self.content();
        let route = self.route();
        let (state, problem, in_flight) = match &**route {
            Route::Up(lane) => {
                let in_flight = u32::try_from(lane.in_flight()).unwrap_or(u32::MAX);
                (BundleState::Ready, None, in_flight)
            }
            Route::Waiting(state) => (*state, None, 0),
            Route::Down(state, failure) => (*state, Some(failure.to_string()), 0),
        };
        let contracts = match &**route {
            Route::Up(lane) => lane
                .contracts()
                .iter()
                .map(|contract| ContractStatus {
                    name: contract.id.name.clone(),
                    version: version_of(&contract.id),
                    functions: contract.functions.clone(),
                })
                .collect(),
            _ => promised(manifest),
        };
        BundleStatus {
            name: self.name.clone(),
            id: self.id.to_string(),
            version: manifest.version.clone(),
            loader: self.loader.clone(),
            worker: self.home().to_string(),
            path: self.path().map(|path| path.display().to_string()),
            state,
            generation: self.generation.load(Ordering::Relaxed),
            contracts,
            calls: self.counters.status(in_flight),
            problem,
            signature: signature.clone(),
        }
    }
}

/// What a manifest says that its bundle provides.
pub(crate) fn promised(manifest: &ManifestData) -> Vec<ContractStatus> {
    let contract = |id: &menagerie_protocol::ContractId| ContractStatus {
        name: id.name.clone(),
        version: version_of(id),
        functions: Vec::new(),
    };
    manifest.provides.iter().map(contract).collect()
}

fn version_of(id: &menagerie_protocol::ContractId) -> String {
    format!("{}.{}.{}", id.major, id.minor, id.patch)
}
