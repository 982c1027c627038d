//! Random bytes where a lane's frames should be, from a seed: each failure can
//! be had again.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::lane::{Frame, Lane};

/// xorshift64*: good enough to be arbitrary, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }
}

/// Even seeds: the whole mapping. Odd ones: frames whose headers are right and
/// whose contents are not, so that more is read of them. Then it dies.
pub(crate) fn scribble(mut lane: Lane, seed: u64) {
    let mut random = Random::new(seed);
    if seed.is_multiple_of(2) {
        for word in lane.up.words() {
            word.store(random.next(), SeqCst);
        }
        lane.wake(0);
    } else {
        for _ in 0..1 + random.below(5) {
            let frame = frame(&mut random, lane.call);
            lane.put(&frame);
        }
    }
    // Whatever the supervisor makes of it, it has had the time.
    std::thread::sleep(Duration::from_millis(20));
    std::process::exit(9);
}

fn frame(random: &mut Random, call: u64) -> Frame {
    let len = [0, 1, 24, 24, 40, 41, 200, 4096][usize::from(random.byte() % 8)];
    let payload = (0..len).map(|_| random.byte()).collect();
    Frame {
        mark: None,
        len: (random.below(8) == 0).then(|| random.next().to_le_bytes()[0].into()),
        kind: [2, 2, 2, 2, 1, 3, 4, random.byte()][usize::from(random.byte() % 8)],
        flags: if random.below(4) == 0 { random.byte() } else { random.byte() & 7 },
        call: if random.below(3) == 0 { random.next() } else { call },
        payload,
    }
}
