//! A language's two sample bundles in one worker.

use menagerie_supervisor::{Config, Contract, Failure, Supervisor, WorkerState};
use menagerie_tests::Language;
use nix::unistd::Pid;
use rmpv::Value;

use super::{config, start_with, wait_for, worker};

/// A supervisor with both sample bundles of a language.
pub(crate) struct Setup {
    pub(crate) supervisor: Supervisor,
    pub(crate) language: Language,
    pub(crate) greeter: Contract,
    pub(crate) probe: Contract,
}

pub(crate) async fn setup(suffix: &str) -> Setup {
    setup_with(suffix, config()).await
}

pub(crate) async fn setup_with(suffix: &str, config: Config) -> Setup {
    let language = Language::of(suffix);
    let supervisor = start_with(config);
    // The greeter first: the probe may call it.
    supervisor.load(language.bundle("greeter")).await.unwrap();
    supervisor.load(language.bundle("probe")).await.unwrap();
    let greeter = supervisor.contract("greeter@1").unwrap();
    let probe = supervisor.contract(&format!("probe-{suffix}/probe@1")).unwrap();
    Setup { supervisor, language, greeter, probe }
}

impl Setup {
    /// The worker's process.
    pub(crate) fn pid(&self) -> Pid {
        let pid = worker(&self.supervisor, self.language.loader).unwrap().pid.unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// A call that sleeps, once it was sent.
    pub(crate) async fn sleeping(
        &self,
        ms: u64,
    ) -> tokio::task::JoinHandle<Result<Value, Failure>> {
        let probe = self.probe.clone();
        let sleeping = tokio::spawn(async move { probe.call("sleep_ms", (ms,)).await });
        self.calls_in_flight().await;
        sleeping
    }

    pub(crate) async fn calls_in_flight(&self) {
        wait_for("the call to be sent", || {
            let status = self.supervisor.status();
            status.bundles.iter().any(|b| b.calls.in_flight > 0).then_some(())
        })
        .await;
    }

    /// Waits until the worker is ready after so many restarts.
    pub(crate) async fn ready_again(&self, restarts: u64) {
        wait_for("the worker to be ready again", || {
            let worker = worker(&self.supervisor, self.language.loader)?;
            (worker.state == WorkerState::Ready && worker.restarts == restarts).then_some(())
        })
        .await;
    }
}
