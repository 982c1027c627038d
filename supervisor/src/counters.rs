//! A bundle's calls, counted. What a call costs here is one plain store, by who
//! reads its lane; everything else is done for failures, and for the calls whose
//! time is taken.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use menagerie_protocol::Failure;
use menagerie_protocol::contract::ContractId;

use crate::lane::lock;
use crate::status::CallStatus;

/// One call in so many has its time taken: reading the clock twice and taking
/// note costs about half of a hot call. Those that have to sleep have it taken in
/// any case.
pub(crate) const SAMPLE_EVERY: u64 = 64;

/// Upper bounds of the latency histogram's buckets, in nanoseconds.
pub(crate) const BOUNDS: [u64; 18] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// How a call ended that did not end with a value, as metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    GuestError,
    BadArguments,
    Cancelled,
    DeadlineExceeded,
    WorkerCrashed,
    Quarantined,
    NotFound,
    Overloaded,
    CycleDetected,
    Unavailable,
}

impl Ended {
    pub(crate) const ALL: [Self; 10] = [
        Self::GuestError,
        Self::BadArguments,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::WorkerCrashed,
        Self::Quarantined,
        Self::NotFound,
        Self::Overloaded,
        Self::CycleDetected,
        Self::Unavailable,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::GuestError => "guest_error",
            Self::BadArguments => "bad_arguments",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::WorkerCrashed => "worker_crashed",
            Self::Quarantined => "quarantined",
            Self::NotFound => "not_found",
            Self::Overloaded => "overloaded",
            Self::CycleDetected => "cycle_detected",
            Self::Unavailable => "unavailable",
        }
    }
}

impl From<&Failure> for Ended {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Guest(_) => Self::GuestError,
            Failure::BadArguments { .. }
            | Failure::BadValue { .. }
            | Failure::PayloadTooLarge { .. } => Self::BadArguments,
            Failure::Cancelled => Self::Cancelled,
            Failure::DeadlineExceeded { .. } => Self::DeadlineExceeded,
            Failure::WorkerCrashed { .. } => Self::WorkerCrashed,
            Failure::Quarantined { .. } => Self::Quarantined,
            Failure::NoSuchContract { .. } | Failure::NoSuchFunction { .. } => Self::NotFound,
            Failure::Overloaded { .. } => Self::Overloaded,
            Failure::CycleDetected { .. } => Self::CycleDetected,
            _ => Self::Unavailable,
        }
    }
}

/// The calls of one function, across all generations of its bundle.
#[derive(Debug, Default)]
pub(crate) struct FunctionCounters {
    /// Values, as far as lanes counted them that are no more.
    ok: AtomicU64,
    ended: Failures,
    latency: Latency,
}

#[derive(Debug, Default)]
struct Failures([AtomicU64; Ended::ALL.len()]);

impl Failures {
    fn count(&self, ended: Ended) {
        self.0[ended as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn each(&self) -> impl Iterator<Item = (Ended, u64)> {
        Ended::ALL.into_iter().map(|ended| (ended, self.0[ended as usize].load(Ordering::Relaxed)))
    }
}

/// A histogram.
#[derive(Debug, Default)]
struct Latency {
    /// Not cumulative; the last one is beyond all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl FunctionCounters {
    pub(crate) fn failed(&self, ended: Ended) {
        self.ended.count(ended);
    }

    /// A call took so long, and stands for `weight` calls like it.
    fn took(&self, nanos: u64, weight: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < nanos);
        self.latency.buckets[bucket].fetch_add(weight, Ordering::Relaxed);
        self.latency.sum_nanos.fetch_add(nanos.saturating_mul(weight), Ordering::Relaxed);
    }
}

/// The values that came back on one lane, by a function's id. Its reader counts
/// by a plain store: a counter that all callers share would cost a hot call a
/// twentieth of its time.
#[derive(Debug)]
pub(crate) struct LaneCounts {
    functions: Vec<Arc<FunctionCounters>>,
    values: Box<[AtomicU64]>,
}

impl LaneCounts {
    /// Where values of a function are counted, by who reads the lane.
    #[inline]
    pub(crate) fn values(&self, id: u32) -> Option<&AtomicU64> {
        self.values.get(id as usize)
    }

    pub(crate) fn function(&self, id: u32) -> Option<&FunctionCounters> {
        self.functions.get(id as usize).map(Arc::as_ref)
    }
}

/// The calls of a bundle.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Those that may still be counted on.
    lanes: Mutex<Vec<Arc<LaneCounts>>>,
    functions: Mutex<BTreeMap<(String, String), Arc<FunctionCounters>>>,
    /// Calls of functions that the bundle does not have, or that never reached
    /// one.
    refused: Failures,
    samples: Mutex<Samples>,
}

