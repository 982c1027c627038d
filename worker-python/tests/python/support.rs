//! Bundles from text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::testing::{Harness, TestBundle};
use menagerie_protocol::{BundleSource, Failure, GuestError, LoaderError};
use menagerie_worker_python::PythonLoader;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The contract that the tests' bundles provide.
pub(crate) const T: &str = "t@1";

pub(crate) fn harness() -> Arc<Harness> {
    Harness::new(PythonLoader::with_venv(None))
}

/// A bundle's folder.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// With a manifest for `main.py`, and these files.
    pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("manifest.toml", &manifest(name));
        for (file, text) in files {
            folder.write(file, text);
        }
        folder
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// All files below, as paths relative to it.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.path()).unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }
}

pub(crate) fn manifest(name: &str) -> String {
    format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\nloader = \"python\"\nfile = \"main.py\"\n\
         provides = [\"{T}\"]\n"
    )
}

/// A bundle from memory.
pub(crate) fn code(
    harness: &Arc<Harness>,
    name: &str,
    code: &str,
) -> Result<TestBundle, LoaderError> {
    harness.load(&manifest(name), BundleSource::Code(format!("import menagerie\n{code}")))
}

/// Calls a function of [`T`].
pub(crate) fn call<A: Serialize, R: DeserializeOwned>(
    bundle: &TestBundle,
    function: &str,
    args: A,
) -> Result<R, Failure> {
    bundle.call(T, function, args)
}

pub(crate) fn guest_error(failure: Failure) -> GuestError {
    match failure {
        Failure::Guest(error) => *error,
        other => panic!("expected the guest's own error, got {other:?}"),
    }
}

pub(crate) fn bad_arguments(failure: Failure) -> String {
    match failure {
        Failure::BadArguments { message } => message,
        other => panic!("expected bad arguments, got {other:?}"),
    }
}

/// The step and the error of a failed initialisation.
pub(crate) fn init_failed(result: Result<TestBundle, LoaderError>) -> (String, GuestError) {
    match result {
        Err(LoaderError::InitFailed { step, error, .. }) => (step, error),
        other => panic!("expected a failed initialisation, got {other:?}"),
    }
}
