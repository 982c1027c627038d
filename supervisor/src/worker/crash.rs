//! The report of a death that nobody had asked for, and what follows from it
//! for the bundles that ran (S2, S5).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use menagerie_protocol::Failure;
use menagerie_protocol::message::EXIT_CONTROL_LOST;

use super::alive::Alive;
use super::child::{Child, Stderr};
use super::handle::View;
use super::process::{KillCause, LastMoments, Process};
use super::reap::{End, Ended};
use crate::bundle::Bundle;
use crate::core::Core;
use crate::events::now_ms;
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::registry::Registry;
use crate::status::{Activity, CrashReport};

/// Why the supervisor ended a process: in a word, and in many.
type Reason = (KillCause, String);

fn words(reason: Option<&Reason>) -> Option<&str> {
    reason.map(|(_, text)| text.as_str())
}

/// A death, ready to be reported.
pub(super) struct Death {
    pub(super) report: CrashReport,
    /// The bundles to blame: those that ran, or the one whose fault it
    /// certainly was.
    pub(super) suspects: Vec<String>,
    /// What ran: whose it was, and what it did.
    ran: Vec<(Arc<Bundle>, Activity)>,
    /// Whether that is certain: they did it, or ran alone when the process ended by its
    /// own doing.
    pub(super) is_certain: bool,
    /// Whether the supervisor ended it for what no bundle in particular has done.
    pub(super) is_ours: bool,
    /// Who has died, if it had said hello.
    pub(super) process: Option<Arc<Process>>,
    stderr: Stderr,
}

/// A process has ended: calls that it had begun fail, its bundles wait.
pub(super) fn served(name: &WorkerName, alive: Alive, ended: Ended) -> Death {
    let missed = alive.missed();
    let given_up = alive.given_up().map(|text| (KillCause::Heartbeat, text.to_owned()));
    let process = Arc::clone(&alive.process);
    process.ended_by(ended.end);
    // The reason is asked for again below: reading what is left in the lanes
    // may find a violation. What a dying process does to its socket is none.
    let reason = || {
        let kill = || process.kill_reason().map(|kill| (kill.cause, kill.text));
        given_up.clone().or_else(kill)
    };
    let failure = || Failure::WorkerCrashed {
        worker: name.to_string(),
        cause: cause(ended.end, words(reason().as_ref())),
        started: true,
    };
    let moments = process.died(failure, |bundle, lane| bundle.orphaned(lane));
    let reason = reason();
    // What had begun to die before the kill has its own end.
    let is_killed = ended.end == End::Signal(libc::SIGKILL);
    let of_nobody = moments.reason.as_ref().is_some_and(|kill| kill.bundle.is_none());
    let is_ours = given_up.is_some() || of_nobody && is_killed;
    let Blamed { suspects, suspect, is_certain } = blamed(&moments, ended.end, is_ours);
    let LastMoments { running, reason: kill, .. } = moments;
    let condition = kill.and_then(|kill| kill.condition).or(process.condition());
    let cause = cause(ended.end, words(reason.as_ref()));
    let mut death = death(name, process.incarnation, alive.child, ended, cause, reason);
    death.ran = running.iter().map(|r| (Arc::clone(&r.bundle), r.call.activity)).collect();
    death.report.running = running.into_iter().map(|ran| ran.call).collect();
    death.report.suspect = suspect;
    death.report.condition = condition;
    death.report.missed_heartbeats = missed;
    death.suspects = suspects;
    death.is_certain = is_certain;
    death.is_ours = is_ours;
    death.process = Some(process);
    death
}

/// Who is to blame for a death.
struct Blamed {
    suspects: Vec<String>,
    /// The one to be named in its report although what ran does not show it.
    suspect: Option<String>,
    is_certain: bool,
}

/// Who is to blame for a death. `is_ours`: the supervisor had a reason for it.
fn blamed(moments: &LastMoments, end: End, is_ours: bool) -> Blamed {
    let certain = |suspects, suspect| Blamed { suspects, suspect, is_certain: true };
    let ran = || moments.running.iter().map(|ran| ran.call.bundle.clone());
    if let Some(kill) = &moments.reason
        && let Some(bundle) = kill.bundle.clone()
    {
        // Without others it is certain in any case.
        let others = ran().filter(|_| !kill.is_certain);
        let suspect = moments.running.is_empty().then(|| bundle.clone());
        return certain(others.chain([bundle]).collect(), suspect);
    }
    // What the supervisor lacks, or does wrong, is nobody's doing, whoever ran at the time.
    let kill = moments.reason.as_ref().filter(|_| is_ours);
    if kill.is_some_and(|kill| kill.cause == KillCause::Supervisor) {
        return Blamed { suspects: Vec::new(), suspect: None, is_certain: false };
    }
    if let Some(named) = moments.ended_by.clone().filter(|_| !is_ours) {
        return certain(vec![named.clone()], Some(named));
    }
    let ran: Vec<String> = ran().collect();
    let mut loaded = moments.loaded.iter();
    let only = loaded.next().filter(|_| loaded.next().is_none());
    // A socket that is closed is missed a while later: whoever happens to run then has
    // not closed it, unless nobody else was there.
    let ran_by_chance = !is_ours && end == End::Exit(EXIT_CONTROL_LOST);
    if ran_by_chance && only.is_none() {
        return Blamed { suspects: Vec::new(), suspect: None, is_certain: false };
    }
    // Where nothing ran, the only bundle is named and not blamed: its quarantine would
    // protect nobody else, and the worker's own has trial starts.
    let own_doing = !is_ours && by_itself(end);
    let suspect = only.filter(|_| own_doing && ran.is_empty()).cloned();
    Blamed { suspects: ran, suspect, is_certain: own_doing }
}

