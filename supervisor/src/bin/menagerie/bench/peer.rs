//! The other process of a floor: what two processes can do with bare means.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use menagerie_protocol::lane::wait::{futex_wait, futex_wake};
use menagerie_protocol::shm::{Access, Mapping, sealed_memfd};

/// The shared page: a request and a reply, each on a cache line of its own.
const LEN: usize = 4096;
const REQUEST: usize = 0;
const REPLY: usize = 64;
/// A request that ends a mode.
const STOP: u64 = u64::MAX;

/// How the two processes talk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    /// Both spin on shared memory.
    Spin,
    /// Both sleep by futex(2).
    Futex,
    /// A byte each way over a Unix socket.
    Socket,
}

impl Mode {
    const fn letter(self) -> u8 {
        match self {
            Self::Spin => b's',
            Self::Futex => b'f',
            Self::Socket => b'u',
        }
    }
}

/// A process that answers.
pub(super) struct Peer {
    child: Child,
    memory: Mapping,
    _fd: OwnedFd,
    socket: UnixStream,
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Peer {
    pub(super) fn start() -> io::Result<Self> {
        let fd = sealed_memfd("menagerie-floor", LEN)?;
        let memory = Mapping::new(fd.as_fd(), LEN, Access::ReadWrite)?;
        let (socket, theirs) = UnixStream::pair()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let child = super::program(&std::env::current_exe()?)
            .args(["bench-peer", &path])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, memory, _fd: fd, socket })
    }

    /// Times round trips, in batches; returns nanoseconds for one in each batch.
    pub(super) fn times(&mut self, mode: Mode, batches: u32, batch: u32) -> io::Result<Vec<f64>> {
        self.with(mode, |peer| {
            let mut times = Vec::new();
            for _ in 0..batches {
                let started = Instant::now();
                for _ in 0..batch {
                    peer.round(mode)?;
                }
                times.push(super::nanos(started.elapsed()) / f64::from(batch));
            }
            Ok(times)
        })
    }

    /// Times single round trips, each after a pause.
    pub(super) fn times_after(
        &mut self,
        mode: Mode,
        count: u32,
        pause: Duration,
    ) -> io::Result<Vec<f64>> {
        self.with(mode, |peer| {
            let mut times = Vec::new();
            for _ in 0..count {
                std::thread::sleep(pause);
                let started = Instant::now();
                peer.round(mode)?;
                times.push(super::nanos(started.elapsed()));
            }
            Ok(times)
        })
    }

    fn with<T>(
        &mut self,
        mode: Mode,
        work: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        self.socket.write_all(&[mode.letter()])?;
        // A first round trip, until the other side has got there.
        self.round(mode)?;
        let outcome = work(self);
        match mode {
            Mode::Spin => self.memory.words()[REQUEST].store(STOP, Release),
            Mode::Futex => {
                self.memory.words()[REQUEST].store(STOP, Release);
                futex_wake(&self.memory.words()[REQUEST]);
            }
            Mode::Socket => self.socket.write_all(b"x")?,
        }
        // It says when it has left the mode.
        let mut byte = [0];
        self.socket.read_exact(&mut byte)?;
        outcome
    }

    #[inline]
    fn round(&mut self, mode: Mode) -> io::Result<()> {
        let words = self.memory.words();
        match mode {
            Mode::Spin => {
                words[REQUEST].store(1, Release);
                take_spinning(&words[REPLY]);
            }
            Mode::Futex => {
                words[REQUEST].store(1, Release);
                futex_wake(&words[REQUEST]);
                take_sleeping(&words[REPLY]);
            }
            Mode::Socket => {
                self.socket.write_all(b"r")?;
                let mut byte = [0];
                self.socket.read_exact(&mut byte)?;
            }
        }
        Ok(())
    }
}

/// Takes what stands in a word as soon as it is not zero.
#[inline]
fn take_spinning(word: &AtomicU64) -> u64 {
    loop {
        let value = word.load(Acquire);
        if value != 0 {
            word.store(0, Relaxed);
            return value;
        }
        std::hint::spin_loop();
    }
}

#[inline]
fn take_sleeping(word: &AtomicU64) -> u64 {
    loop {
        let value = word.load(Acquire);
        if value != 0 {
            word.store(0, Relaxed);
            return value;
        }
        futex_wait(word, 0, Some(Duration::from_secs(10)));
    }
}

/// The other process's main: it ends with its standard input.
pub(super) fn main(path: &str) -> io::Result<()> {
    // It may outlive a killed parent by one wait: no longer, by this.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let memory = Mapping::new(file.as_fd(), LEN, Access::ReadWrite)?;
    let words = memory.words();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut mode = [0];
    while (&socket).read(&mut mode)? == 1 {
        match mode[0] {
            b's' => {
                while take_spinning(&words[REQUEST]) != STOP {
                    words[REPLY].store(1, Release);
                }
            }
            b'f' => {
                while take_sleeping(&words[REQUEST]) != STOP {
                    words[REPLY].store(1, Release);
                    futex_wake(&words[REPLY]);
                }
            }
            _ => loop {
                let mut byte = [0];
                (&socket).read_exact(&mut byte)?;
                if byte[0] == b'x' {
                    break;
                }
                (&socket).write_all(b"r")?;
            },
        }
        (&socket).write_all(b"d")?;
    }
    Ok(())
}
