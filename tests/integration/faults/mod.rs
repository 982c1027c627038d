//! A worker that misbehaves, and a supervisor, a host and another worker that
//! must not mind. The faults are committed by `src/bin/misbehave`, which plays
//! the `native` worker.

mod control;
mod deaths;
mod dying;
mod hello;
mod panics;
mod positions;
mod ring;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use menagerie_supervisor::{
    Config, Contract, CrashReport, RestartPolicy, Supervisor, WorkerState, WorkerStatus,
};
use menagerie_tests::Language;

use crate::support::{
    Bundle, PATIENCE, config, exists, report, runtime_dir, start_with, wait_for, worker,
};

/// A supervisor whose `native` worker misbehaves.
struct Stage {
    supervisor: Supervisor,
    bystander: Bystander,
    victim: Bundle,
    /// What the host had before.
    host: Host,
}

/// What a host has of what a fault may use up.
#[derive(Clone, Copy, Debug)]
struct Host {
    descriptors: usize,
    threads: usize,
}

impl Host {
    fn now() -> Self {
        let count = |folder| std::fs::read_dir(folder).unwrap().count();
        Self { descriptors: count("/proc/self/fd"), threads: count("/proc/self/task") }
    }

    /// Waits until the host has about what it had: a few lanes and threads of
    /// a pool come and go.
    async fn is_about(self) {
        let mut now = Self::now();
        let settled = || {
            now = Self::now();
            let about =
                now.descriptors <= self.descriptors + 100 && now.threads <= self.threads + 40;
            about.then_some(())
        };
        wait_for(&format!("the host to have what it had: {self:?}"), settled).await;
    }
}

/// Settings that make a fault's consequences come soon.
fn hasty(fault: &str) -> Config {
    let mut config = config();
    config.worker_programs.insert("native".to_owned(), env!("CARGO_BIN_EXE_misbehave").into());
    config.worker_env.insert("MISBEHAVE".to_owned(), fault.to_owned());
    config.restart = RestartPolicy {
        limit: 1,
        initial_delay: Duration::from_millis(1),
        trial_interval: Duration::from_secs(3600),
        ..RestartPolicy::default()
    };
    config.start_timeout = Duration::from_secs(60);
    config.deadline = PATIENCE;
    // What a stop waits for in vain.
    config.drain = Duration::from_secs(1);
    config.term_timeout = Duration::from_secs(1);
    config
}

/// As [`hasty`], for a worker that is honest from its second start on.
fn hasty_once(fault: &str) -> Config {
    let mut config = hasty(fault);
    config.worker_env.insert("MISBEHAVE_TIMES".to_owned(), "1".to_owned());
    config.restart.limit = 5;
    config
}

impl Stage {
    async fn set(config: Config) -> Self {
        let supervisor = start_with(config);
        let bystander = Bystander::start(&supervisor).await;
        let manifest = "name = 'victim'\nversion = '1.0.0'\nloader = 'native'\n\
                        file = 'victim.so'\nprovides = ['probe@1']\n";
        let victim = Bundle::of(&[("manifest.toml", manifest), ("victim.so", "")]);
        Self { supervisor, bystander, victim, host: Host::now() }
    }

    fn victim(&self) -> PathBuf {
        self.victim.path()
    }

    async fn load(&self) -> Contract {
        self.supervisor.load(self.victim()).await.unwrap();
        self.supervisor.contract("probe@1").unwrap()
    }

    async fn report(&self, count: usize) -> CrashReport {
        report(&self.supervisor, "native", count).await
    }

    fn worker(&self) -> WorkerStatus {
        worker(&self.supervisor, "native").unwrap()
    }

    async fn quarantined(&self) -> WorkerStatus {
        wait_for("the quarantine", || {
            Some(self.worker()).filter(|worker| worker.state == WorkerState::Quarantined)
        })
        .await
    }

    /// A process was started that has not said hello.
    async fn starts(&self) {
        wait_for("the start", || {
            let worker = worker(&self.supervisor, "native")?;
            // As one that misbehaves begins: it has counted itself.
            let dir = runtime_dir(worker.pid?)?;
            let counted = std::fs::metadata(dir.join("misbehaved"));
            let begun = counted.is_ok_and(|counted| counted.len() > 0);
            (worker.state == WorkerState::Starting && begun).then_some(())
        })
        .await;
    }

