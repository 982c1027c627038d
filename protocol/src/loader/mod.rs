//! The contract between a worker and the loader that it hosts.

pub mod bundle_source;
pub mod manifest;
mod manifest_file;

use crate::{BundleId, LoaderError, Runtime, SupportedLanguage};
use bundle_source::BundleSource;
use manifest::ManifestData;

/// Code in a worker that loads bundles of one language.
///
/// Everything of one generation of a bundle happens on one thread, its lane's:
/// [`load`](Self::load) or [`reload`](Self::reload), every call, and
/// [`unload`](Self::unload). So what a loader builds for a bundle need not be
/// `Send`: it hands it to [`Runtime::install`] as an
/// [`Instance`](crate::Instance), and the lane keeps it. The loader itself is
/// shared by the lanes of all its bundles.
pub trait BundleLoader: Send + Sync {
    /// The name that a manifest's `loader` must equal, byte for byte (L1).
    fn loader_name(&self) -> &'static str;

    /// The language, for introspection only (L2).
    fn loader_language(&self) -> SupportedLanguage;

    /// Whether [`reload`](Self::reload) may be invoked at all (L3).
    fn supports_hot_reload(&self) -> bool;

    /// Loads a bundle, registers its contracts with
    /// [`Runtime::register`] and hands over its [`Instance`](crate::Instance)
    /// with [`Runtime::install`].
    ///
    /// # Errors
    ///
    /// Any [`LoaderError`]. Nothing of the bundle may stay behind then (L5):
    /// what was registered is discarded by the lane, what the loader keeps
    /// itself is the loader's to remove.
    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError>;

    /// Loads the bundle's next generation beside the running one, on a new
    /// lane; [`Runtime::source`] says where from.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); the old generation then goes on serving (L6).
    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError>;

    /// Called on the lane's thread when its generation ends, after the
    /// installed instance was dropped. [`Runtime::generation`] says which
    /// generation it is; another one of the same bundle may be running.
    ///
    /// # Errors
    ///
    /// Any [`LoaderError`]; it is reported, and the lane ends all the same.
    fn unload(&self, bundle_id: BundleId, runtime: &Runtime) -> Result<(), LoaderError> {
        let _ = (bundle_id, runtime);
        Ok(())
    }
}
