use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::*;

/// Miri takes a thousand times as long, and sees as much in fewer rounds: `make
/// miri`.
const fn rounds(all: usize, in_miri: usize) -> usize {
    if cfg!(miri) { in_miri } else { all }
}

#[derive(Debug)]
struct Heap {
    ring: Vec<AtomicU64>,
    head: AtomicU64,
}

impl Heap {
    fn new(shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            ring: (0..shape.words()).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(0),
        })
    }
}

impl Memory for Heap {
    type Word = AtomicU64;
    fn ring(&self) -> &[AtomicU64] {
        &self.ring
    }
    fn head(&self) -> &AtomicU64 {
        &self.head
    }
}

const CALL: FrameHead = FrameHead { kind: Kind::Call, flags: 0, function: 7, call: 42 };

fn pair(slots: u64) -> (Producer<Arc<Heap>>, Consumer<Arc<Heap>>, Arc<Heap>) {
    let shape = Shape::new(slots);
    let heap = Heap::new(shape);
    (Producer::new(Arc::clone(&heap), shape), Consumer::new(Arc::clone(&heap), shape), heap)
}

fn take(consumer: &mut Consumer<Arc<Heap>>) -> Option<(FrameHead, Vec<u8>)> {
    let frame = consumer.peek().unwrap()?;
    let mut out = Vec::new();
    consumer.copy_payload(&frame, &mut out);
    consumer.release(frame);
    Some((frame.head, out))
}

#[test]
fn ring_delivers_in_order_and_empties() {
    let (mut tx, mut rx, _) = pair(8);
    assert!(rx.is_empty());
    tx.push(CALL, &[b"one"]).unwrap();
    tx.push(FrameHead { call: 43, ..CALL }, &[b"t", b"", b"wo"]).unwrap();
    assert_eq!(take(&mut rx), Some((CALL, b"one".to_vec())));
    assert_eq!(take(&mut rx).unwrap().1, b"two");
    assert_eq!(take(&mut rx), None);
}

#[test]
fn ring_takes_plain_frames_only_as_plain() {
    let (mut tx, mut rx, _) = pair(8);
    let any = |_: u64| true;
    assert!(rx.take_plain(Kind::Call, any).is_none(), "nothing is there");
    // Three laps of a ring, so that leftovers of a lap stand in every slot.
    for call in 1..24 {
        tx.push(FrameHead { call, ..CALL }, &[b"payload"]).unwrap();
        assert!(rx.take_plain(Kind::Reply, any).is_none(), "another kind");
        assert!(rx.take_plain(Kind::Call, |found| found != call).is_none(), "another call");
        let plain = rx.take_plain(Kind::Call, |found| found == call).unwrap();
        assert_eq!(
            (plain.head, plain.payload.bytes()),
            (FrameHead { call, ..CALL }, &b"payload"[..])
        );
        assert!(rx.take_plain(Kind::Call, any).is_none(), "taken once");
    }
    let flagged = FrameHead { flags: FLAG_BULK, ..CALL };
    tx.push(flagged, &[b"x"]).unwrap();
    assert!(rx.take_plain(Kind::Call, any).is_none(), "it has flags");
    assert_eq!(take(&mut rx).unwrap().0, flagged);
    tx.push(CALL, &[&[1; FIRST_BYTES + 1]]).unwrap();
    assert!(rx.take_plain(Kind::Call, any).is_none(), "it takes two slots");
    assert_eq!(take(&mut rx).unwrap().1.len(), FIRST_BYTES + 1);
    tx.push(CALL, &[&[2; FIRST_BYTES]]).unwrap();
    assert_eq!(rx.take_plain(Kind::Call, any).unwrap().payload.bytes(), [2; FIRST_BYTES]);
}

#[test]
fn ring_says_full_and_loses_nothing() {
    let (mut tx, mut rx, _) = pair(8);
    for i in 0..8_u8 {
        tx.push(CALL, &[&[i]]).unwrap();
    }
    assert_eq!(tx.push(CALL, &[b"no"]), Err(Full::Busy));
    for i in 0..8_u8 {
        assert_eq!(take(&mut rx).unwrap().1, [i]);
    }
    tx.push(CALL, &[b"yes"]).unwrap();
    assert_eq!(take(&mut rx).unwrap().1, b"yes");
}

#[test]
fn ring_payload_that_looks_like_a_header_is_not_taken_for_one() {
    let (mut tx, mut rx, _) = pair(8);
    // Every word of every slot is, at some time, a valid header of a lap.
    for lap in 0..rounds(200, 20) as u64 {
        let fake = frame_header(Shape::new(8).mark((lap + 1) * 8), 8).to_le_bytes();
        let payload: Vec<u8> = fake.iter().copied().cycle().take(96).collect();
        tx.push(CALL, &[&payload]).unwrap();
        assert_eq!(take(&mut rx).unwrap().1, payload);
        assert_eq!(take(&mut rx), None);
    }
}

