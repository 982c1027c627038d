//! The one place that atomics of shared memory come from, so that loom can
//! stand in for them.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{SLOT_WORDS, Shape};

/// A word of shared memory.
pub trait Word {
    /// Loads it.
    fn load(&self, ordering: Ordering) -> u64;
    /// Stores it.
    fn store(&self, value: u64, ordering: Ordering);
    /// A fence among words of this type, and everything else.
    fn fence(ordering: Ordering);
    /// Stores it with release, then a sequentially consistent fence.
    fn store_and_fence(&self, value: u64) {
        self.store(value, Ordering::Release);
        Self::fence(Ordering::SeqCst);
    }
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, ordering: Ordering) -> u64 {
        Self::load(self, ordering)
    }

    #[inline]
    fn store(&self, value: u64, ordering: Ordering) {
        Self::store(self, value, ordering);
    }

    #[inline]
    fn fence(ordering: Ordering) {
        fence(ordering);
    }

    /// On x86 a locked instruction on memory of our own is a fence as well (AMD64
    /// Architecture Programmer's Manual 2, 7.1), in a quarter of the time of
    /// `mfence`. An exchange would do both, but the store would wait for it.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline]
    fn store_and_fence(&self, value: u64) {
        self.store(value, Ordering::Release);
        // SAFETY: it changes nothing; the word is this thread's own.
        unsafe { std::arch::asm!("lock or dword ptr [rsp], 0") };
    }
}

#[cfg(loom)]
impl Word for loom::sync::atomic::AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        Self::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        Self::store(self, value, ordering);
    }

    fn fence(ordering: Ordering) {
        loom::sync::atomic::fence(ordering);
    }
}

/// Memory that holds a ring and the consumer's position.
pub trait Memory {
    /// The word type.
    type Word: Word;
    /// The ring's words: `Shape::words` of them.
    fn ring(&self) -> &[Self::Word];
    /// The slot at a position.
    #[inline]
    fn slot(&self, shape: Shape, position: u64) -> &[Self::Word; SLOT_WORDS] {
        &self.ring().as_chunks().0[shape.index(position)]
    }
    /// Where the consumer publishes its position.
    fn head(&self) -> &Self::Word;
}

impl<M: Memory + ?Sized> Memory for std::sync::Arc<M> {
    type Word = M::Word;

    #[inline]
    fn ring(&self) -> &[Self::Word] {
        (**self).ring()
    }

    #[inline]
    fn slot(&self, shape: Shape, position: u64) -> &[Self::Word; SLOT_WORDS] {
        (**self).slot(shape, position)
    }

    #[inline]
    fn head(&self) -> &Self::Word {
        (**self).head()
    }
}
