//! A private copy of a bundle's artifact: what is mapped as code in place of the
//! user's file.
//!
//! The copy is an anonymous file in memory: the user's file is read once and
//! neither mapped nor locked, nothing is left behind whoever dies, and a folder
//! that is mounted `noexec` is no obstacle. `/proc/self/maps` shows it as
//! `/memfd:libgreeter.so`.
//!
//! It is sealed when it is made: nobody can write to it, shorten it or open it
//! for a mapping that can be written, with whatever rights. So one copy may be
//! mapped by several processes, and code that runs in one of them cannot reach
//! another one through it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::file::MAX_FILE_BYTES;

/// `MFD_NOEXEC_SEAL` (Linux 6.3): the file can be mapped as a library, but
/// never be run as a program, and machines that forbid the latter allow it.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// What every copy is sealed against. Not `F_SEAL_WRITE`: the kernel then waits
/// for pages that the copying still holds, and may give up with `EBUSY`; there
/// is no writable mapping that this seal would have to end.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL)
    .union(SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE));

/// How often a file that changes while it is read is read again.
const TRIES: u32 = 5;

/// How far apart two changes of a file are, at least, that have different times:
/// the kernel's clock for files ticks every 1 to 10 ms.
const TICK: Duration = Duration::from_millis(100);
/// The same where file systems keep whole seconds, or every other one.
const COARSE_TICK: Duration = Duration::from_millis(2100);

/// A sealed copy in memory.
#[derive(Debug)]
pub struct PrivateCopy {
    file: File,
}

impl PrivateCopy {
    /// Copies a file, and tells which state of it this is a copy of. `None` if
    /// it changes again and again while it is read.
    ///
    /// # Errors
    ///
    /// The system's; it is no regular file; it is larger than 512 MiB.
    pub fn of(artifact: &Path) -> io::Result<Option<(Self, Stamp)>> {
        for _ in 0..TRIES {
            let source = open(artifact)?;
            let before = Stamp::from(&source.metadata()?);
            let file = anonymous(artifact)?;
            // It may grow while it is read, and without end.
            let copied = io::copy(&mut (&source).take(before.len + 1), &mut &file)?;
            if copied == before.len && Stamp::from(&source.metadata()?) == before {
                return Ok(Some((Self::seal(file)?, before)));
            }
        }
        Ok(None)
    }

    /// Another one with the same content: a file of its own to whoever maps it.
    /// `artifact` is what it is named after.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn again(&self, artifact: &Path) -> io::Result<Self> {
        let file = anonymous(artifact)?;
        // A description of its own, which begins at the beginning.
        io::copy(&mut reopen(&self.file)?, &mut &file)?;
        Self::seal(file)
    }

    /// Whether the file is in that state still, and this its content: of a file that was
    /// changed just before it was copied, the stamp alone does not tell.
    ///
    /// # Errors
    ///
    /// The system's; it is no regular file.
    pub fn is_still(&self, artifact: &Path, of: Stamp) -> io::Result<bool> {
        let source = open(artifact)?;
        let is_unchanged = || Ok::<_, io::Error>(Stamp::from(&source.metadata()?) == of);
        Ok(is_unchanged()? && self.has_content_of(&source, of.len)? && is_unchanged()?)
    }

    fn has_content_of(&self, source: &File, len: u64) -> io::Result<bool> {
        const AT_ONCE: u64 = 64 << 10;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < len {
            #[allow(clippy::cast_possible_truncation, reason = "it is no more than AT_ONCE")]
            let count = AT_ONCE.min(len - at) as usize;
            ours.resize(count, 0);
            theirs.resize(count, 0);
            self.file.read_exact_at(&mut ours, at)?;
            source.read_exact_at(&mut theirs, at)?;
            if ours != theirs {
                return Ok(false);
            }
            at += count as u64;
        }
        Ok(true)
    }

    /// One that another process has made and handed on. `None` if the descriptor
    /// is of no sealed copy: then whoever has it could change what is mapped.
    ///
    /// # Errors
    ///
    /// It cannot be opened: whoever shares it can take the right to that away.
    pub fn handed_on(descriptor: OwnedFd) -> io::Result<Option<Self>> {
        let sealed = fcntl(&descriptor, FcntlArg::F_GET_SEALS)
            .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SEALS));
        if !sealed {
            return Ok(None);
        }
        // What is shared with the descriptor stays behind: its place in the file.
        let file = reopen(&File::from(descriptor))?;
        Ok(Some(Self { file }))
    }

    /// The copy itself.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    fn seal(file: File) -> io::Result<Self> {
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        Ok(Self { file })
    }
}

