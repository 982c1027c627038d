//! Giving back what only the start has needed.
//!
//! A VM's start touches most of its libraries once, and the kernel maps sixteen
//! pages around each that is touched: of the 33 MB that are resident in a fresh
//! .NET worker, 27 are pages of files, and few of them are ever looked at again.
//! They cost nothing to keep, for they are the page cache's, but the kernel takes
//! them out of the address space one by one when the process ends: that is most
//! of the time from a crash to the process's end, and no bundle is loaded again
//! before that. So a worker that has loaded and then been left alone for a moment
//! forgets them, once. What it still needs it finds in the page cache, a fault of a
//! microsecond for sixteen pages.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long after a load the start is over. .NET compiles for another 300 ms what
/// the start has called often.
const PATIENCE: Duration = Duration::from_millis(400);

/// When to give back what.
#[derive(Debug)]
pub(super) struct Settling {
    when: When,
}

#[derive(Debug)]
enum When {
    /// Nothing has been loaded.
    Waiting,
    /// It is due then, if nothing is loaded until then.
    Due(Instant),
    /// It has been done. Not twice: what has come back is in use.
    Done,
}

impl Settling {
    pub(super) const fn new() -> Self {
        Self { when: When::Waiting }
    }

    /// A load is about to begin.
    pub(super) fn load_begins(&mut self, now: Instant) {
        self.postpone(now);
    }

    /// A load has not ended.
    pub(super) fn postpone(&mut self, now: Instant) {
        if !matches!(self.when, When::Done) {
            self.when = When::Due(now + PATIENCE);
        }
    }

    /// How long to wait for a message at most.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        match self.when {
            When::Due(due) => Some(due.saturating_duration_since(now)),
            When::Waiting | When::Done => None,
        }
    }

    /// Gives back what is of these libraries; `vm_files` are as
    /// [`BundleLoader::vm_files`] has them.
    ///
    /// [`BundleLoader::vm_files`]: crate::BundleLoader::vm_files
    pub(super) fn settle(&mut self, libraries: &Libraries, vm_files: &[&str]) {
        self.when = When::Done;
        // Where /proc is out of reach all stays as it is.
        let Ok(pages) = Pages::open() else { return };
        each_library(&mut |library| {
            if libraries.0.contains(&library.dlpi_phdr.addr()) {
                forget_library(&pages, library);
            }
        });
        drop(pages.forget_files(vm_files));
    }
}

/// Where the libraries lie that were there before the first bundle was. What a
/// bundle has brought is its own, and may do with its code what it likes.
#[derive(Debug)]
pub(super) struct Libraries(Vec<usize>);

impl Libraries {
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Those that are there by now.
    pub(super) fn look() -> Self {
        let mut found = Vec::new();
        each_library(&mut |library| found.push(library.dlpi_phdr.addr()));
        Self(found)
    }
}

/// The pages of this process.
struct Pages {
    /// `/proc/self/pagemap`: a word for each page (the kernel's
    /// `Documentation/admin-guide/mm/pagemap.rst`).
    map: File,
    size: usize,
}

/// Bits of a page's word: it is there; it is in the swap; it is a file's, and not
/// a copy that this process has made by writing to it.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

impl Pages {
    fn open() -> io::Result<Self> {
        // SAFETY: sysconf(3) takes no pointers.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let size = usize::try_from(size).map_err(io::Error::other)?;
        Ok(Self { map: File::open("/proc/self/pagemap")?, size })
    }

    /// Forgets the pages of a mapping that are as the file has them. What was
    /// written there since it was mapped (a debugger's breakpoint, a patched
    /// function) stays.
    ///
    /// # Safety
    ///
    /// The range is of file mappings that are not writable, and stay so.
    unsafe fn forget(&self, range: Range<usize>) -> io::Result<()> {
        let (first, end) = (range.start / self.size, range.end.div_ceil(self.size));
        let mut words = vec![0_u8; (end - first) * 8];
        self.map.read_exact_at(&mut words, first as u64 * 8)?;
        let is_clean = |word: &[u8]| {
            let word = word.try_into().map_or(SWAPPED, u64::from_ne_bytes);
            word & SWAPPED == 0 && word & (PRESENT | OF_A_FILE) != PRESENT
        };
        let mut page = first;
        let words: Vec<bool> = words.chunks_exact(8).map(is_clean).collect();
        for run in words.chunk_by(|a, b| a == b) {
            if run[0] {
                let start = std::ptr::without_provenance_mut::<c_void>(page * self.size);
                // SAFETY: the pages are of a file, which has the same in them when
                // they are looked at next, by the caller's promise and by their
                // words; nothing has written to them since, as they are read-only.
                unsafe { libc::madvise(start, run.len() * self.size, libc::MADV_DONTNEED) };
            }
            page += run.len();
        }
        Ok(())
    }

    /// Forgets mappings of files with these names.
    fn forget_files(&self, names: &[&str]) -> io::Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        // Address, mode, offset, device, inode, path.
        for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
            let mut fields = line.splitn(6, ' ');
            let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
            let name = fields.nth(3).and_then(|path| Path::new(path.trim()).file_name());
            let is_meant = name.is_some_and(|name| names.iter().any(|meant| *meant == name));
            if !is_meant || mode.contains('w') {
                continue;
            }
            let Some((start, end)) = range.split_once('-') else { continue };
            let number = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
            // SAFETY: a mapping of a file that is not writable; that it stays so is
            // for the loader to promise, which has named it.
            unsafe { self.forget(number(start)?..number(end)?)? };
        }
        Ok(())
    }
}

