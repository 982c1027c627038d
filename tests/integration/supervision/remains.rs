//! Rules S7 and P1: nothing is left behind, whatever ends.
//!
//! These tests count the descriptors, threads and mappings of their own
//! process, so each needs one to itself: cargo-nextest gives it one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use menagerie_supervisor::{Contract, Isolation, Supervisor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{answers, at_once_and_for_ever, load, lua};
use crate::support::{
    Bundle, PATIENCE, config, exists, per_language, ready_after, run, run_with, run_within,
    runtime_dir, setup_with, slay, start_with, wait_for, worker,
};

/// Rounds of killing; 1,000 by hand: `MENAGERIE_ROUNDS=1000`.
fn rounds() -> u64 {
    std::env::var("MENAGERIE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30)
}

fn entries(dir: &str) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[derive(Clone, Copy, Debug)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    mappings: usize,
    children: usize,
}

/// What this process holds.
fn holdings() -> Holdings {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let children = |task: std::fs::DirEntry| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_ascii_whitespace().count()
    };
    Holdings {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        mappings: maps.lines().filter(|line| line.contains("menagerie-")).count(),
        children: std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| Some(children(task.ok()?)))
            .sum(),
    }
}

/// Waits until no more is held than `before`.
async fn flat(before: Holdings) {
    wait_for(&format!("no more to be held than {before:?}"), || {
        let now = holdings();
        let flat = now.descriptors <= before.descriptors
            && now.mappings <= before.mappings
            && now.children <= before.children
            // The runtime's threads for blocking work end after a while.
            && now.threads <= before.threads + 2;
        flat.then_some(())
    })
    .await;
}

async fn kill_again_and_again(standby: u32) {
    let mut config = config();
    config.standby = standby;
    config.bundle_crash_limit = u32::MAX;
    config.restart = at_once_and_for_ever();
    let supervisor = start_with(config);
    let one = load(&supervisor, lua("one")).await;
    let settled = |supervisor: &Supervisor| {
        let count = usize::try_from(standby).unwrap();
        (supervisor.status().standbys.len() == count).then_some(())
    };
    let mut before = None;
    for round in 1..=rounds() {
        slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
        ready_after(&supervisor, "lua", round).await;
        wait_for("the standby", || settled(&supervisor)).await;
        answers(&one).await;
        if round == 5 {
            // By now everything that grows once has grown.
            tokio::time::sleep(Duration::from_millis(500)).await;
            before = Some(holdings());
        }
    }
    flat(before.unwrap()).await;
    // One folder for each process that lives, the next one's, and the control socket.
    let dir = runtime_dir(worker(&supervisor, "lua").unwrap().pid.unwrap()).unwrap();
    let expected = 3 + usize::try_from(standby).unwrap();
    wait_for("the folders of the dead to go", || {
        (entries(dir.to_str().unwrap()) <= expected).then_some(())
    })
    .await;
    let pids: Vec<u32> = supervisor.status().workers.iter().filter_map(|w| w.pid).collect();
    supervisor.shutdown().await;
    drop(one);
    drop(supervisor);
    for pid in pids {
        wait_for("the workers to end", || (!exists(pid)).then_some(())).await;
    }
    wait_for("the folder to go", || (!dir.exists()).then_some(())).await;
}

/// In every language: its bundles' copies, its shared memory, its folder.
async fn s7_of_a_worker_that_dies_nothing_stays(suffix: &str) {
    let mut config = config();
    config.restart = at_once_and_for_ever();
    let setup = setup_with(suffix, config).await;
    let dir = runtime_dir(setup.pid().as_raw().unsigned_abs()).unwrap();
    let mut before = None;
    for round in 1..=8 {
        kill(setup.pid(), Signal::SIGKILL).unwrap();
        setup.ready_again(round).await;
        let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
        // Large enough for a segment.
        let blob: menagerie_supervisor::ByteBuf =
            setup.probe.call("blob", (1_000_000,)).await.unwrap();
        assert_eq!(blob.len(), 1_000_000);
        if round == 4 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            before = Some(holdings());
        }
    }
    flat(before.unwrap()).await;
    // That of the one that lives, the next one's, and the control socket.
    wait_for("the folders of the dead to go", || {
        (entries(dir.to_str().unwrap()) <= 3).then_some(())
    })
    .await;
    setup.supervisor.shutdown().await;
    drop(setup);
    wait_for("the folder to go", || (!dir.exists()).then_some(())).await;
}