/// Latencies that are kept, for the percentiles.
const SAMPLES: usize = 1024;

/// The latest latencies in nanoseconds with their weights, in a ring.
#[derive(Debug, Default)]
struct Samples {
    values: Vec<(u64, u64)>,
    next: usize,
}

/// How long a call took, if that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) took: Duration,
    /// How many calls it stands for: `SAMPLE_EVERY` where only the sample has
    /// its time taken, 1 where all have.
    pub(crate) weight: u64,
}

impl Counters {
    /// The counters of a function; the same ones in every generation.
    pub(crate) fn function(&self, contract: &ContractId, function: &str) -> Arc<FunctionCounters> {
        Arc::clone(lock(&self.functions).entry(key(contract, function)).or_default())
    }

    /// A call has failed, wherever it had got to.
    #[cold]
    pub(crate) fn failed(&self, contract: &ContractId, function: &str, failure: &Failure) {
        let ended = Ended::from(failure);
        match lock(&self.functions).get(&key(contract, function)) {
            Some(counters) => counters.failed(ended),
            None => self.refused.count(ended),
        }
    }

    /// A call's time was taken.
    pub(crate) fn sample(&self, function: &FunctionCounters, taken: Taken) {
        let nanos = u64::try_from(taken.took.as_nanos()).unwrap_or(u64::MAX);
        function.took(nanos, taken.weight);
        let mut samples = lock(&self.samples);
        let Samples { values, next } = &mut *samples;
        if values.len() < SAMPLES {
            values.push((nanos, taken.weight));
        } else {
            values[*next] = (nanos, taken.weight);
            *next = (*next + 1) % SAMPLES;
        }
    }

    /// Counts of values for one more lane, that serves these functions.
    pub(crate) fn for_lane(&self, functions: Vec<Arc<FunctionCounters>>) -> Arc<LaneCounts> {
        let values = functions.iter().map(|_| AtomicU64::new(0)).collect();
        let counts = Arc::new(LaneCounts { functions, values });
        let mut lanes = lock(&self.lanes);
        settle(&mut lanes);
        lanes.push(Arc::clone(&counts));
        counts
    }

    /// The values of each function, on all lanes.
    fn values(&self) -> Vec<(Arc<FunctionCounters>, u64)> {
        let mut lanes = lock(&self.lanes);
        settle(&mut lanes);
        let mut on_lanes = HashMap::<_, u64>::new();
        for lane in &*lanes {
            for (counters, values) in lane.functions.iter().zip(&lane.values) {
                *on_lanes.entry(Arc::as_ptr(counters)).or_default() +=
                    values.load(Ordering::Relaxed);
            }
        }
        let functions = lock(&self.functions);
        let of = |counters: &Arc<FunctionCounters>| {
            let now = on_lanes.get(&Arc::as_ptr(counters)).copied().unwrap_or_default();
            (Arc::clone(counters), counters.ok.load(Ordering::Relaxed) + now)
        };
        functions.values().map(of).collect()
    }

    pub(crate) fn status(&self, in_flight: u32) -> CallStatus {
        let (mut ok, mut failed) = (0, self.refused.sum());
        for (counters, values) in self.values() {
            ok += values;
            failed += counters.ended.sum();
        }
        let mut values = lock(&self.samples).values.clone();
        values.sort_unstable();
        CallStatus {
            ok,
            failed,
            in_flight,
            p50_us: percentile(&values, 50),
            p99_us: percentile(&values, 99),
        }
    }

    /// Everything, for the metrics.
    pub(crate) fn snapshot(&self) -> CallCounts {
        let values = self.values();
        let functions = lock(&self.functions);
        let of = |((contract, function), counters): (&(String, String), &Arc<FunctionCounters>)| {
            let known = values.iter().find(|(other, _)| Arc::ptr_eq(other, counters));
            let buckets = counters.latency.buckets.each_ref();
            FunctionCounts {
                contract: contract.clone(),
                function: function.clone(),
                ok: known.map_or(0, |(_, values)| *values),
                ended: counters.ended.each().collect(),
                buckets: buckets.map(|bucket| bucket.load(Ordering::Relaxed)),
                sum_nanos: counters.latency.sum_nanos.load(Ordering::Relaxed),
            }
        };
        CallCounts {
            functions: functions.iter().map(of).collect(),
            refused: self.refused.each().collect(),
        }
    }
}