/// Goes through the libraries and the program. The linker unloads none meanwhile: it
/// holds the lock for which dlclose(3) waits.
fn each_library(visit: &mut dyn FnMut(&libc::dl_phdr_info)) {
    unsafe extern "C" fn library(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: what was passed on below, which outlives the walk.
        let visit = unsafe { &mut *visit.cast::<&mut dyn FnMut(&libc::dl_phdr_info)>() };
        // SAFETY: the linker passes a structure that is filled in.
        visit(unsafe { &*info });
        0
    }
    let mut visit = visit;
    // SAFETY: `library` is such a function as dl_iterate_phdr(3) calls, and gets
    // what it expects.
    unsafe { libc::dl_iterate_phdr(Some(library), (&raw mut visit).cast()) };
}

/// Forgets the code and the constants of one library.
fn forget_library(pages: &Pages, library: &libc::dl_phdr_info) {
    if library.dlpi_phdr.is_null() {
        return;
    }
    // SAFETY: so many headers are there, for as long as the library is.
    let headers =
        unsafe { std::slice::from_raw_parts(library.dlpi_phdr, library.dlpi_phnum.into()) };
    for header in headers {
        // Where the linker writes, once or ever, the segment is a writable one.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (Ok(base), Ok(offset), Ok(len)) = (
            usize::try_from(library.dlpi_addr),
            usize::try_from(header.p_vaddr),
            usize::try_from(header.p_memsz),
        ) else {
            continue;
        };
        let start = base.wrapping_add(offset);
        // SAFETY: a segment of a library that is loaded is a private mapping of its
        // file; it is not writable by its header.
        drop(unsafe { pages.forget(start..start.saturating_add(len)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pages of this program's code are in its address space.
    fn resident(pages: &Pages, range: Range<usize>) -> usize {
        let mut words = vec![0_u8; range.len() / pages.size * 8];
        pages.map.read_exact_at(&mut words, (range.start / pages.size * 8) as u64).unwrap();
        let words = words.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
        words.filter(|word| word & PRESENT != 0).count()
    }

    #[test]
    fn settling_waits_for_the_last_load_and_happens_once() {
        let start = Instant::now();
        let mut settling = Settling::new();
        assert_eq!(settling.patience(start), None);
        settling.load_begins(start);
        let later = start + PATIENCE / 2;
        assert_eq!(settling.patience(later), Some(PATIENCE / 2));
        settling.postpone(later);
        assert_eq!(settling.patience(later), Some(PATIENCE));
        assert_eq!(settling.patience(later + PATIENCE * 2), Some(Duration::ZERO));
        settling.settle(&Libraries::none(), &[]);
        settling.postpone(later);
        assert_eq!(settling.patience(later), None);
    }

    #[test]
    fn settling_forgets_a_files_pages_and_keeps_what_was_written() {
        let pages = Pages::open().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mapped-by-itself");
        let len = 16 * pages.size;
        std::fs::write(&path, vec![7; len]).unwrap();
        let file = File::open(&path).unwrap();
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: the kernel chooses where.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let bytes = start.cast::<u8>();
        let read = |page: usize| {
            // SAFETY: within the mapping.
            unsafe { bytes.wrapping_add(page * pages.size).read_volatile() }
        };
        assert!((0..16).all(|page| read(page) == 7));
        // SAFETY: within the mapping, which is writable.
        unsafe { bytes.wrapping_add(5 * pages.size).write_volatile(8) };
        let range = start as usize..start as usize + len;
        // Writable: it is not touched.
        pages.forget_files(&["mapped-by-itself"]).unwrap();
        assert_eq!(resident(&pages, range.clone()), 16);
        // SAFETY: our own mapping.
        assert_eq!(unsafe { libc::mprotect(start, len, libc::PROT_READ) }, 0);
        pages.forget_files(&["another"]).unwrap();
        assert_eq!(resident(&pages, range.clone()), 16);
        pages.forget_files(&["mapped-by-itself"]).unwrap();
        assert_eq!(resident(&pages, range), 1);
        assert!((0..16).all(|page| read(page) == if page == 5 { 8 } else { 7 }));
        // SAFETY: nobody uses it after this.
        unsafe { libc::munmap(start, len) };
    }

    #[test]
    fn settling_leaves_libraries_alone_that_came_later() {
        let pages = Pages::open().unwrap();
        let start = CONSTANTS.as_ptr().addr().next_multiple_of(pages.size);
        let range = start..start + CONSTANTS.len() - pages.size;
        assert!(CONSTANTS.iter().all(|byte| std::hint::black_box(*byte) == 7));
        // As if this program had not been there at the first load.
        let mut settling = Settling::new();
        settling.settle(&Libraries::none(), &[]);
        assert_eq!(resident(&pages, range.clone()), range.len() / pages.size);
    }

    /// Constants of this very program, which nobody else looks at.
    static CONSTANTS: [u8; 1 << 20] = [7; 1 << 20];

    #[test]
    fn settling_forgets_constants_and_code_that_are_there_when_they_are_needed() {
        let pages = Pages::open().unwrap();
        let sum = || CONSTANTS.iter().map(|byte| u64::from(std::hint::black_box(*byte))).sum();
        let expected: u64 = 7 << 20;
        assert_eq!(expected, sum());
        let start = CONSTANTS.as_ptr().addr().next_multiple_of(pages.size);
        let range = start..start + CONSTANTS.len() - pages.size;
        let before = resident(&pages, range.clone());
        assert_eq!(before, range.len() / pages.size);
        let mut settling = Settling::new();
        settling.load_begins(Instant::now());
        settling.settle(&Libraries::look(), &["no-such-file"]);
        assert_eq!(settling.patience(Instant::now()), None);
        // What lies beside them may have been needed since, and brings some of them.
        let after = resident(&pages, range);
        assert!(after < before / 2, "{before} pages before, and {after} after");
        assert_eq!(expected, sum());
    }
}
