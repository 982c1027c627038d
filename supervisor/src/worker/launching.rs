//! A process on its way, which an actor waits for among other things.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::{MaybeDone, maybe_done};
use tokio::sync::oneshot;

use super::launch::{Begun, LaunchError, Launched};
use crate::bundle::Bundle;
use crate::core::Core;
use crate::placement::WorkerName;

/// A process on its way. Dropping it ends it.
pub(super) struct Launching {
    launched: Pin<Box<MaybeDone<Launch>>>,
    pid: Arc<AtomicU32>,
    /// Where it learns what to load first.
    first: Option<oneshot::Sender<Arc<Bundle>>>,
}

type Launch = Pin<Box<dyn Future<Output = Result<Launched, LaunchError>> + Send>>;

impl Launching {
    /// Starts one; `shown` learns its pid.
    pub(super) fn begin(
        core: &Arc<Core>,
        name: &WorkerName,
        shown: impl FnOnce(u32) + Send + 'static,
    ) -> Self {
        Self::of(Begun::new(core, name, false), shown)
    }

    /// One whose start has begun, if it could.
    pub(super) fn of(
        begun: Result<Begun, LaunchError>,
        shown: impl FnOnce(u32) + Send + 'static,
    ) -> Self {
        let pid = Arc::new(AtomicU32::new(0));
        let noted = Arc::clone(&pid);
        let started = move |pid| {
            noted.store(pid, Ordering::Relaxed);
            shown(pid);
        };
        let (first, wanted) = oneshot::channel();
        let launch: Launch = Box::pin(async { begun?.launched(Some(wanted), started).await });
        Self { launched: Box::pin(maybe_done(launch)), pid, first: Some(first) }
    }

    /// This may be loaded from now on, and is to be before all others.
    pub(super) fn load_first(&mut self, bundle: Arc<Bundle>) {
        if let Some(first) = self.first.take() {
            // One that has said hello loads in the ordinary way.
            let _ = first.send(bundle);
        }
    }

    /// Waits until it has said hello, or has failed; what came of it is kept.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again.
    async fn done(&mut self) {
        self.launched.as_mut().await;
    }

    /// Its pid, once it has one.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Waits for what comes of it.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again, until something has come of it.
    async fn outcome(&mut self) -> Result<Launched, LaunchError> {
        self.done().await;
        match self.launched.as_mut().take_output() {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }
}

/// The next process, before the one that serves has ended.
pub(super) enum Early {
    /// It is on its way.
    Starts(Launching),
    /// It was a standby, and has been looked at: it can take over.
    Waits(Box<Launched>),
}

/// Waits for what comes of it; for ever, if there is none.
pub(super) async fn launched(
    launching: Option<&mut Launching>,
) -> Box<Result<Launched, LaunchError>> {
    match launching {
        Some(launching) => Box::new(launching.outcome().await),
        None => std::future::pending().await,
    }
}

/// Sees to a process that nobody waits for yet; never ends.
pub(super) async fn attend(early: Option<&mut Early>) -> Infallible {
    if let Some(Early::Starts(launching)) = early {
        launching.done().await;
    }
    std::future::pending().await
}