/// Adds up what lanes that are no more have counted.
fn settle(lanes: &mut Vec<Arc<LaneCounts>>) {
    lanes.retain_mut(|lane| match Arc::get_mut(lane) {
        Some(last) => {
            for (counters, values) in last.functions.iter().zip(&mut last.values) {
                counters.ok.fetch_add(*values.get_mut(), Ordering::Relaxed);
            }
            false
        }
        None => true,
    });
}

/// A contract by its major version: a reload may bring another minor one.
fn key(contract: &ContractId, function: &str) -> (String, String) {
    (format!("{}@{}", contract.name, contract.major), function.to_owned())
}

/// [`Counters`] at one moment.
#[derive(Debug)]
pub(crate) struct CallCounts {
    pub(crate) functions: Vec<FunctionCounts>,
    pub(crate) refused: Vec<(Ended, u64)>,
}

/// [`FunctionCounters`] at one moment.
#[derive(Debug)]
pub(crate) struct FunctionCounts {
    pub(crate) contract: String,
    pub(crate) function: String,
    pub(crate) ok: u64,
    pub(crate) ended: Vec<(Ended, u64)>,
    pub(crate) buckets: [u64; BOUNDS.len() + 1],
    pub(crate) sum_nanos: u64,
}

/// A percentile in microseconds of sorted values with weights.
#[allow(clippy::cast_precision_loss, reason = "microseconds for people")]
fn percentile(values: &[(u64, u64)], percent: u64) -> Option<f64> {
    let all: u64 = values.iter().map(|(_, weight)| weight).sum();
    let wanted = all * percent / 100;
    let mut before = 0;
    let at = values.iter().find(|(_, weight)| {
        before += weight;
        before > wanted
    });
    at.or(values.last()).map(|(nanos, _)| *nanos as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(text: &str) -> ContractId {
        text.parse().unwrap()
    }

    fn took(micros: u64, weight: u64) -> Taken {
        Taken { took: Duration::from_micros(micros), weight }
    }

    #[test]
    fn counters_keep_the_latest_samples() {
        let counters = Counters::default();
        let function = counters.function(&contract("a@1"), "f");
        for i in 0..3000 {
            counters.sample(&function, took(i, 1));
        }
        let status = counters.status(0);
        assert!(status.p50_us.unwrap() > 1976.0);
        assert!(status.p99_us.unwrap() > status.p50_us.unwrap());
    }

    #[test]
    fn counters_weigh_what_stands_for_many() {
        let values = [(1000, 16), (50_000, 1), (90_000, 1)];
        assert_eq!(percentile(&values, 50), Some(1.0));
        assert_eq!(percentile(&values, 99), Some(90.0));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn g_calls_are_counted_by_function_and_outcome() {
        let counters = Counters::default();
        let functions = || vec![counters.function(&contract("a@1.2"), "f")];
        let (old, new) = (counters.for_lane(functions()), counters.for_lane(functions()));
        for lane in [&old, &new] {
            lane.values(0).unwrap().store(1, Ordering::Relaxed);
        }
        // What a lane has counted outlives it.
        drop(old);
        counters.failed(&contract("a@1"), "f", &Failure::Cancelled);
        counters.failed(&contract("a@1"), "nothing", &Failure::ShuttingDown);
        let status = counters.status(3);
        assert_eq!((status.ok, status.failed, status.in_flight), (2, 2, 3));
        let counts = counters.snapshot();
        assert_eq!((counts.functions.len(), counts.functions[0].ok), (1, 2));
        let count = |list: &[(Ended, u64)], of| list.iter().find(|(e, _)| *e == of).unwrap().1;
        assert_eq!(count(&counts.functions[0].ended, Ended::Cancelled), 1);
        assert_eq!(count(&counts.refused, Ended::Unavailable), 1);
    }

    #[test]
    fn g_latencies_go_into_the_bucket_that_holds_them() {
        let counters = Counters::default();
        let function = counters.function(&contract("a@1.2"), "f");
        counters.sample(&function, took(1, 1));
        counters.sample(&function, took(3, 16));
        counters.sample(&function, took(60_000_000, 1));
        let counts = &counters.snapshot().functions[0];
        assert_eq!((counts.buckets[1], counts.buckets[3], counts.buckets[18]), (1, 16, 1));
        assert_eq!(counts.sum_nanos, 1000 + 16 * 3000 + 60_000_000_000);
    }
}
