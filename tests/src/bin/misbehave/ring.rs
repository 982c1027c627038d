//! Faults in a lane's memory, at its first call. What the supervisor does with
//! them stands in the tests.

use std::os::fd::AsFd;
use std::time::Duration;

use menagerie_protocol::{Failure, GuestError, codec};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::control::nested;
use crate::lane::{BULK, CALL, ECHO, FAILURE, Frame, Lane, PAD, reference};

/// The MessagePack value 7.
const SEVEN: [u8; 1] = [7];

pub(crate) fn commit(mut lane: Lane, what: &str) {
    let answer = Frame::reply(lane.call, &SEVEN);
    let bulk = |payload: Vec<u8>| Frame { flags: BULK, payload, ..answer.clone() };
    let echo = |payload: Vec<u8>| Frame { flags: BULK | ECHO, payload, ..answer.clone() };
    let failure = |payload: Vec<u8>| Frame { flags: FAILURE, payload, ..answer.clone() };
    let frame = match what {
        "bad-mark" => Frame { mark: Some(0x8000_0007), ..answer },
        "bad-length" => Frame { len: Some(u32::MAX), ..answer },
        "bad-kind" => Frame { kind: 77, ..answer },
        "bad-flags" => Frame { flags: 0x80, ..answer },
        "command" => Frame { kind: 4, ..answer },
        "pad-beyond" => Frame { kind: PAD, len: Some(1 << 30), ..answer },
        "stranger" => Frame { call: 0xdead_beef_dead_beef, ..answer },
        "no-slot" => Frame { call: u64::MAX, ..answer },
        "bulk-short" => bulk(vec![1, 2, 3]),
        "bulk-nowhere" => bulk(reference(4_000_000, 0, 8)),
        "bulk-outside" => {
            let (segment, memory) = lane.segment(100_000);
            bulk(reference(segment, memory.len() as u64 - 10, 100))
        }
        "bulk-overflow" => {
            let (segment, _) = lane.segment(100_000);
            bulk(reference(segment, u64::MAX - 3, 8))
        }
        "bulk-huge" => {
            let (segment, _) = lane.segment(100_000);
            bulk(reference(segment, 0, u64::MAX))
        }
        // The caller's arguments are in the ring, not in a segment.
        "echo-inline" => echo(reference(1, 0, 8)),
        "echo-outside" => echo(reference(lane.argument_segment(), 1 << 40, 8)),
        "echo-other" => echo(reference(lane.argument_segment() + 1, 0, 8)),
        "echo-failure" => {
            let payload = reference(lane.argument_segment(), 0, 8);
            Frame { flags: BULK | ECHO | FAILURE, payload, ..answer }
        }
        "failure-garbage" => failure(vec![0xff; 50]),
        "failure-bomb" => failure(vec![0, 253, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]),
        "failure-deep" => {
            let shallow = codec::encode(&Failure::from(GuestError::default()));
            let bytes = nested(&shallow.unwrap_or_default());
            let (segment, memory) = lane.segment(bytes.len() as u64);
            memory.copy_in(0, &bytes);
            let payload = reference(segment, 0, bytes.len() as u64);
            Frame { flags: BULK | FAILURE, payload, ..answer }
        }
        "value-empty" => Frame { payload: Vec::new(), ..answer },
        "value-cut" => Frame { payload: vec![0xd9, 200, b'x'], ..answer },
        "value-huge-list" => Frame { payload: vec![0xdd, 0xff, 0xff, 0xff, 0xff], ..answer },
        "value-huge-bytes" => Frame { payload: vec![0xc6, 0xff, 0xff, 0xff, 0xff], ..answer },
        "value-huge-map" => Frame { payload: vec![0xdf, 0xff, 0xff, 0xff, 0xff], ..answer },
        "value-huge-text" => Frame { payload: vec![0xdb, 0xff, 0xff, 0xff, 0xff], ..answer },
        "value-no-text" => Frame { payload: vec![0xa2, 0xff, 0xfe], ..answer },
        "value-reserved" => Frame { payload: vec![0xc1], ..answer },
        "value-deep" => Frame { payload: vec![0x91; 10_000], ..answer },
        "twice" => {
            lane.put(&answer);
            answer
        }
        "sleep-nonsense" => {
            lane.set_sleep(u64::MAX);
            answer
        }
        // Without a frame of its own.
        _ => return beside_the_point(lane, what, &answer),
    };
    lane.put(&frame);
}

fn beside_the_point(mut lane: Lane, what: &str, answer: &Frame) {
    match what {
        // It dies of its own will, and lies about what it had begun.
        "never-begun" => {
            lane.set_begun(0);
            std::process::exit(5);
        }
        "begun" => std::process::exit(5),
        "all-begun" => {
            lane.set_begun(u64::MAX);
            std::process::exit(5);
        }
        "read-ahead" => lane.set_read(1 << 40),
        "read-back" => {
            while lane.read < 700 {
                lane.next_call();
                lane.set_read(lane.read);
            }
            lane.set_read(1);
        }
        "pads" => {
            let pad = Frame { kind: PAD, payload: vec![0; 40], ..answer.clone() };
            loop {
                lane.put_fairly(&pad);
            }
        }
        "calls" => {
            let mut payload = vec![0x93, 0xa9];
            payload.extend(b"greeter@1");
            payload.push(0xa5);
            payload.extend(b"greet");
            payload.extend([0x91, 0xa1, b'x']);
            loop {
                lane.put_fairly(&Frame { kind: CALL, payload: payload.clone(), ..answer.clone() });
            }
        }
        "call-garbage" => {
            let payload = vec![0xc1; 30];
            lane.put(&Frame { kind: CALL, call: 1, payload, ..answer.clone() });
            lane.put(answer);
        }
        // Descriptors share their flags with whoever they were passed to.
        "blocking-wake" => {
            make_blocking(&lane.lane_event);
            let full = (u64::MAX - 1).to_ne_bytes();
            let _ = nix::unistd::write(&lane.lane_event, &full);
            // Asleep on the eventfd, for the next frame.
            lane.set_sleep(((lane.read + 1) << 2) | 2);
            lane.put(answer);
        }
        "blocking-drain" => {
            make_blocking(&lane.supervisor_event);
            for _ in 0..100 {
                for _ in 0..1000 {
                    lane.wake(0);
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            lane.put(answer);
        }
        "silence" => {}
        _ => std::process::exit(97),
    }
}

fn make_blocking(fd: &impl AsFd) {
    let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()));
}
