//! `menagerie keygen` and `menagerie sign`.

use std::path::{Path, PathBuf};

use menagerie_supervisor::{PublicKey, SignedBundle, SigningKey, sign_bundle};
use serde::Serialize;

use crate::client::CommandError;
use crate::render;

/// A key that was made.
#[derive(Debug, Serialize)]
pub(crate) struct MadeKey {
    #[serde(serialize_with = "render::path")]
    pub(crate) file: PathBuf,
    pub(crate) key: PublicKey,
}

/// Makes a key, and writes it to a new file.
pub(crate) fn keygen(file: PathBuf) -> Result<MadeKey, CommandError> {
    let key = SigningKey::generate();
    key.write(&file).map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(MadeKey { key: key.public(), file })
}

/// Signs a bundle.
pub(crate) fn sign(dir: &Path, key_file: &Path) -> Result<SignedBundle, CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(error.to_string());
    let key = SigningKey::read(key_file).map_err(|error| failed(&error))?;
    // Signed with the bundle it would be handed out with it.
    let inside = (dir.canonicalize().ok())
        .zip(key_file.canonicalize().ok())
        .is_some_and(|(dir, file)| file.starts_with(dir));
    if inside {
        let (key_file, dir) = (key_file.display(), dir.display());
        let text = format!("{key_file} lies in {dir}, and would be published; move it elsewhere");
        return Err(CommandError::Failed(text));
    }
    sign_bundle(dir, &key).map_err(|error| failed(&error))
}