per_language!(rust, c, py, lua, js, dotnet; {
    s7_of_a_worker_that_dies_nothing_stays,
});

/// A bundle that starts processes; those that leave have a session of their own.
const STARTS: &str = "
import os, subprocess, time
import menagerie

@menagerie.export('starts@1')
def program() -> int:
    return subprocess.Popen(['sleep', '3600']).pid

@menagerie.export('starts@1')
def fork(leaves: bool) -> int:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        if leaves:
            os.setsid()
        os.write(writer, b'.')
        time.sleep(3600)
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid
";

async fn load_starts(supervisor: &Supervisor) -> (Contract, Bundle) {
    let manifest = "name = 'starts'\nversion = '1.0.0'\nloader = 'python'\n\
                    file = 'main.py'\nprovides = ['starts@1']\n";
    let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.py", STARTS)]);
    supervisor.load(bundle.path()).await.unwrap();
    (supervisor.contract("starts@1").unwrap(), bundle)
}

/// Whether a process runs still: who reaps one whose parent has gone is not ours to say.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Processes that nobody else ends.
struct Strays(Vec<u32>);

impl Drop for Strays {
    fn drop(&mut self) {
        self.0.iter().filter(|pid| runs(**pid)).for_each(|pid| slay(*pid));
    }
}

#[test]
fn s7_what_a_worker_has_started_ends_with_it() {
    run(async {
        let supervisor = start_with(config());
        let (starts, _files) = load_starts(&supervisor).await;
        for (round, end) in (1..).zip(["kill", "restart", "shutdown"]) {
            let (program, fork) = (starts.call("program", ()), starts.call("fork", (false,)));
            let started = Strays(vec![program.await.unwrap(), fork.await.unwrap()]);
            assert!(started.0.iter().all(|pid| runs(*pid)));
            match end {
                "kill" => slay(worker(&supervisor, "python").unwrap().pid.unwrap()),
                "restart" => drop(supervisor.restart("python").await.unwrap()),
                _ => supervisor.shutdown().await,
            }
            for pid in &started.0 {
                wait_for(&format!("{pid} to end, {end}"), || (!runs(*pid)).then_some(())).await;
            }
            if end != "shutdown" {
                ready_after(&supervisor, "python", round).await;
            }
        }
    });
}

/// They keep the worker's end of the control socket and of both pipes.
#[test]
fn s7_what_outlives_its_worker_costs_the_host_nothing() {
    run(async {
        let mut config = config();
        config.restart = at_once_and_for_ever();
        let supervisor = start_with(config);
        let (starts, _files) = load_starts(&supervisor).await;
        let (mut before, mut strays) = (None, Strays(Vec::new()));
        for round in 1..=20 {
            strays.0.push(starts.call("fork", (true,)).await.unwrap());
            if round % 2 == 0 {
                supervisor.restart("python").await.unwrap();
            } else {
                slay(worker(&supervisor, "python").unwrap().pid.unwrap());
                ready_after(&supervisor, "python", round).await;
            }
            if round == 5 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                before = Some(holdings());
            }
        }
        flat(before.unwrap()).await;
        assert!(strays.0.iter().all(|pid| runs(*pid)), "a session of one's own is left alone");
        supervisor.shutdown().await;
    });
}

#[test]
fn s7_descriptors_threads_and_mappings_are_flat_after_many_restarts() {
    run_within(PATIENCE * 3 + Duration::from_secs(rounds()), kill_again_and_again(0));
}

#[test]
fn s7_descriptors_threads_and_mappings_are_flat_with_a_standby() {
    run_within(PATIENCE * 3 + Duration::from_secs(rounds()), kill_again_and_again(1));
}

#[test]
fn s7_nothing_is_held_when_a_supervisor_has_gone() {
    run(async {
        for round in 0..4 {
            let before = holdings();
            let supervisor = start_with(config());
            let one = load(&supervisor, lua("one")).await;
            answers(&one).await;
            let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
            let dir = runtime_dir(pid).unwrap();
            // In an orderly way, and not.
            if round % 2 == 0 {
                supervisor.shutdown().await;
            }
            drop(one);
            drop(supervisor);
            wait_for("the worker to end", || (!exists(pid)).then_some(())).await;
            wait_for("the folder to go", || (!dir.exists()).then_some(())).await;
            if round > 0 {
                flat(before).await;
            }
        }
    });
}

