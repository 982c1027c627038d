//! The producer's end of a ring.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{Corrupt, FRAME_WORDS, FrameHead, Kind, Memory, Shape, Word, slots_for};

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
    /// The header words of `tail..clear` are zero.
    clear: u64,
}

impl<M: Memory> Producer<M> {
    /// A producer on fresh, zeroed memory.
    ///
    /// # Panics
    ///
    /// The memory is smaller than the shape.
    pub fn new(memory: M, shape: Shape) -> Self {
        assert!(memory.ring().len() >= shape.words());
        Self { memory, shape, tail: 0, head: 0, clear: shape.slots() }
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

    /// Publishes a frame. The payload is the concatenation of `parts`.
    /// Returns the position that was published first (the frame's, or that of
    /// padding before it), whose header the consumer may be sleeping on.
    ///
    /// # Errors
    ///
    /// [`Full::Busy`] if there is no room; nothing was published then.
    ///
    /// # Panics
    ///
    /// The payload is larger than [`Shape::max_payload`].
    #[inline]
    pub fn push(&mut self, head: FrameHead, parts: &[&[u8]]) -> Result<u64, Full> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(
            len <= self.shape.max_payload(),
            "payload of {len} bytes is too large for the ring"
        );
        let slots = slots_for(len);
        let left = self.shape.left_in_lap(self.tail);
        let pad = if slots > left { left } else { 0 };
        // One slot beyond the frame has to be clear as well: the consumer
        // looks for its next header there.
        let need = pad + slots + 1;
        if self.clear - self.tail < need {
            self.reclaim(need)?;
        }
        let first = self.tail;
        if pad > 0 {
            let head = FrameHead { kind: Kind::Pad, flags: 0, function: 0, call: 0 };
            let len = usize::try_from(pad).unwrap_or(0) * super::SLOT_BYTES - super::FRAME_BYTES;
            self.publish(head, len, &[]);
            self.tail += pad;
        }
        self.publish(head, len, parts);
        self.tail += slots;
        self.clear_ahead(2 * (slots + pad));
        Ok(first)
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

    #[inline]
    fn publish(&self, head: FrameHead, len: usize, parts: &[&[u8]]) {
        let at = self.shape.index(self.tail);
        let ring = self.memory.ring();
        ring[at + 1].store(head.pack(), Relaxed);
        ring[at + 2].store(head.call, Relaxed);
        if let [part] = parts {
            store_bytes(&ring[at + FRAME_WORDS..], part);
        } else if !parts.is_empty() {
            store_parts(&ring[at + FRAME_WORDS..], parts);
        }
        // SYNC: frame published. Pairs with the acquire load in `Consumer::peek`.
        ring[at].store(self.shape.header(self.tail, len), Release);
    }

    /// Makes room for `need` slots, if the consumer has left it.
    #[cold]
    fn reclaim(&mut self, need: u64) -> Result<(), Full> {
        self.refresh_head()?;
        self.clear_ahead(self.shape.slots());
        if self.clear - self.tail < need { Err(Full::Busy) } else { Ok(()) }
    }

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

    /// Clears the headers of up to `most` slots that the consumer has left.
    /// A position that is nonsense is left for `reclaim` to report.
    #[inline]
    fn clear_ahead(&mut self, most: u64) {
        let slots = self.shape.slots();
        if self.clear == self.head + slots
            && (self.clear - self.tail > slots / 2 || self.refresh_head().is_err())
        {
            return;
        }
        let end = (self.head + slots).min(self.clear + most);
        let ring = self.memory.ring();
        while self.clear < end {
            ring[self.shape.index(self.clear)].store(0, Relaxed);
            self.clear += 1;
        }
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

/// As [`store_bytes`], over the concatenation of `parts`.
fn store_parts<W: Word>(words: &[W], parts: &[&[u8]]) {
    let mut raw = [0_u8; 8];
    let mut filled = 0;
    let mut at = 0;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        raw[filled] = *byte;
        filled += 1;
        if filled == 8 {
            words[at].store(u64::from_le_bytes(raw), Relaxed);
            (raw, filled, at) = ([0; 8], 0, at + 1);
        }
    }
    if filled > 0 {
        words[at].store(u64::from_le_bytes(raw), Relaxed);
    }
}
