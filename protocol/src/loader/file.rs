//! Reading the files of a bundle, which may be anything by the time that they
//! are read.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
    // Without the flag, opening a pipe waits for somebody at its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
    }
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 512 MiB");
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(too_large()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::read_file;

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
