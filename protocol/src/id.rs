//! Bundle ids: FNV-1a 64 of the bundle's name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A bundle's identity: the FNV-1a 64-bit hash of its name.
///
/// <http://www.isthe.com/chongo/tech/comp/fnv/> gives the algorithm and its
/// constants.
///
/// ```
/// use menagerie_protocol::BundleId;
/// assert_eq!(BundleId::of_name("").get(), 0xcbf2_9ce4_8422_2325);
/// assert_eq!(BundleId::of_name("a").get(), 0xaf63_dc4c_8601_ec8c);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BundleId(u64);

impl BundleId {
    /// The id of a bundle with this name.
    #[must_use]
    pub const fn of_name(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut i = 0;
        while i < bytes.len() {
            hash ^= bytes[i] as u64;
            hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }

    /// An id as a manifest or a message states it.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The hash itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleId({:#018x})", self.0)
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
