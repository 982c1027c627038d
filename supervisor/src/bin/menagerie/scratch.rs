//! A folder of our own for a while.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::CommandError;

/// A folder that nobody else may enter, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// For the command `what`, in the folder for temporary files.
    pub(crate) fn new(what: &str) -> Result<Self, CommandError> {
        let failed =
            |path: &Path, error| CommandError::Failed(format!("{}: {error}", path.display()));
        // Others may have put anything there, under names that they could guess.
        for _ in 0..100 {
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = format!("menagerie-{what}-{}-{}", std::process::id(), nanos.subsec_nanos());
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&path, error)),
            }
        }
        Err(failed(&std::env::temp_dir(), io::ErrorKind::AlreadyExists.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
