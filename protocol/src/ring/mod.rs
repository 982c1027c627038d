//! The index protocol of a ring: one producer, one consumer, variable-length
//! frames in 64-byte slots, in memory that two processes share.
//!
//! # How a frame is published
//!
//! Slots are numbered from 0 without end; slot `n` lies at `n % slots`, in lap
//! `n / slots`. A frame takes the slots that it needs, contiguously; one that
//! would wrap is preceded by a padding frame up to the end. The first word of
//! every slot carries the *mark* of its lap: in a frame's first slot it is the
//! *header*, with the frame's length, in the further ones it says that it is
//! none. The header is stored last, with release; the consumer waits for it
//! with acquire. So a small call is one cache line, and no index line bounces
//! beside it.
//!
//! What lets the consumer tell a header from a leftover of the lap before is the
//! mark: a slot that was not written in this lap has the mark of the lap before,
//! or zero in the first. Payloads never stand in a slot's first word, so nothing
//! has to be cleared, which would cost a cache line's way from CPU to CPU for
//! each call.
//!
//! # Who may write what
//!
//! The ring and the mark are written by the producer, `head` by the consumer.
//! Each side checks what the other wrote and answers nonsense with
//! [`Corrupt`]; all accesses to shared memory are atomic, so a hostile peer can
//! cause wrong values, never undefined behaviour.
//!
//! Orderings come in pairs, labelled `SYNC:` in the code.

mod atomics;
mod consumer;
#[cfg(all(test, loom))]
mod models;
mod producer;
#[cfg(all(test, not(loom)))]
mod tests;

pub use atomics::{Memory, Word};
pub use consumer::{Consumer, Frame, Plain, Small};
pub use producer::{Full, Producer, short_word};

use thiserror::Error;

/// Words of 8 bytes in a slot: one cache line.
pub const SLOT_WORDS: usize = 8;
/// Words of a frame before its payload: header, kind and function, call id.
pub const FRAME_WORDS: usize = 3;
/// Payload bytes in a frame's first slot.
pub const FIRST_BYTES: usize = (SLOT_WORDS - FRAME_WORDS) * 8;
/// Payload bytes in each further slot: its first word is a mark.
pub const NEXT_BYTES: usize = (SLOT_WORDS - 1) * 8;
/// The high half of the first word of a frame's further slots: no length that a
/// frame can have.
const CONTINUATION: u64 = 0xffff_ffff << 32;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A call; the payload is the arguments.
    Call = 1,
    /// An answer; the payload is the value, or the failure.
    Reply = 2,
    /// Filler up to the end of the ring; never delivered.
    Pad = 3,
    /// A [`LaneCommand`](crate::message::LaneCommand).
    Command = 4,
}

/// Flag: the payload is a failure, not a value.
pub const FLAG_FAILURE: u8 = 1;
/// Flag: the payload stands in a shared segment; the frame holds only the
/// [`BulkRef`](crate::lane::BulkRef).
pub const FLAG_BULK: u8 = 2;
/// Flag: the payload stands in one of the *request* segments, at a place that
/// the guest was given: an echo of a view, without a copy.
pub const FLAG_ECHO: u8 = 4;
/// Flag, in calls that a guest makes: the lane's thread waits for the answer,
/// and takes no calls meanwhile.
pub const FLAG_BLOCKS: u8 = 8;

/// What a frame says of itself beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What it is.
    pub kind: Kind,
    /// `FLAG_*`.
    pub flags: u8,
    /// The function, in calls to a bundle. In calls that a guest makes, one
    /// more than the low half of the id of the call that it serves by them, or
    /// 0 where that is not known.
    pub function: u32,
    /// The call, chosen by its caller; the reply repeats it. In calls that a guest
    /// makes its high half is that of the id of the call that it serves.
    pub call: u64,
}

const HIGH_HALF: u64 = 0xffff_ffff << 32;

impl FrameHead {
    /// A call that a guest makes: its number among those that serve `parent`, 0 where
    /// that is not known.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub const fn outcall(flags: u8, parent: u64, number: u32) -> Self {
        let function = if parent == 0 { 0 } else { (parent as u32).wrapping_add(1) };
        Self { kind: Kind::Call, flags, function, call: (parent & HIGH_HALF) | number as u64 }
    }

    /// The call that a guest serves by this one of its own, as far as its worker knows.
    #[must_use]
    pub const fn serves(self) -> Option<u64> {
        match self.function.checked_sub(1) {
            Some(low) => Some((self.call & HIGH_HALF) | low as u64),
            None => None,
        }
    }
}