/// Which state of which file: what a change of a file's content changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    /// Nobody can set this one back.
    changed: (i64, i64),
}

impl Stamp {
    /// That of a file as it is now. It is opened, not only looked at: of a file
    /// on another machine a look shows what was so seconds ago.
    ///
    /// # Errors
    ///
    /// The system's; it is no regular file.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&open(path)?.metadata()?))
    }

    /// Whether every change after this moment gives the file another stamp. Of
    /// a file that was changed just before, a further change may have the same
    /// time.
    #[must_use]
    pub fn is_settled(&self, at: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let tick = if nanos == 0 { COARSE_TICK } else { TICK };
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(settled) = since.checked_sub(tick) else { return false };
        let Ok(seconds) = u64::try_from(seconds) else { return true };
        let changed = Duration::new(seconds, u32::try_from(nanos).unwrap_or(0));
        changed < settled
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without the flag, opening a pipe waits for somebody at its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 512 MiB"));
    }
    Ok(file)
}

/// The same file once more, for reading.
fn reopen(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A file in memory, named after another one.
fn anonymous(artifact: &Path) -> io::Result<File> {
    let name = artifact.file_name().unwrap_or(artifact.as_os_str()).as_encoded_bytes();
    // The kernel takes 249 bytes of name.
    let name: Vec<u8> = name.iter().copied().filter(|b| *b != 0).take(200).collect();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = match memfd_create(&name[..], flags | NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(Errno::EINVAL) => memfd_create(&name[..], flags),
        made => made,
    };
    Ok(File::from(made?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;
    use crate::shm::{Access, Mapping, sealed_memfd};

    fn made(content: &[u8]) -> (tempfile::NamedTempFile, PrivateCopy, Stamp) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let (copy, stamp) = PrivateCopy::of(file.path()).unwrap().unwrap();
        (file, copy, stamp)
    }

    fn content(copy: &PrivateCopy) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(copy.file.metadata().unwrap().len()).unwrap()];
        copy.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn l8_a_copy_is_apart_from_its_file() {
        let (file, copy, _) = made(&[7; 10_000]);
        std::fs::write(file.path(), "another").unwrap();
        assert_eq!(content(&copy), [7; 10_000]);
        let name = std::fs::read_link(format!("/proc/self/fd/{}", copy.file.as_raw_fd())).unwrap();
        let expected = file.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(name.to_str().unwrap(), format!("/memfd:{expected} (deleted)"));
    }

    #[test]
    fn l8_nobody_can_write_to_a_copy() {
        let (_file, copy, _) = made(&[7; 5000]);
        let handed_on = copy.file.try_clone().unwrap();
        let path = format!("/proc/self/fd/{}", handed_on.as_raw_fd());
        let opened = OpenOptions::new().read(true).write(true).open(path).unwrap();
        for mut file in [handed_on, opened] {
            assert!(file.write_all_at(b"x", 0).is_err());
            file.seek(SeekFrom::End(0)).unwrap();
            assert!(file.write(b"x").is_err());
            assert!(file.set_len(0).is_err());
            assert!(file.set_len(10_000).is_err());
            assert!(Mapping::new(file.as_fd(), 4096, Access::ReadWrite).is_err());
            assert!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
        }
        assert_eq!(content(&copy), [7; 5000]);
    }

    #[test]
    fn s4_a_copy_that_is_handed_on_begins_at_its_beginning() {
        let (file, copy, _) = made(b"what it says");
        let mut shared = copy.file.try_clone().unwrap();
        shared.seek(SeekFrom::End(0)).unwrap();
        let handed_on = PrivateCopy::handed_on(shared.into()).unwrap().unwrap();
        let mut text = String::new();
        (&handed_on.file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "what it says");
        // And so does one that is made of it.
        let again = handed_on.again(file.path()).unwrap();
        assert_eq!(content(&again), b"what it says");
        let inode = |copy: &PrivateCopy| copy.file.metadata().unwrap().ino();
        assert_eq!(inode(&copy), inode(&handed_on));
        assert_ne!(inode(&copy), inode(&again));
        assert!(PrivateCopy::handed_on(again.file.into()).unwrap().is_some(), "it is sealed");
    }

    #[test]
    fn s4_what_is_not_sealed_is_no_copy() {
        let file = tempfile::tempfile().unwrap();
        assert!(PrivateCopy::handed_on(file.into()).unwrap().is_none());
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(PrivateCopy::handed_on(ours.into()).unwrap().is_none());
        // It cannot be resized, but written.
        let memory = sealed_memfd("half", 4096).unwrap();
        assert!(PrivateCopy::handed_on(memory).unwrap().is_none());
    }

    #[test]
    fn s4_a_copy_that_may_not_be_opened_is_an_error() {
        let (_file, copy, _) = made(b"text");
        copy.file.set_permissions(std::fs::Permissions::from_mode(0o0)).unwrap();
        let opened = PrivateCopy::handed_on(copy.file.into());
        // Root opens everything.
        assert_eq!(opened.is_err(), !nix::unistd::geteuid().is_root());
    }

    #[test]
    fn s4_every_change_of_a_file_changes_its_stamp() {
        let (file, _, stamp) = made(b"first");
        let path = file.path();
        assert_eq!(Stamp::of(path).unwrap(), stamp);
        let metadata = std::fs::metadata(path).unwrap();
        let changed = metadata.ctime_nsec();
        // Until the clock that the kernel keeps for files has moved on.
        loop {
            std::fs::write(path, "other").unwrap();
            let now = std::fs::metadata(path).unwrap();
            if now.ctime_nsec() != changed {
                break;
            }
        }
        let after = Stamp::of(path).unwrap();
        assert_ne!(after, stamp, "the same length, in the same second");
        // With its times put back, as cp -p and tar do.
        file.as_file().set_modified(metadata.modified().unwrap()).unwrap();
        let back = Stamp::of(path).unwrap();
        assert_eq!((back.len, back.modified), (stamp.len, stamp.modified));
        assert_ne!(back, stamp);
        let other = path.with_extension("new");
        std::fs::write(&other, "third").unwrap();
        std::fs::rename(&other, path).unwrap();
        assert_ne!(Stamp::of(path).unwrap().inode, back.inode);
        std::fs::remove_file(path).unwrap();
        assert!(Stamp::of(path).is_err());
    }

    #[test]
    fn s4_a_file_that_was_changed_just_now_may_change_unseen() {
        let at = |seconds: u64, millis: u64| {
            UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis)
        };
        let (_file, _, mut stamp) = made(b"text");
        stamp.changed = (1000, 500_000_000);
        assert!(!stamp.is_settled(at(999, 0)), "its clock may be another one's");
        assert!(!stamp.is_settled(at(1000, 500)));
        assert!(!stamp.is_settled(at(1000, 600)));
        assert!(stamp.is_settled(at(1000, 601)));
        // Whole seconds.
        stamp.changed = (1000, 0);
        assert!(!stamp.is_settled(at(1002, 100)));
        assert!(stamp.is_settled(at(1002, 101)));
        stamp.changed = (-5, 1);
        assert!(stamp.is_settled(at(1000, 0)));
    }

    #[test]
    fn s4_a_copy_is_compared_with_its_file_byte_by_byte() {
        // More than is compared at once, and no multiple of it.
        let text = vec![7; 200_001];
        let (file, copy, stamp) = made(&text);
        assert!(copy.is_still(file.path(), stamp).unwrap());
        for at in [0, 65_536, 200_000] {
            let mut other = text.clone();
            other[at] = 8;
            std::fs::write(file.path(), &other).unwrap();
            // As if the change were in the same tick.
            let unseen = Stamp::of(file.path()).unwrap();
            assert!(!copy.is_still(file.path(), unseen).unwrap(), "byte {at}");
        }
        std::fs::write(file.path(), &text).unwrap();
        assert!(!copy.is_still(file.path(), stamp).unwrap(), "another state");
        let (empty, copy, stamp) = made(b"");
        assert!(copy.is_still(empty.path(), stamp).unwrap());
        std::fs::remove_file(empty.path()).unwrap();
        assert!(copy.is_still(empty.path(), stamp).is_err());
    }

    #[test]
    fn l8_only_regular_files_of_a_sane_size_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(1 << 30).unwrap();
        for (path, words) in [(&pipe, "no regular file"), (&huge, "512 MiB")] {
            let error = PrivateCopy::of(path).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(Stamp::of(path).is_err());
        }
    }
}
