//! Whose bundles are loaded.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::PublicKey;

/// What becomes of a bundle that is not signed by a trusted key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignaturePolicy {
    /// Signatures are not looked at.
    #[default]
    Off,
    /// It is loaded, and an event and a log line say what is wrong.
    Warn,
    /// It is not loaded.
    Required,
}

/// Which signatures are asked for, and which keys are trusted (R5). With a
/// policy other than off there must be trusted keys, a store, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SignatureConfig {
    /// What becomes of a bundle that is not signed by a trusted key.
    pub policy: SignaturePolicy,
    /// Keys that may sign any bundle.
    pub trusted_keys: Vec<PublicKey>,
    /// A file that remembers the key of each bundle, by its name, from the
    /// first time on that it is seen; another key is not trusted then. A bundle
    /// that a trusted key has signed is remembered as one of the trusted keys'.
    /// `None`: the trusted keys and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_store: Option<PathBuf>,
}

impl SignatureConfig {
    /// What is contradictory in it.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let trusts_nobody = self.trusted_keys.is_empty() && self.trust_store.is_none();
        (self.policy != SignaturePolicy::Off && trusts_nobody)
            .then_some("needs trusted_keys or trust_store: without them no key is trusted")
    }
}
