//! What happens to workers and bundles, counted for the metrics.

use std::collections::BTreeMap;

use crate::events::EventKind;
use crate::lifecycle::WorkerState;
use crate::status::CrashReport;
use crate::worker::process::KillCause;

/// Counts by worker and by bundle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) workers: BTreeMap<String, WorkerTally>,
    pub(crate) bundles: BTreeMap<String, BundleTally>,
    pub(crate) peers_refused: u64,
}

/// A worker's.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerTally {
    /// By cause.
    pub(crate) crashes: BTreeMap<String, u64>,
    /// By the cause of the end that came before; `requested` if somebody had
    /// asked for it.
    pub(crate) restarts: BTreeMap<String, u64>,
    pub(crate) unresponsive: u64,
    pub(crate) start_failures: u64,
    state: Option<WorkerState>,
    started: u64,
    /// Causes of crashes whose restart has not begun, by incarnation.
    causes: BTreeMap<u64, String>,
}

/// A bundle's.
#[derive(Clone, Debug, Default)]
pub(crate) struct BundleTally {
    pub(crate) loads: u64,
    pub(crate) reloads: u64,
    /// By step.
    pub(crate) failures: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn count(&mut self, kind: &EventKind) {
        match kind {
            EventKind::WorkerState { worker, state, incarnation, .. } => {
                let worker = self.workers.entry(worker.clone()).or_default();
                worker.entered(*state, *incarnation);
            }
            EventKind::WorkerCrashed(report) => {
                self.workers.entry(report.worker.clone()).or_default().crashed(report);
            }
            EventKind::WorkerUnresponsive { worker, .. } => {
                self.workers.entry(worker.clone()).or_default().unresponsive += 1;
            }
            EventKind::StartFailed { worker, .. } => {
                self.workers.entry(worker.clone()).or_default().start_failures += 1;
            }
            EventKind::BundleLoaded { bundle, .. } => {
                self.bundles.entry(bundle.clone()).or_default().loads += 1;
            }
            EventKind::BundleReloaded { bundle, .. } => {
                self.bundles.entry(bundle.clone()).or_default().reloads += 1;
            }
            // Only a bundle that has been loaded has a series: names that never
            // were would add up.
            EventKind::BundleFailed { bundle, step, .. } => {
                if let Some(bundle) = self.bundles.get_mut(bundle) {
                    *bundle.failures.entry(step.clone()).or_default() += 1;
                }
            }
            EventKind::BundleUnloaded { bundle } => drop(self.bundles.remove(bundle)),
            EventKind::PeerRefused { .. } => self.peers_refused += 1,
            _ => {}
        }
    }
}

impl WorkerTally {
    fn entered(&mut self, state: WorkerState, incarnation: u64) {
        let before = self.state.replace(state);
        if state != WorkerState::Starting {
            return;
        }
        self.started = incarnation;
        let after_crash = matches!(
            before,
            Some(WorkerState::Crashed | WorkerState::Backoff | WorkerState::Quarantined)
        );
        if let Some(cause) = self.causes.remove(&incarnation.saturating_sub(1)) {
            *self.restarts.entry(cause).or_default() += 1;
        } else if !after_crash && incarnation > 1 {
            *self.restarts.entry("requested".to_owned()).or_default() += 1;
        }
    }

    /// The report comes when the last of the standard error is in: the restart
    /// may have begun before it.
    fn crashed(&mut self, report: &CrashReport) {
        let cause = cause(report);
        *self.crashes.entry(cause.clone()).or_default() += 1;
        if self.started > report.incarnation {
            *self.restarts.entry(cause).or_default() += 1;
        } else {
            self.causes.insert(report.incarnation, cause);
            while self.causes.len() > 8 {
                self.causes.pop_first();
            }
        }
    }
}

/// The kind of a death: few of them, so that they may be a label.
fn cause(report: &CrashReport) -> String {
    if let Some(kill) = report.kill {
        let kind = match kill {
            KillCause::Violation => "protocol_violation",
            KillCause::Handshake => "handshake",
            KillCause::Heartbeat => "heartbeat",
            KillCause::Deadline => "deadline",
            KillCause::Timeout => "timeout",
            KillCause::Supervisor => "supervisor",
        };
        return kind.to_owned();
    }
    match (report.signal, report.exit_code) {
        (Some(signal), _) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => signal.as_str().to_ascii_lowercase(),
            Err(_) => "signal".to_owned(),
        },
        (None, Some(0)) => "exit_zero".to_owned(),
        (None, Some(_)) => "exit_code".to_owned(),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(state: WorkerState, incarnation: u64) -> EventKind {
        EventKind::WorkerState { worker: "lua".into(), state, incarnation, pid: None }
    }

    fn crash(incarnation: u64, signal: Option<i32>, kill: Option<KillCause>) -> EventKind {
        let report = serde_json::json!({
            "worker": "lua", "time_ms": 0, "pid": 1, "incarnation": incarnation, "cause": "",
            "signal": signal, "exit_code": null, "reason": null, "running": [], "stderr": [],
            "uptime_ms": 0,
        });
        let report: CrashReport = serde_json::from_value(report).unwrap();
        EventKind::WorkerCrashed(Box::new(CrashReport { kill, ..report }))
    }

    fn restarts(kinds: &[EventKind]) -> Vec<(String, u64)> {
        let mut tally = Tally::default();
        for kind in kinds {
            tally.count(kind);
        }
        tally.workers["lua"].restarts.clone().into_iter().collect()
    }

    #[test]
    fn g_restarts_have_the_cause_of_the_death_before() {
        use WorkerState::{Backoff, Crashed, Draining, Ready, Starting, Stopped};
        let early = [
            state(Starting, 1),
            state(Ready, 1),
            crash(1, Some(11), None),
            state(Crashed, 1),
            state(Backoff, 1),
            state(Starting, 2),
        ];
        assert_eq!(restarts(&early), [("sigsegv".to_owned(), 1)]);
        let late = [
            state(Starting, 1),
            state(Crashed, 2),
            state(Backoff, 2),
            state(Starting, 2),
            crash(1, Some(9), Some(KillCause::Deadline)),
        ];
        assert_eq!(restarts(&late), [("deadline".to_owned(), 1)]);
        let asked = [state(Starting, 1), state(Draining, 1), state(Stopped, 1), state(Starting, 2)];
        assert_eq!(restarts(&asked), [("requested".to_owned(), 1)]);
    }

    #[test]
    fn g_a_bundle_that_never_was_has_no_series() {
        let mut tally = Tally::default();
        let failed = |bundle: &str| EventKind::BundleFailed {
            bundle: bundle.to_owned(),
            step: "load".into(),
            reason: String::new(),
        };
        tally.count(&failed("a"));
        assert!(tally.bundles.is_empty());
    }
}
