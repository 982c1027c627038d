//! Lanes: one bundle's path between supervisor and worker.
//!
//! A lane is two memfds, each written by one side only: *down* by the
//! supervisor (it is sealed against writes by anybody else before the worker
//! receives it), *up* by the worker. Each holds a page of words and then a
//! ring:
//!
//! | word | in *down*, written by the supervisor | in *up*, written by the worker |
//! | --- | --- | --- |
//! | 0 | [`LAYOUT`] | unused |
//! | 8 | how far it has read the up ring | how far it has read the down ring |
//! | 16 | whether it sleeps, and how to wake it | whether it sleeps, and how to wake it |
//! | 24 | unused | how many calls it has begun |
//! | 25 | unused | how many of them it had begun when it last left off to do the VM's own work |
//! | 512… | the down ring | the up ring |

pub mod asymmetric;
pub mod hand_over;
pub mod link;
pub mod wait;
pub mod worker;

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::msgpack::{Reader, Token};
use crate::ring::{Memory, SLOT_WORDS, Shape};
use crate::shm::{Access, Mapping, Words, seal_future_writes, sealed_memfd};

/// What word 0 says: `MNGL` and the layout's version.
pub const LAYOUT: u64 = u64::from_be_bytes(*b"MNGL\0\0\0\x02");

const PAGE_WORDS: usize = 512;
const WORD_HEAD: usize = 8;
const WORD_SLEEP: usize = 16;
const WORD_BEGUN: usize = 24;
/// In the same cache line, as both are written with each call.
const WORD_LEFT: usize = 25;

/// Slots of a lane's rings, unless configured: 64 KiB each way.
pub const DEFAULT_SLOTS: u32 = 1024;

/// Payloads beyond this many bytes travel in a shared segment: below it, copying
/// through the ring, word by word, costs less than handling a segment. 1 KiB,
/// echoed, takes 2.0 µs through the ring and 0.9 µs in a segment (`menagerie bench
/// --only bytes`).
pub const INLINE_MAX: usize = 512;

/// Calls of its own that a bundle may have open at once: a worker refuses the next one as
/// `Overloaded` (C7), and does not send it.
pub const MAX_OUTCALLS: u32 = 1024;

/// Calls that a lane begins in a row at most before it does the VM's own work: they keep
/// their turn, but not for ever.
pub const TURNS: u32 = 16;

/// The size of one of a lane's memfds in bytes.
#[must_use]
pub const fn memory_len(shape: Shape) -> usize {
    (PAGE_WORDS + shape.words()) * 8
}

/// Both mappings of a lane, as one side has them.
#[derive(Clone, Debug)]
pub struct LaneMemory {
    /// Written by the supervisor.
    pub down: Arc<Mapping>,
    /// Written by the worker.
    pub up: Arc<Mapping>,
}

/// What the supervisor makes of a lane: its own mappings, and the descriptors
/// to pass on.
#[derive(Debug)]
pub struct NewLane {
    /// The supervisor's mappings.
    pub memory: LaneMemory,
    /// The memfd that the supervisor writes.
    pub down: OwnedFd,
    /// The memfd that the worker writes.
    pub up: OwnedFd,
    /// Whether the kernel has sealed `down` against the worker's writes.
    pub sealed: bool,
}

impl LaneMemory {
    /// Makes a lane's memory, in the supervisor.
    ///
    /// # Errors
    ///
    /// No memfd can be made or mapped.
    pub fn create(shape: Shape) -> io::Result<NewLane> {
        let len = memory_len(shape);
        let down = sealed_memfd("menagerie-down", len)?;
        let up = sealed_memfd("menagerie-up", len)?;
        let down_map = Mapping::new(down.as_fd(), len, Access::ReadWrite)?;
        let sealed = seal_future_writes(down.as_fd()).is_ok();
        // Nothing here writes there. But the kernel looks for who may write to a futex
        // first, and that it may not costs a sleep 0.15 µs, and 3 to 5 on a cold lane.
        let up_map = Mapping::new(up.as_fd(), len, Access::ReadWrite)?;
        down_map.words()[0].store(LAYOUT, std::sync::atomic::Ordering::Release);
        let memory = Self { down: Arc::new(down_map), up: Arc::new(up_map) };
        Ok(NewLane { memory, down, up, sealed })
    }

