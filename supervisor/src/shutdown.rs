//! How everything ends: in an orderly way, or at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use menagerie_protocol::Failure;

use crate::bundle::Route;
use crate::config::Config;
use crate::core::Core;
use crate::lane::lock;
use crate::lifecycle::WorkerState;
use crate::status::BundleState;
use crate::worker::handle::{Command, Worker};

/// How long the processes may take to end that an orderly end kills in the end.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

impl Core {
    /// Everything ends in an orderly way; see [`Supervisor::shutdown`](crate::Supervisor).
    pub(crate) async fn end_in_order(&self) {
        self.end_within(limit(&self.config), KILLED_WITHIN).await;
    }

    /// The same; what has not stopped within `limit` is killed, and its end waited for as
    /// long as that.
    async fn end_within(&self, limit: Duration, killed_within: Duration) {
        self.begin_to_end();
        // A host may have dropped its runtime before: the workers have gone with its
        // tasks, and no timer of it runs any more.
        if self.timers.are_over() {
            return self.let_go();
        }
        let workers: Vec<Arc<Worker>> = lock(&self.workers).values().map(Arc::clone).collect();
        for worker in &workers {
            worker.send(Command::Stop);
        }
        let in_time = tokio::select! {
            () = self.all_stopped(&workers) => true,
            () = self.sleep_until(Some(Instant::now() + limit)) => false,
        };
        // They change until the worker's task ends.
        let tasks: Vec<_> = workers.iter().map(|worker| worker.current.clone()).collect();
        drop(workers);
        // Whatever still runs is killed.
        self.let_go();
        if !in_time {
            tracing::error!("not all workers have stopped within {limit:?}");
        }
        // Whoever waits for a call has its outcome when the last of them has ended.
        let all_ended = async {
            for mut task in tasks {
                while task.changed().await.is_ok() {}
            }
        };
        tokio::select! {
            () = all_ended => {}
            () = self.sleep_until(Some(Instant::now() + killed_within)) => {}
        }
    }

    async fn all_stopped(&self, workers: &[Arc<Worker>]) {
        let mut events = self.events.subscribe();
        while workers.iter().any(|worker| worker.state().0 != WorkerState::Stopped) {
            if events.next().await.is_none() {
                return;
            }
        }
        let mut leaving = self.leaving.subscribe();
        drop(leaving.wait_for(|count| *count == 0).await);
    }

    /// Everything ends at once: workers are killed.
    pub(crate) fn end_at_once(&self) {
        self.begin_to_end();
        // They may wait where no task of ours runs any more.
        let bundles = lock(&self.registry).all();
        for bundle in bundles {
            let failure = Box::new(Failure::ShuttingDown);
            bundle.set_all_routes(&Route::Down(BundleState::Unloading, failure));
        }
        self.let_go();
        self.dir.remove();
    }

    /// Nothing is started any more.
    fn begin_to_end(&self) {
        self.stopping.send_replace(true);
        self.standbys.stop();
    }

    /// The workers' tasks end, whoever has a handle yet, and take their processes with
    /// them; the stream of events ends with the last of them. The host's functions go,
    /// which may hold what holds this.
    fn let_go(&self) {
        let workers = std::mem::take(&mut *lock(&self.workers));
        for worker in workers.values() {
            worker.send(Command::End);
        }
        self.events.close();
        self.host.clear();
    }
}

/// How long an orderly end of everything may take: every step of it has a limit of its
/// own, and this is beyond their sum.
fn limit(config: &Config) -> Duration {
    const LEAST: Duration = Duration::from_secs(30);
    const RESERVE: Duration = Duration::from_secs(5);
    // Three times: before SIGTERM, before SIGKILL, and for a process that was given up.
    let steps = config.drain.saturating_add(config.term_timeout.saturating_mul(3));
    steps.saturating_add(RESERVE).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Supervisor;
    use crate::placement::WorkerName;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn s6_a_shutdown_has_the_time_of_all_its_steps() {
        let mut config = Config::default();
        assert_eq!(limit(&config), Duration::from_secs(30));
        config.drain = Duration::from_secs(40);
        assert_eq!(limit(&config), Duration::from_secs(51));
        config.term_timeout = Duration::from_secs(10);
        assert_eq!(limit(&config), Duration::from_secs(75));
    }

    /// It waits for these ends, and no longer.
    #[tokio::test]
    async fn s6_a_shutdown_that_is_late_ends_when_the_last_worker_has() {
        let mut config = Config::default();
        // It says no hello, and stays.
        config.worker_programs.insert("native".to_owned(), "/usr/bin/yes".into());
        let supervisor = Supervisor::builder().config(config).start().unwrap();
        let core = supervisor.core();
        let worker = core.worker_named(&WorkerName::shared("native")).unwrap();
        worker.send(Command::Wanted);
        let started = async {
            while worker.status(Vec::new()).pid.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, started).await.unwrap();
        let task = worker.current.clone();
        drop(worker);
        let end = core.end_within(Duration::ZERO, PATIENCE * 1000);
        tokio::time::timeout(PATIENCE, end).await.unwrap();
        assert!(task.has_changed().is_err(), "its task goes on");
    }
}
