//! Waiting for the other side: spin for a while if that has been worth it
//! lately, then say so in shared memory and sleep.
//!
//! # The protocol
//!
//! A consumer that is about to sleep stores its *sleep word* (the position of
//! the frame that it waits for, and how it sleeps), then looks at the ring once
//! more, then sleeps. A producer publishes, then looks at the sleep word.
//! Sequentially consistent fences between store and look on both sides make
//! it impossible that neither sees the other (Dekker's argument).
//!
//! A producer wakes once for each position, so a burst costs one system call;
//! while both are awake there is none. It wakes only for a position that it has
//! published: between its store and its look the consumer may have read that
//! frame and gone to sleep for the next one, and to take note of *that* sleep
//! as woken would lose its wake-up.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::ring::Word;

/// How a consumer sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    /// On the header word of its next frame, by futex(2).
    Futex = 1,
    /// On its wake socket, among other descriptors.
    Socket = 2,
}

/// The consumer's half: says on `word` that this side is about to sleep until
/// the frame at `position` is there. The ring has to be looked at once more
/// between this and the sleep.
pub fn announce_sleep<W: Word>(word: &W, position: u64, mode: Mode) {
    // Positions count slots: they do not reach 2^62.
    word.store(((position + 1) << 2) | mode as u64, Ordering::Relaxed);
    // SYNC: sleep announced. Pairs with the fence in `Producer::push`:
    // either we see the frame, or the producer sees our announcement.
    W::fence(Ordering::SeqCst);
}

/// Says that this side is awake again.
pub fn announce_awake<W: Word>(word: &W) {
    word.store(0, Ordering::Relaxed);
}

/// The producer's half: wakes at most once for each sleep.
#[derive(Debug, Default)]
pub struct Waker {
    woken: u64,
}

impl Waker {
    /// Whether the other side sleeps for a frame before `end`, the position
    /// after the last one published, and has not been woken for it: how it
    /// sleeps, and for which position. Called after a frame was published.
    ///
    /// The position may be that of the frame behind padding: the sleeper may
    /// have passed over the padding before the frame was there.
    #[inline]
    pub fn wake_needed<W: Word>(&mut self, word: &W, end: u64) -> Option<(Mode, u64)> {
        // SYNC: sleep announced. Pairs with the fence in `announce_sleep`; the
        // fence of this side is in `Producer::push`.
        let value = word.load(Ordering::SeqCst);
        if value == 0 { None } else { self.wake_for(value, end) }
    }

    #[inline(never)]
    fn wake_for(&mut self, value: u64, end: u64) -> Option<(Mode, u64)> {
        if value == self.woken || value >> 2 > end {
            return None;
        }
        self.woken = value;
        let position = (value >> 2).wrapping_sub(1);
        match value & 3 {
            1 => Some((Mode::Futex, position)),
            2 => Some((Mode::Socket, position)),
            // Only a peer that does not keep the protocol writes this.
            _ => None,
        }
    }
}

/// The low half of a header word, which changes when the frame is there.
#[cfg(target_endian = "little")]
const fn futex_word(word: &AtomicU64) -> *mut u32 {
    word.as_ptr().cast()
}

#[cfg(not(target_endian = "little"))]
compile_error!("the futex protocol takes the low half of a word to come first");

/// Sleeps for as long as the low half of `word` is `expected`, until somebody
/// wakes it or `timeout` has passed.
pub fn futex_wait(word: &AtomicU64, expected: u32, timeout: Option<Duration>) {
    let spec = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos()),
    });
    let spec_ptr = spec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is aligned and mapped for as long as it is borrowed;
    // FUTEX_WAIT only reads it (a read-only mapping will do); the timeout is
    // null or points to a live timespec. Every outcome (woken, value changed,
    // interrupted, timed out) means the same: look again.
    unsafe {
        libc::syscall(libc::SYS_futex, futex_word(word), libc::FUTEX_WAIT, expected, spec_ptr);
    }
}

/// Wakes whoever sleeps on `word`.
pub fn futex_wake(word: &AtomicU64) {
    // SAFETY: the word is aligned and mapped for as long as it is borrowed;
    // FUTEX_WAKE takes its address only.
    unsafe {
        libc::syscall(libc::SYS_futex, futex_word(word), libc::FUTEX_WAKE, i32::MAX);
    }
}

/// What wakes a side that sleeps in its event loop: the end that it waits on,
/// and the end that the other side wakes it by.
///
/// It is a pair of sockets and not an eventfd, whose non-blocking mode
/// belongs to both sides: a hostile worker could turn that off and fill the
/// counter, and the supervisor's next wake-up would block for ever. Here each
/// end is its own, and every operation says itself that it must not block.
/// They are streams: a datagram can be given an address, and a worker in the
/// sandbox would reach other programs by it.
///
/// An end whose other one was closed is readable for ever
/// ([`drain_wakes`] tells). So each side keeps its ends until the lane is over.
///
/// # Errors
///
/// As `socketpair(2)`.
pub fn wake_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?)
}

