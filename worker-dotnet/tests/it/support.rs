//! Harness, fixtures, and the one place that decides to skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::testing::{Harness, TestBundle};
use menagerie_protocol::{BundleSource, Failure, GuestError, LoaderError};
use menagerie_worker_dotnet::{DotnetLoader, Search};
use tempfile::TempDir;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where the worker looks, and this checkout's `target/dotnet`.
pub(crate) fn search() -> Search {
    let mut search = Search::from_environment();
    let built = checkout().join("target/dotnet");
    search.runtimes.push(built.join("runtime"));
    search.bridges.push(built);
    search
}

/// A harness, or none where there is no .NET: the test is skipped then, except
/// in CI, which allows no skips.
pub(crate) fn new_harness() -> Option<Arc<Harness>> {
    harness_by(Harness::new)
}

/// The same as a standby has it.
pub(crate) fn new_standby() -> Option<Arc<Harness>> {
    harness_by(Harness::standby)
}

fn harness_by(new: fn(DotnetLoader) -> Arc<Harness>) -> Option<Arc<Harness>> {
    let search = search();
    if let Err(error) = search.find() {
        assert!(std::env::var_os("CI").is_none(), "{error}");
        eprintln!("SKIPPED: {error}");
        return None;
    }
    Some(new(DotnetLoader::new(search)))
}

/// `let harness = harness!();`, which returns from a test that is skipped.
macro_rules! harness {
    () => {
        match $crate::support::new_harness() {
            Some(harness) => harness,
            None => return,
        }
    };
}
pub(crate) use harness;

/// A fixture's assembly.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let bridge = search().find().unwrap().bridge;
    let path = bridge.join("fixtures").join(name).with_extension("dll");
    fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run scripts/setup-dotnet", path.display()))
}

/// The manifest of a bundle with these contracts.
pub(crate) fn manifest(name: &str, provides: &[&str]) -> String {
    format!(
        "name = \"{name}\"\nversion = \"1.0.0\"\nloader = \"dotnet\"\nfile = \"{name}.dll\"\nprovides = {provides:?}\n"
    )
}

/// A folder with a fixture as a bundle.
pub(crate) fn bundle_dir(name: &str, provides: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("manifest.toml"), manifest(name, provides)).unwrap();
    fs::write(dir.path().join(name).with_extension("dll"), fixture(name)).unwrap();
    dir
}

/// A fixture, loaded from memory.
pub(crate) fn load(harness: &Arc<Harness>, name: &str, provides: &[&str]) -> TestBundle {
    let source = BundleSource::Bytes(fixture(name));
    harness.load(&manifest(name, provides), source).unwrap()
}

/// One of the checkout's sample bundles.
pub(crate) fn sample(harness: &Arc<Harness>, name: &str) -> TestBundle {
    harness.load_dir(checkout().join("tests/bundles").join(name)).unwrap()
}

pub(crate) fn guest_error<T: std::fmt::Debug>(result: Result<T, Failure>) -> GuestError {
    match result {
        Err(Failure::Guest(error)) => *error,
        other => panic!("expected an error of the guest, got {other:?}"),
    }
}

pub(crate) fn bad_arguments<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure::BadArguments { message }) => message,
        other => panic!("expected bad arguments, got {other:?}"),
    }
}

/// The step and the error of a load that failed.
pub(crate) fn init_failure(result: Result<TestBundle, LoaderError>) -> (String, GuestError) {
    match result {
        Err(LoaderError::InitFailed { step, error, .. }) => (step, error),
        other => panic!("expected a step to fail, got {other:?}"),
    }
}
