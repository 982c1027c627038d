//! The consumer's end of a ring.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{
    Corrupt, FIRST_BYTES, FLAG_BLOCKS, FLAG_BULK, FLAG_ECHO, FLAG_FAILURE, FRAME_WORDS, FrameHead,
    Kind, Memory, SLOT_WORDS, Shape, Word, slots_for,
};

/// A frame that was found and not released yet. Its head and length were
/// copied once and checked; the payload is copied out by
/// [`Consumer::copy_payload`].
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What it says of itself.
    pub head: FrameHead,
    /// The payload's length in bytes.
    pub len: usize,
    position: u64,
}

/// A payload that fits in one slot, copied out. Its bytes are stored and moved
/// by words: one after the other they would stall a hot call more than once.
#[derive(Clone, Copy, Debug)]
pub struct Small {
    /// In the order of memory.
    words: [u64; FIRST_BYTES / 8],
    len: usize,
}

impl Small {
    /// All of the words, as they are in one cache line, and a loop is dearer.
    #[inline]
    fn load<W: Word>(words: &[W; FIRST_BYTES / 8], len: usize) -> Self {
        Self { len, words: words.each_ref().map(|word| word.load(Relaxed).to_le()) }
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the words are as many initialised bytes, and any byte is valid.
        let all = unsafe { &*std::ptr::from_ref(&self.words).cast::<[u8; FIRST_BYTES]>() };
        all.get(..self.len).unwrap_or(all)
    }
}

/// A frame as [`Consumer::take_plain`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// What it says of itself.
    pub head: FrameHead,
    /// The payload.
    pub payload: Small,
}

/// The consumer's end.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    shape: Shape,
    next: u64,
    /// The low half of the next header when it is published.
    mark: u32,
    /// What it is until then.
    stale: u32,
    /// Whether the last frame was padding: a producer pads before a frame only,
    /// so two in a row would be a way to keep us busy for ever.
    padded: bool,
}

impl<M: Memory> Consumer<M> {
    /// A consumer on fresh memory.
    ///
    /// # Panics
    ///
    /// The memory is smaller than the shape.
    pub fn new(memory: M, shape: Shape) -> Self {
        assert!(memory.ring().len() >= shape.words());
        Self { memory, shape, next: 0, mark: shape.mark(0), stale: shape.stale(0), padded: false }
    }