    /// Maps a lane that was received, in the worker.
    ///
    /// # Errors
    ///
    /// The descriptors are no lane of this shape and layout.
    pub fn open(down: &OwnedFd, up: &OwnedFd, shape: Shape) -> io::Result<Self> {
        let len = memory_len(shape);
        let down = Mapping::new(down.as_fd(), len, Access::ReadOnly)?;
        let up = Mapping::new(up.as_fd(), len, Access::ReadWrite)?;
        // A bundle may fork, and the fork come back to this lane as if it were the
        // worker. Its first word here is its end.
        up.keep_from_forks()?;
        if down.words()[0].load(std::sync::atomic::Ordering::Acquire) != LAYOUT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another lane layout"));
        }
        Ok(Self { down: Arc::new(down), up: Arc::new(up) })
    }

    /// The ring from supervisor to worker.
    #[must_use]
    pub fn down_ring(&self, shape: Shape) -> RingMemory {
        RingMemory::new(&self.down, &self.up, shape)
    }

    /// The ring from worker to supervisor.
    #[must_use]
    pub fn up_ring(&self, shape: Shape) -> RingMemory {
        RingMemory::new(&self.up, &self.down, shape)
    }

    /// Wakes whoever in this process sleeps on the up ring's frame at
    /// `position`.
    pub fn wake_supervisor(&self, shape: Shape, position: u64) {
        let slot = usize::try_from(position & (shape.slots() - 1)).unwrap_or(0);
        wait::futex_wake(&self.up.words()[PAGE_WORDS + slot * SLOT_WORDS]);
    }

    /// The supervisor's sleep word.
    #[must_use]
    pub fn supervisor_sleep(&self) -> LaneWord {
        LaneWord::new(&self.down, WORD_SLEEP)
    }

    /// The worker's sleep word.
    #[must_use]
    pub fn worker_sleep(&self) -> LaneWord {
        LaneWord::new(&self.up, WORD_SLEEP)
    }

    /// How many calls the worker has begun.
    #[must_use]
    pub fn begun(&self) -> LaneWord {
        LaneWord::new(&self.up, WORD_BEGUN)
    }

    /// How many calls the worker had begun when it last left off to do the VM's own work:
    /// one of these that goes on awaits something.
    #[must_use]
    pub fn left(&self) -> LaneWord {
        LaneWord::new(&self.up, WORD_LEFT)
    }
}

/// One of a lane's words.
#[derive(Clone, Debug)]
pub struct LaneWord(Words);

impl LaneWord {
    fn new(mapping: &Arc<Mapping>, at: usize) -> Self {
        Self(Words::new(mapping, at..at + 1))
    }
}

impl Deref for LaneWord {
    type Target = AtomicU64;

    #[inline]
    fn deref(&self) -> &AtomicU64 {
        // SAFETY: `new` has made it of one word.
        unsafe { self.0.get_unchecked(0) }
    }
}

/// One ring of a lane.
#[derive(Clone, Debug)]
pub struct RingMemory {
    ring: Words,
    shape: Shape,
    head: LaneWord,
}

impl RingMemory {
    fn new(ring: &Arc<Mapping>, head: &Arc<Mapping>, shape: Shape) -> Self {
        Self {
            ring: Words::new(ring, PAGE_WORDS..PAGE_WORDS + shape.words()),
            shape,
            head: LaneWord::new(head, WORD_HEAD),
        }
    }
}

impl Memory for RingMemory {
    type Word = AtomicU64;

    #[inline]
    fn ring(&self) -> &[AtomicU64] {
        &self.ring
    }

    /// Without the look whether there is such a slot, that a hot call would take six
    /// times.
    #[inline]
    fn slot(&self, _: Shape, position: u64) -> &[AtomicU64; SLOT_WORDS] {
        let (slots, _) = self.ring.as_chunks();
        // SAFETY: `new` has made the ring of this shape's words, and an index is less than
        // its slots.
        unsafe { slots.get_unchecked(self.shape.index(position)) }
    }

    #[inline]
    fn head(&self) -> &AtomicU64 {
        &self.head
    }
}

/// Where a payload stands that is too large for the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkRef {
    /// The segment's number within the lane.
    pub segment: u32,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl BulkRef {
    /// Its size in a frame.
    pub const BYTES: usize = 24;

    /// Its bytes in a frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&self.segment.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    /// Reads it from a frame's payload; `None` if that has another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(raw)
        };
        let segment = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Some(Self { segment, offset: word(8), len: word(16) })
    }

    /// The range within a segment of `size` bytes, if it lies in it.
    #[must_use]
    pub fn range(self, size: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.len).ok()?)?;
        (end <= size).then_some(start..end)
    }
}

/// Reads a guest's call from its payload: contract, function, and the
/// MessagePack array of its arguments. `None` if it is none.
#[must_use]
pub fn parse_outcall<'a>(reader: &mut Reader<'a>) -> Option<(&'a str, &'a str, &'a [u8])> {
    let (Ok(3), Ok(Token::Str(contract)), Ok(Token::Str(function))) =
        (reader.array(), reader.token(), reader.token())
    else {
        return None;
    };
    let args = reader.rest();
    let mut check = reader.clone();
    let whole = check.skip().is_ok() && check.rest().is_empty();
    let list = matches!(reader.token(), Ok(Token::Array(_)));
    (whole && list).then_some((contract, function, args))
}
