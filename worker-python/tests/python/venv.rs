use std::path::PathBuf;

use menagerie_protocol::LoaderError;
use menagerie_protocol::testing::Harness;
use menagerie_worker_python::{PythonLoader, runtime_version};

use crate::support::{call, code};

/// The running Python's major and minor version.
fn version() -> String {
    let version = runtime_version();
    let numbers: Vec<_> = version.trim_start_matches("CPython ").split('.').take(2).collect();
    numbers.join(".")
}

fn venv(version_line: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let packages = folder.path().join(format!("lib/python{}/site-packages", version()));
    std::fs::create_dir_all(&packages).unwrap();
    std::fs::write(packages.join("only_in_this_venv.py"), "NAME = 'from the venv'\n").unwrap();
    std::fs::create_dir(folder.path().join("linked")).unwrap();
    std::fs::write(packages.join("linked.pth"), format!("{}/linked\n", folder.path().display()))
        .unwrap();
    std::fs::write(folder.path().join("linked/behind_a_pth.py"), "NAME = 'pth'\n").unwrap();
    let config = format!("home = /usr/bin\ninclude-system-site-packages = false\n{version_line}\n");
    std::fs::write(folder.path().join("pyvenv.cfg"), config).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn a_venv_packages_are_imported() {
    let (_folder, path) = venv(&format!("version = {}.99", version()));
    let harness = Harness::new(PythonLoader::with_venv(Some(path.clone())));
    let bundle = code(
        &harness,
        "in-venv",
        "
import sys, only_in_this_venv, behind_a_pth

@menagerie.export('t@1')
def f(): return [only_in_this_venv.NAME, behind_a_pth.NAME, sys.prefix]
",
    )
    .unwrap();
    let told: Vec<String> = call(&bundle, "f", ()).unwrap();
    assert_eq!(told, ["from the venv", "pth", path.to_str().unwrap()]);
}

#[test]
fn a_venv_of_another_python_is_refused() {
    let (_folder, path) = venv("version = 3.4.1");
    let harness = Harness::new(PythonLoader::with_venv(Some(path)));
    let refused = code(&harness, "wrong-venv", "");
    let Err(LoaderError::RuntimeMissing { problem, .. }) = refused else { panic!("{refused:?}") };
    assert!(problem.contains("3.4") && problem.contains(&version()), "{problem}");

    let harness = Harness::new(PythonLoader::with_venv(Some("/nowhere/at/all".into())));
    let refused = code(&harness, "no-venv", "");
    let Err(LoaderError::RuntimeMissing { problem, .. }) = refused else { panic!("{refused:?}") };
    assert!(problem.contains("/nowhere/at/all"), "{problem}");
}
