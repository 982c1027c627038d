//! The report of a death that nobody had asked for, and what follows from it
//! for the bundles that ran (S2, S5).

use std::sync::{Arc, Mutex};

use menagerie_protocol::Failure;

use super::alive::Alive;
use super::child::{Child, Stderr};
use super::handle::View;
use super::process::LastMoments;
use super::reap::{End, Ended};
use crate::core::Core;
use crate::events::now_ms;
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::status::CrashReport;

/// A death, ready to be reported.
pub(super) struct Death {
    pub(super) report: CrashReport,
    /// The bundles to blame: those that ran, or the one whose fault it
    /// certainly was.
    pub(super) suspects: Vec<String>,
    stderr: Stderr,
}

/// A process has ended: calls that it had begun fail, its bundles wait.
pub(super) fn served(name: &WorkerName, alive: Alive, ended: Ended) -> Death {
    let missed = alive.missed();
    let given_up = alive.given_up().map(str::to_owned);
    let process = Arc::clone(&alive.process);
    // The reason is asked for again below: reading what is left in the lanes
    // may find a violation. What a dying process does to its socket is none.
    let reason = || given_up.clone().or_else(|| Some(process.kill_reason()?.text));
    let failure = || Failure::WorkerCrashed {
        worker: name.to_string(),
        cause: cause(ended.end, reason().as_deref()),
        started: true,
    };
    let LastMoments { running, reason: kill } =
        process.died(failure, |bundle, lane| bundle.orphaned(lane));
    let certain = kill.as_ref().and_then(|kill| kill.bundle.clone());
    let suspects = match certain {
        Some(bundle) => vec![bundle],
        None => running.iter().map(|call| call.bundle.clone()).collect(),
    };
    let condition = kill.and_then(|kill| kill.condition).or(process.condition());
    let incarnation = process.incarnation;
    let mut death = unserved(name, incarnation, alive.child, ended, reason());
    death.report.running = running;
    death.report.condition = condition;
    death.report.missed_heartbeats = missed;
    death.suspects = suspects;
    death
}

/// A process has ended before it served anything.
pub(super) fn unserved(
    name: &WorkerName,
    incarnation: u64,
    child: Child,
    ended: Ended,
    reason: Option<String>,
) -> Death {
    let Ended { end, usage } = ended;
    let report = CrashReport {
        worker: name.to_string(),
        time_ms: now_ms(),
        pid: child.pid,
        incarnation,
        cause: cause(end, reason.as_deref()),
        signal: if let End::Signal(signal) = end { Some(signal) } else { None },
        exit_code: if let End::Exit(code) = end { Some(code) } else { None },
        reason,
        running: Vec::new(),
        condition: None,
        missed_heartbeats: 0,
        usage,
        stderr: Vec::new(),
        uptime_ms: u64::try_from(child.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Death { report, suspects: Vec::new(), stderr: child.remains() }
}

fn cause(end: End, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} after {reason}", end.describe()),
        None => end.describe(),
    }
}

impl Death {
    /// Publishes the report, once the last of the standard error is in.
    pub(super) fn publish(self, core: &Arc<Core>, view: &Arc<Mutex<View>>) {
        let Self { mut report, mut stderr, .. } = self;
        lock(view).last_crash = Some(report.clone());
        let (core, view) = (Arc::clone(core), Arc::clone(view));
        tokio::spawn(async move {
            report.stderr = stderr.lines().await;
            {
                let mut view = lock(&view);
                let same = view.last_crash.as_ref().is_some_and(|last| last.pid == report.pid);
                if same {
                    view.last_crash = Some(report.clone());
                }
            }
            core.crashed(report);
        });
    }
}
