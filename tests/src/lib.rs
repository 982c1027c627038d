//! What the tests, the demo and the benchmarks share: where the sample
//! bundles are, and which there are.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "tests fail by panicking")]

pub mod random;
pub mod slope;

use std::path::PathBuf;

/// A language, with its loader and its sample bundles.
#[derive(Clone, Copy, Debug)]
pub struct Language {
    /// As people call it.
    pub name: &'static str,
    /// The loader's name.
    pub loader: &'static str,
    /// The suffix of its bundles: `greeter-<suffix>`, `probe-<suffix>`.
    pub suffix: &'static str,
}

/// Every language; native libraries twice, because Rust and C are written
/// against different guest libraries.
pub const LANGUAGES: [Language; 6] = [
    Language { name: "Rust", loader: "native", suffix: "rust" },
    Language { name: "C", loader: "native", suffix: "c" },
    Language { name: "Python", loader: "python", suffix: "py" },
    Language { name: "Lua", loader: "lua", suffix: "lua" },
    Language { name: "JavaScript", loader: "js", suffix: "js" },
    Language { name: ".NET", loader: "dotnet", suffix: "dotnet" },
];

impl Language {
    /// The language with this suffix.
    #[must_use]
    pub fn of(suffix: &str) -> Self {
        *LANGUAGES.iter().find(|language| language.suffix == suffix).unwrap()
    }

    /// The folder of one of its bundles: `greeter` or `probe`.
    #[must_use]
    pub fn bundle(&self, kind: &str) -> PathBuf {
        bundles().join(format!("{kind}-{}", self.suffix))
    }
}

/// The folder of the sample bundles.
#[must_use]
pub fn bundles() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bundles")
}
