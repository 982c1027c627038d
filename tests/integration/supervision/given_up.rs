//! Rule L5 for loads that nobody waits for any more, as whoever asked has gone: what the
//! worker had begun to load is unloaded again.

use std::time::Duration;

use menagerie_supervisor::{Activity, Supervisor};

use super::first_load::Gated;
use super::{answers, load, lua};
use crate::support::{Bundle, Gate, config, report, run, start_with, wait_for, worker};

/// A bundle that takes its time to load while a gate is closed, and takes notes.
struct Slow {
    bundle: Bundle,
    gate: Gate,
}

impl Slow {
    fn new() -> Self {
        let gate = Gate::new();
        Self { bundle: gate.bundle("slow", "pass 'begun'", "version = '1.0.0'"), gate }
    }

    /// Begins to load it while the gate is closed, and has it not wait for the end.
    async fn load_in_vain(&self, supervisor: &Supervisor, nth: usize) {
        self.gate.close();
        let (supervisor, path) = (supervisor.clone(), self.bundle.path());
        let loading = tokio::spawn(async move { supervisor.load(path).await });
        self.gate.noted("begun", nth).await;
        loading.abort();
        assert!(loading.await.unwrap_err().is_cancelled());
    }
}

/// Its threads, of which each lane has one.
fn threads(supervisor: &Supervisor) -> usize {
    let pid = worker(supervisor, "lua").unwrap().pid.unwrap();
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn l5_a_load_that_is_given_up_leaves_nothing() {
    run(async {
        let supervisor = start_with(config());
        let slow = Slow::new();
        let other = load(&supervisor, lua("other")).await;
        let mut before = None;
        for n in 1..=3 {
            slow.load_in_vain(&supervisor, n).await;
            assert!(supervisor.contract("slow@1").is_err());
            slow.gate.open();
            slow.gate.noted("slow unloaded", n).await;
            answers(&other).await;
            let before = *before.get_or_insert_with(|| threads(&supervisor));
            wait_for("its thread to end", || (threads(&supervisor) <= before).then_some(())).await;
        }
        // While the one before is loading still.
        slow.load_in_vain(&supervisor, 4).await;
        let (loading, path) = (supervisor.clone(), slow.bundle.path());
        let loading = tokio::spawn(async move { loading.load(path).await });
        slow.gate.noted("begun", 5).await;
        slow.gate.open();
        loading.await.unwrap().unwrap();
        slow.gate.noted("slow unloaded", 4).await;
        answers(&supervisor.contract("slow@1").unwrap()).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().incarnation, 1);
        supervisor.shutdown().await;
    });
}

/// It is the bundle's doing, also where nobody waits.
#[test]
fn s6_a_load_that_is_given_up_has_its_limit() {
    run(async {
        let mut config = config();
        config.load_timeout = Duration::from_secs(2);
        let supervisor = start_with(config);
        let slow = Slow::new();
        let other = load(&supervisor, lua("other")).await;
        slow.load_in_vain(&supervisor, 1).await;
        let report = report(&supervisor, "lua", 1).await;
        let reason = report.reason.clone().unwrap_or_default();
        assert!(reason.contains("'load' of 'slow' did not end"), "{report:?}");
        let ran: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
        assert_eq!(ran, [("slow", Activity::Load)]);
        answers(&other).await;
        supervisor.shutdown().await;
    });
}

/// It was sent before the worker's hello, and what is wanted has changed meanwhile.
#[test]
fn l5_what_was_unloaded_before_the_hello_is_unloaded_after_it() {
    run(async {
        let gated = Gated::start();
        let slow = Slow::new();
        gated.supervisor.load(slow.bundle.path()).await.unwrap();
        let other = load(&gated.supervisor, lua("other")).await;
        gated.crashes().await;
        gated.supervisor.unload("slow").await.unwrap();
        slow.gate.close();
        gated.open();
        slow.gate.noted("begun", 2).await;
        answers(&other).await;
        slow.gate.open();
        slow.gate.noted("slow unloaded", 1).await;
        gated.ends_well().await;
    });
}