/// A function of the host's that calls a bundle holds what holds the supervisor.
#[test]
fn s7_nothing_is_held_for_host_functions_that_call_bundles() {
    run(async {
        for round in 0..4 {
            let before = holdings();
            let supervisor = start_with(config());
            let one = load(&supervisor, lua("one")).await;
            let (contract, own) = (one.contract.clone(), supervisor.clone());
            let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
            supervisor
                .host_contract("h@1")
                .function("by_contract", move |n: i64| {
                    let contract = contract.clone();
                    async move { contract.call::<_, i64>("inc", (n,)).await }
                })
                .done()
                .unwrap();
            // One that holds a supervisor needs an orderly end.
            if round % 2 == 0 {
                let by_supervisor = move || {
                    let own = own.clone();
                    async move { own.status().pid }
                };
                let host = supervisor.host_contract("h@1");
                host.function("by_supervisor", by_supervisor).done().unwrap();
                supervisor.shutdown().await;
            } else {
                drop(own);
            }
            drop(one);
            drop(supervisor);
            wait_for("the worker to end", || (!exists(pid)).then_some(())).await;
            if round > 0 {
                flat(before).await;
            }
        }
    });
}

/// As where setting up races with a signal that ends the host.
#[test]
fn s7_host_functions_that_come_after_the_shutdown_hold_nothing() {
    run(async {
        for round in 0..4 {
            let before = holdings();
            let supervisor = start_with(config());
            let host = supervisor.host_contract("h@1");
            supervisor.shutdown().await;
            let own = supervisor.clone();
            let by_supervisor = move || {
                let own = own.clone();
                async move { own.status().pid }
            };
            if round % 2 == 0 {
                // It has the last one, which goes with it.
                drop(supervisor);
                host.function("by_supervisor", by_supervisor).done().unwrap();
            } else {
                drop(host);
                let host = supervisor.host_contract("h@1");
                host.function("by_supervisor", by_supervisor).done().unwrap();
                drop(supervisor);
            }
            if round > 0 {
                flat(before).await;
            }
        }
    });
}

#[test]
fn s7_a_shutdown_waits_for_the_worker_of_a_bundle_that_was_unloaded() {
    let mut config = config();
    config.isolation = Isolation::Bundle;
    run_with(config, |supervisor| async move {
        for _ in 0..3 {
            let one = load(&supervisor, lua("one")).await;
            let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
            supervisor.unload("one").await.unwrap();
            drop(one);
            wait_for("the worker to end", || (!exists(pid)).then_some(())).await;
        }
        let _one = load(&supervisor, lua("one")).await;
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        supervisor.unload("one").await.unwrap();
        supervisor.shutdown().await;
        assert!(!exists(pid));
    });
}

/// A contract is good across restarts, so that hosts keep it.
#[test]
fn s7_a_contract_keeps_nothing_large_of_a_worker_that_has_died() {
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_one = |line: &&str| line.contains("menagerie-args") || line.contains("-result");
        maps.lines().filter(is_one).count()
    };
    let open = |what: &str| {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let is_one = |fd: std::io::Result<std::fs::DirEntry>| {
            let link = std::fs::read_link(fd.unwrap().path()).unwrap_or_default();
            link.to_string_lossy().contains(what)
        };
        links.map(is_one).filter(|is_one| *is_one).count()
    };
    run(async move {
        let supervisor = start_with(config());
        let manifest = "name = 'one'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                        provides = ['one@1']\n";
        let code = "return { ['one@1'] = { more = function(text) return text .. '.' end } }";
        supervisor.load_code(manifest, code).await.unwrap();
        let mut kept = Vec::new();
        for crashes in 1..=3 {
            let contract = supervisor.contract("one@1").unwrap();
            let more: String = contract.call("more", ("x".repeat(1 << 20),)).await.unwrap();
            assert_eq!(more.len(), (1 << 20) + 1);
            assert_eq!(mapped(), 2);
            kept.push(contract);
            let before = open("pidfd");
            slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
            ready_after(&supervisor, "lua", crashes).await;
            wait_for("the segments to go", || (mapped() == 0).then_some(())).await;
            wait_for("the old process to go", || (open("pidfd") <= before).then_some(())).await;
            for contract in &kept {
                assert_eq!(contract.call::<_, String>("more", ("x",)).await.unwrap(), "x.");
            }
        }
        supervisor.shutdown().await;
    });
}

