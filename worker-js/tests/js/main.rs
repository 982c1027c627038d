//! The js loader through real lanes in this process.

#![allow(clippy::unwrap_used, missing_docs)]

// What a bundle exports, its arguments and results, its errors.
mod calls;
// Values there and back again.
mod values;
// Promises, timers, calls to others.
mod asynchronous;
// Loading, reloading, unloading, and everything that can go wrong then.
mod life;
// Interrupts, stack overflows, full heaps.
mod limits;
// Engines that are made before a bundle comes.
mod standby;
// The guest's world beside the language: console, timers, text.
mod world;

use std::path::PathBuf;
use std::sync::Arc;

use menagerie_protocol::testing::{Harness, TestBundle};
use menagerie_protocol::{BundleSource, Failure, GuestError, LoaderError};
use menagerie_worker_js::JsLoader;

/// A bundle of the repository's own.
fn sample(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles").join(name)
}

fn harness() -> Arc<Harness> {
    Harness::new(JsLoader::new())
}

/// A bundle from memory that provides `test@1`.
fn load(harness: &Arc<Harness>, code: &str) -> Result<TestBundle, LoaderError> {
    let manifest =
        "name = \"test\"\nversion = \"1.0.0\"\nloader = \"js\"\nprovides = [\"test@1\"]\n";
    harness.load(manifest, BundleSource::Code(code.to_owned()))
}

/// A bundle with these functions, as they stand in an object.
fn functions(harness: &Arc<Harness>, functions: &str) -> TestBundle {
    load(harness, &format!("export default {{ \"test@1\": {{ {functions} }} }};")).unwrap()
}

/// A bundle in a folder of its own: files with their texts.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let manifest = "name = \"test\"\nversion = \"1.0.0\"\nloader = \"js\"\nfile = \"main.js\"\n\
                    provides = [\"test@1\"]\n";
    std::fs::write(dir.path().join("manifest.toml"), manifest).unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

/// The guest's own error.
fn guest<T: std::fmt::Debug>(result: Result<T, Failure>) -> GuestError {
    match result {
        Err(Failure::Guest(error)) => *error,
        other => panic!("expected the guest's error, got {other:?}"),
    }
}

/// A failed load's step and error.
fn init_failure<T: std::fmt::Debug>(result: Result<T, LoaderError>) -> (String, GuestError) {
    match result {
        Err(LoaderError::InitFailed { step, error, .. }) => (step, error),
        other => panic!("expected InitFailed, got {other:?}"),
    }
}
