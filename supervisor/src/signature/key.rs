//! Keys, as text and in files.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::random;

/// What a public key's text begins with; hexadecimal digits follow.
const PUBLIC: &str = "ed25519:";
/// As [`PUBLIC`], of a key that signs.
const SECRET: &str = "ed25519-secret:";

/// A key that signatures are verified with. As text, `ed25519:` and 64
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey(VerifyingKey);

/// Why something is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is no key's text.
    #[error("'{text}' is no public key: expected ed25519: and 64 hexadecimal digits")]
    Public {
        /// The text.
        text: String,
    },
    /// The file holds no key that signs. What it holds is not shown.
    #[error("{} is no signing key; `menagerie keygen` makes one", .file.display())]
    Secret {
        /// The file.
        file: PathBuf,
    },
    /// Others may read a key that signs.
    #[error("{} may be read by others (mode {mode:04o}); change that: chmod 600", .file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file cannot be read or written.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
}

impl PublicKey {
    /// The first 16 of its digits: enough to tell it from others at a glance,
    /// not enough to trust it.
    #[must_use]
    pub fn short_id(&self) -> String {
        hex(&self.0.as_bytes()[..8])
    }

    /// Whether it has signed this. Strict: keys and signatures for which more
    /// than one message would hold are refused.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix(PUBLIC)
            .and_then(unhex)
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .filter(|key| !key.is_weak())
            .map(Self)
            .ok_or_else(|| KeyError::Public { text: text.chars().take(80).collect() })
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A key that signs. It is wiped from memory when it is dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

impl SigningKey {
    /// A new one, from the kernel's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&random::bytes()))
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Writes it to a new file that only its owner can read.
    ///
    /// # Errors
    ///
    /// [`KeyError::Io`]; a file that exists is never overwritten.
    pub fn write(&self, file: &Path) -> Result<(), KeyError> {
        let io = |source| KeyError::Io { file: file.to_owned(), source };
        let mut options = std::fs::OpenOptions::new();
        let mut open = options.write(true).create_new(true).mode(0o600).open(file).map_err(io)?;
        let text = format!("{SECRET}{}\n", hex(self.0.as_bytes()));
        let written = open.write_all(text.as_bytes()).and_then(|()| open.sync_all());
        if written.is_err() {
            // Half a key would be in the way of the next try.
            drop(std::fs::remove_file(file));
        }
        written.map_err(io)
    }

    /// Reads it from a file that nobody else can read.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub fn read(file: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { file: file.to_owned(), source };
        let mode = std::fs::metadata(file).map_err(io)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { file: file.to_owned(), mode });
        }
        let secret = || KeyError::Secret { file: file.to_owned() };
        let text = std::fs::read(file).map_err(io)?;
        let text = String::from_utf8(text).map_err(|_| secret())?;
        let bytes = text.trim().strip_prefix(SECRET).and_then(unhex).ok_or_else(secret)?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&bytes)))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
