//! The files of a bundle, one by one, with their hashes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use menagerie_protocol::LoaderError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::SIGNATURE_FILE;
use super::key::hex;

/// Folders in folders, at most.
const MAX_DEPTH: usize = 32;
/// Files, at most.
const MAX_FILES: usize = 10_000;
/// Bytes of all files together, at most: the copy lies in the runtime folder,
/// which is often in memory.
const MAX_BYTES: u64 = 1 << 30;

/// A file of a bundle, as the signature covers it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    /// Relative to the bundle's folder, with `/` in between.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// What is wrong.
#[derive(Debug)]
pub(super) enum Flaw {
    /// With a file of the bundle.
    File { file: PathBuf, problem: String },
    /// With the system.
    System(LoaderError),
}

impl Flaw {
    pub(super) fn new(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { file: file.into(), problem: problem.into() }
    }

    fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self::new(file, format!("cannot be read: {error}"))
    }

    /// As the error of this bundle.
    pub(super) fn of(self, bundle: &str) -> LoaderError {
        match self {
            Self::File { file, problem } => LoaderError::SignatureVerificationFailed {
                bundle: bundle.to_owned(),
                // It travels as text.
                file: file.to_string_lossy().into_owned().into(),
                problem,
            },
            Self::System(error) => error,
        }
    }

    /// Where no signature is asked for: it could not be copied.
    pub(super) fn of_copy(self) -> LoaderError {
        match self {
            Self::File { file, problem } => {
                let problem = format!("{problem}; its replicas are loaded from one copy");
                LoaderError::Io { path: file, problem }
            }
            Self::System(error) => error,
        }
    }
}

/// Opens a file if it is a regular one: neither a link nor what would block or
/// do something when it is opened.
pub(super) fn open_regular(path: &Path) -> Result<File, Flaw> {
    let kind = path.symlink_metadata().map_err(|error| Flaw::unreadable(path, &error))?.file_type();
    if kind.is_symlink() {
        return Err(Flaw::new(path, "is a symbolic link; signed bundles have none"));
    }
    let irregular = || Flaw::new(path, "is no regular file");
    if !kind.is_file() {
        return Err(irregular());
    }
    // It may have become something else since.
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| Flaw::unreadable(path, &error))?;
    let metadata = open.metadata().map_err(|error| Flaw::unreadable(path, &error))?;
    if metadata.is_file() { Ok(open) } else { Err(irregular()) }
}

/// Opens a file, or the one that a link leads to, unless it is none whose bytes
/// can be copied: a socket, a pipe, a link into nowhere, or out of `root`.
fn open_any(path: &Path, root: Option<&Path>) -> Result<Option<File>, Flaw> {
    if !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    // It may have become something else since.
    let open = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let open = open.map_err(|error| Flaw::unreadable(path, &error))?;
    let is_inside = |root| real_path(&open).is_some_and(|real| real.starts_with(root));
    Ok(root.is_none_or(is_inside).then_some(open))
}

/// Where an open file really is.
fn real_path(file: &File) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Whether a link leads to a folder that it is in itself: there would be no end.
fn leads_up(link: &Path, dir: &Path) -> bool {
    if !link.is_symlink() {
        return false;
    }
    let (Ok(target), Ok(dir)) = (link.canonicalize(), dir.canonicalize()) else { return false };
    dir.starts_with(target)
}

/// What becomes of links, and of what is no regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Irregular {
    /// They are errors: a signature could not cover them.
    Refused,
    /// Links are followed, and what has no bytes of its own is left out.
    Passed,
    /// As `Passed`, but a link that leads out of the folder stays one: whoever reads the
    /// copy may have no right to what is there.
    Inside,
}

/// What is at a path of a bundle.
pub(super) enum Original<'o> {
    File(&'o File),
    /// A link that leads here, out of the bundle's folder.
    WayOut(&'o Path),
}

/// Gives a file to copy into, for a path and the file that is there.
type Target<'f> = dyn FnMut(&str, Original<'_>) -> Result<Option<File>, LoaderError> + 'f;

