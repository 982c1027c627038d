//! The loader.

use menagerie_protocol::{
    BundleLoader, BundleSource, ContractInterface, LoaderError, ManifestData, Runtime,
    SupportedLanguage,
};

use crate::host::LaneHost;
use crate::instance::NativeInstance;
use crate::library::Library;
use crate::registrar::Registrar;

/// Loads shared libraries that define `menagerie_init`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NativeLoader;

impl NativeLoader {
    /// A loader.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// What the status shows: the platform that libraries are loaded for.
    #[must_use]
    pub fn runtime_version() -> String {
        let (major, minor) = (menagerie_guest::abi::ABI_MAJOR, menagerie_guest::abi::ABI_MINOR);
        format!("{} {}, menagerie.h {major}.{minor}", std::env::consts::OS, std::env::consts::ARCH)
    }

    /// Maps the bundle's library, and registers what it adds.
    fn start(manifest: &ManifestData, runtime: &Runtime) -> Result<NativeInstance, LoaderError> {
        let library = Library::open(manifest, runtime.take_copy())?;
        let entry = library.entry();
        let host = LaneHost::new(runtime, &manifest.dir);
        // From here on the library goes when the lane's thread has ended, and
        // not before, whatever happens: its constructors have run on this
        // thread, which may have left thread-local values behind.
        let (table, logger) = (host.table(), runtime.logger());
        runtime.after_thread(move || {
            if !library.close(&logger) {
                // What is left of it may still log.
                std::mem::forget(table);
            }
        });
        let init_failed = |error| LoaderError::init(runtime.bundle_name(), "initialise", error);
        // SAFETY: the library has said that it is of this version; it stays
        // mapped until this thread has ended, and so does the host's table.
        let added = unsafe { Registrar::run(entry?, host.as_abi()) }.map_err(init_failed)?;
        let mut functions = Vec::new();
        for (contract, exported) in added.contracts {
            let names = exported.iter().map(|function| function.name.clone()).collect();
            runtime.register(ContractInterface { contract, functions: names })?;
            functions.extend(exported);
        }
        Ok(NativeInstance::new(functions, added.on_load, added.on_unload, host))
    }
}

impl BundleLoader for NativeLoader {
    fn loader_name(&self) -> &'static str {
        "native"
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Rust
    }

    fn supports_hot_reload(&self) -> bool {
        true
    }

    fn maps_artifacts(&self) -> bool {
        true
    }

    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let BundleSource::Path(_) = source else {
            return Err(LoaderError::UnsupportedBundleSource {
                loader: self.loader_name().to_owned(),
                kind: source.kind().to_owned(),
            });
        };
        runtime.install(Box::new(Self::start(manifest, runtime)?));
        Ok(())
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }
}
