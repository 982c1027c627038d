//! A loaded bundle, as handles and workers share it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::{ArcSwap, Guard};
use menagerie_protocol::{
    BundleId, BundleSource, Failure, LoaderError, ManifestData, RuntimeError,
};
use tokio::sync::watch;

use crate::artifact::Artifact;
use crate::blocking::blocking;
use crate::core::Core;
use crate::counters::Counters;
use crate::lane::{Lane, lock};
use crate::locate;
use crate::placement::WorkerName;
use crate::sandbox::Rights;
use crate::seat::{Seat, Seats};
use crate::signature::{SignatureStatus, Snapshot};
use crate::status::{BundleState, BundleStatus, ContractStatus, ReplicaStatus};
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

impl Serving {
    /// Whether it lives, in another worker than this process, or a later process of the
    /// same one.
    pub(crate) fn has_followed(&self, process: &Process) -> bool {
        let is_later = self.process.incarnation > process.incarnation;
        (is_later || self.process.worker != process.worker) && !self.process.is_dead()
    }
}

/// What is loaded of a bundle: manifest and code, as they were read together.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) manifest: Arc<ManifestData>,
    /// What workers are given.
    pub(crate) source: BundleSource,
    /// The copy that `source` is, if it is one: of a signed bundle (R5), or of
    /// one that has replicas (S9).
    pub(crate) snapshot: Option<Snapshot>,
    /// The artifact's copy for loaders that map it.
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) signature: Option<SignatureStatus>,
    /// What it may do in its sandbox, if it is in one (P2).
    pub(crate) rights: Option<Arc<Rights>>,
}

impl Content {
    /// With no signature asked for.
    pub(crate) fn plain(manifest: ManifestData, source: BundleSource) -> Self {
        let (manifest, artifact) = (Arc::new(manifest), Arc::default());
        Self { manifest, source, snapshot: None, artifact, signature: None, rights: None }
    }

    /// Whether it still is what was checked, where something was.
    ///
    /// # Errors
    ///
    /// It is not; or nobody can look now ([`RuntimeError::WorkerUnavailable`]).
    pub(crate) async fn check(self: &Arc<Self>, worker: &str) -> Result<(), RuntimeError> {
        if self.snapshot.is_none() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let check = blocking(move || {
            this.snapshot.as_ref().map_or(Ok(()), |snapshot| snapshot.check(&this.manifest.name))
        });
        let cannot = |error: std::io::Error| RuntimeError::WorkerUnavailable {
            worker: worker.to_owned(),
            problem: format!("the supervisor cannot check what it would load: {error}"),
        };
        Ok(check.await.map_err(cannot)??)
    }

    /// Does what is to be done beside the start of a worker that is to load it for
    /// the first time.
    pub(crate) fn prepare(&self) {
        if self.has_artifact() && locate::maps_artifacts(&self.manifest.loader) {
            self.artifact.prepare(&self.manifest);
        }
    }

    /// The artifact's copy, for a worker that takes one.
    pub(crate) async fn copy(&self, takes: bool) -> Option<OwnedFd> {
        if !takes || !self.has_artifact() {
            return None;
        }
        self.artifact.current(&self.manifest).await
    }

    const fn has_artifact(&self) -> bool {
        matches!(self.source, BundleSource::Path(_))
    }

    /// An error with the paths that the user knows.
    pub(crate) fn relocate(&self, error: LoaderError) -> LoaderError {
        match &self.snapshot {
            Some(snapshot) => snapshot.relocate(error),
            None => error,
        }
    }
}

/// Where a bundle's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its folder, which is canonical.
    pub(crate) dir: PathBuf,
    /// The folder where that was found, by a link perhaps; canonical as well.
    pub(crate) found_in: PathBuf,
    /// The path by which it was asked for, absolute: a link in it may lead elsewhere since.
    pub(crate) asked: PathBuf,
}

impl Place {
    /// That of a folder which was asked for by this path.
    pub(crate) fn of(dir: PathBuf, asked: &Path) -> Self {
        let parent = asked.file_name().and_then(|_| asked.parent());
        let found_in = parent.and_then(|parent| {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().ok()
        });
        let found_in = found_in.or_else(|| dir.parent().map(Path::to_owned));
        let asked = std::path::absolute(asked).unwrap_or_else(|_| asked.to_owned());
        Self { found_in: found_in.unwrap_or_default(), dir, asked }
    }
}

/// A bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) name: String,
    pub(crate) id: BundleId,
    pub(crate) loader: String,
    /// The user's folder, unless it came from memory.
    place: Mutex<Option<Place>>,
    content: ArcSwap<Content>,
    /// Where it is loaded.
    pub(crate) seats: Seats,
    /// Whether it was running at too many crashes (S5): it is not loaded again
    /// before somebody reloads it.
    quarantined: AtomicBool,
    /// The number that its last attempt at a load was given.
    attempts: AtomicU32,
    pub(crate) counters: Counters,
}

