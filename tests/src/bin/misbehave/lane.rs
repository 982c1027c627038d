//! The worker's side of a lane, word by word, after `docs/protocol.md`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use menagerie_protocol::lane::wait::{futex_wake, wake};
use menagerie_protocol::message::{LaneId, ToSupervisor};
use menagerie_protocol::shm::{Access, Mapping};

use crate::control::{Control, Speaker};

const WORD_READ: usize = 8;
const WORD_SLEEP: usize = 16;
const WORD_BEGUN: usize = 24;
const WORD_RING: usize = 512;
const SLOT_WORDS: usize = 8;

pub(crate) const CALL: u8 = 1;
pub(crate) const REPLY: u8 = 2;
pub(crate) const PAD: u8 = 3;
pub(crate) const FAILURE: u8 = 1;
pub(crate) const BULK: u8 = 2;
pub(crate) const ECHO: u8 = 4;

/// A loaded lane whose first call has arrived.
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) down: Mapping,
    pub(crate) up: Mapping,
    pub(crate) supervisor_event: OwnedFd,
    pub(crate) lane_event: OwnedFd,
    pub(crate) slots: u64,
    /// Where the next frame goes in the up ring.
    pub(crate) position: u64,
    /// What has been read of the down ring.
    pub(crate) read: u64,
    /// The call.
    pub(crate) call: u64,
    pub(crate) speaker: Speaker,
    segments: Receiver<(u32, u64, OwnedFd)>,
}

/// A frame; each part may be wrong.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Instead of the right mark.
    pub(crate) mark: Option<u32>,
    /// Instead of the payload's length.
    pub(crate) len: Option<u32>,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) call: u64,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn reply(call: u64, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self { mark: None, len: None, kind: REPLY, flags: 0, call, payload }
    }
}

