//! The guilty bundles: one in each language, with a function `commit(fault)`.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A language, and the faults that it can commit.
#[derive(Clone, Copy)]
pub(crate) struct Language {
    pub(crate) name: &'static str,
    pub(crate) loader: &'static str,
    /// The suffix of the greeter that is loaded beside it.
    pub(crate) innocent: &'static str,
    /// Its file's name and source; empty for a language that needs more than a
    /// compiler: there the sample bundle `probe` does what it can.
    file: &'static str,
    source: &'static str,
    pub(crate) faults: &'static [&'static str],
}

pub(crate) const LANGUAGES: [Language; 6] = [
    Language {
        name: "c",
        loader: "native",
        innocent: "c",
        file: "guilty.c",
        source: include_str!("guilty/guilty.c"),
        faults: &[
            "null", "abort", "stack", "exit0", "exit1", "thread", "memory", "spin", "deadlock",
            "sleep", "close", "garbage", "scribble", "stop", "kill", "fork", "stderr",
        ],
    },
    Language {
        name: "python",
        loader: "python",
        innocent: "py",
        file: "main.py",
        source: include_str!("guilty/main.py"),
        faults: &[
            "null", "abort", "stack", "exit0", "exit1", "thread", "memory", "spin", "deadlock",
            "sleep", "close", "garbage", "stop", "kill", "fork", "stderr",
        ],
    },
    Language {
        name: "lua",
        loader: "lua",
        innocent: "lua",
        file: "main.lua",
        source: include_str!("guilty/main.lua"),
        faults: &["abort", "stack", "memory", "spin", "sleep", "stderr"],
    },
    Language {
        name: "js",
        loader: "js",
        innocent: "js",
        file: "main.js",
        source: include_str!("guilty/main.js"),
        faults: &["abort", "stack", "memory", "spin", "sleep", "stderr"],
    },
    Language {
        name: "rust",
        loader: "native",
        innocent: "rust",
        file: "",
        source: "",
        faults: &["crash", "memory", "spin", "sleep"],
    },
    Language {
        name: "dotnet",
        loader: "dotnet",
        innocent: "dotnet",
        file: "",
        source: "",
        faults: &["crash", "memory", "spin", "sleep"],
    },
];

/// A guilty bundle; its files go with it.
pub(crate) struct Guilty {
    pub(crate) language: Language,
    pub(crate) path: PathBuf,
    _folder: Option<TempDir>,
}

impl Guilty {
    pub(crate) fn make(language: Language) -> Result<Self, String> {
        if language.file.is_empty() {
            let path = menagerie_tests::Language::of(language.innocent).bundle("probe");
            return Ok(Self { language, path, _folder: None });
        }
        let told = |error: std::io::Error| error.to_string();
        let folder = tempfile::tempdir().map_err(told)?;
        let source = folder.path().join(language.file);
        std::fs::write(&source, language.source).map_err(told)?;
        let artifact = if language.loader == "native" {
            compile(&source)?;
            "guilty.so"
        } else {
            language.file
        };
        let manifest = format!(
            "name = 'guilty'\nversion = '1.0.0'\nloader = '{}'\nfile = '{artifact}'\n\
             provides = ['guilty@1']\n",
            language.loader
        );
        std::fs::write(folder.path().join("manifest.toml"), manifest).map_err(told)?;
        let path = folder.path().to_owned();
        Ok(Self { language, path, _folder: Some(folder) })
    }

    /// The contract that its faults are in.
    pub(crate) fn contract(&self) -> String {
        match self.language.file {
            "" => format!("probe-{}/probe@1", self.language.innocent),
            _ => "guilty@1".to_owned(),
        }
    }

    /// The function that commits a fault, and its arguments.
    pub(crate) fn call(&self, fault: &str) -> (&'static str, rmpv::Value) {
        let (function, argument) = match (self.language.file, fault) {
            ("", "memory") => ("blob", Some(1_900_000_000.into())),
            ("", "spin") => ("spin", None),
            ("", "sleep") => ("sleep_ms", Some(600_000.into())),
            ("", _) => ("crash", None),
            _ => ("commit", Some(fault.into())),
        };
        (function, rmpv::Value::Array(argument.into_iter().collect()))
    }
}

#[allow(clippy::disallowed_methods, reason = "a compiler is no worker")]
fn compile(source: &std::path::Path) -> Result<(), String> {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker-native/guest/include");
    let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-fPIC", "-O0", "-pthread", "-I", include, "-o"])
        .arg(source.with_extension("so"))
        .arg(source)
        .output()
        .map_err(|error| format!("the C compiler cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
