//! A worker that is killed at a point of its first answer: before the frame is
//! written, between its words, before and after the one that publishes it, and
//! at the same points of an answer that stands in a segment.

use menagerie_protocol::shm::Mapping;
use nix::sys::signal::{Signal, raise};

use crate::lane::{BULK, Frame, Lane, reference};

/// What the answer is made of: no caller's arguments have it.
const BYTE: u8 = 7;
/// Three slots of the ring.
const SMALL: u16 = 120;
const LARGE: u32 = 100_000;

/// MessagePack's `bin 16`.
fn small() -> Vec<u8> {
    let mut bytes = vec![0xc5];
    bytes.extend(SMALL.to_be_bytes());
    bytes.resize(bytes.len() + usize::from(SMALL), BYTE);
    bytes
}

/// MessagePack's `bin 32`.
fn large() -> Vec<u8> {
    let mut bytes = vec![0xc6];
    bytes.extend(LARGE.to_be_bytes());
    bytes.resize(bytes.len() + LARGE as usize, BYTE);
    bytes
}

/// A segment for the large answer, and the frame that refers to it.
fn in_segment(lane: &Lane) -> (Mapping, Frame) {
    let len = large().len() as u64;
    let (segment, memory) = lane.segment(len);
    let frame = Frame { flags: BULK, ..Frame::reply(lane.call, &reference(segment, 0, len)) };
    (memory, frame)
}

/// Goes to a point of the answer, and dies there.
pub(crate) fn meet(mut lane: Lane, point: &str) {
    let answer = Frame::reply(lane.call, &small());
    match point {
        "before-the-frame" => {}
        "within-the-payload" => {
            let half = answer.payload[..small().len() / 2].to_vec();
            lane.write(&Frame { payload: half, call: 0, kind: 0, ..answer });
        }
        "before-publishing" => lane.write(&answer),
        "before-the-wake" => {
            lane.write(&answer);
            lane.publish(&answer);
        }
        "after-the-wake" => lane.put(&answer),
        "before-the-segment" => drop(in_segment(&lane)),
        "within-the-segment" => {
            let (memory, _) = in_segment(&lane);
            memory.copy_in(0, &large()[..LARGE as usize / 2]);
        }
        "before-publishing-the-segment" => {
            let (memory, frame) = in_segment(&lane);
            memory.copy_in(0, &large());
            lane.write(&frame);
        }
        "segment-before-the-wake" => {
            let (memory, frame) = in_segment(&lane);
            memory.copy_in(0, &large());
            lane.write(&frame);
            lane.publish(&frame);
        }
        _ => std::process::exit(97),
    }
    // As the kernel's memory killer does it: nothing of ours runs any more.
    let _ = raise(Signal::SIGKILL);
}
