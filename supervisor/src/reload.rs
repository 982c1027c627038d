//! Reloading a bundle, and those that want to be initialised again with it
//! (`DESIGN.md` rules L6, R4).

use menagerie_protocol::{ManifestData, RuntimeError};

use crate::core::Core;
use crate::events::EventKind;
use crate::lane::lock;
use crate::status::BundleStatus;

impl Core {
    /// Reloads a bundle while it serves, and then the bundles that use it and
    /// whose manifests ask for that. One of these that fails goes on as it is;
    /// an event says so.
    ///
    /// One that is listed as broken is loaded.
    pub(crate) async fn reload(&self, name: &str) -> Result<BundleStatus, RuntimeError> {
        let known = lock(&self.registry).get(name).is_ok();
        if !known && let Some(dir) = self.broken_dir(name) {
            let outcome = self.load_dir(&dir).await;
            if let Err(error) = &outcome {
                let manifest = ManifestData::read(&dir).ok().map(|parsed| parsed.manifest);
                self.list_broken(&dir, manifest.as_ref(), error);
            }
            return outcome;
        }
        let status = self.reload_one(name, "reload").await?;
        let dependents = lock(&self.registry).to_reinitialise(name);
        for dependent in dependents {
            drop(self.reload_one(&dependent, "reinitialise").await);
        }
        Ok(status)
    }

    async fn reload_one(&self, name: &str, step: &str) -> Result<BundleStatus, RuntimeError> {
        let bundle = lock(&self.registry).get(name)?;
        let outcome = self.reload_bundle(&bundle).await;
        match &outcome {
            Ok(status) => self.events.emit(EventKind::BundleReloaded {
                bundle: name.to_owned(),
                generation: status.generation,
            }),
            Err(error) => self.events.emit(EventKind::BundleFailed {
                bundle: name.to_owned(),
                step: step.to_owned(),
                reason: error.to_string(),
            }),
        }
        outcome
    }
}
