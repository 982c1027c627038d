//! What `menagerie top` shows, worked out from one status after another. The
//! clock is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use menagerie_supervisor::{BundleStatus, CallStatus, CrashReport, Status, WorkerStatus};

/// Rates that are kept, for the chart.
const KEPT: usize = 300;

/// What is shown.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) status: Option<Status>,
    /// Why there is no newer status, if that is so.
    pub(crate) problem: Option<String>,
    pub(crate) workers: Vec<WorkerRow>,
    pub(crate) bundles: Vec<BundleRow>,
    /// Calls a second of all bundles, oldest first.
    pub(crate) rates: VecDeque<u64>,
    pub(crate) last_crash: Option<CrashReport>,
    /// The first row of the bundles that is shown.
    pub(crate) scroll: usize,
    before: Option<Before>,
}

/// The counts of the last look.
#[derive(Debug)]
struct Before {
    at: Instant,
    calls: BTreeMap<String, CallStatus>,
    cpu: BTreeMap<String, (Option<u32>, f64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkerRow {
    pub(crate) status: WorkerStatus,
    /// Of one processor, in percent.
    pub(crate) cpu: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BundleRow {
    pub(crate) status: BundleStatus,
    pub(crate) calls_per_second: Option<f64>,
    pub(crate) failed_per_second: Option<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn rate(before: u64, after: u64, elapsed: Duration) -> Option<f64> {
    let seconds = elapsed.as_secs_f64();
    // Counts that went back belong to another life.
    (seconds > 0.0 && after >= before).then(|| (after - before) as f64 / seconds)
}

impl Model {
    /// Takes a new status in.
    pub(crate) fn update(&mut self, status: Status, now: Instant) {
        let before = self.before.take();
        let elapsed = before.as_ref().map(|b| now.saturating_duration_since(b.at));
        let mut seen = BTreeSet::new();
        self.bundles = status
            .bundles
            .iter()
            .map(|bundle| {
                // The first of its name is the one that runs; the others are broken.
                let is_first = seen.insert(&bundle.name);
                let before = before.as_ref().filter(|_| is_first);
                let old = before.and_then(|before| before.calls.get(&bundle.name));
                let per_second = |count: fn(&CallStatus) -> u64| {
                    rate(count(old?), count(&bundle.calls), elapsed?)
                };
                BundleRow {
                    status: bundle.clone(),
                    calls_per_second: per_second(|calls| calls.ok + calls.failed),
                    failed_per_second: per_second(|calls| calls.failed),
                }
            })
            .collect();
        self.workers = status
            .workers
            .iter()
            .map(|worker| {
                let old = before.as_ref().and_then(|before| before.cpu.get(&worker.name));
                let used = old.zip(worker.cpu_seconds).filter(|((pid, _), _)| *pid == worker.pid);
                let cpu = used.zip(elapsed).map(|(((_, old), new), elapsed)| {
                    (new - old).max(0.0) / elapsed.as_secs_f64().max(1e-9) * 100.0
                });
                WorkerRow { status: worker.clone(), cpu }
            })
            .collect();
        let all: f64 = self.bundles.iter().filter_map(|bundle| bundle.calls_per_second).sum();
        if before.is_some() {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a chart")]
            self.rates.push_back(all.round() as u64);
            if self.rates.len() > KEPT {
                self.rates.pop_front();
            }
        }
        let crashes = status.workers.iter().filter_map(|worker| worker.last_crash.as_ref());
        self.last_crash = crashes.max_by_key(|crash| crash.time_ms).cloned();
        // From the last to the first, as the last that comes in stays.
        let calls = status.bundles.iter().rev();
        let calls = calls.map(|b| (b.name.clone(), b.calls.clone())).collect();
        let cpu = status
            .workers
            .iter()
            .filter_map(|w| Some((w.name.clone(), (w.pid, w.cpu_seconds?))))
            .collect();
        self.before = Some(Before { at: now, calls, cpu });
        self.scroll = self.scroll.min(self.bundles.len().saturating_sub(1));
        self.status = Some(status);
        self.problem = None;
    }

    /// There is no status: what was known stays, and why is shown.
    pub(crate) fn fail(&mut self, problem: String) {
        self.problem = Some(problem);
        self.before = None;
    }

    pub(crate) fn scroll_by(&mut self, rows: isize) {
        let last = self.bundles.len().saturating_sub(1);
        self.scroll = self.scroll.saturating_add_signed(rows).min(last);
    }
}
