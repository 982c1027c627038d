//! The Lua loader, driven through real lanes within this process.
#![allow(clippy::unwrap_used)]

// What crosses unchanged, and what is refused.
mod values;
// How Lua's errors look outside.
mod errors;
// on_load, on_unload and the state between generations.
mod hooks;
// `require` of siblings, and what it refuses.
mod require;
// print, io and menagerie.log.
mod output;
// menagerie.call.
mod outcalls;
// The soft cancel.
mod interrupt;
// Loading, unloading, and what is left afterwards.
mod lifecycle;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::testing::{Harness, TestBundle};
use menagerie_protocol::{BundleSource, Failure, GuestError, LoaderError};
use menagerie_worker_lua::LuaLoader;

/// A manifest for a bundle from memory.
const MANIFEST: &str =
    "name = \"probe\"\nversion = \"1.0.0\"\nloader = \"lua\"\nprovides = [\"probe@1\"]\n";

fn harness() -> Arc<Harness> {
    Harness::new(LuaLoader::new())
}

/// Loads a bundle from memory that provides `probe@1`.
fn try_load(harness: &Arc<Harness>, code: &str) -> Result<TestBundle, LoaderError> {
    harness.load(MANIFEST, BundleSource::Code(code.to_owned()))
}

/// A bundle whose `probe@1` has the functions that `functions` defines in the
/// table `probe`.
fn probe(functions: &str) -> (Arc<Harness>, TestBundle) {
    let harness = harness();
    let code = format!(
        "local menagerie = require 'menagerie'\nlocal probe = {{}}\n{functions}\nreturn {{ ['probe@1'] = probe }}"
    );
    let bundle = try_load(&harness, &code).unwrap();
    (harness, bundle)
}

/// The guest's error that a call ended in.
fn guest_error<T: std::fmt::Debug>(result: Result<T, Failure>) -> GuestError {
    match result {
        Err(Failure::Guest(error)) => *error,
        other => panic!("expected a guest's error, got {other:?}"),
    }
}

/// The sample bundles that all languages have.
fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles").join(name)
}

/// A folder with a bundle in it.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("manifest.toml"), format!("{MANIFEST}file = \"main.lua\"\n"))
        .unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}
