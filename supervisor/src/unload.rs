//! Unloading bundles (`DESIGN.md` rules L7, R4).

use std::sync::Arc;

use futures_util::future::join_all;
use menagerie_protocol::{Failure, RuntimeError};

use crate::bundle::{Bundle, Route};
use crate::core::Core;
use crate::events::EventKind;
use crate::lane::lock;
use crate::registry::{Cascade, Registry};
use crate::status::BundleState;
use crate::to_its_end::caught;

impl Core {
    /// Unloads a bundle that no other one needs; a broken one is forgotten.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), RuntimeError> {
        let one = |registry: &mut Registry| registry.take(name).map(|bundle| vec![bundle]);
        self.unload_those_of(name, one).await.map(drop)
    }

    /// Unloads a bundle and, before it, everything that could not do without
    /// it. All of them are out of reach at once; then they end one by one,
    /// dependents first, so that what their hooks call is still there. A broken one is
    /// forgotten.
    pub(crate) async fn unload_cascade(&self, name: &str) -> Result<Vec<String>, RuntimeError> {
        self.unload_those_of(name, |registry| registry.take_cascade(name)).await
    }

    /// Unloads what `take` takes out of the registry for a name, and returns their names; or
    /// forgets the broken bundle of that name, if there is none in the registry.
    async fn unload_those_of(
        &self,
        name: &str,
        take: impl FnOnce(&mut Registry) -> Result<Cascade, RuntimeError>,
    ) -> Result<Vec<String>, RuntimeError> {
        // No new call can find them from here on.
        let taken = self.take_out(take);
        if matches!(taken, Err(RuntimeError::BundleNotFound { .. }))
            && let Some((dir, _)) = self.broken_dir(name)
        {
            lock(&self.broken).remove(&dir);
            return Ok(vec![name.to_owned()]);
        }
        let taken = taken?;
        let names = taken.iter().map(|bundle| bundle.name.clone()).collect();
        self.take_all_down(taken).await?;
        Ok(names)
    }

    /// Takes bundles out of the registry, and their accounts with them (S5): what is loaded
    /// by such a name from here on has one of its own.
    fn take_out(
        &self,
        take: impl FnOnce(&mut Registry) -> Result<Cascade, RuntimeError>,
    ) -> Result<Cascade, RuntimeError> {
        let mut registry = lock(&self.registry);
        let taken = take(&mut registry)?;
        let mut blame = lock(&self.blame);
        taken.iter().for_each(|bundle| blame.forget(&bundle.name));
        Ok(taken)
    }

    /// Ends bundles that are in the registry no more, one after the other: to the last of
    /// them, as nobody could ask for it again.
    async fn take_all_down(&self, bundles: Cascade) -> Result<(), RuntimeError> {
        self.to_its_end(|core| async move {
            let mut outcome = Ok(());
            for bundle in &bundles {
                let taken_down = caught(core.take_down(bundle)).await;
                outcome = outcome.and(taken_down);
            }
            outcome
        })
        .await
    }

    /// Ends a bundle that is in the registry no more, in all of its workers.
    async fn take_down(&self, bundle: &Arc<Bundle>) {
        let failure = Failure::StaleHandle { bundle: bundle.name.clone() };
        let stale = &Route::Down(BundleState::Unloading, Box::new(failure));
        bundle.set_all_routes(stale);
        let mut taken_down = Vec::new();
        for seat in bundle.seats.iter() {
            taken_down.push(async move {
                let mut serving = seat.serving.lock().await;
                // An operation that was under way may have set the route again.
                seat.set_route(stale.clone());
                self.vacate(bundle, serving.take(), "unload").await;
            });
        }
        join_all(taken_down).await;
        // Handles that hosts have kept hold the bundle still.
        bundle.content().artifact.give_back().await;
        for home in bundle.homes() {
            self.release(&home);
        }
        self.events.emit(EventKind::BundleUnloaded { bundle: bundle.name.clone() });
    }
}
