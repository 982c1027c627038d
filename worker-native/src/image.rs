//! A generation's private copy of the library's file.
//!
//! The copy is an anonymous file in memory: the user's file is read once and
//! neither mapped nor locked, nothing is left behind if the worker dies, a
//! folder that is mounted `noexec` is no obstacle, and each copy is a file of
//! its own to the dynamic loader, which would return the old library for a
//! file that it has open already. `/proc/self/maps` shows it as
//! `/memfd:libgreeter.so`. The descriptor stays open as long as the library is
//! mapped: what reads debug information of loaded libraries (a backtrace)
//! finds it under the name that the dynamic loader knows.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use menagerie_protocol::LoaderError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::elf;

/// `MFD_NOEXEC_SEAL` (Linux 6.3): the file can be mapped as a library, but
/// never be run as a program, and machines that forbid the latter allow it.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// How often a file that changes while it is read is read again.
const TRIES: u32 = 5;

/// A private copy, sealed and checked.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
}

impl Image {
    /// Copies the library at `artifact`.
    pub(crate) fn copy_of(artifact: &Path) -> Result<Self, LoaderError> {
        let io = |e: io::Error| LoaderError::io(artifact, &e);
        let unusable = |problem: String| LoaderError::ArtifactUnusable {
            artifact: artifact.to_owned(),
            problem,
        };
        let mut tries = 0;
        let file = loop {
            if let Some(file) = copy(artifact).map_err(io)? {
                break file;
            }
            tries += 1;
            if tries == TRIES {
                return Err(unusable("changes again and again while it is read".to_owned()));
            }
        };
        elf::check(&file).map_err(io)?.map_err(unusable)?;
        // Not F_SEAL_WRITE: the kernel then waits for pages that the copying
        // still holds, and may give up with EBUSY.
        let seals = SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_SEAL
            | SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|e| io(e.into()))?;
        Ok(Self { file })
    }

    /// The path by which the dynamic loader opens it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Where it is mapped in this process.
    pub(crate) fn mapped(&self) -> io::Result<Vec<Range<usize>>> {
        let inode = self.file.metadata()?.ino().to_string();
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        Ok(maps.lines().filter_map(|line| range_of(line, &inode)).collect())
    }
}

/// The addresses of a line of `/proc/self/maps`, if it is of this file:
/// addresses, permissions, offset, device, inode, name.
fn range_of(line: &str, inode: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let of_this_file = fields.nth(3) == Some(inode) && fields.next()?.starts_with("/memfd:");
    let address = |text| usize::from_str_radix(text, 16).ok();
    of_this_file.then_some(address(start)?..address(end)?)
}

/// A copy, or nothing if the file was changed while it was read.
fn copy(artifact: &Path) -> io::Result<Option<File>> {
    let mut source = File::open(artifact)?;
    let before = source.metadata()?;
    let name = artifact.file_name().unwrap_or(artifact.as_os_str());
    let mut file = File::from(anonymous(name.as_encoded_bytes())?);
    io::copy(&mut source, &mut file)?;
    let after = source.metadata()?;
    let whole = file.metadata()?.len() == after.len() && stamp(&before) == stamp(&after);
    Ok(whole.then_some(file))
}

/// What a write to a file changes.
fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn anonymous(name: &[u8]) -> io::Result<OwnedFd> {
    // The kernel takes 249 bytes of name.
    let name: Vec<u8> = name.iter().copied().filter(|b| *b != 0).take(200).collect();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(&name[..], flags | NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(Errno::EINVAL) => Ok(memfd_create(&name[..], flags)?),
        made => Ok(made?),
    }
}
