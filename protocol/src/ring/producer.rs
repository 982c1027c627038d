//! The producer's end of a ring.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::{
    CONTINUATION, Corrupt, FIRST_BYTES, FRAME_WORDS, FrameHead, Kind, Memory, NEXT_BYTES,
    SLOT_WORDS, Shape, Word, slots_for,
};

/// Why a frame was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// No room now; the consumer will make some.
    Busy,
    /// The other side's position is nonsense.
    Corrupt(Corrupt),
}

impl From<Corrupt> for Full {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// The producer's end.
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    shape: Shape,
    /// The next slot to publish.
    tail: u64,
    /// The consumer's position as last seen.
    head: u64,
}

impl<M: Memory> Producer<M> {
    /// A producer on fresh, zeroed memory.
    ///
    /// # Panics
    ///
    /// The memory is smaller than the shape.
    pub fn new(memory: M, shape: Shape) -> Self {
        assert!(memory.ring().len() >= shape.words());
        Self { memory, shape, tail: 0, head: 0 }
    }

    /// The memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The next position to be published.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.tail
    }

    /// Whether there is room for a frame with a payload of `len` bytes. What is
    /// said to fit goes on fitting: the consumer only makes more room.
    ///
    /// # Errors
    ///
    /// The consumer's position is nonsense.
    #[inline]
    pub fn has_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        let slots = slots_for(len);
        let need = self.padding(slots) + slots;
        if self.free() < need {
            self.refresh_head()?;
        }
        Ok(self.free() >= need)
    }

    #[inline]
    const fn free(&self) -> u64 {
        self.head + self.shape.slots() - self.tail
    }

    /// The padding that has to go before a frame.
    #[inline]
    const fn padding(&self, slots: u64) -> u64 {
        let left = self.shape.left_in_lap(self.tail);
        if slots > left { left } else { 0 }
    }

    /// Publishes a frame. The payload is the concatenation of `parts`. A
    /// sequentially consistent fence follows, for a look at the other side's
    /// sleep word.
    ///
    /// # Errors
    ///
    /// [`Full::Busy`] if there is no room; nothing was published then.
    ///
    /// # Panics
    ///
    /// The payload is larger than [`Shape::max_payload`].
    #[inline]
    pub fn push(&mut self, head: FrameHead, parts: &[&[u8]]) -> Result<(), Full> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(
            len <= self.shape.max_payload(),
            "payload of {len} bytes is too large for the ring"
        );
        if !self.has_room(len)? {
            return Err(Full::Busy);
        }
        let slots = slots_for(len);
        let pad = self.padding(slots);
        if pad > 0 {
            self.pad(pad);
        }
        self.publish(head, len, slots, parts);
        Ok(())
    }

    /// How far the consumer has read.
    ///
    /// # Errors
    ///
    /// Its position is nonsense.
    pub fn consumed(&mut self) -> Result<u64, Corrupt> {
        self.refresh_head()?;
        Ok(self.head)
    }

    /// The header word at a position, for waking who sleeps on it.
    pub fn header(&self, position: u64) -> &M::Word {
        &self.memory.ring()[self.shape.index(position)]
    }

    #[cold]
    fn pad(&mut self, slots: u64) {
        let head = FrameHead { kind: Kind::Pad, flags: 0, function: 0, call: 0 };
        let len = usize::try_from(slots - 1).unwrap_or(0) * NEXT_BYTES + FIRST_BYTES;
        self.publish(head, len, slots, &[]);
    }

    #[inline]
    fn publish(&mut self, head: FrameHead, len: usize, slots: u64, parts: &[&[u8]]) {
        let at = self.shape.index(self.tail);
        let ring = self.memory.ring();
        ring[at + 1].store(head.pack(), Relaxed);
        ring[at + 2].store(head.call, Relaxed);
        if slots == 1 {
            if let [part] = parts {
                store_bytes(&ring[at + FRAME_WORDS..at + SLOT_WORDS], part);
            } else {
                let mut whole = [0; FIRST_BYTES];
                let mut filled = 0;
                for part in parts {
                    whole[filled..filled + part.len()].copy_from_slice(part);
                    filled += part.len();
                }
                store_bytes(&ring[at + FRAME_WORDS..at + SLOT_WORDS], &whole[..filled]);
            }
        } else {
            self.continuations(at, slots);
            self.spread(at, parts);
        }
        // SYNC: frame published. Pairs with the acquire load in `Consumer::peek`.
        // The fence is for `Waker::wake_needed`.
        ring[at].store_and_fence(self.shape.header(self.tail, len));
        self.tail += slots;
    }

    /// Marks the further slots of a frame as of this lap, so that the next lap
    /// tells them from headers of its own.
    fn continuations(&self, at: usize, slots: u64) {
        let mark = u64::from(self.shape.mark(self.tail)) | CONTINUATION;
        let further = self.memory.ring()[at..].chunks(SLOT_WORDS).skip(1);
        for slot in further.take(usize::try_from(slots - 1).unwrap_or(0)) {
            slot[0].store(mark, Relaxed);
        }
    }

    /// Stores the parts of a large payload: what the first slot holds, and then
    /// slot by slot.
    fn spread(&self, at: usize, parts: &[&[u8]]) {
        let ring = self.memory.ring();
        let mut slots = ring[at..].chunks(SLOT_WORDS);
        let mut words = slots.next().map_or(&ring[..0], |first| &first[FRAME_WORDS..]);
        let mut raw = [0_u8; 8];
        let mut filled = 0;
        let mut put = |value: u64| {
            if words.is_empty() {
                words = slots.next().map_or(&ring[..0], |next| &next[1..]);
            }
            if let Some((first, rest)) = words.split_first() {
                first.store(value, Relaxed);
                words = rest;
            }
        };
        for part in parts {
            let mut part = *part;
            if filled > 0 {
                let take = part.len().min(8 - filled);
                raw[filled..filled + take].copy_from_slice(&part[..take]);
                filled += take;
                part = &part[take..];
                if filled < 8 {
                    continue;
                }
                put(u64::from_le_bytes(raw));
            }
            let chunks = part.chunks_exact(8);
            let rest = chunks.remainder();
            for chunk in chunks {
                raw.copy_from_slice(chunk);
                put(u64::from_le_bytes(raw));
            }
            raw = [0; 8];
            raw[..rest.len()].copy_from_slice(rest);
            filled = rest.len();
        }
        if filled > 0 {
            raw[filled..].fill(0);
            put(u64::from_le_bytes(raw));
        }
    }

    #[cold]
    fn refresh_head(&mut self) -> Result<(), Corrupt> {
        // SYNC: slots released. Pairs with the release store in
        // `Consumer::release`: the consumer has read what we overwrite.
        let head = self.memory.head().load(Acquire);
        if head < self.head || head > self.tail {
            return Err(Corrupt::Head { head, from: self.head, to: self.tail });
        }
        self.head = head;
        Ok(())
    }
}

/// Stores bytes into words, the last one padded with zeroes.
#[inline]
fn store_bytes<W: Word>(words: &[W], bytes: &[u8]) {
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    let mut words = words.iter();
    for (chunk, word) in chunks.zip(words.by_ref()) {
        let mut raw = [0; 8];
        raw.copy_from_slice(chunk);
        word.store(u64::from_le_bytes(raw), Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.next()) {
        let mut raw = [0; 8];
        raw[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(raw), Relaxed);
    }
}
