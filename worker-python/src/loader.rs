//! The loader.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use menagerie_protocol::{
    BundleLoader, BundleSource, LoaderError, ManifestData, Runtime, SupportedLanguage,
};
use pyo3::Python;

use crate::{interpreter, load, runtime_version};

/// The name by which manifests ask for it (L1).
pub(crate) const NAME: &str = "python";

/// Set by the supervisor from `[python] venv`.
const ENV_VENV: &str = "MENAGERIE_PYTHON_VENV";

/// Loads bundles written in Python into this process's interpreter.
///
/// The interpreter is started by the first loader, on the thread that makes it,
/// and never ended.
#[derive(Debug)]
pub struct PythonLoader {
    venv: Option<PathBuf>,
    activated: OnceLock<Result<(), String>>,
    /// Whether a bundle was to be loaded yet.
    is_used: Arc<AtomicBool>,
}

impl PythonLoader {
    /// A loader whose bundles import from the virtual environment that
    /// `MENAGERIE_PYTHON_VENV`, or else `VIRTUAL_ENV`, names.
    #[must_use]
    pub fn new() -> Self {
        let named = |key| std::env::var_os(key).filter(|value| !value.is_empty());
        Self::with_venv(named(ENV_VENV).or_else(|| named("VIRTUAL_ENV")).map(PathBuf::from))
    }

    /// A loader whose bundles import from this virtual environment.
    #[must_use]
    pub fn with_venv(venv: Option<PathBuf>) -> Self {
        // A failure is told by `load`; a worker that cannot load still answers.
        let _ = interpreter::start();
        Self { venv, activated: OnceLock::new(), is_used: Arc::default() }
    }

    /// Imports what bundles are likely to import, on a thread of its own, so that
    /// the first load finds it there (S8). It stops when a bundle is loaded.
    ///
    /// # Errors
    ///
    /// The system has no thread to spare.
    pub fn warm_up(&self) -> std::io::Result<JoinHandle<()>> {
        let is_used = Arc::clone(&self.is_used);
        std::thread::Builder::new().name("warm-up".to_owned()).spawn(move || {
            // A failure is told by the first load.
            if interpreter::start().is_ok() {
                interpreter::import_common(|| is_used.load(Ordering::Relaxed));
            }
        })
    }

    /// What bundles import from: the interpreter's own folders, and the environment.
    #[must_use]
    pub fn runtime_files(&self) -> Vec<PathBuf> {
        interpreter::folders().into_iter().chain(self.venv.clone()).collect()
    }

    fn ready(&self) -> Result<(), LoaderError> {
        self.is_used.store(true, Ordering::Relaxed);
        let missing = |problem: String, remedy: &str| LoaderError::RuntimeMissing {
            runtime: runtime_version(),
            problem,
            remedy: remedy.to_owned(),
        };
        interpreter::start().map_err(|problem| {
            missing(problem, "Install the Python that the worker was built with, or build it again")
        })?;
        let Some(venv) = &self.venv else { return Ok(()) };
        let activated =
            self.activated.get_or_init(|| Python::attach(|py| load::activate(py, venv)));
        activated.clone().map_err(|problem| {
            let remedy = "Make the environment with the worker's own Python version (python3 -m \
                          venv), and name it in [python] venv";
            missing(problem, remedy)
        })
    }
}

impl Default for PythonLoader {
    fn default() -> Self {
        Self::new()
    }
}

impl BundleLoader for PythonLoader {
    fn loader_name(&self) -> &'static str {
        NAME
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Python
    }

    fn supports_hot_reload(&self) -> bool {
        true
    }

    fn shares_a_lock(&self) -> bool {
        true
    }

    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        self.ready()?;
        load::load(manifest, source, runtime)
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.ready()?;
        load::load(manifest, runtime.source(), runtime)
    }
}