/// A reference to a segment.
pub(crate) fn reference(segment: u32, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = u64::from(segment).to_le_bytes().to_vec();
    bytes.extend(offset.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes
}

/// Loads honestly and waits for the first call.
pub(crate) fn serve_first_call(mut control: Control) -> Lane {
    let (request, fds) = control.load_request();
    let slots = u64::from(request.ring_slots);
    let len = (WORD_RING + request.ring_slots as usize * SLOT_WORDS) * 8;
    let [down, up, supervisor_event, lane_event] = fds;
    let down = Mapping::new(down.as_fd(), len, Access::ReadOnly);
    let up = Mapping::new(up.as_fd(), len, Access::ReadWrite);
    let (Ok(down), Ok(up)) = (down, up) else { std::process::exit(96) };
    control.loaded(request.lane);
    let (sender, segments) = channel();
    let speaker = control.attend(false, move |segment, len, descriptor| {
        drop(sender.send((segment, len, descriptor)));
    });
    let mut lane = Lane {
        id: request.lane,
        down,
        up,
        supervisor_event,
        lane_event,
        slots,
        position: 0,
        read: 0,
        call: 0,
        speaker,
        segments,
    };
    lane.call = lane.next_call();
    lane.set_begun(1);
    lane
}

impl Lane {
    fn word(&self, position: u64) -> usize {
        let slot = usize::try_from(position % self.slots).unwrap_or(0);
        WORD_RING + slot * SLOT_WORDS
    }

    /// The mark of a position's lap.
    fn mark(&self, position: u64) -> u64 {
        (position / self.slots) & 0x7fff_ffff | 0x8000_0000
    }

    /// What stands there until something is published.
    fn stale(&self, position: u64) -> u64 {
        if position < self.slots { 0 } else { self.mark(position - self.slots) }
    }

    /// Waits for the next frame of the down ring, and returns its call.
    pub(crate) fn next_call(&mut self) -> u64 {
        loop {
            let at = self.word(self.read);
            let words = self.down.words();
            let header = words[at].load(SeqCst);
            // Nothing of this lap yet: what stands there is of the lap before.
            if header & 0xffff_ffff == self.stale(self.read) {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            let (packed, call) = (words[at + 1].load(SeqCst), words[at + 2].load(SeqCst));
            self.read += slots_for(header >> 32);
            if packed.to_le_bytes()[0] == CALL {
                return call;
            }
        }
    }

    pub(crate) fn set_begun(&self, calls: u64) {
        self.up.words()[WORD_BEGUN].store(calls, SeqCst);
    }

    /// Says how far the down ring was read, truly or not.
    pub(crate) fn set_read(&self, position: u64) {
        self.up.words()[WORD_READ].store(position, SeqCst);
    }

    pub(crate) fn set_sleep(&self, word: u64) {
        self.up.words()[WORD_SLEEP].store(word, SeqCst);
    }

    /// Writes a frame, and wakes the supervisor.
    pub(crate) fn put(&mut self, frame: &Frame) {
        self.write(frame);
        self.publish(frame);
        self.wake(self.position);
        self.position += slots_for(frame.payload.len() as u64);
    }

    /// Writes all of a frame but the word that publishes it.
    pub(crate) fn write(&self, frame: &Frame) {
        let words = self.up.words();
        let at = self.word(self.position);
        for slot in 1..slots_for(frame.payload.len() as u64) {
            words[self.word(self.position + slot)]
                .store(self.mark(self.position) | 0xffff_ffff << 32, SeqCst);
        }
        // Five words in the first slot, seven in each further one.
        let places = (3..8).chain((1_usize..).flat_map(|slot| slot * 8 + 1..slot * 8 + 8));
        for (place, chunk) in places.zip(frame.payload.chunks(8)) {
            let mut raw = [0; 8];
            raw[..chunk.len()].copy_from_slice(chunk);
            words[at + place].store(u64::from_le_bytes(raw), SeqCst);
        }
        words[at + 1]
            .store(u64::from_le_bytes([frame.kind, frame.flags, 0, 0, 0, 0, 0, 0]), SeqCst);
        words[at + 2].store(frame.call, SeqCst);
    }

    /// Publishes a frame that was written, and wakes nobody.
    pub(crate) fn publish(&self, frame: &Frame) {
        let mark = frame.mark.map_or(self.mark(self.position), u64::from);
        let len = frame.len.unwrap_or(u32::try_from(frame.payload.len()).unwrap_or(u32::MAX));
        self.up.words()[self.word(self.position)].store(mark | u64::from(len) << 32, SeqCst);
    }

    /// As [`put`](Self::put), once the supervisor has read what is in the way.
    pub(crate) fn put_fairly(&mut self, frame: &Frame) {
        let slots = slots_for(frame.payload.len() as u64);
        while self.position + slots > self.down.words()[WORD_READ].load(SeqCst) + self.slots {
            std::hint::spin_loop();
        }
        self.put(frame);
    }

    /// Wakes the supervisor, however it sleeps.
    pub(crate) fn wake(&self, position: u64) {
        wake(self.supervisor_event.as_fd());
        futex_wake(&self.up.words()[self.word(position)]);
    }

    /// A segment for results: its number and its memory.
    pub(crate) fn segment(&self, len: u64) -> (u32, Mapping) {
        self.speaker.tell(&ToSupervisor::WantSegment { lane: self.id, len });
        let Ok((segment, len, descriptor)) = self.segments.recv() else { std::process::exit(96) };
        let len = usize::try_from(len).unwrap_or(0);
        match Mapping::new(descriptor.as_fd(), len, Access::ReadWrite) {
            Ok(mapping) => (segment, mapping),
            Err(_) => std::process::exit(96),
        }
    }

    /// The number of the segment that the first call's arguments stand in.
    pub(crate) fn argument_segment(&self) -> u32 {
        let word = self.down.words()[WORD_RING + 3].load(SeqCst);
        u32::try_from(word & 0xffff_ffff).unwrap_or(0)
    }
}

/// The slots of a frame: 40 bytes of payload in the first, 56 in each further
/// one.
fn slots_for(len: u64) -> u64 {
    1 + len.saturating_sub(40).div_ceil(56)
}
