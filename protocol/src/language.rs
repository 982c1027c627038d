//! The languages that a loader may claim (`DESIGN.md` rule L2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A loader's typed claim of the language that it hosts; shown in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SupportedLanguage {
    /// Native libraries written in Rust.
    Rust,
    /// Native libraries written in C or C++.
    Cpp,
    /// Assemblies for .NET.
    Dotnet,
    /// CPython.
    Python,
    /// Lua, by LuaJIT or PUC Lua.
    Lua,
    /// JavaScript, by QuickJS or V8.
    JavaScript,
}

impl SupportedLanguage {
    /// The name in lower case, as the status shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Cpp => "cpp",
            Self::Dotnet => "dotnet",
            Self::Python => "python",
            Self::Lua => "lua",
            Self::JavaScript => "javascript",
        }
    }
}

impl fmt::Display for SupportedLanguage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
