//! Frames of random sizes between two processes, over the very ends that
//! supervisor and worker have. Each side knows what the other sends, and checks
//! every byte.
//!
//! `MENAGERIE_FRAMES` says how many: 10 million in `make stress`. Either side
//! gives up when nothing has come for long, so the test ends in any case.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use menagerie_protocol::lane::link::{Rx, Side, Tx};
use menagerie_protocol::lane::wait::wake_pair;
use menagerie_protocol::lane::{LaneMemory, NewLane};
use menagerie_protocol::ring::{FrameHead, Full, Kind, Shape};
use menagerie_tests::random::Random;

use crate::support::Progress;

const ENV_CHILD: &str = "MENAGERIE_FRAMES_CHILD";
const SHAPE: Shape = Shape::new(256);
/// Rounds of a millisecond at least in which nothing could be sent or read: the
/// other side is gone, or one of us sleeps while it should not. They are counted,
/// not timed: the machine may stand still for a while.
const FRUITLESS: u32 = 120_000;

/// The frames that one side sends: mostly small, some as large as may be.
struct Frames {
    random: Random,
    number: u64,
}

impl Frames {
    fn of(side: Side) -> Self {
        Self { random: Random::new(side as u64 + 1), number: 0 }
    }

    fn fill(&mut self, payload: &mut Vec<u8>) -> FrameHead {
        let size = self.random.next();
        let most = match size >> 60 {
            0 => SHAPE.max_payload() as u64 + 1,
            1..4 => 1000,
            _ => 60,
        };
        let len = usize::try_from(size % most).unwrap();
        payload.clear();
        while payload.len() < len {
            payload.extend_from_slice(&self.random.next().to_le_bytes());
        }
        payload.truncate(len);
        self.number += 1;
        let function = u32::try_from(self.number % 1000).unwrap();
        FrameHead { kind: Kind::Reply, flags: 0, function, call: self.number }
    }
}

/// Sends `count` frames and receives as many, now the one and now the other.
fn exchange(memory: &LaneMemory, side: Side, count: u64) {
    let (ours, theirs) = wake_pair().unwrap();
    let mut tx = Tx::new(memory, SHAPE, side, Arc::new(ours));
    let mut rx = Rx::new(memory, SHAPE, side, Arc::new(theirs));
    let other = if side == Side::Supervisor { Side::Worker } else { Side::Supervisor };
    let (mut out, mut expected) = (Frames::of(side), Frames::of(other));
    let (mut payload, mut wanted, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let mut head = out.fill(&mut payload);
    let mut progress = Progress::of("frames each way", count);
    let (mut round, mut fruitless) = (0_u64, 0);
    while out.number <= count || expected.number < count {
        let mut moved = false;
        while out.number <= count {
            match tx.send(head, &[&payload]) {
                Ok(()) => head = out.fill(&mut payload),
                Err(Full::Busy) => break,
                Err(Full::Corrupt(corrupt)) => panic!("{corrupt}"),
            }
            moved = true;
        }
        while let Some(frame) = rx.peek().unwrap() {
            found.clear();
            rx.copy_payload(&frame, &mut found);
            let wanted_head = expected.fill(&mut wanted);
            assert_eq!(frame.head, wanted_head);
            assert!(found == wanted, "frame {} of {} bytes", frame.head.call, wanted.len());
            rx.release(frame);
            moved = true;
        }
        round += 1;
        if side == Side::Supervisor && round.is_multiple_of(256) {
            progress.at(expected.number);
        }
        if moved {
            fruitless = 0;
            continue;
        }
        // The other side may wait for room, or make some, that we are not woken
        // for.
        if expected.number == count {
            std::thread::sleep(Duration::from_millis(1));
        } else if !rx.spin() {
            rx.sleep(Some(Duration::from_millis(1)));
        }
        fruitless += 1;
        let (sent, read) = (out.number - 1, expected.number);
        assert!(fruitless < FRUITLESS, "stuck with {sent} frames sent and {read} read");
    }
}

/// The other process: does nothing unless it is started as such.
#[test]
fn child() {
    let Ok(what) = std::env::var(ENV_CHILD) else { return };
    let mut words = what.split(' ');
    let mut open = || -> OwnedFd {
        let path = words.next().unwrap();
        std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap().into()
    };
    let up = open();
    let path = words.next().unwrap();
    // Sealed against our writes: it can be opened for reading only.
    let down: OwnedFd = std::fs::File::open(path).unwrap().into();
    let count = words.next().unwrap().parse().unwrap();
    let memory = LaneMemory::open(&down, &up, SHAPE).unwrap();
    exchange(&memory, Side::Worker, count);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "no worker, and no supervisor")]
fn frames_of_every_size_arrive_whole_in_both_directions() {
    let count = std::env::var("MENAGERIE_FRAMES").ok().and_then(|n| n.parse().ok());
    let count = count.unwrap_or(50_000_u64);
    let NewLane { memory, down, up, .. } = LaneMemory::create(SHAPE).unwrap();
    let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lanes::two_processes::child", "--nocapture"])
        .env(ENV_CHILD, format!("{} {} {count}", path(&up), path(&down)))
        .spawn()
        .unwrap();
    struct Killed(std::process::Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
    let mut child = Killed(child);
    let mut watched = Some(std::thread::spawn(move || exchange(&memory, Side::Supervisor, count)));
    // Whoever fails first is heard at once: the other would wait for it.
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        if let Some(ended) = watched.take_if(|watched| watched.is_finished()) {
            ended.join().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "the other side: {status}");
    if let Some(watched) = watched {
        watched.join().unwrap();
    }
    eprintln!("{count} frames each way");
}