/// Whether a process ends like this by its own doing: others send other signals.
fn by_itself(end: End) -> bool {
    match end {
        End::Exit(_) => true,
        End::Signal(signal) => matches!(
            signal,
            libc::SIGSEGV
                | libc::SIGABRT
                | libc::SIGBUS
                | libc::SIGFPE
                | libc::SIGILL
                | libc::SIGTRAP
                | libc::SIGSYS
                | libc::SIGALRM
                | libc::SIGPIPE
        ),
        End::Unknown => false,
    }
}

/// A process has ended before it had said hello.
pub(super) fn unserved(
    name: &WorkerName,
    incarnation: u64,
    child: Child,
    ended: Ended,
    reason: Option<String>,
) -> Death {
    let cause = before_hello(ended.end, reason.as_deref());
    let reason = reason.map(|text| (KillCause::Handshake, text));
    death(name, incarnation, child, ended, cause, reason)
}

fn death(
    name: &WorkerName,
    incarnation: u64,
    child: Child,
    ended: Ended,
    cause: String,
    reason: Option<Reason>,
) -> Death {
    let (kill, reason) = reason.unzip();
    let Ended { end, usage } = ended;
    let report = CrashReport {
        worker: name.to_string(),
        time_ms: now_ms(),
        pid: child.pid,
        incarnation,
        cause,
        signal: if let End::Signal(signal) = end { Some(signal) } else { None },
        exit_code: if let End::Exit(code) = end { Some(code) } else { None },
        reason,
        kill,
        running: Vec::new(),
        suspect: None,
        condition: None,
        missed_heartbeats: 0,
        usage,
        stderr: Vec::new(),
        uptime_ms: u64::try_from(child.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Death {
        report,
        suspects: Vec::new(),
        ran: Vec::new(),
        is_certain: false,
        is_ours: false,
        process: None,
        stderr: child.remains(),
    }
}

/// The cause of an end, in words.
pub(super) fn cause(end: End, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} after {reason}", end.describe()),
        None if end == End::Exit(EXIT_CONTROL_LOST) => {
            format!("{}: code in it has closed its control socket", end.describe())
        }
        None => end.describe(),
    }
}

/// The cause of an end before the hello, in words. Such a program may be no worker.
pub(super) fn before_hello(end: End, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} after {reason}", end.describe()),
        None => format!("{} before it said hello", end.describe()),
    }
}

impl Death {
    /// Whether the bundle of this name that is to blame has left the registry: one that has
    /// the name by now has nothing to do with it.
    pub(super) fn is_of_one_that_left(&self, name: &str, registry: &Registry) -> bool {
        let mut ran = self.ran.iter().filter(|(bundle, _)| bundle.name == name).peekable();
        if ran.peek().is_none() {
            return registry.of_name(name).is_none();
        }
        // A first load that has failed for this very death has left nothing, but its account.
        !ran.any(|(bundle, activity)| *activity == Activity::Load || registry.holds(bundle))
    }

    /// How long a bundle had hung when the process was killed for such a reason.
    pub(super) fn hung(&self, bundle: &str) -> Option<Duration> {
        let hangs = matches!(self.report.kill, Some(KillCause::Timeout | KillCause::Deadline));
        let ran = self.report.running.iter().filter(|call| hangs && call.bundle == bundle);
        // What has run for longer may only have waited for the other.
        ran.filter_map(|call| call.age_ms).min().map(Duration::from_millis)
    }

    /// Publishes the report, once the last of the standard error is in.
    pub(super) fn publish(self, core: &Arc<Core>, view: &Arc<Mutex<View>>) {
        let Self { mut report, mut stderr, .. } = self;
        lock(view).last_crash = Some(report.clone());
        let (told, view) = (Arc::clone(core), Arc::clone(view));
        tokio::spawn(core.telling(async move {
            report.stderr = stderr.lines().await;
            {
                let mut view = lock(&view);
                let same = view.last_crash.as_ref().is_some_and(|last| last.pid == report.pid);
                if same {
                    view.last_crash = Some(report.clone());
                }
            }
            told.crashed(report);
        }));
    }
}
