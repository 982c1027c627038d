//! Reading the files of a bundle, which may be anything by the time that they
//! are read.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The largest file of a bundle that is read: far above any real one.
pub(super) const MAX_FILE_BYTES: u64 = 512 << 20;

/// What stands in a file of a bundle. A pipe that nobody writes to would keep
/// the lane waiting for ever, and a device would fill its memory: neither is
/// read, even if it has only just taken the place of a regular file.
///
/// # Errors
///
/// The system's; it is no regular file; it is larger than 512 MiB.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_small_file(path, MAX_FILE_BYTES >> 20)
}

/// As [`read_file`], of a file of so many MiB at most.
///
/// # Errors
///
/// The system's; it is no regular file; it is larger.
pub fn read_small_file(path: &Path, max_mib: u64) -> io::Result<Vec<u8>> {
    read_at_most(path, max_mib << 20).map_err(|unread| match unread {
        Unread::Irregular => io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"),
        Unread::TooLarge => {
            let text = format!("is larger than {max_mib} MiB");
            io::Error::new(io::ErrorKind::FileTooLarge, text)
        }
        Unread::Io(error) => error,
    })
}

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is a pipe, a device, a folder.
    Irregular,
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        // Of a socket, and of a device that is not there (open(2)).
        if error.raw_os_error() == Some(libc::ENXIO) { Self::Irregular } else { Self::Io(error) }
    }
}

/// As [`read_file`], of a file of so many bytes at most.
pub(super) fn read_at_most(path: &Path, max: u64) -> Result<Vec<u8>, Unread> {
    // Without the flag, opening a pipe waits for somebody at its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unread::Irregular);
    }
    if metadata.len() > max {
        return Err(Unread::TooLarge);
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(Unread::TooLarge) } else { Ok(bytes) }
}

/// Where a path leads after symlinks, which has to be inside a bundle's folder
/// (B2, for siblings). The folder is canonical.
///
/// # Errors
///
/// The system's; it leads out of the folder.
pub fn contained(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let path = path.canonicalize()?;
    if path.starts_with(folder) {
        return Ok(path);
    }
    let out = format!("it leads out of the bundle's folder {}", folder.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, out))
}

/// As [`read_file`], of a file that is [`contained`] in a bundle's folder.
///
/// # Errors
///
/// Those of both.
pub fn read_contained(folder: &Path, path: &Path) -> io::Result<Vec<u8>> {
    read_file(&contained(folder, path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::{read_contained, read_file};

    #[test]
    fn b2_what_counts_is_where_a_file_really_is() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().canonicalize().unwrap();
        let (folder, at) = (parent.join("in"), |name: &str| parent.join("in").join(name));
        std::fs::create_dir_all(at("deep")).unwrap();
        std::fs::create_dir(parent.join("in-vain")).unwrap();
        for path in ["in/deep/own", "in-vain/other"] {
            std::fs::write(parent.join(path), path).unwrap();
        }
        symlink("deep/own", at("link")).unwrap();
        symlink("../in-vain/other", at("out")).unwrap();
        symlink("../in-vain", at("folder")).unwrap();
        for name in ["deep/own", "link", "deep/../link", "../in/link", "folder/../in/link"] {
            assert_eq!(read_contained(&folder, &at(name)).unwrap(), b"in/deep/own", "{name}");
        }
        for name in ["out", "folder/other", "../in-vain/other", "deep/../../in-vain/other"] {
            let error = read_contained(&folder, &at(name)).unwrap_err();
            assert!(error.to_string().contains("leads out of"), "{name}: {error}");
        }
        let none = read_contained(&folder, &at("none")).unwrap_err();
        assert_eq!(none.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn b2_only_regular_files_of_a_sane_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("plain"), "text").unwrap();
        assert_eq!(read_file(&at("plain")).unwrap(), b"text");
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        for name in ["pipe", "device", "."] {
            let error = read_file(&at(name)).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{name}: {error}");
        }
        std::fs::File::create(at("huge")).unwrap().set_len(1 << 30).unwrap();
        let error = read_file(&at("huge")).unwrap_err();
        assert!(error.to_string().contains("512 MiB"), "{error}");
        assert_eq!(read_file(&at("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
