//! Builds a generation: runs the bundle's code and takes what it exports.

use std::path::{Path, PathBuf};

use menagerie_protocol::{
    BundleSource, ContractInterface, GuestError, LoaderError, ManifestData, Runtime,
};
use pyo3::exceptions::{PyImportError, PySyntaxError};
use pyo3::prelude::*;

use crate::function::Function;
use crate::guest_error::guest_error;
use crate::instance::{Generation, PythonInstance};
use crate::interpreter;
use crate::lane::Lane;
use crate::thread::ThreadPin;

/// Where the main module's code is.
enum Main<'a> {
    File { path: PathBuf, folders: Vec<PathBuf> },
    Memory { code: &'a str },
}

/// Loads a bundle on this thread. If it fails, dropping the [`Generation`]
/// removes all that the code has left behind (L5).
pub(crate) fn load(
    manifest: &ManifestData,
    source: &BundleSource,
    runtime: &Runtime,
) -> Result<(), LoaderError> {
    let main = match source {
        BundleSource::Path(dir) => {
            let path = manifest.artifact()?;
            Main::File { folders: folders(&path, dir), path }
        }
        BundleSource::Code(code) => Main::Memory { code },
        BundleSource::Bytes(_) => {
            return Err(LoaderError::UnsupportedBundleSource {
                loader: crate::loader::NAME.to_owned(),
                kind: source.kind().to_owned(),
            });
        }
    };
    let mut generation = Generation {
        thread: ThreadPin::new(),
        lane: Lane::enter(runtime),
        dir: matches!(source, BundleSource::Path(_)).then(|| manifest.dir.clone()),
        bundle: None,
        functions: Vec::new(),
        on_load: None,
        on_unload: None,
    };
    runtime.set_interrupt(generation.lane.interrupt.clone());
    Python::attach(|py| generation.build(py, manifest, &main, runtime))?;
    runtime.install(Box::new(PythonInstance::new(generation)));
    Ok(())
}

/// Where bare imports are looked for: beside the main module, as Python does
/// for scripts, and in the bundle's folder.
fn folders(main: &Path, dir: &Path) -> Vec<PathBuf> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    match main.parent() {
        Some(beside) if beside != dir => vec![beside.to_owned(), dir],
        _ => vec![dir],
    }
}

impl Generation {
    fn build(
        &mut self,
        py: Python<'_>,
        manifest: &ManifestData,
        main: &Main<'_>,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let lane = &self.lane;
        let failed = |step: &str, error: PyErr| {
            let error = guest_error(py, &error, &lane.prefix);
            LoaderError::init(&lane.bundle, step, error)
        };
        let (path, folders, code) = match main {
            // As strings: a `Path` would become a `pathlib.Path`.
            Main::File { path, folders } => {
                (Some(path.as_os_str()), folders.iter().map(|f| f.as_os_str()).collect(), None)
            }
            Main::Memory { code } => (None, Vec::new(), Some(*code)),
        };
        let bundle = interpreter::internal(py, "bundles")
            .and_then(|bundles| {
                let made = (lane.serial, &lane.prefix, &lane.bundle, folders);
                bundles.call_method1("Bundle", made)
            })
            .map_err(|error| failed("initialise", error))?;
        self.bundle = Some(bundle.clone().unbind());

        let stem = Path::new(&manifest.file).file_stem().and_then(|stem| stem.to_str());
        let run = (stem.unwrap_or("main"), path, code);
        let module = lane.run(py, 0, |_| bundle.call_method1("run", run));
        lane.loading.set(false);
        let module = module.map_err(|error| failed(step_of(py, &error), error))?;

        for hook in ["on_load", "on_unload"] {
            let found = module.getattr_opt(hook).map_err(|error| failed("register", error))?;
            let found = found.map(Bound::unbind);
            if hook == "on_load" { self.on_load = found } else { self.on_unload = found }
        }
        let mut exports = lane.exports.take();
        // By contract; within one, in the order of the definitions.
        exports.sort_by(|a, b| a.contract.cmp(&b.contract));
        for same in exports.chunk_by(|a, b| a.contract == b.contract) {
            runtime.register(ContractInterface {
                contract: same[0].contract.clone(),
                functions: same.iter().map(|export| export.function.clone()).collect(),
            })?;
        }
        for export in exports {
            let function = Function::new(py, export.function, export.callable)
                .map_err(|error| failed("register", error))?;
            self.functions.push(function);
        }
        Ok(())
    }
}

/// Which step of the load an exception belongs to.
fn step_of(py: Python<'_>, error: &PyErr) -> &'static str {
    if error.is_instance_of::<PySyntaxError>(py) {
        "compile"
    } else if error.is_instance_of::<PyImportError>(py) {
        "import"
    } else {
        "initialise"
    }
}

/// Makes the environment's packages importable, once per process.
pub(crate) fn activate(py: Python<'_>, venv: &Path) -> Result<(), String> {
    let told = interpreter::internal(py, "venv")
        .and_then(|module| module.call_method1("activate", (venv.as_os_str(),)))
        .and_then(|problem| problem.extract::<Option<String>>());
    match told {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => Err(problem),
        Err(error) => {
            let error: GuestError = guest_error(py, &error, "\0");
            Err(format!("{}: {error}", venv.display()))
        }
    }
}
