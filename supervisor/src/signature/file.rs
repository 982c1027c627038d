//! The signature's file, `menagerie.sig`.

use std::cmp::Ordering;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use menagerie_protocol::LoaderError;
use serde::{Deserialize, Serialize};

use super::files::{FileEntry, Flaw, open_regular};
use super::key::{PublicKey, SigningKey, hex, unhex};

/// The name of a signature's file, beside the manifest.
pub const SIGNATURE_FILE: &str = "menagerie.sig";

/// The largest file that is read: the most files that a bundle may have, with
/// long paths.
const MAX_SIZE: u64 = 8 << 20;

/// What is signed begins with this, so that a signature of anything else is
/// never one of a bundle.
const DOMAIN: &str = "menagerie bundle signature 1\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureFile {
    version: u32,
    key: PublicKey,
    files: Vec<FileEntry>,
    /// Hexadecimal digits.
    signature: String,
}

/// What is signed: a line for each file. The path's length stands before it,
/// since a path may have a newline in it.
fn message(files: &[FileEntry]) -> Vec<u8> {
    let mut message = DOMAIN.to_owned();
    for FileEntry { path, size, sha256 } in files {
        message.push_str(&format!("{sha256} {size} {} {path}\n", path.len()));
    }
    message.into_bytes()
}

/// Signs these files, and writes the signature into the bundle's folder, in one
/// step.
pub(super) fn write(
    dir: &Path,
    files: &[FileEntry],
    key: &SigningKey,
) -> Result<PathBuf, LoaderError> {
    let content = SignatureFile {
        version: 1,
        key: key.public(),
        files: files.to_vec(),
        signature: hex(&key.sign(&message(files))),
    };
    let path = dir.join(SIGNATURE_FILE);
    let mut text = serde_json::to_string_pretty(&content).unwrap_or_default();
    text.push('\n');
    let next = dir.join(format!(".{SIGNATURE_FILE}.tmp"));
    let written = std::fs::File::create(&next)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&next, &path));
    written.map_err(|error| {
        drop(std::fs::remove_file(&next));
        LoaderError::io(&path, &error)
    })?;
    Ok(path)
}

/// Whether the signature in a folder is one of these files: the key that it was
/// made with, or `None` if there is none.
pub(super) fn verify(dir: &Path, found: &[FileEntry]) -> Result<Option<PublicKey>, Flaw> {
    let path = dir.join(SIGNATURE_FILE);
    if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(None);
    }
    let mut text = Vec::new();
    open_regular(&path)?
        .take(MAX_SIZE + 1)
        .read_to_end(&mut text)
        .map_err(|error| Flaw::new(&path, format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(Flaw::new(&path, format!("is larger than {MAX_SIZE} bytes")));
    }
    let signed: SignatureFile = serde_json::from_slice(&text)
        .map_err(|error| Flaw::new(&path, format!("is no signature: {error}")))?;
    if signed.version != 1 {
        let problem = format!("is of version {}; this program knows version 1", signed.version);
        return Err(Flaw::new(&path, problem));
    }
    if let Some(odd) = signed.files.iter().find(|entry| !is_plain(&entry.path)) {
        let problem = format!("names '{}', which is no path inside the bundle", odd.path);
        return Err(Flaw::new(&path, problem));
    }
    let holds = unhex(&signed.signature)
        .is_some_and(|signature| signed.key.verifies(&message(&signed.files), &signature));
    if !holds {
        return Err(Flaw::new(&path, "was not made with its key over its list of files"));
    }
    if let Some((file, problem)) = difference(&signed.files, found) {
        return Err(Flaw::new(dir.join(file), problem));
    }
    Ok(Some(signed.key))
}

fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The first file that is not as it was signed, and why. Both lists are to be
/// the same to the byte: sorted, and nothing twice.
fn difference<'e>(
    signed: &'e [FileEntry],
    found: &'e [FileEntry],
) -> Option<(&'e str, &'static str)> {
    let (mut left, mut right) = (signed.iter().peekable(), found.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(a), None) => return Some((&a.path, "was signed, and is not there")),
            (None, Some(b)) => return Some((&b.path, "is there, and was not signed")),
            (Some(a), Some(b)) => match a.path.cmp(&b.path) {
                Ordering::Less => return Some((&a.path, "was signed, and is not there")),
                Ordering::Greater => return Some((&b.path, "is there, and was not signed")),
                Ordering::Equal if a != b => {
                    return Some((&a.path, "has changed since it was signed"));
                }
                Ordering::Equal => {
                    left.next();
                    right.next();
                }
            },
        }
    }
}