/// Wakes the side that waits on the other end. If the queue is full, that side
/// is being woken already.
pub fn wake(fd: BorrowedFd<'_>) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = send(fd.as_raw_fd(), &[1], flags);
}

/// Takes the wake-ups that have come. Bounded, so that a peer that sends
/// without end cannot keep us here. Returns whether there can be more: false if
/// the other end was closed.
pub fn drain_wakes(fd: &OwnedFd) -> bool {
    let mut bytes = [0; 64];
    !matches!(recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT), Ok(0))
}

/// The longest time that a thread spins for something that usually comes soon.
/// Waking a sleeping thread on another virtual CPU was measured at 55 µs
/// (`DESIGN.md`, chapter Speed), up to 120 µs on a busy machine. A spin has to
/// outlast the other side's wake-up: else, once both have slept, each falls
/// asleep while the other is being woken, and the lane never gets hot again.
pub const MAX_SPIN: Duration = Duration::from_micros(200);

/// A wait that took longer counts against spinning: after a sleep, the wake-up
/// itself is part of what was measured.
const SHORT_SLEEP: Duration = Duration::from_micros(400);

/// Threads of this process that have spun for a while, and spin on.
static SPINNING: AtomicU32 = AtomicU32::new(0);

/// CPUs that this process and its peers may use.
static CPUS: OnceLock<NonZero<u32>> = OnceLock::new();

/// How many CPUs this process may use, by its affinity and its cgroup's quota.
pub fn cpus() -> NonZero<u32> {
    *CPUS.get_or_init(|| {
        let cpus = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        NonZero::try_from(cpus).unwrap_or(NonZero::<u32>::MAX)
    })
}

/// Takes the number of CPUs from whoever knows it, before anything here has asked for it.
pub fn assume_cpus(cpus: NonZero<u32>) {
    // What was found out already is as good.
    let _ = CPUS.set(cpus);
}

fn max_spinners() -> u32 {
    // Who spins must leave a CPU to whom it waits for.
    cpus().get() - 1
}

/// Learns whether spinning pays: a score that short waits raise and long ones
/// lower.
#[derive(Debug)]
pub struct Spinner {
    score: u8,
}

impl Default for Spinner {
    fn default() -> Self {
        Self { score: if max_spinners() == 0 { 0 } else { Self::MAX_SCORE } }
    }
}

/// A spin that has gone on for so long lets others have its CPU once. Whoever is
/// waited for may wait for this very CPU: the kernel likes to put who is woken where
/// the waker runs. Not earlier: to wake a thread on another CPU takes nearly as long,
/// and a wait for that would be the longer by it.
const YIELD_AFTER: Duration = Duration::from_micros(100);

/// Looks before a spinner counts as one and reads the clock: a hot lane's reply
/// is there by then, and a shared counter would cost it a tenth of its time.
const FIRST_LOOKS: u32 = 64;

impl Spinner {
    /// One that does not spin before a sleep was short. Who spins stays on the CPU
    /// where it is, even if its peer is put there as well; who sleeps is woken where a
    /// CPU is idle.
    #[must_use]
    pub const fn cold() -> Self {
        Self { score: 0 }
    }

    /// So many long waits in a row, and spinning stops.
    const MAX_SCORE: u8 = 4;

    /// Spins until `ready` says so, or until spinning does not pay any longer.
    /// Returns whether it is ready.
    #[inline]
    pub fn spin(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        self.spin_briefly(&mut ready) || (self.score > 0 && self.spin_on(&mut ready))
    }

    /// As [`spin`](Self::spin), for the time only that a hot lane takes.
    #[inline]
    pub fn spin_briefly(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if self.score == 0 {
            return false;
        }
        for _ in 0..FIRST_LOOKS {
            std::hint::spin_loop();
            if ready() {
                self.score = Self::MAX_SCORE;
                return true;
            }
        }
        false
    }

    #[cold]
    fn spin_on(&mut self, ready: &mut impl FnMut() -> bool) -> bool {
        if SPINNING.fetch_add(1, Ordering::Relaxed) >= max_spinners() {
            SPINNING.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let (started, mut has_yielded) = (Instant::now(), false);
        // The clock is read once in a while: it costs as much as many looks.
        let found = 'spin: loop {
            for _ in 0..64 {
                if ready() {
                    break 'spin true;
                }
                std::hint::spin_loop();
            }
            let spun = started.elapsed();
            if spun > MAX_SPIN {
                break false;
            }
            if spun > YIELD_AFTER && !has_yielded {
                has_yielded = true;
                std::thread::yield_now();
            }
        };
        SPINNING.fetch_sub(1, Ordering::Relaxed);
        if found {
            self.score = Self::MAX_SCORE;
        }
        found
    }

