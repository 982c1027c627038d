//! Signed bundles (`DESIGN.md` rule R5): Ed25519 over the list of a bundle's
//! files.
//!
//! What is loaded is what was checked: the files are copied into a private
//! folder, the very bytes that are copied are hashed, the signature is held
//! against these hashes, and workers are given the copy.

mod config;
mod fetch;
mod file;
mod files;
mod key;
mod snapshot;
mod trust;

use std::path::{Path, PathBuf};

use menagerie_protocol::{LoaderError, ManifestData};
use serde::{Deserialize, Serialize};

pub use config::{SignatureConfig, SignaturePolicy};
pub(crate) use fetch::Fetched;
pub use file::SIGNATURE_FILE;
pub use key::{KeyError, PublicKey, SigningKey};
pub(crate) use snapshot::Snapshot;

/// What is known of a bundle's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureStatus {
    /// Whether it holds.
    pub state: SignatureState,
    /// The short id of the key that it was made with.
    pub key: Option<String>,
}

/// Whether a bundle's signature holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureState {
    /// It fits every file, and its key is trusted; with the policy `off`, which
    /// trusts nobody, it fits every file.
    Valid,
    /// There is none.
    Unsigned,
    /// It does not fit the files, or is none.
    Invalid,
    /// It fits every file, and its key is not trusted.
    Untrusted,
}

impl SignatureStatus {
    fn valid(key: &PublicKey) -> Self {
        Self { state: SignatureState::Valid, key: Some(key.short_id()) }
    }

    /// What an error says of the signature, if it is about that.
    #[must_use]
    pub fn of_error(error: &LoaderError) -> Option<Self> {
        let (state, key) = match error {
            LoaderError::UnsignedBundle { .. } => (SignatureState::Unsigned, None),
            LoaderError::SignatureVerificationFailed { .. } => (SignatureState::Invalid, None),
            LoaderError::UntrustedSigningKey { key, .. }
            | LoaderError::TrustStoreUnusable { key, .. } => {
                let id = key.parse::<PublicKey>().ok().map(|key| key.short_id());
                (SignatureState::Untrusted, id)
            }
            _ => return None,
        };
        Some(Self { state, key })
    }
}

/// `valid (3b6a27bcceb6a42d)`, `unsigned`, …
impl std::fmt::Display for SignatureStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.state {
            SignatureState::Valid => "valid",
            SignatureState::Unsigned => "unsigned",
            SignatureState::Invalid => "invalid",
            SignatureState::Untrusted => "untrusted",
        })?;
        self.key.as_ref().map_or(Ok(()), |key| write!(f, " ({key})"))
    }
}

/// A bundle that has been signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SignedBundle {
    /// Its name.
    pub name: String,
    /// The signature's file.
    pub file: PathBuf,
    /// How many files it covers.
    pub files: usize,
    /// The key that verifies it.
    pub key: PublicKey,
}

/// Signs every file of a bundle, and writes the signature beside its manifest.
///
/// # Errors
///
/// The manifest is not valid, or a file is none that can be signed: a link, a
/// device, a name that is no UTF-8.
pub fn sign_bundle(dir: &Path, key: &SigningKey) -> Result<SignedBundle, LoaderError> {
    let manifest = ManifestData::read(dir)?.manifest;
    let found = files::hash_all(&manifest.dir).map_err(|flaw| flaw.of(&manifest.name))?;
    let signed = file::write(&manifest.dir, &found, key)?;
    Ok(SignedBundle { name: manifest.name, file: signed, files: found.len(), key: key.public() })
}

impl SignatureConfig {
    /// Checks a bundle's signature where it lies. Nothing is remembered, and
    /// what is there after the check may be something else: to load a bundle,
    /// let the [`Supervisor`](crate::Supervisor) check it.
    ///
    /// # Errors
    ///
    /// [`LoaderError::UnsignedBundle`],
    /// [`LoaderError::SignatureVerificationFailed`], and, unless the policy is
    /// `off`, [`LoaderError::UntrustedSigningKey`] and
    /// [`LoaderError::TrustStoreUnusable`].
    pub fn examine(&self, dir: &Path) -> Result<SignatureStatus, LoaderError> {
        let name = fetch::name_of(dir);
        let found = files::hash_all(dir).map_err(|flaw| flaw.of(&name))?;
        let key = file::verify(dir, &found).map_err(|flaw| flaw.of(&name))?;
        let Some(key) = key else { return Err(LoaderError::UnsignedBundle { bundle: name }) };
        if self.policy != SignaturePolicy::Off {
            trust::judge(self, &name, &key, trust::FirstUse::Accept)?;
        }
        Ok(SignatureStatus::valid(&key))
    }
}

#[cfg(test)]
mod tests;
