//! The memory of one QuickJS runtime, freed as a whole when it ends (rule L9).
//!
//! deno_core's QuickJS loses references to its own objects when a runtime is
//! dropped, close to a megabyte of them each time. So a runtime's blocks are
//! linked with each other, and those that it has not freed are freed here when
//! it is gone. The runtime gets its heap where it is made: the linker puts
//! [`__wrap_JS_NewRuntime`] in the place of `JS_NewRuntime` (`build.rs`).

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

/// Stands before each block; its size keeps the blocks aligned as `malloc`
/// aligns them.
#[repr(C, align(16))]
struct Link {
    previous: *mut Link,
    next: *mut Link,
}

/// The blocks of one runtime, in a ring. What is here is its sentinel, alone
/// on the heap because the blocks point at it.
pub(crate) struct Heap {
    sentinel: *mut Link,
}

thread_local! {
    /// The heap for the next runtime that this thread makes.
    static NEXT: Cell<*mut Link> = const { Cell::new(ptr::null_mut()) };
}

impl Heap {
    /// A heap for the next runtime that is made on this thread.
    pub(crate) fn for_next_runtime() -> Self {
        let sentinel = new_ring();
        NEXT.set(sentinel);
        Self { sentinel }
    }

    /// Frees what the runtime has left.
    ///
    /// # Safety
    ///
    /// The runtime has been freed, and nothing refers to its memory any more.
    pub(crate) unsafe fn free(self) {
        NEXT.set(ptr::null_mut());
        // SAFETY: the ring is intact: only the functions below, on this thread,
        // ever change it, and its links are live blocks or the sentinel.
        let mut link = unsafe { (*self.sentinel).next };
        while link != self.sentinel {
            // SAFETY: as above; it is read before the block is freed.
            let next = unsafe { (*link).next };
            // SAFETY: a block's link is what `malloc` returned, and by the
            // caller's promise nobody uses the block or frees it again.
            unsafe { libc::free(link.cast()) };
            link = next;
        }
        // SAFETY: it came from `Box::into_raw`, and no block points at it now.
        drop(unsafe { Box::from_raw(self.sentinel) });
    }
}

/// An empty ring.
fn new_ring() -> *mut Link {
    let sentinel =
        Box::into_raw(Box::new(Link { previous: ptr::null_mut(), next: ptr::null_mut() }));
    // SAFETY: it was just made and is nobody else's.
    unsafe { *sentinel = Link { previous: sentinel, next: sentinel } };
    sentinel
}

/// QuickJS' table of memory functions (`JSMallocFunctions`, quickjs.h).
#[repr(C)]
struct MallocFunctions {
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    usable_size: unsafe extern "C" fn(*const c_void) -> usize,
}

static FUNCTIONS: MallocFunctions = MallocFunctions {
    calloc: heap_calloc,
    malloc: heap_malloc,
    free: heap_free,
    realloc: heap_realloc,
    usable_size: heap_usable_size,
};

unsafe extern "C" {
    fn JS_NewRuntime2(functions: *const MallocFunctions, opaque: *mut c_void) -> *mut c_void;
}

/// What is linked as `JS_NewRuntime`.
///
/// # Safety
///
/// As `JS_NewRuntime`, which has no precondition.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_JS_NewRuntime() -> *mut c_void {
    let mut sentinel = NEXT.replace(ptr::null_mut());
    if sentinel.is_null() {
        // A runtime that this crate did not ask for: nobody frees its ring.
        sentinel = new_ring();
    }
    // SAFETY: the functions are as QuickJS asks, on a ring that lives until the
    // runtime is gone (`Heap::free`), called from the runtime's thread only.
    unsafe { JS_NewRuntime2(&raw const FUNCTIONS, sentinel.cast()) }
}

