//! The one place that atomics of shared memory come from, so that loom can
//! stand in for them.

use std::sync::atomic::{AtomicU64, Ordering, fence};

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

    /// On x86 one exchange does both, in a quarter of the time of `mfence`. It
    /// is as good in the language's model, where the other side's fence pairs
    /// with the sequentially consistent operations on this side, this exchange
    /// and the load of the sleep word (C++20, [atomics.order]/4).
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn store_and_fence(&self, value: u64) {
        self.swap(value, Ordering::SeqCst);
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
    fn head(&self) -> &Self::Word {
        (**self).head()
    }
}