#[test]
fn ring_frames_of_every_size_arrive_whole() {
    let (mut tx, mut rx, _) = pair(64);
    for len in (0..=Shape::new(64).max_payload()).step_by(rounds(1, 97)) {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect();
        for split in [0, 1, 7, 8, 39, 40, 41, 96, 97] {
            let (a, b) = payload.split_at(split.min(len));
            tx.push(CALL, &[a, b]).unwrap();
            assert_eq!(take(&mut rx).unwrap().1, payload, "{len} bytes, split at {split}");
        }
    }
}

#[test]
fn ring_is_empty_in_every_lap_until_something_is_published() {
    let (mut tx, mut rx, _) = pair(8);
    for len in [0, 40, 41, 96, 0, 20, 90, 3].into_iter().cycle().take(rounds(500, 50)) {
        assert!(rx.is_empty());
        assert_eq!(take(&mut rx), None);
        tx.push(CALL, &[&vec![0xff; len]]).unwrap();
        assert!(!rx.is_empty());
        assert_eq!(take(&mut rx).unwrap().1, vec![0xff; len]);
    }
}

#[test]
fn ring_consumer_position_that_is_nonsense_is_reported() {
    for nonsense in [u64::MAX, 1 << 40, 11] {
        let (mut tx, _rx, heap) = pair(8);
        heap.head.store(nonsense, Relaxed);
        let mut outcome = Ok(());
        for _ in 0..10 {
            outcome = tx.push(CALL, &[b"x"]);
            if outcome.is_err() {
                break;
            }
        }
        assert!(matches!(outcome, Err(Full::Corrupt(Corrupt::Head { .. }))), "{outcome:?}");
    }
}

#[test]
fn ring_nonsense_headers_are_reported() {
    let shape = Shape::new(64);
    let good = frame_header(shape.mark(0), 8);
    let call = CALL.pack();
    for (header, packed) in [
        (1, call),
        (u64::MAX, call),
        (frame_header(shape.mark(0), shape.max_payload() + 1), call),
        (frame_header(shape.mark(64), 8), call),
        (good, 0),
        (good, 9),
        (good, call | 0x8000),
    ] {
        let (_tx, mut rx, heap) = pair(64);
        heap.ring[1].store(packed, Relaxed);
        heap.ring[0].store(header, Relaxed);
        assert!(rx.peek().is_err(), "{header:#x} {packed:#x}");
    }
}

/// Both ends on threads of their own: every byte is there when its frame is. What
/// the models in `models.rs` show of a few frames, and Miri looks at with its own
/// weak memory, and with room for few, so that each waits for the other.
#[test]
fn ring_between_two_threads() {
    let frames = rounds(20_000, 200);
    let (mut tx, mut rx, _) = pair(16);
    let payload = |frame: usize| vec![frame.to_le_bytes()[0]; frame * 7 % 150];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for frame in 0..frames {
                let head = FrameHead { call: frame as u64, ..CALL };
                while tx.push(head, &[&payload(frame)]).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        for frame in 0..frames {
            let (head, found) = loop {
                match take(&mut rx) {
                    Some(found) => break found,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!((head.call, found), (frame as u64, payload(frame)));
        }
    });
}

fn cases() -> ProptestConfig {
    if cfg!(miri) {
        // With no file of failures: Miri keeps tests from the disk.
        ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() }
    } else {
        ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn ring_any_sizes_in_any_interleaving(steps in prop::collection::vec((0_usize..200, 0_usize..4), 1..rounds(400, 80)), slots_log in 3_u32..7) {
        let (mut tx, mut rx, _) = pair(1 << slots_log);
        let max = Shape::new(1 << slots_log).max_payload();
        let mut sent = std::collections::VecDeque::new();
        let mut stamp = 0_u8;
        for (size, takes) in steps {
            stamp = stamp.wrapping_add(1);
            let payload = vec![stamp; size.min(max)];
            let split = payload.len() / 3;
            match tx.push(CALL, &[&payload[..split], &payload[split..]]) {
                Ok(_) => sent.push_back(payload),
                Err(Full::Busy) => prop_assert!(!sent.is_empty(), "an empty ring refused a frame"),
                Err(Full::Corrupt(corrupt)) => prop_assert!(false, "{corrupt}"),
            }
            for _ in 0..takes {
                prop_assert_eq!(take(&mut rx).map(|(_, payload)| payload), sent.pop_front());
            }
        }
        for payload in sent {
            prop_assert_eq!(take(&mut rx).map(|(_, payload)| payload), Some(payload));
        }
        prop_assert_eq!(take(&mut rx), None);
    }

    #[test]
    fn ring_garbage_never_panics(words in prop::collection::vec(any::<u64>(), 64), tries in 1_usize..20) {
        let (mut tx, mut rx, heap) = pair(8);
        for (word, value) in heap.ring.iter().zip(&words) {
            word.store(*value, Relaxed);
        }
        heap.head.store(words[0], Relaxed);
        for _ in 0..tries {
            let _ = tx.push(CALL, &[b"payload"]);
            let _ = rx.take_plain(Kind::Reply, |_| true);
            if let Ok(Some(frame)) = rx.peek() {
                let mut out = Vec::new();
                rx.copy_payload(&frame, &mut out);
                rx.release(frame);
            }
        }
    }
}