/// Links a block in behind the sentinel and returns its usable part.
///
/// # Safety
///
/// `sentinel` is a heap's; `link` is null or a block of `malloc`'s of
/// `size_of::<Link>()` bytes at least that is in no ring.
unsafe fn link_in(sentinel: *mut Link, link: *mut Link) -> *mut c_void {
    if link.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the sentinel is live and its ring intact.
    let next = unsafe { (*sentinel).next };
    // SAFETY: the block is large enough, aligned as `malloc` aligns, and ours.
    unsafe { link.write(Link { previous: sentinel, next }) };
    // SAFETY: a link of an intact ring.
    unsafe { (*next).previous = link };
    // SAFETY: as before.
    unsafe { (*sentinel).next = link };
    // SAFETY: the block is larger than its link.
    unsafe { link.add(1).cast() }
}

/// Takes the block of `usable` out of its ring.
///
/// # Safety
///
/// `usable` is what [`link_in`] returned for a block that is in a ring.
unsafe fn link_out(usable: *mut c_void) -> *mut Link {
    // SAFETY: the link stands right before the usable part.
    let link = unsafe { usable.cast::<Link>().sub(1) };
    // SAFETY: it is a live link, written by `link_in`.
    let Link { previous, next } = unsafe { link.read() };
    // SAFETY: a link of an intact ring.
    unsafe { (*previous).next = next };
    // SAFETY: as before.
    unsafe { (*next).previous = previous };
    link
}

unsafe extern "C" fn heap_malloc(heap: *mut c_void, size: usize) -> *mut c_void {
    let Some(size) = size.checked_add(size_of::<Link>()) else { return ptr::null_mut() };
    // SAFETY: `malloc` has no precondition.
    let block = unsafe { libc::malloc(size) };
    // SAFETY: `heap` is the sentinel that the runtime was made with, and the
    // block is fresh.
    unsafe { link_in(heap.cast(), block.cast()) }
}

unsafe extern "C" fn heap_calloc(heap: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let size = count.checked_mul(size).and_then(|size| size.checked_add(size_of::<Link>()));
    let Some(size) = size else { return ptr::null_mut() };
    // SAFETY: `calloc` has no precondition.
    let block = unsafe { libc::calloc(1, size) };
    // SAFETY: as in `heap_malloc`.
    unsafe { link_in(heap.cast(), block.cast()) }
}

unsafe extern "C" fn heap_free(_heap: *mut c_void, usable: *mut c_void) {
    if usable.is_null() {
        return;
    }
    // SAFETY: the runtime frees what it got from these functions, once.
    let block = unsafe { link_out(usable) };
    // SAFETY: the block is `malloc`'s, and in no ring any more.
    unsafe { libc::free(block.cast()) };
}

unsafe extern "C" fn heap_realloc(
    heap: *mut c_void,
    usable: *mut c_void,
    size: usize,
) -> *mut c_void {
    if usable.is_null() {
        // SAFETY: as this function's own caller promises.
        return unsafe { heap_malloc(heap, size) };
    }
    let Some(size) = size.checked_add(size_of::<Link>()) else { return ptr::null_mut() };
    // SAFETY: as in `heap_free`.
    let block = unsafe { link_out(usable) };
    // SAFETY: the block is `malloc`'s.
    let moved = unsafe { libc::realloc(block.cast(), size) };
    if moved.is_null() {
        // The old block is as it was, and goes back.
        // SAFETY: it is in no ring at this point.
        unsafe { link_in(heap.cast(), block) };
        return ptr::null_mut();
    }
    // SAFETY: as in `heap_malloc`.
    unsafe { link_in(heap.cast(), moved.cast()) }
}

unsafe extern "C" fn heap_usable_size(usable: *const c_void) -> usize {
    if usable.is_null() {
        return 0;
    }
    // SAFETY: the link stands right before the usable part.
    let block = unsafe { usable.cast::<Link>().sub(1) };
    // SAFETY: the block is `malloc`'s and live.
    let size = unsafe { libc::malloc_usable_size(block.cast_mut().cast()) };
    size - size_of::<Link>()
}