    /// Takes note of a sleep, by how long it took until there was something.
    pub fn slept(&mut self, took: Duration) {
        if took < SHORT_SLEEP && max_spinners() > 0 {
            self.score = (self.score + 2).min(Self::MAX_SCORE);
        } else {
            self.score = self.score.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{UnixAddr, sendto};

    use super::*;

    #[test]
    fn cpus_that_are_known_stay_as_they_are() {
        assume_cpus(NonZero::new(3).unwrap());
        let known = cpus();
        assume_cpus(known.saturating_add(1));
        assert_eq!(cpus(), known);
        assert_eq!(max_spinners(), known.get() - 1);
    }

    fn is_readable(fd: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn wake_ups_are_taken_together_and_block_nobody() {
        let (one, other) = wake_pair().unwrap();
        assert!(!is_readable(&other));
        assert!(drain_wakes(&other), "none has come");
        for _ in 0..3 {
            wake(one.as_fd());
        }
        assert!(is_readable(&other) && !is_readable(&one));
        assert!(drain_wakes(&other));
        assert!(!is_readable(&other));
        // Far more than there is room for.
        for _ in 0..100_000 {
            wake(one.as_fd());
        }
        assert!(drain_wakes(&other));
        assert!(is_readable(&other));
    }

    #[test]
    fn wake_pair_tells_that_the_other_end_was_closed() {
        let (one, other) = wake_pair().unwrap();
        wake(one.as_fd());
        drop(one);
        // What has come first is taken first.
        assert!(drain_wakes(&other));
        assert!(!drain_wakes(&other) && is_readable(&other));
        wake(other.as_fd());
    }

    /// A datagram would go where it is told to.
    #[test]
    fn p2_a_wake_socket_takes_no_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let elsewhere = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let address = UnixAddr::new(&path).unwrap();
        let (one, other) = wake_pair().unwrap();
        for end in [&one, &other] {
            let sent = sendto(end.as_raw_fd(), &[1], &address, MsgFlags::MSG_DONTWAIT);
            assert_eq!(sent, Err(nix::errno::Errno::EISCONN));
        }
        assert!(elsewhere.recv(&mut [0]).is_err());
    }

    #[test]
    fn waker_wakes_once_for_each_sleep() {
        let word = AtomicU64::new(0);
        let mut waker = Waker::default();
        assert_eq!(waker.wake_needed(&word, 1), None);
        announce_sleep(&word, 1, Mode::Futex);
        assert_eq!(waker.wake_needed(&word, 2), Some((Mode::Futex, 1)));
        assert_eq!(waker.wake_needed(&word, 3), None);
        announce_awake(&word);
        announce_sleep(&word, 3, Mode::Socket);
        assert_eq!(waker.wake_needed(&word, 4), Some((Mode::Socket, 3)));
    }

    #[test]
    fn waker_leaves_a_sleep_for_a_later_frame_alone() {
        let word = AtomicU64::new(0);
        let mut waker = Waker::default();
        // The frame at 0 is published and read, and the consumer sleeps for the
        // next one before the producer looks.
        announce_sleep(&word, 1, Mode::Futex);
        assert_eq!(waker.wake_needed(&word, 1), None);
        assert_eq!(waker.wake_needed(&word, 2), Some((Mode::Futex, 1)));
    }

    #[test]
    fn waker_names_the_frame_behind_the_padding() {
        let word = AtomicU64::new(0);
        // Padding at 6 and 7 and a frame at 8 and 9 are published in one go; the
        // consumer has read the padding before the frame was there.
        announce_sleep(&word, 8, Mode::Futex);
        assert_eq!(Waker::default().wake_needed(&word, 10), Some((Mode::Futex, 8)));
    }

    #[test]
    fn waker_ignores_modes_that_do_not_exist() {
        assert_eq!(Waker::default().wake_needed(&AtomicU64::new(7), 1), None);
    }

    #[test]
    fn spinner_stops_on_a_lane_that_is_mostly_idle() {
        let mut spinner = Spinner::default();
        for _ in 0..Spinner::MAX_SCORE {
            spinner.slept(Duration::from_millis(10));
        }
        let mut looks = 0;
        assert!(!spinner.spin(|| {
            looks += 1;
            false
        }));
        assert_eq!(looks, 1);
        // Where there is but one CPU, nobody spins ever.
        spinner.slept(Duration::from_micros(10));
        assert_eq!(spinner.score > 0, max_spinners() > 0);
    }
}
