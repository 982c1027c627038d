//! Commands that need no supervisor that runs: bundles are made, signed and checked, and
//! the machine is.

use std::path::{Path, PathBuf};

use menagerie_supervisor::{ConfigFile, SignedBundle, doctor};
use serde::Serialize;

use crate::args::{Check, Language};
use crate::client::CommandError;
use crate::{check, new, render, sign};

pub(super) async fn new(
    language: Language,
    dir: PathBuf,
    build: bool,
    json: bool,
) -> Result<(), CommandError> {
    let made = blocking("compiling", move || new::new(language, &dir, build)).await??;
    show(&made, json, render::made);
    Ok(())
}

pub(super) fn keygen(out: PathBuf, json: bool) -> Result<(), CommandError> {
    show(&sign::keygen(out)?, json, |made| {
        render::note(&format!("the key is in {}; this verifies it:", made.file.display()));
        render::line(&made.key.to_string());
    });
    Ok(())
}

pub(super) async fn sign(dir: PathBuf, key: PathBuf, json: bool) -> Result<(), CommandError> {
    let signed = blocking("signing", move || sign::sign(&dir, &key)).await??;
    show(&signed, json, |SignedBundle { name, files, key, .. }| {
        let key = key.short_id();
        render::line(&format!("signed {name}: {files} files, key {key}"));
    });
    Ok(())
}

pub(super) async fn check(args: Check, json: bool, verbose: bool) -> Result<(), CommandError> {
    let findings = render::patiently("checking", check::check(args)).await?;
    show(&findings, json, |findings| render::findings(findings, verbose));
    if findings.is_sound() {
        Ok(())
    } else {
        let what = findings.dir.display();
        Err(CommandError::Failed(format!("{what}: the bundle is not as it should be")))
    }
}

pub(super) async fn doctor(
    file: Option<PathBuf>,
    worker_dir: Option<PathBuf>,
    json: bool,
) -> Result<(), CommandError> {
    let mut config = settings(file.as_deref())?.config;
    config.worker_dir = worker_dir.or(config.worker_dir);
    let report = blocking("looking", move || doctor::examine(&config)).await?;
    show(&report, json, render::report);
    if report.is_usable() {
        Ok(())
    } else {
        Err(CommandError::Failed("no bundle can be run on this machine yet".to_owned()))
    }
}

/// The settings of a file, or those of none.
fn settings(file: Option<&Path>) -> Result<ConfigFile, CommandError> {
    file.map_or_else(|| Ok(ConfigFile::default()), ConfigFile::read)
        .map_err(|error| CommandError::Usage(error.to_string()))
}

/// Does what blocks, and says what it does if that takes long.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let working = render::patiently(what, tokio::task::spawn_blocking(work)).await;
    working.map_err(|error| CommandError::Failed(error.to_string()))
}

/// Shows what came of it, to people or as it is.
fn show<T: Serialize>(made: &T, json: bool, render: impl FnOnce(&T)) {
    if json {
        render::json(made);
    } else {
        render(made);
    }
}