impl FrameHead {
    #[inline]
    const fn pack(self) -> u64 {
        (self.kind as u64) | ((self.flags as u64) << 8) | ((self.function as u64) << 32)
    }
}

/// The other side wrote what the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// A header with a mark of another lap.
    #[error("slot {slot}: header {header:#018x} has not the mark of its lap")]
    Mark {
        /// The slot.
        slot: u64,
        /// The word that was found.
        header: u64,
    },
    /// A length beyond the frame limit or the end of the ring.
    #[error("slot {slot}: a frame of {len} bytes does not fit")]
    Length {
        /// The slot.
        slot: u64,
        /// The length that was found.
        len: u64,
    },
    /// A kind that does not exist.
    #[error("slot {slot}: there is no frame kind {kind}")]
    Kind {
        /// The slot.
        slot: u64,
        /// The kind that was found.
        kind: u8,
    },
    /// A consumer position that goes back, or beyond what was published.
    #[error("consumer position {head} is outside {from}..={to}")]
    Head {
        /// The position that was found.
        head: u64,
        /// The least that is possible.
        from: u64,
        /// The most that is possible.
        to: u64,
    },
}

/// How many slots a frame with a payload of `len` bytes takes.
#[must_use]
#[inline]
pub const fn slots_for(len: usize) -> u64 {
    if len <= FIRST_BYTES { 1 } else { 1 + (len - FIRST_BYTES).div_ceil(NEXT_BYTES) as u64 }
}

/// The shape of a ring: how many slots, and how large a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    slots: u64,
}

impl Shape {
    /// A ring of this many slots.
    ///
    /// # Panics
    ///
    /// `slots` is no power of two, or below 8 or above 2^20.
    #[must_use]
    pub const fn new(slots: u64) -> Self {
        assert!(slots.is_power_of_two() && slots >= 8 && slots <= 1 << 20);
        Self { slots }
    }

    /// The number of slots.
    #[must_use]
    pub const fn slots(self) -> u64 {
        self.slots
    }

    /// The size of the ring's memory in words.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "at most 2^20 slots")]
    pub const fn words(self) -> usize {
        self.slots as usize * SLOT_WORDS
    }

    /// The largest payload of one frame, in bytes: a frame takes at most a
    /// quarter of the ring, so that padding never starves a producer.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "at most 2^20 slots")]
    pub const fn max_payload(self) -> usize {
        (self.slots as usize / 4 - 1) * NEXT_BYTES + FIRST_BYTES
    }

    /// Which of the slots is that of a position.
    #[allow(clippy::cast_possible_truncation, reason = "masked to below 2^20")]
    #[inline]
    #[must_use]
    pub const fn index(self, position: u64) -> usize {
        (position & (self.slots - 1)) as usize
    }

    #[inline]
    const fn left_in_lap(self, position: u64) -> u64 {
        self.slots - (position & (self.slots - 1))
    }

    /// Whether the last `slots` slots before a position reach back to another
    /// lap: slots of one lap have one mark, and its computation is spared.
    #[inline]
    const fn begins_lap(self, position: u64, slots: u64) -> bool {
        position & (self.slots - 1) < slots
    }

    /// The mark of a position's lap: never zero.
    #[allow(clippy::cast_possible_truncation, reason = "masked to 31 bits")]
    #[inline]
    const fn mark(self, position: u64) -> u32 {
        // A shift: the slots are a power of two, which a division would not know.
        ((position >> self.slots.trailing_zeros()) & 0x7fff_ffff) as u32 | 0x8000_0000
    }

    /// The low half of a slot's first word until something is published there:
    /// the mark of the lap before, or zero in the first.
    #[inline]
    const fn stale(self, position: u64) -> u32 {
        if position < self.slots { 0 } else { self.mark(position - self.slots) }
    }
}

/// A frame's first word: the mark of its lap, and the payload's length.
#[inline]
const fn frame_header(mark: u32, len: usize) -> u64 {
    mark as u64 | ((len as u64) << 32)
}
