//! Models of the lane's protocols, checked by loom: every order in which two
//! threads' loads and stores can interleave, and every value that weak memory
//! may show them. They run the very code that lanes run.
//!
//! ```sh
//! make loom
//! ```

use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use super::{Consumer, FrameHead, Kind, Memory, Producer, Shape};
use crate::lane::hand_over::HandOver;
use crate::lane::wait::{Mode, Waker, announce_awake, announce_sleep};

const SHAPE: Shape = Shape::new(8);

struct Shared {
    ring: Vec<AtomicU64>,
    head: AtomicU64,
    sleep: AtomicU64,
}

impl Memory for Shared {
    type Word = AtomicU64;

    fn ring(&self) -> &[AtomicU64] {
        &self.ring
    }

    fn head(&self) -> &AtomicU64 {
        &self.head
    }
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        ring: (0..SHAPE.words()).map(|_| AtomicU64::new(0)).collect(),
        head: AtomicU64::new(0),
        sleep: AtomicU64::new(0),
    })
}

fn call(number: u64) -> FrameHead {
    FrameHead { kind: Kind::Call, flags: 0, function: 7, call: number }
}

/// Enough to find every known mistake of two threads (loom's own advice), and
/// bounded in time, so that a slow machine still comes to an end.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_duration = Some(std::time::Duration::from_secs(60));
    builder.check(model);
}

/// Takes `count` frames, looking again and again.
fn take(consumer: &mut Consumer<Arc<Shared>>, count: u64, first: u64) {
    let mut next = first;
    while next < first + count {
        if let Some(plain) = consumer.take_plain(Kind::Call, |found| found == call(next).call) {
            assert_eq!(plain.payload.bytes(), next.to_le_bytes());
            next += 1;
            continue;
        }
        match consumer.peek().unwrap() {
            Some(frame) => {
                assert_eq!(frame.head, call(next));
                let mut payload = Vec::new();
                consumer.copy_payload(&frame, &mut payload);
                assert_eq!(payload, next.to_le_bytes());
                consumer.release(frame);
                next += 1;
            }
            None => thread::yield_now(),
        }
    }
}

#[test]
fn ring_frames_arrive_whole_and_in_order() {
    check(|| {
        let shared = shared();
        let mut producer = Producer::new(Arc::clone(&shared), SHAPE);
        let mut consumer = Consumer::new(shared, SHAPE);
        let sender = thread::spawn(move || {
            for number in 0..2_u64 {
                producer.push(call(number), &[&number.to_le_bytes()]).unwrap();
            }
        });
        take(&mut consumer, 2, 0);
        sender.join().unwrap();
    });
}

#[test]
fn ring_slots_are_used_again_only_when_they_were_read() {
    check(|| {
        let shared = shared();
        let mut producer = Producer::new(Arc::clone(&shared), SHAPE);
        let mut consumer = Consumer::new(shared, SHAPE);
        // All but the last slots of the first lap, before the race begins.
        for number in 0..7 {
            producer.push(call(number), &[&u64::to_le_bytes(number)]).unwrap();
        }
        take(&mut consumer, 6, 0);
        let sender = thread::spawn(move || {
            for number in 7..10 {
                while producer.push(call(number), &[&u64::to_le_bytes(number)]).is_err() {
                    thread::yield_now();
                }
            }
        });
        take(&mut consumer, 4, 6);
        sender.join().unwrap();
    });
}

/// One sleeper, and frames that it waits for one by one: it ends, as loom would
/// report a deadlock if a wake-up were lost.
fn sleeps_and_is_woken(frames: u64, announce: fn(&AtomicU64, u64, Mode)) {
    let shared = shared();
    let bell = Arc::new(Notify::new());
    let mut producer = Producer::new(Arc::clone(&shared), SHAPE);
    let mut consumer = Consumer::new(Arc::clone(&shared), SHAPE);
    let (memory, ring) = (Arc::clone(&shared), Arc::clone(&bell));
    let sender = thread::spawn(move || {
        let mut waker = Waker::default();
        for number in 0..frames {
            producer.push(call(number), &[]).unwrap();
            if waker.wake_needed(&memory.sleep, producer.position()).is_some() {
                ring.notify();
            }
        }
    });
    for _ in 0..frames {
        while consumer.is_empty() {
            announce(&shared.sleep, consumer.position(), Mode::Futex);
            if consumer.is_empty() {
                bell.wait();
            }
            announce_awake(&shared.sleep);
        }
        let frame = consumer.peek().unwrap().unwrap();
        consumer.release(frame);
    }
    sender.join().unwrap();
}

#[test]
fn sleep_is_never_missed_by_who_publishes() {
    check(|| sleeps_and_is_woken(1, announce_sleep::<AtomicU64>));
}

#[test]
#[should_panic(expected = "deadlock")]
fn sleep_without_its_fence_is_missed() {
    // The model can fail: this is the mistake that the fence is there against.
    check(|| {
        sleeps_and_is_woken(1, |word, position, mode| {
            word.store(((position + 1) << 2) | mode as u64, Ordering::Relaxed);
        });
    });
}

#[test]
fn waker_wakes_for_the_frame_that_is_slept_for() {
    // Two frames, and a sleep before each: a wake-up for the first must not
    // pass for one for the second.
    check(|| sleeps_and_is_woken(2, announce_sleep::<AtomicU64>));
}

/// What a caller publishes before it wants the lead, and what leaders have seen.
fn somebody_sees(leave_early: bool) {
    let published = Arc::new(AtomicBool::new(false));
    let seat = Arc::new(HandOver::new(false));
    let led = seat.take().unwrap();
    let (caller_seat, flag) = (Arc::clone(&seat), Arc::clone(&published));
    let caller = thread::spawn(move || {
        flag.store(true, Ordering::Release);
        if let Some(mut seen) = caller_seat.take_or_ask() {
            *seen = true;
            while let Some(again) = caller_seat.leave(seen) {
                seen = again;
            }
        }
    });
    let mut led = led;
    *led |= published.load(Ordering::Acquire);
    if leave_early {
        drop(led);
    } else {
        while let Some(again) = seat.leave(led) {
            led = again;
            *led |= published.load(Ordering::Acquire);
        }
    }
    caller.join().unwrap();
    let seen = *seat.take().unwrap();
    assert!(seen, "left behind");
}

#[test]
fn hand_over_leaves_nobody_behind() {
    check(|| somebody_sees(false));
}

#[test]
#[should_panic(expected = "left behind")]
fn hand_over_without_a_last_look_leaves_somebody_behind() {
    check(|| somebody_sees(true));
}

#[test]
fn hand_over_among_three_leaves_nobody_behind() {
    check(|| {
        let published = Arc::new(AtomicU64::new(0));
        let seat = Arc::new(HandOver::new(0_u64));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (seat, published) = (Arc::clone(&seat), Arc::clone(&published));
                thread::spawn(move || {
                    published.fetch_add(1, Ordering::AcqRel);
                    let mut led = seat.take_or_ask();
                    while let Some(mut seen) = led {
                        *seen = published.load(Ordering::Acquire);
                        led = seat.leave(seen);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        assert_eq!(*seat.take().unwrap(), 2);
    });
}
