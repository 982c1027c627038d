//! Which keys are trusted.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use menagerie_protocol::LoaderError;
use nix::fcntl::{Flock, FlockArg};

use super::{PublicKey, SignatureConfig};

/// What becomes of a bundle that nobody has seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstUse {
    /// It is trusted, and its key is remembered.
    Remember,
    /// It would be trusted.
    Accept,
}

/// Whether a key may sign a bundle.
pub(super) fn judge(
    config: &SignatureConfig,
    bundle: &str,
    key: &PublicKey,
    first_use: FirstUse,
) -> Result<(), LoaderError> {
    let untrusted = |problem: String| LoaderError::UntrustedSigningKey {
        bundle: bundle.to_owned(),
        key: key.to_string(),
        problem,
    };
    if config.trusted_keys.contains(key) {
        return Ok(());
    }
    let Some(store) = &config.trust_store else {
        return Err(untrusted("is none of the trusted keys".to_owned()));
    };
    match known_key(store, bundle, key, first_use) {
        Err(Unusable { path, problem }) => Err(LoaderError::TrustStoreUnusable {
            bundle: bundle.to_owned(),
            key: key.to_string(),
            path,
            problem,
        }),
        Ok(Some(known)) if known != *key => Err(untrusted(format!(
            "is not the one that it had before, {known}; if that is meant, remove its line from {}",
            store.display()
        ))),
        _ => Ok(()),
    }
}

/// Why the store cannot be used.
struct Unusable {
    /// The store, or the lock beside it.
    path: PathBuf,
    problem: String,
}

impl Unusable {
    fn new(path: &Path, problem: &dyn std::fmt::Display) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// The key that a bundle had at its first use.
fn known_key(
    store: &Path,
    bundle: &str,
    key: &PublicKey,
    first_use: FirstUse,
) -> Result<Option<PublicKey>, Unusable> {
    // Several supervisors may share a store, and loads run side by side.
    let _lock = (first_use == FirstUse::Remember).then(|| Lock::take(store)).transpose()?;
    let mut keys = read(store)?;
    if let Some(known) = keys.get(bundle) {
        return Ok(Some(*known));
    }
    if first_use == FirstUse::Remember {
        keys.insert(bundle.to_owned(), *key);
        write(store, &keys).map_err(|error| Unusable::new(store, &error))?;
        tracing::info!(bundle, %key, "the key of a bundle is seen for the first time, and trusted");
    }
    Ok(None)
}

fn read(store: &Path) -> Result<BTreeMap<String, PublicKey>, Unusable> {
    let unusable = |problem: &dyn std::fmt::Display| Unusable::new(store, problem);
    let text = match std::fs::read_to_string(store) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unusable(&error)),
    };
    let mode = std::fs::metadata(store).map_err(|error| unusable(&error))?.mode();
    if mode & 0o022 != 0 {
        let mode = mode & 0o7777;
        return Err(unusable(&format!("others may write it (mode {mode:04o}); chmod 600 it")));
    }
    toml::from_str(&text)
        .map_err(|error| unusable(&format!("is no store of keys: {}", error.message())))
}

/// Writes it in one step: a reader sees the old one or the new one.
fn write(store: &Path, keys: &BTreeMap<String, PublicKey>) -> std::io::Result<()> {
    let text = toml::to_string(keys).map_err(std::io::Error::other)?;
    let next = beside(store, ".tmp");
    // What a crash has left.
    drop(std::fs::remove_file(&next));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    let head = "# The key of each bundle at its first use; remove a line to trust another one.\n";
    file.write_all(head.as_bytes())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, store)
}

fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The right to change the store: a lock on a file beside it, since the store
/// itself is replaced.
struct Lock(#[allow(dead_code, reason = "it is held")] Flock<File>);

impl Lock {
    fn take(store: &Path) -> Result<Self, Unusable> {
        let path = beside(store, ".lock");
        let io = |error: &dyn std::fmt::Display| Unusable::new(&path, error);
        if let Some(folder) = store.parent() {
            std::fs::create_dir_all(folder).map_err(|error| io(&error))?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| io(&error))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Self)
            .map_err(|(_, error)| io(&std::io::Error::from(error)))
    }
}
