//! V8 frees its own memory: see `heap.rs`.

/// Nothing.
pub(crate) struct Heap;

impl Heap {
    /// Nothing.
    pub(crate) const fn for_next_runtime() -> Self {
        Self
    }

    /// Does nothing.
    ///
    /// # Safety
    ///
    /// Always safe; the other engine's is not.
    pub(crate) const unsafe fn free(self) {}
}
