//! The guilty bundles: one in each language, with a function `commit(fault)`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
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
            "sleep", "close", "garbage", "scribble", "stop", "kill", "fork", "stderr", "init",
            "unload", "double", "loop", "replaced", "deleted",
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
            "sleep", "close", "garbage", "stop", "kill", "fork", "stderr", "init", "unload",
            "double", "loop", "replaced", "deleted",
        ],
    },
    Language {
        name: "lua",
        loader: "lua",
        innocent: "lua",
        file: "main.lua",
        source: include_str!("guilty/main.lua"),
        faults: &[
            "abort", "stack", "memory", "spin", "sleep", "stderr", "stopped", "killed", "init",
            "unload", "double", "loop", "replaced", "deleted",
        ],
    },
    Language {
        name: "js",
        loader: "js",
        innocent: "js",
        file: "main.js",
        source: include_str!("guilty/main.js"),
        faults: &[
            "abort", "stack", "memory", "spin", "sleep", "stderr", "stopped", "killed", "init",
            "unload", "double", "loop", "replaced", "deleted",
        ],
    },
    Language {
        name: "rust",
        loader: "native",
        innocent: "rust",
        file: "",
        source: "",
        faults: &[
            "abort", "memory", "spin", "sleep", "stopped", "killed", "double", "loop", "replaced",
            "deleted",
        ],
    },
    Language {
        name: "dotnet",
        loader: "dotnet",
        innocent: "dotnet",
        file: "Guilty.cs",
        source: include_str!("guilty/Guilty.cs"),
        faults: &[
            "null", "abort", "stack", "exit0", "exit1", "thread", "memory", "spin", "deadlock",
            "sleep", "kill", "stderr", "stopped", "init", "unload", "double", "loop", "replaced",
            "deleted",
        ],
    },
];

/// A guilty bundle; its files go with it.
pub(crate) struct Guilty {
    pub(crate) language: Language,
    pub(crate) path: PathBuf,
    _folder: Option<TempDir>,
}

impl Guilty {
    /// The bundle that commits a fault when it is called.
    pub(crate) fn make(language: Language) -> Result<Self, String> {
        Self::made(language, "guilty", "never")
    }

    /// One that aborts its process in its `init`, or its `on_unload`.
    pub(crate) fn at(language: Language, when: &str) -> Result<Self, String> {
        Self::made(language, &format!("guilty-{when}"), when)
    }

    fn made(language: Language, name: &str, when: &str) -> Result<Self, String> {
        if language.file.is_empty() {
            let path = menagerie_tests::Language::of(language.innocent).bundle("probe");
            return Ok(Self { language, path, _folder: None });
        }
        let told = |error: std::io::Error| error.to_string();
        let folder = tempfile::tempdir().map_err(told)?;
        let source = folder.path().join(language.file);
        let code = language.source.replacen("\"never\"", &format!("\"{when}\""), 1);
        std::fs::write(&source, code).map_err(told)?;
        let artifact = match language.loader {
            "native" => compile_c(&source)?,
            "dotnet" => compile_cs(&source)?,
            _ => language.file,
        };
        let manifest = format!(
            "name = '{name}'\nversion = '1.0.0'\nloader = '{}'\nfile = '{artifact}'\n\
             provides = ['guilty@1']\n",
            language.loader
        );
        std::fs::write(folder.path().join("manifest.toml"), manifest).map_err(told)?;
        let path = folder.path().to_owned();
        Ok(Self { language, path, _folder: Some(folder) })
    }

    /// Its name; not that of one made with [`at`](Self::at).
    pub(crate) fn name(&self) -> String {
        match self.language.file {
            "" => format!("probe-{}", self.language.innocent),
            _ => "guilty".to_owned(),
        }
    }

    /// The contract that its faults are in.
    pub(crate) fn contract(&self) -> String {
        let contract = if self.language.file.is_empty() { "probe@1" } else { "guilty@1" };
        format!("{}/{contract}", self.name())
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

fn compile_c(source: &Path) -> Result<&'static str, String> {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker-native/guest/include");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let arguments = ["-shared", "-fPIC", "-O0", "-pthread", "-I", include, "-o"].map(OsStr::new);
    let output = source.with_extension("so");
    compile(&compiler, arguments.into_iter().chain([output.as_os_str(), source.as_os_str()]))?;
    Ok("guilty.so")
}

/// With the compiler that the set-up brings where there is no SDK.
fn compile_cs(source: &Path) -> Result<&'static str, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let guest = here.with_file_name("../dotnet/Menagerie.Guest.dll");
    let (mut reference, mut output) = (OsString::from("-r:"), OsString::from("-out:"));
    reference.push(guest);
    output.push(source.with_file_name("guilty.dll"));
    let flags = ["-warn:0", "-target:library"].map(OsStr::new);
    let rest = [reference.as_os_str(), output.as_os_str(), source.as_os_str()];
    compile(OsStr::new("mcs"), flags.into_iter().chain(rest))?;
    Ok("guilty.dll")
}

#[allow(clippy::disallowed_methods, reason = "a compiler is no worker")]
fn compile<'a>(
    compiler: &OsStr,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> Result<(), String> {
    let output = Command::new(compiler)
        .args(arguments)
        .output()
        .map_err(|error| format!("the compiler {} cannot be run: {error}", compiler.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let told = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&told).into_owned())
}