impl Bundle {
    /// One that lives in its loader's only worker.
    #[cfg(test)]
    pub(crate) fn new(content: Content, place: Option<Place>) -> Arc<Self> {
        let home = WorkerName::shared(&content.manifest.loader);
        Self::in_workers(content, place, (home, Vec::new()), Weak::new())
    }

    /// One that lives in the first of these workers, and in the others.
    pub(crate) fn in_workers(
        content: Content,
        place: Option<Place>,
        (first, others): (WorkerName, Vec<WorkerName>),
        core: Weak<Core>,
    ) -> Arc<Self> {
        let manifest = Arc::clone(&content.manifest);
        Arc::new(Self {
            seats: Seats::new(first, others, core),
            quarantined: AtomicBool::new(false),
            name: manifest.name.clone(),
            id: manifest.id,
            loader: manifest.loader.clone(),
            place: Mutex::new(place),
            content: ArcSwap::from_pointee(content),
            attempts: AtomicU32::new(0),
            counters: Counters::default(),
        })
    }

    /// Where the next call goes.
    #[inline]
    pub(crate) fn route(&self) -> Guard<Arc<Route>> {
        self.seats.route()
    }

    /// Calls go nowhere else, in any of its workers.
    pub(crate) fn set_all_routes(&self, route: &Route) {
        for seat in self.seats.iter() {
            seat.set_route(route.clone());
        }
    }

    /// The process of this lane has ended: its calls wait, if it served any.
    pub(crate) fn orphaned(&self, lane: &Arc<Lane>) {
        for seat in self.seats.iter() {
            seat.replace_lane(lane, Route::Waiting(BundleState::Waiting));
        }
    }

    /// Its place in a worker.
    pub(crate) fn seat_in(&self, worker: &WorkerName) -> &Seat {
        self.seats.at(worker.seat())
    }

    /// Whether it lives in a worker.
    pub(crate) fn is_in(&self, worker: &WorkerName) -> bool {
        self.seats.iter().any(|seat| seat.is_in(worker))
    }

    /// The workers that it lives in.
    pub(crate) fn homes(&self) -> Vec<WorkerName> {
        self.seats.iter().map(Seat::home).collect()
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Acquire)
    }

    /// Its calls fail until [`pardon`](Self::pardon).
    pub(crate) fn quarantine(&self) {
        self.quarantined.store(true, Ordering::Release);
        self.set_all_routes(&self.quarantined_route());
    }

    /// Where its calls go while it is in quarantine.
    pub(crate) fn quarantined_route(&self) -> Route {
        let failure = Failure::Quarantined { what: format!("bundle '{}'", self.name) };
        Route::Down(BundleState::Quarantined, Box::new(failure))
    }

    /// It may be loaded again.
    pub(crate) fn pardon(&self) {
        self.quarantined.store(false, Ordering::Release);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.seats.subscribe()
    }

    /// A number for an attempt at a load, which no other has. It is the
    /// generation's if something comes of the attempt; nobody has it otherwise.
    pub(crate) fn next_generation(&self) -> u32 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn place(&self) -> Option<Place> {
        lock(&self.place).clone()
    }

    /// Its folder was moved: it is read from here at its next load.
    pub(crate) fn move_to(&self, place: Place) {
        *lock(&self.place) = Some(place);
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        Some(self.place()?.dir)
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
        let Content { manifest, signature, rights, .. } = &*self.content();
        let route = self.route();
        let (state, mut problem) = match &**route {
            Route::Up(_) => (BundleState::Ready, None),
            Route::Waiting(state) => (*state, None),
            Route::Down(state, failure) => (*state, Some(failure.to_string())),
        };
        let (mut ready, mut in_flight) = (0_u32, 0_u64);
        for seat in self.seats.iter() {
            match &**seat.route() {
                Route::Up(lane) => {
                    ready += 1;
                    in_flight += lane.in_flight();
                }
                // One of several that cannot be had, while others serve.
                Route::Down(_, failure) if problem.is_none() => {
                    problem = Some(format!("{}: {failure}", seat.home()));
                }
                Route::Waiting(_) | Route::Down(..) => {}
            }
        }
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
            worker: self.seats.at(0).home().common().to_string(),
            replicas: ReplicaStatus {
                ready,
                wanted: u32::try_from(self.seats.count()).unwrap_or(u32::MAX),
            },
            path: self.path().map(|path| path.display().to_string()),
            state,
            generation: self.seats.generation(),
            contracts,
            calls: self.counters.status(u32::try_from(in_flight).unwrap_or(u32::MAX)),
            problem,
            signature: signature.clone(),
            not_granted: rights.as_ref().map(|r| r.refused.clone()).unwrap_or_default(),
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
