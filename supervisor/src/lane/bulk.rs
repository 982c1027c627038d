//! Payloads beyond the ring's share: shared segments that the supervisor
//! writes, kept for reuse.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use arrayvec::ArrayVec;
use menagerie_protocol::Failure;
use menagerie_protocol::lane::{BulkRef, INLINE_MAX};
use menagerie_protocol::message::ToWorker;
use menagerie_protocol::shm::{Access, Mapping, seal_future_writes, sealed_memfd};

use super::{Lane, lock};

/// Free segments that a lane keeps: all are given back to the system when it ends, and
/// none before, because the worker has them mapped all the same.
#[derive(Debug)]
pub(crate) struct DownPool {
    free: Free,
}

/// `None` when the lane has ended.
type Free = Arc<Mutex<Option<Vec<Arc<OwnedSegment>>>>>;

impl Default for DownPool {
    fn default() -> Self {
        Self { free: Arc::new(Mutex::new(Some(Vec::new()))) }
    }
}

#[derive(Debug)]
struct OwnedSegment {
    id: u32,
    mapping: Mapping,
    /// Whether the kernel guarantees that only this process writes it.
    sealed: bool,
}

/// A segment while a call uses it; it goes back to its pool when dropped.
#[derive(Debug)]
pub(crate) struct DownSegment {
    segment: Arc<OwnedSegment>,
    pool: Free,
}

impl Drop for DownSegment {
    fn drop(&mut self) {
        if let Some(free) = &mut *lock(&self.pool) {
            free.push(Arc::clone(&self.segment));
        }
    }
}

impl DownSegment {
    pub(crate) fn id(&self) -> u32 {
        self.segment.id
    }

    pub(crate) fn size(&self) -> usize {
        self.segment.mapping.len()
    }

    /// Gives a range's bytes to `read`.
    pub(crate) fn with_bytes<T>(
        &self,
        start: usize,
        len: usize,
        read: impl FnOnce(&[u8]) -> T,
    ) -> T {
        if self.segment.sealed {
            // SAFETY: the memfd is sealed against writable mappings by others
            // (F_SEAL_FUTURE_WRITE was set before it was sent), and this
            // process writes a segment only through the `Arguments` that own
            // it, which became this `DownSegment`.
            read(unsafe { self.segment.mapping.bytes(start, len) })
        } else {
            let mut copy = Vec::new();
            self.segment.mapping.copy_out(start, len, &mut copy);
            read(&copy)
        }
    }
}

/// Segments that the worker writes.
#[derive(Debug, Default)]
pub(super) struct UpSegments {
    /// By number.
    made: HashMap<u32, Arc<Mapping>>,
    /// Those that it waits for, as they could not be made yet.
    owed: usize,
}

impl UpSegments {
    pub(super) fn get(&self, segment: u32) -> Option<Arc<Mapping>> {
        self.made.get(&segment).map(Arc::clone)
    }
}

impl Lane {
    /// A segment of at least `len` bytes, new or used before.
    fn down_segment(&self, len: usize) -> io::Result<DownSegment> {
        let pool = Arc::clone(&self.down.free);
        let found = lock(&pool).as_mut().and_then(|free| {
            let best = free
                .iter()
                .enumerate()
                .filter(|(_, segment)| segment.mapping.len() >= len)
                .min_by_key(|(_, segment)| segment.mapping.len())
                .map(|(at, _)| at);
            best.map(|at| free.swap_remove(at))
        });
        let segment = match found {
            Some(segment) => segment,
            None => self.new_down_segment(len)?,
        };
        Ok(DownSegment { segment, pool })
    }

    /// Copies bytes into a segment.
    pub(super) fn down_copy(&self, bytes: &[u8]) -> io::Result<DownSegment> {
        let segment = self.down_segment(bytes.len())?;
        segment.segment.mapping.copy_in(0, bytes);
        Ok(segment)
    }

    fn new_down_segment(&self, len: usize) -> io::Result<Arc<OwnedSegment>> {
        // A page for the head and the small arguments beside a large one, so
        // that payloads of a round size share segments of the next one.
        let len = (len + 4096).next_power_of_two().max(64 << 10);
        let fd = sealed_memfd("menagerie-args", len)?;
        let mapping = Mapping::new(fd.as_fd(), len, Access::ReadWrite)?;
        let sealed = seal_future_writes(fd.as_fd()).is_ok();
        let id = self.next_segment.fetch_add(1, Ordering::Relaxed);
        let message =
            ToWorker::Segment { lane: self.id, segment: id, len: len as u64, writable: false };
        self.tell(|peer| peer.send(message, vec![fd]));
        Ok(Arc::new(OwnedSegment { id, mapping, sealed }))
    }

    /// Makes a segment for the worker to write, and announces it.
    pub(crate) fn grant_up_segment(self: &Arc<Self>, len: u64) -> Result<(), super::Violation> {
        /// As many as a worker's lane asks for, and some.
        const MAX: usize = 16;
        if len > self.limits.max_payload {
            return Err(super::Violation::Bulk("a segment beyond the payload limit"));
        }
        let mut segments = lock(&self.up_segments);
        if self.is_dead() {
            return Ok(());
        }
        if segments.made.len() + segments.owed >= MAX {
            return Err(super::Violation::Bulk("more segments than a lane may have"));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX / 2).next_power_of_two().max(64 << 10);
        if let Err(error) = self.new_up_segment(&mut segments, len) {
            // Out of memory or descriptors: nothing of it is the worker's fault, and it
            // asks no second time.
            tracing::error!("no shared segment for lane {} yet: {error}", self.id);
            segments.owed += 1;
            drop(segments);
            self.tell(|peer| peer.grant_later(self, len));
        }
        Ok(())
    }

