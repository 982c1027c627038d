//! A supervisor with five workers that nobody calls: nothing wakes but for the
//! heartbeats (`DESIGN.md`, chapter Speed).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use menagerie_tests::Language;

use super::host::{Host, be_host};
use crate::support::start;

/// The host: five workers, one for each loader, and nothing to do.
#[test]
fn host() {
    be_host(|| {
        let supervisor = start();
        for suffix in ["rust", "py", "lua", "js", "dotnet"] {
            let greeter = Language::of(suffix).bundle("greeter");
            supervisor.block_on(supervisor.load(greeter)).unwrap();
            let greeter = supervisor.contract(&format!("greeter-{suffix}/greeter@1")).unwrap();
            let text: String = greeter.call_blocking("greet", ("Ada",)).unwrap();
            assert_eq!(text, "Hello, Ada");
        }
        let workers = supervisor.status().workers;
        let pids = workers.iter().map(|worker| worker.pid.unwrap().into()).collect();
        (pids, Box::new(move || std::mem::forget(supervisor)))
    });
}

/// How often each thread of a process has gone to sleep so far.
fn sleeps(pid: u64) -> HashMap<String, u64> {
    let mut threads = HashMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        threads.insert(task.display().to_string(), line.unwrap().trim().parse().unwrap());
    }
    threads
}

/// What start-up has left to do, and what a VM does now and then (collecting,
/// compiling), may take a while: there has to be a time in which it is quiet.
#[test]
fn s6_five_idle_workers_and_their_host_wake_for_heartbeats_only() {
    /// In a process, for one heartbeat of one worker.
    const WAKE_UPS: u64 = 20;
    let host = Host::start("lanes::idle::host");
    assert_eq!(host.words.len(), 5);
    let mut processes = vec![u64::from(host.pid())];
    processes.extend(&host.words);
    let mut seen = Vec::new();
    for _ in 0..12 {
        let begun = Instant::now();
        let before: Vec<_> = processes.iter().map(|pid| sleeps(*pid)).collect();
        std::thread::sleep(Duration::from_secs(3));
        let more = |pid: &u64, before: &HashMap<String, u64>| -> u64 {
            let since = |(thread, now): (String, u64)| now - before.get(&thread).unwrap_or(&0);
            sleeps(*pid).into_iter().map(since).sum()
        };
        let woke: Vec<u64> = processes.iter().zip(&before).map(|(p, b)| more(p, b)).collect();
        // However long that has taken: heartbeats go on meanwhile.
        let beats = begun.elapsed().as_secs() + 2;
        eprintln!("in {beats} heartbeats the host and its workers woke {woke:?} times");
        let of_host = woke[0] <= WAKE_UPS * beats * 5;
        if of_host && woke[1..].iter().all(|woke| *woke <= WAKE_UPS * beats) {
            return;
        }
        seen.push((beats, woke));
    }
    panic!("too many wake-ups: (heartbeats, of the host and of each worker) {seen:?}");
}
