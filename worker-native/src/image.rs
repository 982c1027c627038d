//! What a generation's library is mapped from: a private copy of its file.
//!
//! The supervisor makes the copy and hands it on, so that the next process need
//! not make it again; where it cannot, the copy is made here. It is a file of its
//! own to the dynamic loader, which would return the old library for a file that
//! it has open already: so a copy that is mapped in this process is copied once
//! more. The descriptor stays open as long as the library is mapped: what reads
//! debug information of loaded libraries (a backtrace) finds it under the name
//! that the dynamic loader knows.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{PT_LOAD, dl_phdr_info};
use menagerie_protocol::LoaderError;
use menagerie_protocol::loader::PrivateCopy;

use crate::elf;

/// A private copy that was checked, and that nothing else in this process is
/// mapped from.
#[derive(Debug)]
pub(crate) struct Image {
    copy: PrivateCopy,
    _claim: Claim,
}

impl Image {
    /// The library at `artifact`, from the copy that was handed on, if there is
    /// one.
    pub(crate) fn new(artifact: &Path, handed_on: Option<OwnedFd>) -> Result<Self, LoaderError> {
        let io = |error: io::Error| LoaderError::io(artifact, &error);
        let unusable = |problem: String| LoaderError::ArtifactUnusable {
            artifact: artifact.to_owned(),
            problem,
        };
        let handed_on = match handed_on.map(PrivateCopy::handed_on) {
            Some(Ok(None)) => {
                let problem = "was handed on by the supervisor as something that is no sealed copy";
                return Err(unusable(problem.to_owned()));
            }
            Some(Ok(copy)) => copy,
            // Another process that shares it has changed its permissions.
            Some(Err(_)) | None => None,
        };
        let mut copy = match handed_on {
            Some(copy) => copy,
            None => match PrivateCopy::of(artifact).map_err(io)? {
                Some((copy, _)) => copy,
                None => {
                    return Err(unusable("changes again and again while it is read".to_owned()));
                }
            },
        };
        elf::check(copy.file()).map_err(io)?.map_err(unusable)?;
        loop {
            if let Some(claim) = Claim::to(&copy).map_err(io)? {
                return Ok(Self { copy, _claim: claim });
            }
            copy = copy.again(artifact).map_err(io)?;
        }
    }

    /// The path by which the dynamic loader opens it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.copy.file().as_raw_fd()).into()
    }

    /// Where the dynamic loader has put it, from the first byte to the last, if it is
    /// open: what `/proc/self/maps` tells as well, in a tenth of a millisecond.
    pub(crate) fn span(&self) -> Option<Range<usize>> {
        let mut find = Find { name: self.path().into_os_string().into_encoded_bytes(), span: None };
        // SAFETY: `visit` is made for this, and gets what it expects.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut find).cast()) };
        find.span
    }

    /// Where it is mapped in this process.
    pub(crate) fn mapped(&self) -> io::Result<Vec<Range<usize>>> {
        let inode = self.copy.file().metadata()?.ino().to_string();
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        Ok(maps.lines().filter_map(|line| range_of(line, &inode)).collect())
    }
}

/// A library that is looked for among those that are open, and where it is.
struct Find {
    name: Vec<u8>,
    span: Option<Range<usize>>,
}

/// Ends the search by another result than 0 (dl_iterate_phdr(3)).
///
/// # Safety
///
/// `info` is what the dynamic loader tells of a library, and `find` a [`Find`].
unsafe extern "C" fn visit(info: *mut dl_phdr_info, _: usize, find: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let find = unsafe { &mut *find.cast::<Find>() };
    // SAFETY: the caller's promise.
    let info = unsafe { &*info };
    // SAFETY: the name is a string of C's for as long as the library is open.
    let name = unsafe { CStr::from_ptr(info.dlpi_name) };
    if name.to_bytes() != find.name {
        return 0;
    }
    // SAFETY: so many headers are there.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let base = usize::try_from(info.dlpi_addr).unwrap_or(0);
    let loaded = headers.iter().filter(|header| header.p_type == PT_LOAD).map(|header| {
        let number = |value| usize::try_from(value).unwrap_or(0);
        let start = base.wrapping_add(number(header.p_vaddr));
        start..start.wrapping_add(number(header.p_memsz))
    });
    find.span = loaded.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end));
    1
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

/// The copies that libraries of this process are mapped from, by the number of
/// their inode: all are files of the kernel's one file system for memory.
static CLAIMED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn claimed() -> MutexGuard<'static, BTreeSet<u64>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to map a copy in this process; given back when this is dropped.
#[derive(Debug)]
struct Claim(u64);

impl Claim {
    /// `None` if somebody has it already.
    fn to(copy: &PrivateCopy) -> io::Result<Option<Self>> {
        let inode = copy.file().metadata()?.ino();
        // Not made where it fails: dropped, it would give back another's.
        Ok(claimed().insert(inode).then(|| Self(inode)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}
