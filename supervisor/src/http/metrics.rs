//! `GET /metrics`: Prometheus's text format, by its conventions (base units,
//! `_total`, one meaning for each name). `docs/operating.md` lists them.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use prometheus::TextEncoder;
use prometheus::proto::MetricType;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily};

use super::problem::Problem;
use crate::Supervisor;
use crate::counters::{BOUNDS, FunctionCounts};
use crate::lifecycle::WorkerState;
use crate::status::{BundleState, Status};
use crate::tally::Tally;

const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(
    State(supervisor): State<Supervisor>,
) -> Result<impl IntoResponse, Problem> {
    let text = TextEncoder::new().encode_to_string(&families(&supervisor)).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no metrics", error.to_string())
    })?;
    Ok(([(header::CONTENT_TYPE, KIND)], text))
}

/// A metric on its way: a name, and its series.
struct Family(MetricFamily);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Family {
    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(format!("menagerie_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self(family)
    }

    fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    fn add(&mut self, labels: Labels<'_>, fill: impl FnOnce(&mut Metric)) {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(labels.iter().map(pair).collect());
        fill(&mut metric);
        self.0.mut_metric().push(metric);
    }

    #[allow(clippy::cast_precision_loss, reason = "the format has floats only")]
    fn count(&mut self, labels: Labels<'_>, value: u64) {
        self.total(labels, value as f64);
    }

    fn total(&mut self, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.add(labels, |metric| metric.set_counter(counter));
    }

    fn set(&mut self, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.add(labels, |metric| metric.set_gauge(gauge));
    }

    #[allow(clippy::cast_precision_loss, reason = "the format has floats only")]
    fn observe(&mut self, labels: Labels<'_>, counts: &FunctionCounts) {
        let mut seen = 0;
        let mut buckets = Vec::new();
        for (bound, count) in BOUNDS.iter().zip(&counts.buckets) {
            seen += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(seen);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_sample_count(counts.buckets.iter().sum());
        histogram.set_sample_sum(counts.sum_nanos as f64 / 1e9);
        histogram.set_bucket(buckets);
        self.add(labels, |metric| metric.set_histogram(histogram));
    }
}

fn families(supervisor: &Supervisor) -> Vec<MetricFamily> {
    let status = supervisor.status();
    let tally = supervisor.core().events.tally();
    let mut all = of_supervisor(&status, supervisor.core().events.life, &tally);
    all.extend(of_workers(&status, &tally));
    all.extend(of_bundles(&status, &tally));
    all.extend(of_calls(supervisor));
    // The encoder takes a family without series for a mistake.
    all.into_iter().filter(|family| !family.0.get_metric().is_empty()).map(|f| f.0).collect()
}

#[allow(clippy::cast_precision_loss, reason = "the format has floats only")]
fn of_supervisor(status: &Status, life: u64, tally: &Tally) -> Vec<Family> {
    let mut build = Family::gauge("build_info", "Always 1; its label says which version runs.");
    build.set(&[("version", &status.version)], 1.0);
    let mut start = Family::gauge(
        "start_time_seconds",
        "When the supervisor was started, in seconds since the Unix epoch.",
    );
    start.set(&[], life as f64 / 1000.0);
    let mut refused = Family::counter(
        "peers_refused_total",
        "Processes that were turned away on the workers' control socket.",
    );
    refused.count(&[], tally.peers_refused);
    vec![build, start, refused]
}

#[allow(clippy::cast_precision_loss, reason = "the format has floats only")]
fn of_workers(status: &Status, tally: &Tally) -> Vec<Family> {
    let mut states = Family::gauge("worker_state", "1 for the state that the worker is in.");
    let mut memory =
        Family::gauge("worker_resident_memory_bytes", "Resident memory of the worker's process.");
    let mut cpu = Family::counter(
        "worker_cpu_seconds_total",
        "Processor time of the worker's process; begins anew with each process.",
    );
    let mut starts = Family::counter("worker_starts_total", "Times that the worker was started.");
    for worker in &status.workers {
        let name = ("worker", worker.name.as_str());
        for state in WorkerState::ALL {
            let value = if worker.state == state { 1.0 } else { 0.0 };
            states.set(&[name, ("state", &state.to_string())], value);
        }
        if let Some(bytes) = worker.rss_bytes {
            memory.set(&[name], bytes as f64);
        }
        if let Some(seconds) = worker.cpu_seconds {
            cpu.total(&[name], seconds);
        }
        starts.count(&[name], worker.incarnation);
    }
    let mut crashes = Family::counter(
        "worker_crashes_total",
        "Deaths of the worker that nobody had asked for, by cause.",
    );
    let mut restarts = Family::counter(
        "worker_restarts_total",
        "Restarts of the worker, by the cause of the end before; requested: by hand.",
    );
    let mut kills = Family::counter(
        "worker_deadline_kills_total",
        "Times that the worker was killed because a call outlived its deadline and grace.",
    );
    let mut unresponsive = Family::counter(
        "worker_unresponsive_total",
        "Times that the worker missed so many heartbeats that it was reported.",
    );
    let mut failures = Family::counter(
        "worker_start_failures_total",
        "Times that the worker could not be started at all.",
    );
    for (name, worker) in &tally.workers {
        let name = ("worker", name.as_str());
        for (cause, count) in &worker.crashes {
            crashes.count(&[name, ("cause", cause)], *count);
        }
        for (cause, count) in &worker.restarts {
            restarts.count(&[name, ("cause", cause)], *count);
        }
        kills.count(&[name], worker.crashes.get("deadline").copied().unwrap_or(0));
        unresponsive.count(&[name], worker.unresponsive);
        failures.count(&[name], worker.start_failures);
    }
    vec![states, memory, cpu, starts, crashes, restarts, kills, unresponsive, failures]
}

fn of_bundles(status: &Status, tally: &Tally) -> Vec<Family> {
    let mut states = Family::gauge("bundle_state", "1 for the state that the bundle is in.");
    let mut queue = Family::gauge(
        "bundle_queue_depth",
        "Calls of the bundle that were sent and not answered: they run, or wait.",
    );
    let mut generation =
        Family::gauge("bundle_generation", "The generation that serves, or that did last.");
    // What could not be loaded goes by its folder's name, which another one may have, and
    // which may be that of a bundle that runs: that one stands first.
    for same in status.bundles.chunk_by(|one, next| one.name == next.name) {
        let bundle = &same[0];
        let name = ("bundle", bundle.name.as_str());
        for state in BundleState::ALL {
            let value = if bundle.state == state { 1.0 } else { 0.0 };
            states.set(&[name, ("state", state.name())], value);
        }
        queue.set(&[name], f64::from(bundle.calls.in_flight));
        generation.set(&[name], f64::from(bundle.generation));
    }
    let mut loads =
        Family::counter("bundle_loads_total", "Loads of the bundle, those after restarts too.");
    let mut reloads = Family::counter("bundle_reloads_total", "Reloads of the bundle, by outcome.");
    let mut failures = Family::counter(
        "bundle_failures_total",
        "Loads, reloads and loads after a restart that failed, by step.",
    );
    for (name, bundle) in &tally.bundles {
        let name = ("bundle", name.as_str());
        loads.count(&[name], bundle.loads);
        let failed = bundle.failures.get("reload").copied().unwrap_or(0);
        reloads.count(&[name, ("outcome", "ok")], bundle.reloads);
        reloads.count(&[name, ("outcome", "failed")], failed);
        for (step, count) in &bundle.failures {
            failures.count(&[name, ("step", step)], *count);
        }
    }
    vec![states, queue, generation, loads, reloads, failures]
}

fn of_calls(supervisor: &Supervisor) -> Vec<Family> {
    let mut calls = Family::counter("calls_total", "Calls by how they ended; ok: with a value.");
    let mut refused = Family::counter(
        "calls_refused_total",
        "Calls that reached no function of the bundle, by why.",
    );
    let mut times = Family::new(
        "call_duration_seconds",
        "How long calls took that the guest answered. Of calls that need not sleep one in \
         16 has its time taken, and counts for 16.",
        MetricType::HISTOGRAM,
    );
    for (name, counts) in supervisor.core().call_counts() {
        let bundle = ("bundle", name.as_str());
        for function in &counts.functions {
            let labels =
                [bundle, ("contract", &*function.contract), ("function", &*function.function)];
            let outcome = |outcome| [labels[0], labels[1], labels[2], ("outcome", outcome)];
            calls.count(&outcome("ok"), function.ok);
            // An outcome that never was has no series: there are many of them.
            for (ended, count) in function.ended.iter().filter(|(_, count)| *count > 0) {
                calls.count(&outcome(ended.name()), *count);
            }
            times.observe(&labels, function);
        }
        for (ended, count) in counts.refused.iter().filter(|(_, count)| *count > 0) {
            refused.count(&[bundle, ("outcome", ended.name())], *count);
        }
    }
    vec![calls, refused, times]
}