/// A host of its own, killed when it is dropped.
struct Host {
    process: Child,
    workers: Vec<u32>,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Host {
    /// A host with a worker and a standby, which will end in this way.
    fn that_will(end: &str) -> Self {
        Self::with(end, &["lua"], None)
    }

    /// The same, with a worker for each of these languages, and all temporary
    /// files in a folder.
    #[allow(clippy::disallowed_methods, clippy::zombie_processes, reason = "waited for on drop")]
    fn with(end: &str, languages: &[&str], folder: Option<&Path>) -> Self {
        let variables = folder.into_iter().flat_map(|f| [("TMPDIR", f), ("XDG_RUNTIME_DIR", f)]);
        let mut process = Command::new(env!("CARGO_BIN_EXE_host"))
            .arg(end)
            .args(languages)
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let workers = line.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
        Self { process, workers }
    }
}

impl Host {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// It has ended, and all of its workers.
    async fn has_ended(&mut self) {
        wait_for("the host to end", || self.process.try_wait().unwrap()).await;
        for pid in &self.workers {
            wait_for("the workers to end", || (!exists(*pid)).then_some(())).await;
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// No copy of a bundle, no socket, no file of a VM: in no language, after an
/// orderly end; and after another one nothing that the next host does not remove.
#[test]
fn s7_no_file_of_any_language_is_left() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let languages = ["rust", "c", "py", "lua", "js", "dotnet"];
        for end in ["wait", "stop"] {
            let mut host = Host::with(end, &languages, Some(folder.path()));
            assert_eq!(host.workers.len(), 10, "five workers and five standbys");
            // Some die before the host does.
            for pid in host.workers.iter().step_by(3) {
                slay(*pid);
            }
            match end {
                "stop" => drop(host.process.stdin.take()),
                _ => host.signal(Signal::SIGKILL),
            }
            host.has_ended().await;
            let left = names_in(folder.path());
            match end {
                "stop" => assert_eq!(left, [""; 0]),
                _ => {
                    assert!(left.iter().all(|name| name.starts_with("menagerie-host-")), "{left:?}")
                }
            }
        }
    });
}

/// However a host ends, its workers and standbys do too.
async fn s7_nothing_outlives_a_host_that(end: &str) {
    let mut host = Host::that_will(end);
    assert_eq!(host.workers.len(), 2, "a worker and a standby");
    let dir = runtime_dir(host.workers[0]).unwrap();
    match end {
        "wait" => host.signal(Signal::SIGKILL),
        "wait for SIGTERM" => host.signal(Signal::SIGTERM),
        // It goes on when its input ends.
        _ => drop(host.process.stdin.take()),
    }
    for pid in host.workers.clone() {
        wait_for("the workers to end", || (!exists(pid)).then_some(())).await;
    }
    wait_for("the host to end", || host.process.try_wait().unwrap()).await;
    if end == "panic" {
        assert!(!dir.exists(), "its destructors have run");
    } else {
        // What a killed host leaves, the next one removes.
        let next = start_with(config());
        wait_for("the folder to go", || (!dir.exists()).then_some(())).await;
        next.shutdown().await;
    }
}

macro_rules! hosts {
    ($($name:ident($end:literal);)*) => {
        $(
            #[test]
            fn $name() {
                run(s7_nothing_outlives_a_host_that($end));
            }
        )*
    };
}

hosts! {
    s7_nothing_outlives_a_host_that_panics("panic");
    s7_nothing_outlives_a_host_that_aborts("abort");
    s7_nothing_outlives_a_host_that_exits("exit");
    s7_nothing_outlives_a_host_that_is_killed("wait");
    s7_nothing_outlives_a_host_that_is_terminated("wait for SIGTERM");
}

#[test]
fn s7_a_host_that_drops_its_runtime_leaves_no_worker_and_no_zombie() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    let (supervisor, pid) = first.block_on(async {
        let supervisor = start_with(config());
        let probe = load(&supervisor, lua("probe")).await;
        answers(&probe).await;
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        (supervisor, pid)
    });
    drop(first);
    // A process that nobody has reaped would be there still.
    runtime().block_on(wait_for("the worker to be gone", || (!exists(pid)).then_some(())));
    runtime().block_on(supervisor.shutdown());
}
