//! Bundles for tests, each in a folder of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use menagerie_protocol::testing::{Harness, TestBundle};
use menagerie_protocol::{Failure, GuestError, LoaderError};
use menagerie_worker_native::NativeLoader;
use tempfile::TempDir;

pub(crate) fn harness() -> Arc<Harness> {
    Harness::new(NativeLoader::new())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/include")
}

/// A library of this package's examples, which cargo builds with the tests, if
/// it is not asked for one test program only.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let library = profile.join("examples").join(format!("lib{name}.so"));
    assert!(
        library.exists(),
        "cargo build -p menagerie-worker-native --examples builds {library:?}"
    );
    library
}

/// Runs a compiler over a source; what it says if it fails.
#[allow(clippy::disallowed_methods, reason = "a compiler is no worker")]
pub(crate) fn compile(compiler: &str, arguments: &[&OsStr]) -> Result<(), String> {
    let output = Command::new(compiler).arg("-I").arg(include()).args(arguments).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A bundle's folder, which goes with the test.
pub(crate) struct Folder {
    dir: TempDir,
    library: String,
}

impl Folder {
    /// A bundle whose library has this name, so that a test can tell it from
    /// those of other tests in `/proc/self/maps`.
    pub(crate) fn new(name: &str, provides: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = format!("lib{name}.so");
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1.0.0\"\nloader = \"native\"\nfile = \"{library}\"\n\
             provides = {provides}\n"
        );
        std::fs::write(dir.path().join("manifest.toml"), manifest).unwrap();
        Self { dir, library }
    }

    /// The tests' own library in Rust.
    pub(crate) fn fixture(name: &str) -> Self {
        let folder = Self::new(name, r#"["fixture@1", "another@2"]"#);
        std::fs::copy(example("fixture"), folder.library()).unwrap();
        folder
    }

    /// A sample bundle, `greeter` or `probe`, in `rust` or `c`.
    pub(crate) fn sample(name: &str, language: &str) -> Self {
        let source = repository().join("tests/bundles").join(format!("{name}-{language}"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(source.join("manifest.toml"), dir.path().join("manifest.toml")).unwrap();
        let folder = Self { dir, library: format!("lib{name}_{language}.so") };
        match language {
            "c" => folder.compile_file(&source.join(format!("{name}.c")), &[]),
            _ => drop(std::fs::copy(example(&format!("{name}_rust")), folder.library()).unwrap()),
        }
        folder
    }

    /// A library in C.
    pub(crate) fn c(name: &str, provides: &str, source: &str) -> Self {
        let folder = Self::new(name, provides);
        folder.compile(source, &[]);
        folder
    }

    /// Compiles the library anew, and writes it over the one that is there, in
    /// place, as a linker may.
    pub(crate) fn compile(&self, source: &str, flags: &[&str]) {
        let file = self.path().join("source.c");
        std::fs::write(&file, source).unwrap();
        self.compile_file(&file, flags);
    }

    fn compile_file(&self, source: &Path, flags: &[&str]) {
        let object = self.path().join("object");
        let mut arguments =
            ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"].map(OsStr::new).to_vec();
        arguments.push(object.as_os_str());
        arguments.push(source.as_os_str());
        arguments.extend(flags.iter().map(OsStr::new));
        compile("cc", &arguments).unwrap();
        let library = std::fs::read(&object).unwrap();
        std::fs::write(self.library(), library).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.path().join(&self.library)
    }

    pub(crate) fn load(&self, harness: &Arc<Harness>) -> TestBundle {
        harness.load_dir(self.path()).unwrap()
    }

    pub(crate) fn load_fails(&self, harness: &Arc<Harness>) -> LoaderError {
        harness.load_dir(self.path()).unwrap_err()
    }

    /// The lines of `/proc/self/maps` that name the library, by its own path
    /// or as a private copy.
    pub(crate) fn maps(&self) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(&self.library)).map(str::to_owned).collect()
    }
}

/// The error of a call that the guest's code failed.
pub(crate) fn guest<T: std::fmt::Debug>(result: Result<T, Failure>) -> GuestError {
    match result {
        Err(Failure::Guest(error)) => *error,
        other => panic!("expected an error of the guest's: {other:?}"),
    }
}

/// The message of a call whose arguments do not fit.
pub(crate) fn bad_arguments<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure::BadArguments { message }) => message,
        other => panic!("expected bad arguments: {other:?}"),
    }
}
