//! What a guest that does not answer is doing: whether its process was stopped,
//! whether it computes, or whether it waits (proc_pid_stat(5)). It is looked at
//! before the kill; afterwards there is nothing left to see.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::proc_stat::Stat;

/// What a guest that does not answer was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its process was stopped, by SIGSTOP or a debugger.
    Stopped,
    /// It computed: a busy loop, or work without an end.
    Busy,
    /// It waited: a deadlock, a sleep, input that does not come.
    Waiting,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped by a signal",
            Self::Busy => "busy all the time",
            Self::Waiting => "waiting all the time",
        })
    }
}

/// How much of the time is work: what waits uses next to nothing.
const BUSY_SHARE: f64 = 0.05;

/// The processor time that something has used, at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuSample {
    at: Instant,
    seconds: f64,
    /// The state letter of the thread that is most awake.
    state: char,
}

/// A bundle's thread, or threads, in its worker.
#[derive(Clone, Debug)]
pub(crate) struct LaneThread {
    pub(crate) pid: u32,
    pub(crate) bundle: String,
}

impl LaneThread {
    /// As the worker names it (`serve/lanes.rs`), and Linux keeps the name: 15 bytes of it,
    /// which may end within a character.
    fn name(&self) -> String {
        let name = format!("lane {}", self.bundle);
        String::from_utf8_lossy(&name.as_bytes()[..name.len().min(15)]).into_owned()
    }

    /// Looks at it. `None` if there is no such process any more.
    pub(crate) fn sample(&self) -> Option<CpuSample> {
        let name = self.name();
        let threads = Stat::of_threads(self.pid).into_iter();
        let (named, others): (Vec<Stat>, Vec<Stat>) = threads.partition(|stat| stat.name == name);
        // A VM may have renamed its threads: then all of them are looked at.
        let stats = if named.is_empty() { others } else { named };
        let awake = |stat: &Stat| match stat.state {
            'T' | 't' => 3,
            'R' => 2,
            'D' => 1,
            _ => 0,
        };
        let state = stats.iter().max_by_key(|stat| awake(stat))?.state;
        let seconds = stats.iter().map(|stat| stat.cpu_seconds).sum();
        Some(CpuSample { at: Instant::now(), seconds, state })
    }

    /// Whether it is there, and was not stopped.
    pub(crate) fn is_awake(&self) -> bool {
        self.sample().is_some_and(|sample| !matches!(sample.state, 'T' | 't' | 'Z' | 'X'))
    }

    /// What it has done since then.
    pub(crate) fn since(&self, before: Option<CpuSample>) -> Option<Condition> {
        Some(judge(before?, self.sample()?))
    }
}

fn judge(before: CpuSample, after: CpuSample) -> Condition {
    let passed = after.at.saturating_duration_since(before.at).as_secs_f64();
    let used = after.seconds - before.seconds;
    match after.state {
        'T' | 't' => Condition::Stopped,
        // On a busy machine it may not have had its turn.
        'R' => Condition::Busy,
        _ if used > passed * BUSY_SHARE => Condition::Busy,
        _ => Condition::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(at: Instant, seconds: f64, state: char) -> CpuSample {
        CpuSample { at, seconds, state }
    }

    #[test]
    fn s6_what_computes_what_waits_and_what_is_stopped_are_told_apart() {
        let start = Instant::now();
        let later = start + Duration::from_millis(500);
        let before = sample(start, 1.0, 'R');
        assert_eq!(judge(before, sample(later, 1.5, 'R')), Condition::Busy);
        assert_eq!(judge(before, sample(later, 1.0, 'R')), Condition::Busy);
        assert_eq!(judge(before, sample(later, 1.2, 'S')), Condition::Busy);
        assert_eq!(judge(before, sample(later, 1.0, 'S')), Condition::Waiting);
        assert_eq!(judge(before, sample(later, 1.01, 'D')), Condition::Waiting);
        assert_eq!(judge(before, sample(later, 1.0, 'T')), Condition::Stopped);
    }

    #[test]
    fn s6_the_thread_of_a_bundle_with_any_name_is_found() {
        for bundle in ["greeter", "a-name-that-is-cut-off", "größenmaß", "äöüäöüäöü"] {
            let lane = LaneThread { pid: std::process::id(), bundle: bundle.to_owned() };
            let (end, ends) = std::sync::mpsc::channel::<()>();
            let named = std::thread::Builder::new().name(format!("lane {bundle}"));
            let thread = named.spawn(move || ends.recv()).unwrap();
            let is_there =
                || Stat::of_threads(lane.pid).iter().any(|stat| stat.name == lane.name());
            // It takes its name when it runs.
            while !is_there() {
                std::thread::yield_now();
            }
            drop(end);
            thread.join().unwrap().unwrap_err();
        }
    }

    #[test]
    fn condition_reads_the_threads_of_a_process() {
        let this = LaneThread { pid: std::process::id(), bundle: "nobody".to_owned() };
        assert!(this.sample().is_some());
    }
}
