//! A loaded bundle, as handles and workers share it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use menagerie_protocol::{BundleId, BundleSource, Failure, ManifestData};
use tokio::sync::watch;

use crate::lane::{Lane, lock};
use crate::placement::WorkerName;
use crate::status::{BundleState, BundleStatus, CallStatus, ContractStatus};
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

/// A bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) name: String,
    pub(crate) id: BundleId,
    pub(crate) loader: String,
    pub(crate) source: BundleSource,
    pub(crate) manifest: ArcSwap<ManifestData>,
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
    pub(crate) fn new(manifest: ManifestData, source: BundleSource) -> Arc<Self> {
        Arc::new(Self {
            home: Mutex::new(WorkerName::shared(&manifest.loader)),
            quarantined: AtomicBool::new(false),
            name: manifest.name.clone(),
            id: manifest.id,
            loader: manifest.loader.clone(),
            source,
            manifest: ArcSwap::from_pointee(manifest),
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
        match &self.source {
            BundleSource::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> BundleStatus {
        let manifest = self.manifest.load();
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
            _ => promised(&manifest),
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

/// Latencies that are kept, for the percentiles.
const SAMPLES: usize = 1024;

/// Counts of calls, and a sample of their latencies.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Values that came back, one count for each lane that may still add to
    /// it: its reader counts by a plain store, where a counter that all callers
    /// share would cost a hot call a twentieth of its time.
    values: Mutex<Values>,
    failed: AtomicU64,
    /// The latest latencies in nanoseconds, in a ring.
    samples: Mutex<(Vec<u64>, usize)>,
}

#[derive(Debug, Default)]
struct Values {
    lanes: Vec<Arc<AtomicU64>>,
    /// Of lanes that are no more.
    before: u64,
}

impl Values {
    /// Adds up what lanes that are no more have counted.
    fn settle(&mut self) {
        let before = &mut self.before;
        self.lanes.retain_mut(|count| match Arc::get_mut(count) {
            Some(last) => {
                *before += *last.get_mut();
                false
            }
            None => true,
        });
    }
}

impl Counters {
    /// One call in so many has its latency taken: reading the clock twice
    /// costs about a tenth of a hot call.
    pub(crate) const SAMPLE_EVERY: u64 = 16;

    /// A count of values for one more lane.
    pub(crate) fn for_lane(&self) -> Arc<AtomicU64> {
        let count = Arc::default();
        let mut values = lock(&self.values);
        values.settle();
        values.lanes.push(Arc::clone(&count));
        count
    }

    fn ok(&self) -> u64 {
        let mut values = lock(&self.values);
        values.settle();
        let now: u64 = values.lanes.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        values.before + now
    }

    pub(crate) fn count_failure(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sample(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut samples = lock(&self.samples);
        let (values, next) = &mut *samples;
        if values.len() < SAMPLES {
            values.push(nanos);
        } else {
            values[*next] = nanos;
            *next = (*next + 1) % SAMPLES;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "microseconds for people")]
    fn status(&self, in_flight: u32) -> CallStatus {
        let mut values = lock(&self.samples).0.clone();
        values.sort_unstable();
        let at = |percent: usize| {
            let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
            values.get(index).map(|nanos| *nanos as f64 / 1000.0)
        };
        CallStatus {
            ok: self.ok(),
            failed: self.failed.load(Ordering::Relaxed),
            in_flight,
            p50_us: at(50),
            p99_us: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_lanes_that_are_no_more() {
        let counters = Counters::default();
        let first = counters.for_lane();
        first.store(3, Ordering::Relaxed);
        let second = counters.for_lane();
        second.store(4, Ordering::Relaxed);
        assert_eq!(counters.status(0).ok, 7);
        drop(first);
        assert_eq!(counters.status(0).ok, 7);
        drop(second);
        let _third = counters.for_lane();
        assert_eq!(counters.status(0).ok, 7);
    }

    #[test]
    fn counters_keep_the_latest_samples() {
        let counters = Counters::default();
        for i in 0..3000 {
            counters.sample(Duration::from_micros(i));
        }
        let status = counters.status(0);
        assert!(status.p50_us.unwrap() > 1976.0);
        assert!(status.p99_us.unwrap() > status.p50_us.unwrap());
    }
}
