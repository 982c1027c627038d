//! The producer's end of a ring.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::{
    CONTINUATION, Corrupt, FIRST_BYTES, FRAME_WORDS, FrameHead, Kind, Memory, NEXT_BYTES,
    SLOT_WORDS, Shape, Word, frame_header, slots_for,
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
    /// The mark of its lap.
    mark: u32,
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
        Self { memory, shape, tail: 0, mark: shape.mark(0), head: 0 }
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
        if self.has_slot(len) {
            return Ok(true);
        }
        let slots = slots_for(len);
        let need = self.padding(slots) + slots;
        if self.free() < need {
            self.refresh_head()?;
        }
        Ok(self.free() >= need)
    }

    /// Whether there is room for a frame with a payload of `len` bytes, as far as can be
    /// told without a look at the consumer, and it takes one slot.
    #[inline]
    #[must_use]
    pub const fn has_slot(&self, len: usize) -> bool {
        len <= FIRST_BYTES && self.free() > 0
    }

    /// As [`push`](Self::push), of a frame that [has its slot](Self::has_slot).
    #[inline(always)]
    pub fn push_one(&mut self, head: FrameHead, payload: &[u8]) {
        debug_assert!(self.has_slot(payload.len()), "nobody has asked for room");
        self.publish(head, payload.len(), 1, &[payload]);
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
        &self.memory.slot(self.shape, position)[0]
    }

    #[cold]
    fn pad(&mut self, slots: u64) {
        let head = FrameHead { kind: Kind::Pad, flags: 0, function: 0, call: 0 };
        let len = usize::try_from(slots - 1).unwrap_or(0) * NEXT_BYTES + FIRST_BYTES;
        self.publish(head, len, slots, &[]);
    }

    // Else the head goes byte by byte through memory, where a load of more than
    // one of them waits for the stores.
    #[inline(always)]
    fn publish(&mut self, head: FrameHead, len: usize, slots: u64, parts: &[&[u8]]) {
        let slot = self.memory.slot(self.shape, self.tail);
        let [header, packed, call, words @ ..] = slot;
        packed.store(head.pack(), Relaxed);
        call.store(head.call, Relaxed);
        match parts {
            [part] if slots == 1 => store_bytes(words, part),
            _ => self.publish_more(slots, parts),
        }
        // SYNC: frame published. Pairs with the acquire load in `Consumer::peek`.
        // The fence is for `Waker::wake_needed`.
        header.store_and_fence(frame_header(self.mark, len));
        self.tail += slots;
        if self.shape.begins_lap(self.tail, slots) {
            self.mark = self.shape.mark(self.tail);
        }
    }

    /// What is in several parts, or takes several slots.
    #[inline(never)]
    fn publish_more(&self, slots: u64, parts: &[&[u8]]) {
        if slots > 1 {
            self.continuations(slots);
        }
        self.spread(parts);
    }

    /// Marks the further slots of a frame as of this lap, so that the next lap
    /// tells them from headers of its own.
    fn continuations(&self, slots: u64) {
        let mark = u64::from(self.mark) | CONTINUATION;
        for further in 1..slots {
            self.memory.slot(self.shape, self.tail + further)[0].store(mark, Relaxed);
        }
    }

    /// Stores the parts of a payload: what the first slot holds, and then slot
    /// by slot.
    fn spread(&self, parts: &[&[u8]]) {
        let (slots, _) = self.memory.ring().as_chunks::<SLOT_WORDS>();
        let mut slots = slots[self.shape.index(self.tail)..].iter();
        let mut words = slots.next().map_or(&[][..], |first| &first[FRAME_WORDS..]);
        let mut raw = [0_u8; 8];
        let mut filled = 0;
        let mut put = |value: u64| {
            if words.is_empty() {
                words = slots.next().map_or(&[][..], |next| &next[1..]);
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
fn store_bytes<W: Word>(words: &[W; FIRST_BYTES / 8], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks();
    let mut words = words.iter();
    for (bytes, word) in whole.iter().zip(words.by_ref()) {
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.next()) {
        word.store(short_word(rest), Relaxed);
    }
}

/// Fewer than eight bytes as a word, padded with zeroes: by loads that overlap,
/// as copying so few bytes costs a call of `memcpy`, and a stall where they are
/// loaded as a word.
#[inline]
#[must_use]
pub fn short_word(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (bytes.len() - 4));
        u64::from(u32::from_le_bytes(*first)) | last
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u64::from(u16::from_le_bytes(*last)) << (8 * (bytes.len() - 2));
        u64::from(u16::from_le_bytes(*first)) | last
    } else {
        bytes.first().copied().map_or(0, u64::from)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::short_word;

    #[test]
    fn ring_makes_a_word_of_fewer_bytes() {
        let bytes = [0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97];
        for len in 0..=bytes.len() {
            let mut raw = [0; 8];
            raw[..len].copy_from_slice(&bytes[..len]);
            assert_eq!(short_word(&bytes[..len]), u64::from_le_bytes(raw), "{len} bytes");
        }
    }
}
