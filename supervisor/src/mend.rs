//! Bundles that could not be loaded again are tried again (`DESIGN.md` rule S4): what was
//! in the way may have gone since.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use menagerie_protocol::{Failure, RuntimeError};

use crate::bundle::{Bundle, Route, Serving};
use crate::core::Core;
use crate::events::{EventKind, Events, NextEvent, Step};
use crate::lane::lock;
use crate::lifecycle::RestartPolicy;
use crate::registry::depends_on;
use crate::status::BundleState;

/// A seat that is seen to until this is dropped.
struct Trying {
    bundle: Arc<Bundle>,
    seat: usize,
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.bundle.seats.at(self.seat).tried_again.store(false, Ordering::Relaxed);
    }
}

impl Core {
    /// A bundle could not be loaded again in a seat, which is locked: its calls fail with
    /// the reason. From now on it is tried again, unless it is already.
    pub(crate) fn has_failed(
        &self,
        bundle: &Arc<Bundle>,
        seat: usize,
        step: Step,
        error: &RuntimeError,
    ) {
        show_failure(bundle, seat, error);
        self.events.bundle_failed(&bundle.name, step, error);
        if !bundle.seats.at(seat).tried_again.swap(true, Ordering::Relaxed) {
            let trying = Trying { bundle: Arc::clone(bundle), seat };
            let (events, policy) = (self.events.subscribe(), self.config.restart.clone());
            self.runtime.spawn(keep_trying(self.this.clone(), events, policy, trying));
        }
    }

    /// Tries once. What comes back is to be tried again.
    async fn try_again(&self, trying: Trying) -> Option<Trying> {
        let bundle = Arc::clone(&trying.bundle);
        let seat = bundle.seats.at(trying.seat);
        let mut slot = seat.serving.lock().await;
        self.try_in(&bundle, trying.seat, &mut slot).await;
        let is_wanted = lock(&self.registry).holds(&bundle) && !*self.stopping.borrow();
        if is_wanted && seat.has_failed() {
            return Some(trying);
        }
        // While it is locked: whoever fails next begins anew.
        drop(trying);
        None
    }

    async fn try_in(&self, bundle: &Arc<Bundle>, index: usize, slot: &mut Option<Serving>) {
        let seat = bundle.seats.at(index);
        let process = lock(&self.workers).get(&seat.home()).and_then(|worker| worker.running());
        let _now = seat.try_now();
        // Else it is reloaded, unloaded or quarantined; or its next process loads it.
        if let Some(process) = process.filter(|_| seat.has_failed())
            && let Err(error) = self.try_to_restore(bundle, &process, slot).await
        {
            // Its calls have the reason of today. No event: the first has said it.
            show_failure(bundle, index, &error);
        }
    }

    /// Whether an event may mean that a bundle can be loaded now, or need not be any more.
    fn concerns(&self, bundle: &Bundle, event: &EventKind) -> bool {
        let (EventKind::BundleLoaded { bundle: name, .. }
        | EventKind::BundleReloaded { bundle: name, .. }
        | EventKind::BundleUnloaded { bundle: name }
        | EventKind::BundleQuarantined { bundle: name, .. }) = event
        else {
            return false;
        };
        let needs = |other: &Bundle| {
            depends_on(&bundle.manifest(), &other.manifest(), self.config.compatibility)
        };
        *name == bundle.name || lock(&self.registry).get(name).is_ok_and(|other| needs(&other))
    }

    /// Loads a bundle now wherever it has failed; a worker that does not run is started.
    /// Whether it serves somewhere where it did not.
    pub(crate) async fn mend(&self, bundle: &Arc<Bundle>) -> Result<bool, RuntimeError> {
        let mut mended = false;
        for (index, seat) in bundle.seats.iter().enumerate() {
            if !seat.has_failed() {
                continue;
            }
            let worker = self.worker_named(&seat.home())?;
            let process = worker.process().await?;
            let mut slot = seat.serving.lock().await;
            // Another one may have taken over meanwhile.
            let process = worker.running().unwrap_or(process);
            drop(worker);
            if let Err(error) = self.try_to_restore(bundle, &process, &mut slot).await {
                self.has_failed(bundle, index, Step::Restore, &error);
                return Err(error);
            }
            mended |= matches!(&**seat.route(), Route::Up(_));
        }
        Ok(mended)
    }
}

fn show_failure(bundle: &Bundle, seat: usize, error: &RuntimeError) {
    let (name, problem) = (bundle.name.clone(), error.to_string());
    let failure = Failure::BundleUnavailable { bundle: name, problem };
    bundle.seats.at(seat).set_route(Route::Down(BundleState::Failed, Box::new(failure)));
}

/// Tries with the pauses of restarts, and whenever what it needs is loaded, until the
/// bundle serves or nobody wants that any more. It keeps no supervisor alive.
async fn keep_trying(
    core: Weak<Core>,
    mut events: Events,
    policy: RestartPolicy,
    mut trying: Trying,
) {
    for number in 1.. {
        let bundle = Arc::clone(&trying.bundle);
        let mut pause = std::pin::pin!(tokio::time::sleep(policy.pause(number)));
        loop {
            tokio::select! {
                () = &mut pause => break,
                next = events.next() => match next {
                    None => return,
                    Some(NextEvent::Missed(_)) => break,
                    Some(NextEvent::Event(event)) => {
                        let Some(core) = core.upgrade() else { return };
                        if core.concerns(&bundle, &event.kind) {
                            break;
                        }
                    }
                },
            }
        }
        let Some(core) = core.upgrade() else { return };
        let Some(goes_on) = core.try_again(trying).await else { return };
        trying = goes_on;
    }
}
