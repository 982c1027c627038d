//! A reload's swap of generations in all workers of a bundle (`DESIGN.md` rules
//! L6, S9): everywhere or nowhere, and in one step for who calls.

use std::sync::Arc;

use futures_util::future::join_all;
use menagerie_protocol::RuntimeError;
use tokio::sync::MutexGuard;

use crate::bundle::{Bundle, Content, Route, Serving};
use crate::core::Core;
use crate::lane::lock;
use crate::replicate::{Fresh, discard_all};
use crate::seat::Seat;
use crate::status::BundleState;
use crate::worker::process::hook_failed;

/// What a seat goes over to.
pub(crate) struct Change<'b> {
    pub(crate) seat: &'b Seat,
    /// What serves it.
    pub(crate) slot: MutexGuard<'b, Option<Serving>>,
    /// Whether that hands over; else there is nothing that could.
    pub(crate) hands_over: bool,
    pub(crate) new: Fresh,
}

/// What an old generation left to its new one.
type State = Option<Vec<u8>>;

impl Change<'_> {
    /// The old and the new generation, if the one hands over to the other.
    fn both(&self) -> Option<(&Serving, &Serving)> {
        let old = self.slot.as_ref().filter(|_| self.hands_over)?;
        Some((old, self.new.serving()?))
    }
}

impl Core {
    /// Goes over to a new generation in all of these seats, or in none.
    pub(crate) async fn change_over(
        &self,
        bundle: &Arc<Bundle>,
        content: Arc<Content>,
        changes: Vec<Change<'_>>,
    ) -> Result<(), RuntimeError> {
        let anew = changes.iter().any(|change| !change.hands_over);
        let mut handing = Vec::new();
        for change in &changes {
            handing.push(async move {
                let (old, new) = change.both()?;
                Some(self.hand_over(bundle, change.seat, old, new).await)
            });
        }
        let handed = join_all(handing).await;
        let failed = handed.iter().flatten().find_map(|outcome| outcome.as_ref().err());
        if let Some(error) = failed.cloned() {
            self.go_back(changes, handed).await;
            return Err(error);
        }
        bundle.set_content(content);
        if anew || bundle.is_quarantined() {
            self.pardon(bundle);
        }
        let mut gone = Vec::new();
        for Change { seat, mut slot, new, .. } in changes {
            if let Some(new) = new.keep() {
                new.loaded.lane.open();
                gone.extend(seat.serve(&mut slot, new));
            }
        }
        // What cannot be freed has cost the worker its life; that is reported.
        let mut unloads = Vec::new();
        for Serving { process, loaded } in gone {
            if !process.is_dead() {
                unloads.push(async move { drop(process.unload(loaded).await) });
            }
        }
        join_all(unloads).await;
        Ok(())
    }

    /// The old generations go on, those that have handed over already with the
    /// state that they had.
    async fn go_back(
        &self,
        changes: Vec<Change<'_>>,
        handed: Vec<Option<Result<State, RuntimeError>>>,
    ) {
        let mut going = Vec::new();
        for (change, handed) in changes.into_iter().zip(handed) {
            going.push(async move {
                if let (Some(Ok(state)), Some((old, _))) = (handed, change.both()) {
                    drop(old.process.go_on(&old.loaded, state).await);
                }
                let Change { seat, mut slot, new, .. } = change;
                // Where nothing had served, nothing does.
                if let Some(old) = slot.take() {
                    old.loaded.lane.open();
                    seat.serve(&mut slot, old);
                }
                new
            });
        }
        discard_all(join_all(going).await).await;
    }

    /// What was running at too many crashes gets another chance (S5).
    fn pardon(&self, bundle: &Bundle) {
        lock(&self.blame).forget(&bundle.name);
        bundle.pardon();
    }

    /// Lets the old generation finish, and gives its state to the new one.
    /// Meanwhile calls wait.
    async fn hand_over(
        &self,
        bundle: &Bundle,
        seat: &Seat,
        old: &Serving,
        new: &Serving,
    ) -> Result<State, RuntimeError> {
        // Another one, if that leaves.
        let next = &new.process;
        let (process, old, new) = (&old.process, &old.loaded, &new.loaded);
        seat.set_route(Route::Waiting(BundleState::Waiting));
        old.lane.close();
        if !process.drain(&old.lane, self.config.drain).await {
            let limit_ms = u64::try_from(self.config.drain.as_millis()).unwrap_or(u64::MAX);
            let (bundle, step) = (bundle.name.clone(), "drain".to_owned());
            return Err(RuntimeError::TimedOut { bundle, step, limit_ms });
        }
        // One whose `on_unload` fails goes on as it is: it has left no state to be
        // resumed with.
        let state = process
            .finish(old)
            .await?
            .map_err(|error| hook_failed(&bundle.name, "on_unload", error))?;
        let failed = |error| hook_failed(&bundle.name, "on_load", error);
        let resumed = next.resume(new, state.clone()).await;
        if let Err(error) = resumed.and_then(|outcome| outcome.map_err(failed)) {
            drop(process.go_on(old, state).await);
            return Err(error);
        }
        Ok(state)
    }
}
