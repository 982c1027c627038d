//! Restarts by hand (`DESIGN.md` rules S3, S8).

use std::sync::Arc;

use menagerie_protocol::RuntimeError;

use crate::core::Core;
use crate::events::{Event, EventKind, NextEvent};
use crate::lane::lock;
use crate::lifecycle::WorkerState;
use crate::locate::LOADERS;
use crate::placement::WorkerName;
use crate::status::WorkerStatus;
use crate::worker::handle::Worker;

impl Core {
    /// Restarts the workers of a name one after the other: the last one's status.
    pub(crate) async fn restart(&self, name: &str) -> Result<WorkerStatus, RuntimeError> {
        let names = names(&self.workers_named(name)?);
        self.to_its_end(|core| async move {
            let mut status = None;
            for name in names {
                status = Some(core.restart_one(&name).await?);
            }
            status.ok_or(RuntimeError::ShuttingDown)
        })
        .await
    }

    /// The same without a pause.
    pub(crate) async fn restart_rolling(&self, name: &str) -> Result<WorkerStatus, RuntimeError> {
        let mut workers = self.workers_named(name)?;
        // Of several, one that has stopped for idleness runs nothing old.
        let stopped = |worker: &Arc<Worker>| worker.state().0 == WorkerState::Stopped;
        if !workers.iter().all(stopped) {
            workers.retain(|worker| !stopped(worker));
        }
        let names = names(&workers);
        drop(workers);
        self.to_its_end(|core| async move {
            let mut status = None;
            for name in names {
                let rolled = core.present(&name)?.roll();
                rolled.await?;
                status = Some(core.worker_status(&*core.present(&name)?));
            }
            status.ok_or(RuntimeError::ShuttingDown)
        })
        .await
    }

    /// The worker of a name, or all workers of a loader.
    fn workers_named(&self, name: &str) -> Result<Vec<Arc<Worker>>, RuntimeError> {
        if *self.stopping.borrow() {
            return Err(RuntimeError::ShuttingDown);
        }
        let found: Vec<Arc<Worker>> = {
            let workers = lock(&self.workers);
            let named = |worker: &&Arc<Worker>| worker.name.to_string() == name;
            let replica = |worker: &&Arc<Worker>| worker.name.common().to_string() == name;
            let of_loader = |worker: &&Arc<Worker>| worker.name.loader == name;
            let all = || workers.values();
            let found: [Vec<&Arc<Worker>>; 3] = [
                all().filter(named).collect(),
                all().filter(replica).collect(),
                all().filter(of_loader).collect(),
            ];
            let first = found.into_iter().find(|found| !found.is_empty());
            first.into_iter().flatten().map(Arc::clone).collect()
        };
        if found.is_empty() {
            // A name that is no loader's is said; one whose worker was never
            // needed has nothing to restart.
            let loader = name.split(['/', '#']).next().unwrap_or(name);
            if !LOADERS.contains(&loader) {
                self.worker_named(&WorkerName::shared(name))?;
            }
            let problem = "it was never started: no bundle needs it".to_owned();
            return Err(RuntimeError::WorkerUnavailable { worker: name.to_owned(), problem });
        }
        Ok(found)
    }

    /// A worker that was there. It is looked up again after each wait: a worker ends with
    /// its last handle, and whoever waits must not be the one who keeps it.
    fn present(&self, name: &WorkerName) -> Result<Arc<Worker>, RuntimeError> {
        if let Some(worker) = lock(&self.workers).get(name) {
            return Ok(Arc::clone(worker));
        }
        if *self.stopping.borrow() {
            return Err(RuntimeError::ShuttingDown);
        }
        let problem = "no bundle needs it any more".to_owned();
        Err(RuntimeError::WorkerUnavailable { worker: name.to_string(), problem })
    }

    async fn restart_one(&self, name: &WorkerName) -> Result<WorkerStatus, RuntimeError> {
        let worker_name = name.to_string();
        let mut events = self.events.subscribe();
        let begun = self.present(name)?.begin_restart();
        let before = begun.await?;
        while !self.is_back(name, before)? {
            match events.next().await {
                None => return Err(RuntimeError::ShuttingDown),
                // It need not be so any more.
                Some(NextEvent::Event(Event {
                    kind:
                        EventKind::WorkerState {
                            worker, state: WorkerState::Ready, incarnation, ..
                        },
                    ..
                })) if worker == worker_name && incarnation > before => break,
                Some(_) => {}
            }
        }
        Ok(self.worker_status(&*self.present(name)?))
    }

    /// Whether a worker is ready in an incarnation after `before`; or why it will not be.
    fn is_back(&self, name: &WorkerName, before: u64) -> Result<bool, RuntimeError> {
        let worker = self.present(name)?;
        let unavailable = |problem| {
            let worker = name.to_string();
            Err(RuntimeError::WorkerUnavailable { worker, problem })
        };
        match worker.state() {
            (WorkerState::Ready, incarnation) => Ok(incarnation > before),
            // It was not started, or somebody has stopped it since.
            (WorkerState::Quarantined | WorkerState::Stopped, _) => {
                if *self.stopping.borrow() {
                    return Err(RuntimeError::ShuttingDown);
                }
                let problem = self.worker_status(&worker).problem;
                unavailable(problem.unwrap_or_else(|| "it died again".to_owned()))
            }
            // It will be tried again; but whoever asks by hand is told why it lacks.
            (WorkerState::Backoff, incarnation) if incarnation > before => {
                self.worker_status(&worker).problem.map_or(Ok(false), unavailable)
            }
            _ => Ok(false),
        }
    }

    pub(crate) fn worker_status(&self, worker: &Worker) -> WorkerStatus {
        let bundles = self.bundles_of(&worker.name);
        worker.status(bundles.iter().map(|bundle| bundle.name.clone()).collect())
    }
}

fn names(workers: &[Arc<Worker>]) -> Vec<WorkerName> {
    workers.iter().map(|worker| worker.name.clone()).collect()
}
