//! What one copy of some bytes costs: the floor of the rows `bytes`.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// A page: loads wait for stores that lie just before them modulo this many
/// bytes, as if they were the same bytes ("4K aliasing").
const PAGE: usize = 4096;
/// How far the destination's place in its page is from the source's: far from
/// nought both ways, and a whole number of cache lines.
const APART: usize = PAGE / 2 + 64;

/// Two buffers of one size, whose places in their pages do not alias.
///
/// The allocator puts two large blocks 16 bytes apart modulo a page, where a
/// copy may take several times as long: that is a floor of nothing.
pub(super) struct Copy {
    memory: Vec<u8>,
    from: usize,
    to: usize,
    len: usize,
}

impl Copy {
    pub(super) fn of(len: usize) -> Self {
        let room = len.next_multiple_of(PAGE);
        // Written, so that no page is the kernel's one page of zeroes.
        let memory = vec![0x5a_u8; 2 * room + 2 * PAGE];
        let from = memory.as_ptr().align_offset(PAGE);
        Self { memory, from, to: from + room + APART, len }
    }

    /// Copies once.
    pub(super) fn time(&mut self) -> Duration {
        let (low, high) = self.memory.split_at_mut(self.to);
        let from = black_box(&low[self.from..self.from + self.len]);
        let to = black_box(&mut high[..self.len]);
        let started = Instant::now();
        to.copy_from_slice(from);
        black_box(to);
        started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_buffers_do_not_alias() {
        for len in [1, 64, 4096, 4097, 64 << 10, 1 << 20] {
            let copy = Copy::of(len);
            assert!(copy.to >= copy.from + len && copy.memory.len() >= copy.to + len);
            assert_eq!((copy.to - copy.from) % PAGE, APART, "{len}");
        }
    }

    #[test]
    fn copy_of_more_takes_longer() {
        // The best of many, which an interruption does not touch.
        let best = |len| {
            let mut copy = Copy::of(len);
            (0..2000).map(|_| copy.time()).min().unwrap()
        };
        let (small, large) = (best(4 << 10), best(64 << 10));
        assert!(large > small, "4 KiB: {small:?}, 64 KiB: {large:?}");
    }
}