    /// The memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The position of the next frame.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.next
    }

    /// The word that changes when the next frame is published: what a consumer
    /// sleeps on, for as long as its low half is [`stale`](Self::stale).
    #[inline]
    pub fn next_header(&self) -> &M::Word {
        &self.memory.slot(self.shape, self.next)[0]
    }

    /// See [`next_header`](Self::next_header).
    #[inline]
    #[must_use]
    pub const fn stale(&self) -> u32 {
        self.stale
    }

    /// Whether nothing is there, by one load.
    #[inline]
    pub fn is_empty(&self) -> bool {
        low(self.next_header().load(Relaxed)) == self.stale
    }

    /// The next frame, if one was published. Padding is passed over.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if what was published is nonsense.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Frame>, Corrupt> {
        loop {
            // SYNC: frame published. Pairs with the release store in
            // `Producer::publish`.
            let header = self.next_header().load(Acquire);
            if low(header) == self.stale {
                return Ok(None);
            }
            let frame = self.check(header)?;
            if frame.head.kind == Kind::Pad {
                if self.padded {
                    return Err(Corrupt::Kind { slot: self.next, kind: Kind::Pad as u8 });
                }
                self.padded = true;
                self.release(frame);
                continue;
            }
            self.padded = false;
            return Ok(Some(frame));
        }
    }

    /// Takes the next frame if it is a plain one, as those of small calls are: of
    /// this kind, without flags, in one slot; and of a call that `wanted` says.
    /// Of anything else, and of nonsense, [`peek`](Self::peek) tells more.
    #[inline]
    pub fn take_plain(&mut self, kind: Kind, wanted: impl FnOnce(u64) -> bool) -> Option<Plain> {
        let [header, packed, call, words @ ..] = self.memory.slot(self.shape, self.next);
        // SYNC: frame published, as in `peek`.
        let header = header.load(Acquire);
        if low(header) != self.mark {
            return None;
        }
        let (packed, call, len) = (packed.load(Relaxed), call.load(Relaxed), header >> 32);
        if low(packed) & 0xffff != kind as u32 || len > FIRST_BYTES as u64 || !wanted(call) {
            return None;
        }
        let payload = Small::load(words, usize::try_from(len).unwrap_or(0));
        self.padded = false;
        self.advance(1);
        let head = FrameHead { kind, flags: 0, function: high(packed), call };
        Some(Plain { head, payload })
    }

    #[inline]
    fn check(&self, header: u64) -> Result<Frame, Corrupt> {
        let slot = self.next;
        if low(header) != self.mark {
            return Err(Corrupt::Mark { slot, header });
        }
        let len = header >> 32;
        let [_, packed, call, ..] = self.memory.slot(self.shape, slot);
        let (packed, call) = (packed.load(Relaxed), call.load(Relaxed));
        let flags = packed.to_le_bytes()[1];
        let kind = match packed.to_le_bytes()[0] {
            1 => Kind::Call,
            2 => Kind::Reply,
            3 => Kind::Pad,
            4 => Kind::Command,
            kind => return Err(Corrupt::Kind { slot, kind }),
        };
        if flags & !(FLAG_FAILURE | FLAG_BULK | FLAG_ECHO | FLAG_BLOCKS) != 0 {
            return Err(Corrupt::Kind { slot, kind: flags });
        }
        let len = usize::try_from(len).map_err(|_| Corrupt::Length { slot, len })?;
        let limit = if kind == Kind::Pad { usize::MAX / 2 } else { self.shape.max_payload() };
        if len > limit || slots_for(len) > self.shape.left_in_lap(slot) {
            return Err(Corrupt::Length { slot, len: len as u64 });
        }
        let function = high(packed);
        Ok(Frame { head: FrameHead { kind, flags, function, call }, len, position: slot })
    }

    /// Copies a frame's payload to the end of `out`.
    ///
    /// # Panics
    ///
    /// The frame was released already.
    #[inline]
    pub fn copy_payload(&self, frame: &Frame, out: &mut Vec<u8>) {
        assert_eq!(frame.position, self.next, "the frame was released");
        let end = out.len() + frame.len;
        out.reserve(frame.len + 8);
        let (slots, _) = self.memory.ring().as_chunks::<SLOT_WORDS>();
        let mut skip = FRAME_WORDS;
        for slot in &slots[self.shape.index(frame.position)..] {
            if out.len() >= end {
                break;
            }
            let words = (end - out.len()).div_ceil(8).min(SLOT_WORDS - skip);
            for word in &slot[skip..skip + words] {
                out.extend_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            skip = 1;
        }
        out.truncate(end);
    }

    /// The payload of a frame that fits in one slot, without allocating; `None`
    /// if it is larger. What lies behind its end has no meaning.
    ///
    /// # Panics
    ///
    /// The frame was released already.
    #[inline]
    pub fn small_payload(&self, frame: &Frame) -> Option<Small> {
        if frame.len > FIRST_BYTES {
            return None;
        }
        assert_eq!(frame.position, self.next, "the frame was released");
        let [_, _, _, words @ ..] = self.memory.slot(self.shape, frame.position);
        Some(Small::load(words, frame.len))
    }

    /// Passes over a frame and gives its slots back to the producer.
    #[inline]
    pub fn release(&mut self, frame: Frame) {
        self.advance(slots_for(frame.len));
    }

    #[inline]
    fn advance(&mut self, slots: u64) {
        self.next += slots;
        if self.shape.begins_lap(self.next, slots) {
            self.mark = self.shape.mark(self.next);
            self.stale = self.shape.stale(self.next);
        }
        // SYNC: slots released. Pairs with the acquire load in
        // `Producer::refresh_head`.
        self.memory.head().store(self.next, Release);
    }
}

/// The low half of a word.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low(word: u64) -> u32 {
    word as u32
}

/// The high half of a word.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the high half is what is wanted")]
const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}
