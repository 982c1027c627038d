//! Which keys are trusted.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use menagerie_protocol::LoaderError;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{KeyError, PublicKey, SignatureConfig};

/// What becomes of a bundle that nobody has seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstUse {
    /// It is trusted, and its key is remembered.
    Remember,
    /// It would be trusted.
    Accept,
}

/// Whose a bundle is, as the store has it: the text of a key, or `pinned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
enum Owner {
    /// Whoever has this key, which was the first.
    First(PublicKey),
    /// The trusted keys, whichever they are: one that has to go is taken out of the
    /// settings, and no store lets it in again.
    Pinned,
}

const PINNED: &str = "pinned";

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::First(key) => key.into(),
            Owner::Pinned => PINNED.to_owned(),
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == PINNED { Ok(Self::Pinned) } else { text.parse().map(Self::First) }
    }
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
    let is_trusted = config.trusted_keys.contains(key);
    let Some(store) = &config.trust_store else {
        let none = || untrusted("is none of the trusted keys".to_owned());
        return is_trusted.then_some(()).ok_or_else(none);
    };
    if is_trusted && first_use == FirstUse::Accept {
        return Ok(());
    }
    // What a trusted key signs is kept from others: to the store its name would be one
    // that nobody has signed yet.
    let owner = if is_trusted { Owner::Pinned } else { Owner::First(*key) };
    let known = known_owner(store, bundle, owner, first_use).map_err(|unusable| {
        let Unusable { path, problem } = unusable;
        let (bundle, key) = (bundle.to_owned(), key.to_string());
        LoaderError::TrustStoreUnusable { bundle, key, path, problem }
    })?;
    let problem = match known {
        Some(known) if !is_trusted && known != owner => match known {
            Owner::First(known) => format!("is not the one that it had before, {known}"),
            Owner::Pinned => {
                "is none of the trusted keys, and one of them has signed it before".to_owned()
            }
        },
        _ => return Ok(()),
    };
    let store = store.display();
    Err(untrusted(format!("{problem}; if that is meant, remove its line from {store}")))
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

/// Whose the bundle was up to now. From now on it is the owner's, if it was nobody's or
/// the trusted keys take it.
fn known_owner(
    store: &Path,
    bundle: &str,
    owner: Owner,
    first_use: FirstUse,
) -> Result<Option<Owner>, Unusable> {
    let changes = |known: Option<Owner>| {
        known.is_none_or(|known| owner == Owner::Pinned && known != Owner::Pinned)
    };
    // To read takes no lock: a store is replaced in one step.
    let known = read(store)?.get(bundle).copied();
    if first_use == FirstUse::Accept || !changes(known) {
        return Ok(known);
    }
    // Several supervisors may share a store, and loads run side by side.
    let _lock = Lock::take(store)?;
    let mut owners = read(store)?;
    let known = owners.get(bundle).copied();
    if changes(known) {
        owners.insert(bundle.to_owned(), owner);
        write(store, &owners).map_err(|error| Unusable::new(store, &error))?;
        match owner {
            Owner::First(key) => {
                let told = "the key of a bundle is seen for the first time, and trusted";
                tracing::info!(bundle, %key, "{told}");
            }
            Owner::Pinned => {
                tracing::info!(bundle, "only trusted keys sign this bundle from now on")
            }
        }
    }
    Ok(known)
}

fn read(store: &Path) -> Result<BTreeMap<String, Owner>, Unusable> {
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
fn write(store: &Path, owners: &BTreeMap<String, Owner>) -> std::io::Result<()> {
    let text = toml::to_string(owners).map_err(std::io::Error::other)?;
    let next = beside(store, ".tmp");
    // What a crash has left.
    drop(std::fs::remove_file(&next));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    let head = "# The key of each bundle at its first use, or \"pinned\": only trusted_keys sign it.\n\
        # Remove a line to trust another key.\n";
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
