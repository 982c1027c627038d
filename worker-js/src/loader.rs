//! The loader: a bundle becomes an engine with its modules in it.

use menagerie_protocol::loader::{Demand, Prepared};
use menagerie_protocol::{
    BundleLoader, BundleSource, GuestError, LoaderError, ManifestData, Runtime, SupportedLanguage,
};

use crate::bootstrap::Blank;
use crate::engine;
use crate::instance::JsInstance;
use crate::interrupt::Gate;
use crate::lane::Lane;
use crate::modules::Modules;
use crate::sources::Sources;

/// The name that a manifest's `loader` must have.
const NAME: &str = "js";

/// How much memory one bundle's engine may use, unless told otherwise.
const HEAP_LIMIT: usize = 1024 * 1024 * 1024;

/// The loader for bundles in JavaScript.
#[derive(Debug)]
pub struct JsLoader {
    heap_limit: usize,
}

impl JsLoader {
    /// The loader.
    #[must_use]
    pub fn new() -> Self {
        engine::prepare();
        Self { heap_limit: HEAP_LIMIT }
    }

    /// The same with another limit, in bytes, to the memory of each bundle.
    #[must_use]
    pub const fn with_heap_limit(mut self, bytes: usize) -> Self {
        self.heap_limit = bytes;
        self
    }

    /// A loaded bundle, its contracts registered.
    pub(crate) fn build(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<JsInstance, LoaderError> {
        let failed = |step: &str, error: GuestError| LoaderError::init(&manifest.name, step, error);
        let sources = match source {
            BundleSource::Path(_) => Sources::in_dir(&manifest.dir, &manifest.artifact()?),
            BundleSource::Code(code) => {
                Sources::in_memory(&manifest.name, &manifest.file, code.clone())
            }
            BundleSource::Bytes(_) => {
                return Err(LoaderError::UnsupportedBundleSource {
                    loader: NAME.to_owned(),
                    kind: source.kind().to_owned(),
                });
            }
        };
        let blank = match runtime.take_prepared::<Blank>() {
            Some(blank) => *blank,
            None => Blank::start(self.heap_limit).map_err(|e| failed("start the engine", e))?,
        };
        let gate = Gate::new(blank.engine.isolate.thread_safe_handle(), runtime.grace())
            .map_err(|e| LoaderError::io("eventfd", &e))?;
        let lane = Lane::new(runtime.host(), runtime.logger(), gate, Modules::new(sources));
        let bundle = runtime.bundle_name().to_owned();
        let mut instance = JsInstance::new(blank, lane, bundle, runtime.generation())
            .map_err(|e| failed("start the engine", e))?;
        runtime.set_interrupt(instance.interrupt());
        let exports = instance.import().map_err(|(step, e)| failed(step, e))?;
        let contracts = instance.read_exports(&exports).map_err(|e| failed("register", e))?;
        for contract in contracts {
            runtime.register(contract)?;
        }
        Ok(instance)
    }
}

impl Default for JsLoader {
    fn default() -> Self {
        Self::new()
    }
}

impl BundleLoader for JsLoader {
    fn loader_name(&self) -> &'static str {
        NAME
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::JavaScript
    }

    fn supports_hot_reload(&self) -> bool {
        true
    }

    /// An engine: what takes the longest of a load.
    fn prepare(&self, _demand: &Demand) -> Option<Prepared> {
        let blank = Blank::start(self.heap_limit).ok()?;
        Some(Box::new(blank))
    }

    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        runtime.install(Box::new(self.build(manifest, source, runtime)?));
        Ok(())
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }
}
