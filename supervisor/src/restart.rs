//! Restarts by hand (`DESIGN.md` rules S3, S8).

use std::sync::{Arc, Weak};

use menagerie_protocol::RuntimeError;

use crate::core::Core;
use crate::events::{Event, EventKind, NextEvent};
use crate::lane::lock;
use crate::lifecycle::WorkerState;
use crate::locate::LOADERS;
use crate::placement::WorkerName;
use crate::status::WorkerStatus;
use crate::worker::handle::Worker;

/// A worker that was there when it was asked of. It ends with its last handle, so whoever
/// waits must not be the one who keeps it; and if its bundles go meanwhile there may be
/// another one of its name, which has a life of its own.
#[derive(Debug)]
struct Asked {
    name: WorkerName,
    worker: Weak<Worker>,
}

impl Core {
    /// Restarts the workers of a name one after the other: the last one's status.
    pub(crate) async fn restart(&self, name: &str) -> Result<WorkerStatus, RuntimeError> {
        let asked = asked(&self.workers_named(name)?);
        self.to_its_end(|core| async move {
            let mut status = None;
            for asked in &asked {
                let outcome = core.restart_one(asked).await;
                core.note(asked, outcome, &mut status)?;
            }
            status.unwrap_or(Err(RuntimeError::ShuttingDown))
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
        let asked = asked(&workers);
        drop(workers);
        self.to_its_end(|core| async move {
            let mut status = None;
            for asked in &asked {
                let outcome = core.roll_one(asked).await;
                core.note(asked, outcome, &mut status)?;
            }
            status.unwrap_or(Err(RuntimeError::ShuttingDown))
        })
        .await
    }

    /// Takes note of how it went with one of several workers. One that nobody needs any more
    /// is left out, unless nobody is left.
    fn note(
        &self,
        asked: &Asked,
        outcome: Result<WorkerStatus, RuntimeError>,
        status: &mut Option<Result<WorkerStatus, RuntimeError>>,
    ) -> Result<(), RuntimeError> {
        match outcome {
            Ok(last) => *status = Some(Ok(last)),
            Err(_) if let Err(gone) = self.present(asked) => {
                status.get_or_insert(Err(gone));
            }
            Err(error) => return Err(error),
        }
        Ok(())
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

    /// A worker that was asked of, if it is there still.
    fn present(&self, asked: &Asked) -> Result<Arc<Worker>, RuntimeError> {
        let there = lock(&self.workers).get(&asked.name).map(Arc::clone);
        if let Some(worker) = there.filter(|there| Arc::as_ptr(there) == asked.worker.as_ptr()) {
            return Ok(worker);
        }
        if *self.stopping.borrow() {
            return Err(RuntimeError::ShuttingDown);
        }
        Err(asked.unavailable(UNNEEDED))
    }

    async fn restart_one(&self, asked: &Asked) -> Result<WorkerStatus, RuntimeError> {
        let worker_name = asked.name.to_string();
        let mut events = self.events.subscribe();
        let begun = self.present(asked)?.begin_restart();
        let before = begun.await.map_err(|_| self.unanswered(asked))?;
        while !self.is_back(asked, before)? {
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
        Ok(self.worker_status(&*self.present(asked)?))
    }

    async fn roll_one(&self, asked: &Asked) -> Result<WorkerStatus, RuntimeError> {
        let done = self.present(asked)?.roll();
        done.await.unwrap_or_else(|_| Err(self.unanswered(asked)))?;
        Ok(self.worker_status(&*self.present(asked)?))
    }

    /// Why a worker has not answered what it was asked.
    fn unanswered(&self, asked: &Asked) -> RuntimeError {
        if *self.stopping.borrow() {
            return RuntimeError::ShuttingDown;
        }
        let stumbled = |_| asked.unavailable("the supervisor's task for it has panicked");
        self.present(asked).map_or_else(|gone| gone, stumbled)
    }

    /// Whether a worker is ready in an incarnation after `before`; or why it will not be.
    fn is_back(&self, asked: &Asked, before: u64) -> Result<bool, RuntimeError> {
        let worker = self.present(asked)?;
        let unavailable = |problem: String| Err(asked.unavailable(problem));
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

/// Why nothing comes of what was asked of a worker that was released meanwhile.
pub(crate) const UNNEEDED: &str = "no bundle needs it any more";

impl Asked {
    fn unavailable(&self, problem: impl Into<String>) -> RuntimeError {
        RuntimeError::WorkerUnavailable { worker: self.name.to_string(), problem: problem.into() }
    }
}

fn asked(workers: &[Arc<Worker>]) -> Vec<Asked> {
    let asked =
        |worker: &Arc<Worker>| Asked { name: worker.name.clone(), worker: Arc::downgrade(worker) };
    workers.iter().map(asked).collect()
}