    /// Makes a segment that is owed. Returns whether nothing more is to be done for it.
    pub(crate) fn grant_owed(&self, len: usize) -> bool {
        let mut segments = lock(&self.up_segments);
        let done = self.is_dead() || self.new_up_segment(&mut segments, len).is_ok();
        segments.owed -= usize::from(done);
        done
    }

    /// The lane has ended: whoever still has it, as a caller's handle may for ever, keeps no
    /// segments. A call that has one yet gives it back by itself.
    pub(super) fn give_segments_back(&self) {
        let lent = std::mem::take(&mut self.tx.lock().lent);
        drop(lent);
        let free = lock(&self.down.free).take();
        let made = std::mem::take(&mut lock(&self.up_segments).made);
        drop((free, made));
    }

    /// Whether the worker waits for a segment that this process could not make.
    pub(super) fn owes_segment(&self) -> bool {
        lock(&self.up_segments).owed > 0
    }

    fn new_up_segment(&self, segments: &mut UpSegments, len: usize) -> io::Result<()> {
        let fd = sealed_memfd("menagerie-result", len)?;
        let mapping = Mapping::new(fd.as_fd(), len, Access::ReadOnly)?;
        let id = self.next_segment.fetch_add(1, Ordering::Relaxed);
        segments.made.insert(id, Arc::new(mapping));
        let message =
            ToWorker::Segment { lane: self.id, segment: id, len: len as u64, writable: true };
        self.tell(|peer| peer.send(message, vec![fd]));
        Ok(())
    }
}

/// Arguments on their way: small ones gather here, and as soon as they are too
/// many for the ring they go on in a shared segment, so that large ones are
/// copied once.
pub(crate) struct Arguments<'l> {
    lane: &'l Lane,
    small: ArrayVec<u8, INLINE_MAX>,
    large: Option<(DownSegment, usize)>,
    /// Why they cannot be written, if they cannot.
    obstacle: Option<Obstacle>,
}

/// Why arguments cannot be written.
#[derive(Clone, Copy, Debug)]
enum Obstacle {
    /// They would take so many bytes, beyond the limit.
    Size(u64),
    /// There is no segment for them: the system's error, by its number.
    System(i32),
}

impl<'l> Arguments<'l> {
    #[inline]
    pub(crate) fn new(lane: &'l Lane) -> Self {
        Self { lane, small: ArrayVec::new_const(), large: None, obstacle: None }
    }

    /// The bytes, if they do not stand in a segment.
    #[inline]
    pub(crate) fn small(&self) -> &[u8] {
        &self.small
    }

    /// The segment that they stand in, if they do, which is the call's from now on; and
    /// what refers to them.
    #[inline]
    pub(crate) fn take_segment(&mut self) -> Option<(DownSegment, [u8; BulkRef::BYTES])> {
        let (segment, len) = self.large.take()?;
        let bulk = BulkRef { segment: segment.id(), offset: 0, len: len as u64 };
        Some((segment, bulk.to_bytes()))
    }

    /// What their writing has failed of, if it was not what they are.
    #[cold]
    pub(crate) fn failure(&self) -> Option<Failure> {
        Some(match self.obstacle? {
            Obstacle::Size(size) => {
                Failure::PayloadTooLarge { size, limit: self.lane.limits.max_payload }
            }
            Obstacle::System(number) => {
                let error = io::Error::from_raw_os_error(number);
                Failure::OutOfResources { problem: format!("no memory to share: {error}") }
            }
        })
    }

    #[cold]
    fn grow(&mut self, more: usize) -> io::Result<()> {
        let used = self.large.as_ref().map_or(self.small.len(), |(_, len)| *len);
        let needed = used + more;
        if needed as u64 > self.lane.limits.max_payload {
            self.obstacle = Some(Obstacle::Size(needed as u64));
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let segment = self.lane.down_segment(needed).inspect_err(|error| {
            self.obstacle = error.raw_os_error().map(Obstacle::System);
        })?;
        match &self.large {
            None => segment.segment.mapping.copy_in(0, &self.small),
            Some((old, len)) => {
                let mut copy = Vec::new();
                old.segment.mapping.copy_out(0, *len, &mut copy);
                segment.segment.mapping.copy_in(0, &copy);
            }
        }
        self.large = Some((segment, used));
        Ok(())
    }

    /// Writes to a segment.
    #[inline(never)]
    fn write_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        let full = |(segment, len): &(DownSegment, usize)| len + bytes.len() > segment.size();
        if self.large.as_ref().is_none_or(full) {
            self.grow(bytes.len())?;
        }
        if let Some((segment, len)) = &mut self.large {
            segment.segment.mapping.copy_in(*len, bytes);
            *len += bytes.len();
        }
        Ok(())
    }
}

impl Write for Arguments<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.large.is_none() {
            // The marks of values come one by one.
            let written = match bytes {
                [byte] => self.small.try_push(*byte).is_ok(),
                _ => self.small.try_extend_from_slice(bytes).is_ok(),
            };
            if written {
                return Ok(());
            }
        }
        self.write_on(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
