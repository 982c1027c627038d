//! A worker that misbehaves, and a supervisor, a host and another worker that
//! must not mind. The faults are committed by `src/bin/misbehave`, which plays
//! the `native` worker.

mod ring;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use menagerie_supervisor::{
    Config, Contract, CrashReport, RestartPolicy, Supervisor, WorkerState, WorkerStatus,
};
use menagerie_tests::Language;

use crate::support::{Bundle, config, exists, report, start_with, wait_for, worker};

/// A supervisor whose `native` worker misbehaves.
struct Stage {
    supervisor: Supervisor,
    bystander: Bystander,
    victim: Bundle,
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
    config.start_timeout = Duration::from_secs(3);
    config
}

/// As [`hasty`], for a worker that is honest from its second start on.
fn hasty_once(fault: &str) -> Config {
    let mut config = hasty(fault);
    config.worker_env.insert("MISBEHAVE_TIMES".to_owned(), "1".to_owned());
    config
}

impl Stage {
    async fn set(config: Config) -> Self {
        let supervisor = start_with(config);
        let bystander = Bystander::start(&supervisor).await;
        let manifest = "name = 'victim'\nversion = '1.0.0'\nloader = 'native'\n\
                        file = 'victim.so'\nprovides = ['probe@1']\n";
        let victim = Bundle::of(&[("manifest.toml", manifest), ("victim.so", "")]);
        Self { supervisor, bystander, victim }
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

    /// The rest of the world was not touched, and goes in an orderly way.
    async fn end(self) {
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
