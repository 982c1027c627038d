//! Standbys: started, empty workers, so that a crash costs only the loading of
//! the bundles (S8).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::condition::LaneThread;
use super::crash::before_hello;
use super::launch::{Begun, LaunchError, Launched};
use crate::core::Core;
use crate::events::EventKind;
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::status::StandbyStatus;

/// A standby that has lived for so long counts as sound: the next one that
/// dies is replaced at once.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// The standbys of all loaders.
#[derive(Debug, Default)]
pub(crate) struct Standbys(Mutex<BTreeMap<String, Pool>>);

#[derive(Debug)]
struct Pool {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    ready: Mutex<Vec<Launched>>,
    refill: Notify,
}

impl Standbys {
    /// Takes a standby for this worker, if there is one: it is in no sandbox.
    pub(crate) fn take(&self, core: &Core, name: &WorkerName) -> Option<Launched> {
        if name.is_in_sandbox(&core.config) {
            return None;
        }
        let pools = lock(&self.0);
        let mut ready = lock(&pools.get(&name.loader)?.shared.ready);
        let at = ready.iter().position(|launched| {
            // One that was stopped, or has just ended, would cost more time
            // than it saves.
            let process = LaneThread { pid: launched.child.pid, bundle: String::new() };
            launched.child.is_running() && process.is_awake()
        })?;
        Some(ready.remove(at))
    }

    /// Starts what lacks, in the background. It is asked for when a loader's
    /// worker is ready, so as not to compete with its recovery.
    pub(crate) fn refill(&self, core: &Arc<Core>, name: &WorkerName) {
        if core.config.standby == 0 || name.is_in_sandbox(&core.config) {
            return;
        }
        let loader = &name.loader;
        let mut pools = lock(&self.0);
        // With the lock: an end of everything takes it after it has said so.
        if *core.stopping.borrow() {
            return;
        }
        let pool = pools.entry(loader.clone()).or_insert_with(|| {
            let shared = Arc::new(Shared::default());
            let keep = keep(Arc::clone(core), loader.clone(), Arc::clone(&shared));
            Pool { shared, task: core.runtime.spawn(keep).abort_handle() }
        });
        pool.shared.refill.notify_one();
    }

    /// Ends all of them.
    pub(crate) fn stop(&self) {
        for (_, pool) in std::mem::take(&mut *lock(&self.0)) {
            pool.task.abort();
            lock(&pool.shared.ready).clear();
        }
    }

    pub(crate) fn status(&self) -> Vec<StandbyStatus> {
        let pools = lock(&self.0);
        let mut found = Vec::new();
        for (loader, pool) in &*pools {
            found.extend(
                lock(&pool.shared.ready).iter().map(|launched| StandbyStatus {
                    loader: loader.clone(),
                    pid: launched.child.pid,
                }),
            );
        }
        found
    }
}

/// Keeps as many standbys as there should be.
async fn keep(core: Arc<Core>, loader: String, shared: Arc<Shared>) {
    let wanted = usize::try_from(core.config.standby).unwrap_or(usize::MAX);
    let mut failures = 0;
    shared.refill.notified().await;
    loop {
        for died in remove_dead(&shared) {
            let lived = died.child.started.elapsed();
            failures = if lived >= SOUND_AFTER { 0 } else { failures + 1 };
            let ended = died.child.ended().await;
            core.events.emit(EventKind::StandbyDied {
                loader: loader.clone(),
                pid: Some(died.child.pid),
                cause: ended.end.describe(),
            });
        }
        if lock(&shared.ready).len() >= wanted {
            changed(&shared).await;
            continue;
        }
        // The first at once, then with longer and longer pauses.
        tokio::time::sleep(core.config.restart.pause(failures)).await;
        let launched = match Begun::new(&core, &WorkerName::shared(&loader), true) {
            Ok(begun) => begun.launched(None, |_| {}).await,
            Err(error) => Err(error),
        };
        match launched {
            Ok(launched) => {
                let pid = launched.child.pid;
                lock(&shared.ready).push(launched);
                core.spares.refill();
                core.events.emit(EventKind::StandbyReady { loader: loader.clone(), pid });
            }
            Err(error) => {
                failures += 1;
                let (pid, cause) = match error {
                    LaunchError::NotStarted(error) => (None, error.to_string()),
                    LaunchError::Died { child, ended, reason } => {
                        (Some(child.pid), before_hello(ended.end, reason.as_deref()))
                    }
                };
                core.events.emit(EventKind::StandbyDied { loader: loader.clone(), pid, cause });
            }
        }
    }
}

fn remove_dead(shared: &Shared) -> Vec<Launched> {
    lock(&shared.ready).extract_if(.., |l| !l.child.is_running()).collect()
}

/// Waits until a standby was taken, or has ended.
async fn changed(shared: &Shared) {
    let watches: Vec<_> = lock(&shared.ready).iter().map(|l| l.child.watch()).collect();
    let ends = watches
        .into_iter()
        .map(|mut watch| Box::pin(async move { drop(watch.wait_for(Option::is_some).await) }));
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return shared.refill.notified().await;
    }
    tokio::select! {
        _ = select_all(ends) => {}
        () = shared.refill.notified() => {}
    }
}
