//! Where a bundle's code comes from (`DESIGN.md` rule L4).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A folder, code in memory, or bytes in memory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleSource {
    /// The bundle's folder, which holds `manifest.toml` and the artifact.
    Path(PathBuf),
    /// Source text: Python, Lua and JavaScript.
    Code(String),
    /// A compiled artifact: .NET.
    Bytes(Vec<u8>),
}

impl BundleSource {
    /// The kind, as error messages name it: `path`, `code` or `bytes`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Path(_) => "path",
            Self::Code(_) => "code",
            Self::Bytes(_) => "bytes",
        }
    }
}

impl std::fmt::Debug for BundleSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Code(code) => write!(f, "Code({} bytes)", code.len()),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}
