//! Finding the worker programs.

use std::path::{Path, PathBuf};

use menagerie_protocol::RuntimeError;

use crate::config::Config;

/// The loaders that a supervisor knows (`DESIGN.md`, chapter Words).
pub const LOADERS: [&str; 5] = ["native", "python", "lua", "js", "dotnet"];

/// Whether a loader's worker maps artifacts, as far as that is known before it
/// has said so: a copy is then made while it starts.
pub(crate) fn maps_artifacts(loader: &str) -> bool {
    loader == "native"
}

/// The environment variable with a folder of worker programs.
pub const ENV_WORKER_DIR: &str = "MENAGERIE_WORKER_DIR";

/// The file name of a loader's worker program.
#[must_use]
pub(crate) fn program_name(loader: &str) -> String {
    format!("menagerie-worker-{loader}")
}

/// Finds a loader's worker program: the configured one if there is one
/// ([`Config::worker_programs`]); else beside the running program (and one
/// folder up, where Cargo's tests and examples find it), in the configured
/// folder, on `PATH`, in the folder that `MENAGERIE_WORKER_DIR` names; in that
/// order.
///
/// # Errors
///
/// [`RuntimeError::WorkerNotFound`] with every place that was looked in.
pub fn worker_program(config: &Config, loader: &str) -> Result<PathBuf, RuntimeError> {
    if let Some(path) = config.worker_programs.get(loader) {
        // Who names a program wants this one, and no other in its place.
        if is_program(path) {
            return Ok(path.clone());
        }
        let program = program_name(loader);
        let looked_in = vec![path.display().to_string()];
        return Err(RuntimeError::WorkerNotFound { program, looked_in });
    }
    let program = program_name(loader);
    let mut looked_in = Vec::new();
    for folder in folders(config) {
        let path = folder.join(&program);
        if is_program(&path) {
            return Ok(path);
        }
        looked_in.push(folder.display().to_string());
    }
    Err(RuntimeError::WorkerNotFound { program, looked_in })
}

fn folders(config: &Config) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Ok(program) = std::env::current_exe() {
        let mut beside = program.parent();
        folders.extend(beside.map(Path::to_owned));
        // target/debug/deps/ and target/debug/examples/ of Cargo.
        if beside.and_then(Path::file_name).is_some_and(|name| name == "deps" || name == "examples")
        {
            beside = beside.and_then(Path::parent);
            folders.extend(beside.map(Path::to_owned));
        }
    }
    folders.extend(config.worker_dir.clone());
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    }
    // Workers run in folders of their own.
    folders.extend(std::env::var_os(ENV_WORKER_DIR).and_then(|dir| std::path::absolute(dir).ok()));
    folders
}

/// Whether this is a file that can be run.
pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn locate_finds_a_program_in_the_configured_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("menagerie-worker-cobol");
        let config = Config { worker_dir: Some(dir.path().to_owned()), ..Config::default() };
        std::fs::write(&path, "").unwrap();
        assert!(worker_program(&config, "cobol").is_err(), "not executable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(worker_program(&config, "cobol").unwrap(), path);
    }

    #[test]
    fn locate_takes_the_configured_program_and_no_other() {
        let mut config = Config::default();
        let this = std::env::current_exe().unwrap();
        config.worker_programs.insert("cobol".to_owned(), this.clone());
        assert_eq!(worker_program(&config, "cobol").unwrap(), this);
        config.worker_programs.insert("cobol".to_owned(), "/nonexistent/cobol".into());
        let Err(RuntimeError::WorkerNotFound { looked_in, .. }) = worker_program(&config, "cobol")
        else {
            panic!()
        };
        assert_eq!(looked_in, ["/nonexistent/cobol"]);
    }

    #[test]
    fn locate_says_where_it_looked() {
        let config = Config { worker_dir: Some("/nonexistent/folder".into()), ..Config::default() };
        let Err(RuntimeError::WorkerNotFound { program, looked_in }) =
            worker_program(&config, "cobol")
        else {
            panic!()
        };
        assert_eq!(program, "menagerie-worker-cobol");
        assert!(looked_in.contains(&"/nonexistent/folder".to_owned()), "{looked_in:?}");
    }
}