/// The files of a folder with their hashes, sorted by path; the signature
/// itself is none of them.
pub(super) fn hash_all(dir: &Path) -> Result<Vec<FileEntry>, Flaw> {
    read_all(dir, Irregular::Refused, &mut |_, _| Ok(None))
}

/// As [`hash_all`], where `copy` may give a file for each to copy its bytes
/// into: those that are hashed, and no others.
pub(super) fn read_all(
    dir: &Path,
    irregular: Irregular,
    copy: &mut Target<'_>,
) -> Result<Vec<FileEntry>, Flaw> {
    let root = match irregular {
        Irregular::Refused | Irregular::Passed => None,
        Irregular::Inside => {
            Some(dir.canonicalize().map_err(|error| Flaw::unreadable(dir, &error))?)
        }
    };
    let mut walk = Walk { found: Vec::new(), bytes: 0, irregular, root, copy };
    walk.folder(dir, "", 0)?;
    walk.found.sort();
    Ok(walk.found)
}

struct Walk<'c, 'f> {
    found: Vec<FileEntry>,
    bytes: u64,
    irregular: Irregular,
    /// What nothing is followed out of.
    root: Option<PathBuf>,
    copy: &'c mut Target<'f>,
}

impl Walk<'_, '_> {
    fn folder(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), Flaw> {
        if depth > MAX_DEPTH {
            return Err(Flaw::new(dir, format!("is more than {MAX_DEPTH} folders deep")));
        }
        let unreadable = |error: std::io::Error| Flaw::unreadable(dir, &error);
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name else {
                return Err(Flaw::new(path, "has a name that is not valid UTF-8"));
            };
            let relative = format!("{prefix}{name}");
            if relative == SIGNATURE_FILE {
                continue;
            }
            if let Some(target) = self.way_out(&path) {
                let original = Original::WayOut(&target);
                (self.copy)(&relative, original).map_err(Flaw::System)?;
                continue;
            }
            let is_folder = match self.irregular {
                // A link to a folder is no folder here.
                Irregular::Refused => path
                    .symlink_metadata()
                    .map_err(|error| Flaw::unreadable(&path, &error))?
                    .is_dir(),
                Irregular::Passed | Irregular::Inside => path.is_dir() && !leads_up(&path, dir),
            };
            if is_folder {
                self.folder(&path, &format!("{relative}/"), depth + 1)?;
            } else {
                self.file(&path, relative)?;
            }
        }
        Ok(())
    }

    /// Where a path really leads, if that is outside, and not to be followed.
    fn way_out(&self, path: &Path) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        path.canonicalize().ok().filter(|target| !target.starts_with(root))
    }

    fn file(&mut self, path: &Path, relative: String) -> Result<(), Flaw> {
        if self.found.len() == MAX_FILES {
            return Err(Flaw::new(path, format!("is one of more than {MAX_FILES} files")));
        }
        let mut file = match self.irregular {
            Irregular::Refused => open_regular(path)?,
            Irregular::Passed | Irregular::Inside => match open_any(path, self.root.as_deref())? {
                Some(file) => file,
                None => return Ok(()),
            },
        };
        let mut target = (self.copy)(&relative, Original::File(&file)).map_err(Flaw::System)?;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Flaw::unreadable(path, &error)),
            };
            let bytes = &buffer[..count];
            size += count as u64;
            self.bytes += count as u64;
            if self.bytes > MAX_BYTES {
                let problem = format!("makes the bundle larger than {MAX_BYTES} bytes");
                return Err(Flaw::new(path, problem));
            }
            hash.update(bytes);
            if let Some(target) = &mut target {
                target.write_all(bytes).map_err(|error| {
                    let problem = format!("cannot be copied to the runtime folder: {error}");
                    Flaw::System(LoaderError::Io { path: path.to_owned(), problem })
                })?;
            }
        }
        self.found.push(FileEntry { path: relative, size, sha256: hex(&hash.finalize()) });
        Ok(())
    }
}