    /// It has said hello.
    async fn is_up(&self) {
        wait_for("the hello", || worker(&self.supervisor, "native")?.runtime.map(drop)).await;
    }

    /// A call was sent and is not answered.
    async fn is_called(&self) {
        wait_for("the call", || {
            let status = self.supervisor.status();
            status.bundles.iter().any(|b| b.name == "victim" && b.calls.in_flight > 0).then_some(())
        })
        .await;
    }

    /// The victim's next worker, which is honest, answers its calls.
    async fn serves_again(&self) {
        self.serves_after(1).await;
    }

    /// As [`serves_again`](Self::serves_again), in an incarnation after this one.
    async fn serves_after(&self, incarnation: u64) {
        let probe = self.supervisor.contract("probe@1").unwrap();
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        assert!(self.worker().incarnation > incarnation);
    }

    /// The rest of the world was not touched, and goes in an orderly way.
    async fn end(self) {
        self.host.is_about().await;
        self.bystander.end().await;
        let pids = self.supervisor.status().workers.into_iter().filter_map(|worker| worker.pid);
        let pids: Vec<u32> = pids.collect();
        self.supervisor.shutdown().await;
        for pid in pids {
            wait_for("the workers to be gone", || (!exists(pid)).then_some(())).await;
        }
    }
}

/// Somebody who calls an honest worker all the time, and is always answered.
struct Bystander {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Bystander {
    async fn start(supervisor: &Supervisor) -> Self {
        supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
        let greeter = supervisor.contract("greeter-lua/greeter@1").unwrap();
        // It waits for as long as this machine may need, and for ever is a bug.
        let greeter = greeter.with_timeout(PATIENCE);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut calls = 0;
            while !stopped.load(Ordering::Relaxed) {
                let text: String = greeter.call("greet", ("Ada",)).await.unwrap();
                assert_eq!(text, "Hello, Ada");
                calls += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            calls
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.task.await.unwrap() > 0);
    }
}

/// One test for each fault: its name, and a word of what the crash report says.
macro_rules! faults {
    ($check:ident: $($name:ident($fault:literal, $cause:literal);)*) => {
        $(
            #[test]
            fn $name() {
                crate::support::run($check($fault, $cause));
            }
        )*
    };
}
use faults;

/// The names in the arms of a `match`, from a function on.
fn arms(source: &str, function: &str) -> Vec<String> {
    let from = source.find(&format!("fn {function}(")).unwrap();
    let body = &source[from..];
    let body = &body[..body.find("\n}\n").unwrap()];
    let names = body.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Every fault that `src/bin/misbehave` knows, as a test would ask for it.
fn all_faults() -> Vec<String> {
    let main = include_str!("../../src/bin/misbehave/main.rs");
    let control = include_str!("../../src/bin/misbehave/control.rs");
    let death = include_str!("../../src/bin/misbehave/death.rs");
    let ring = include_str!("../../src/bin/misbehave/ring.rs");
    let families = [
        ("control", arms(control, "say")),
        ("on-load", arms(control, "on_load")),
        ("loaded", arms(control, "once_loaded")),
        ("die", arms(death, "meet")),
        ("ring", [arms(ring, "commit"), arms(ring, "beside_the_point")].concat()),
    ];
    let mut faults = arms(main, "commit");
    for (family, members) in families {
        assert!(faults.contains(&family.to_owned()) && members.len() > 4, "{family}");
        faults.retain(|fault| fault != family);
        faults.extend(members.into_iter().map(|member| format!("{family}:{member}")));
    }
    faults
}

#[test]
fn every_fault_has_a_test() {
    let tests = [
        include_str!("control.rs"),
        include_str!("deaths.rs"),
        include_str!("dying.rs"),
        include_str!("hello.rs"),
        include_str!("panics.rs"),
        include_str!("positions.rs"),
        include_str!("ring.rs"),
        include_str!("values.rs"),
    ]
    .concat();
    let faults = all_faults();
    assert!(faults.len() > 70, "{faults:?}");
    // With or without an argument of its own: `exit:3`.
    let untested: Vec<&String> = faults
        .iter()
        .filter(|fault| {
            !tests.contains(&format!("\"{fault}\"")) && !tests.contains(&format!("\"{fault}:"))
        })
        .collect();
    assert!(untested.is_empty(), "no test commits {untested:?}");
}
