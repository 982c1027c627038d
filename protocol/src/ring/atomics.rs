//! The one place that atomics of shared memory come from, so that loom can
//! stand in for them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A word of shared memory.
pub trait Word {
    /// Loads it.
    fn load(&self, ordering: Ordering) -> u64;
    /// Stores it.
    fn store(&self, value: u64, ordering: Ordering);
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
}

#[cfg(loom)]
impl Word for loom::sync::atomic::AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        Self::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        Self::store(self, value, ordering);
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
