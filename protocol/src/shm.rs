//! Shared memory: sealed memfds and their mappings. With the futex calls in
//! [`crate::lane::wait`] and [`crate::robust`] this is all of the crate's unsafe code.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// Whether a mapping may be written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store would be a segmentation fault.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// A mapping of a memfd, page-aligned, of a fixed length.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<c_void>,
    len: usize,
    access: Access,
}

/// Words of a mapping, which they keep: one look-up where `mapping.words()` and a
/// slice of it are four, and a hot call makes many.
#[derive(Clone, Debug)]
pub struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: atomics, in a mapping that may be sent and shared.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// The words of a range.
    ///
    /// # Panics
    ///
    /// The range is outside the mapping.
    #[must_use]
    pub fn new(mapping: &Arc<Mapping>, range: Range<usize>) -> Self {
        let words = &mapping.words()[range];
        Self {
            first: NonNull::from(words).cast(),
            count: words.len(),
            _mapping: Arc::clone(mapping),
        }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `new` took them from a slice of the mapping, which is there for
        // as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

// SAFETY: the mapping is plain memory that stays where it is until `drop`; all
// access is by atomics, by volatile-like copies, or by the documented contract
// of `bytes`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd`.
    ///
    /// # Errors
    ///
    /// The file is smaller than `len`, or `mmap(2)` fails.
    pub fn new(fd: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        let size = nix::sys::stat::fstat(fd)?.st_size;
        let non_zero = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        if usize::try_from(size).unwrap_or(0) < len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the shared memory has {size} bytes where {len} were announced"),
            ));
        }
        let protection = match access {
            Access::ReadOnly => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: no address is asked for, so no existing mapping is replaced;
        // `fd` is open; the length is not zero.
        let base = unsafe { mmap(None, non_zero, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { base, len, access })
    }

    /// Leaves it out of processes that this one forks: one that touches it there
    /// dies of that.
    ///
    /// # Errors
    ///
    /// As `madvise(2)`.
    pub fn keep_from_forks(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping's; its pages stay as they are here, and
        // a process that is forked has no `Mapping` of it that it may count on.
        unsafe { madvise(self.base, self.len, MmapAdvise::MADV_DONTFORK) }?;
        Ok(())
    }

    /// The length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty; it never is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory as words. On a read-only mapping only loads may be used.
    #[must_use]
    pub const fn words(&self) -> &[AtomicU64] {
        let base = self.base.as_ptr().cast::<AtomicU64>();
        // SAFETY: `base` is page-aligned and valid for `len` bytes until `self`
        // is dropped, which the borrow prevents; every bit pattern is a valid
        // `AtomicU64`; atomics may be written by others meanwhile.
        unsafe { std::slice::from_raw_parts(base, self.len / 8) }
    }

    /// Copies bytes out of memory that the other side may be writing: what is
    /// copied may be any mixture of old and new, and is then ours.
    ///
    /// # Panics
    ///
    /// The range is outside the mapping.
    pub fn copy_out(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        out.reserve(len);
        let spare = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the offset was checked to be inside the mapping.
        let from = unsafe { self.base.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: `from` is valid for `len` bytes (checked above), `spare` for
        // `len` bytes (reserved), and they do not overlap: one is a mapping,
        // the other on the heap. The other process may write `from` meanwhile;
        // the bytes are copied once by `memcpy`, no reference to them is
        // formed, and nothing is concluded from them before they are ours.
        unsafe { std::ptr::copy_nonoverlapping(from, spare, len) };
        // SAFETY: `len` bytes beyond the old length were reserved and have
        // just been written.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Copies bytes into the mapping.
    ///
    /// # Panics
    ///
    /// The range is outside the mapping, or the mapping is read-only.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert_eq!(self.access, Access::ReadWrite, "the mapping is read-only");
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len));
        // SAFETY: the offset was checked to be inside the mapping.
        let to = unsafe { self.base.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: `to` is valid for writes of `bytes.len()` (checked above), and
        // a slice on the heap does not overlap a mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// The bytes of a range.
    ///
    /// # Panics
    ///
    /// The range is outside the mapping.
    ///
    /// # Safety
    ///
    /// Nobody may write the range while the slice is in use. A worker may say
    /// so of what the supervisor wrote for a call that is not answered yet; a
    /// supervisor may never say so of what a worker can write.
    #[must_use]
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the offset was checked to be inside the mapping.
        let from = unsafe { self.base.as_ptr().cast::<u8>().add(offset) };
        // SAFETY: valid for `len` bytes (checked above) while `self` is
        // borrowed; not written meanwhile by the caller's promise.
        unsafe { std::slice::from_raw_parts(from, len) }
    }

    /// Where a range that a guest was shown begins in the mapping, if
    /// `bytes` lies in it at all.
    #[must_use]
    pub fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let base = self.base.as_ptr().addr();
        let start = bytes.as_ptr().addr().checked_sub(base)?;
        (start.checked_add(bytes.len())? <= self.len).then_some(start)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are those of the mapping made in `new`;
        // nothing borrows it any more.
        let unmapped = unsafe { munmap(self.base, self.len) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// Makes a memfd of `len` bytes that can neither shrink nor grow.
///
/// # Errors
///
/// `memfd_create(2)`, `ftruncate(2)` or the seals fail.
pub fn sealed_memfd(name: &str, len: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let file = File::from(fd);
    file.set_len(len as u64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Forbids every later writable mapping and `write(2)`: whoever receives the
/// memfd can only read it, while mappings that exist go on. Linux 5.1 and
/// later (`F_SEAL_FUTURE_WRITE`, fcntl(2)).
///
/// # Errors
///
/// The kernel has no such seal.
pub fn seal_future_writes(fd: BorrowedFd<'_>) -> io::Result<()> {
    let seals = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL);
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// A shared segment for payloads beyond the ring's share, as one side has it
/// mapped.
#[derive(Debug)]
pub struct Segment {
    /// Its number within the lane.
    pub id: u32,
    /// Its memory.
    pub mapping: Mapping,
}

impl Segment {
    /// Maps a segment that was received.
    ///
    /// # Errors
    ///
    /// As [`Mapping::new`].
    pub fn map(id: u32, fd: &OwnedFd, len: usize, access: Access) -> io::Result<Self> {
        Ok(Self { id, mapping: Mapping::new(fd.as_fd(), len, access)? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn mapping_of_a_sealed_memfd_is_shared() {
        let fd = sealed_memfd("test", 8192).unwrap();
        let rw = Mapping::new(fd.as_fd(), 8192, Access::ReadWrite).unwrap();
        seal_future_writes(fd.as_fd()).unwrap();
        let ro = Mapping::new(fd.as_fd(), 8192, Access::ReadOnly).unwrap();
        rw.words()[3].store(7, Ordering::Release);
        assert_eq!(ro.words()[3].load(Ordering::Acquire), 7);
        rw.copy_in(100, b"hello");
        let mut out = vec![1];
        ro.copy_out(100, 5, &mut out);
        assert_eq!(out, b"\x01hello");
    }

    #[test]
    fn seals_refuse_writable_mappings_and_resizing() {
        let fd = sealed_memfd("test", 4096).unwrap();
        seal_future_writes(fd.as_fd()).unwrap();
        assert!(Mapping::new(fd.as_fd(), 4096, Access::ReadWrite).is_err());
        let file = File::from(fd);
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(8192).is_err());
    }

    #[test]
    fn mapping_refuses_a_file_that_is_too_small() {
        let fd = sealed_memfd("test", 4096).unwrap();
        assert!(Mapping::new(fd.as_fd(), 8192, Access::ReadOnly).is_err());
    }
}
