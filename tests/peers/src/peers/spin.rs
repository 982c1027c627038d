//! The floor: one cache line there and back between two processes that spin.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use menagerie_protocol::shm::{Access, Mapping, sealed_memfd};

use super::Peer;
use crate::Outcome;
use crate::remote::Remote;

const LEN: usize = 4096;
/// Words on cache lines of their own.
const REQUEST: usize = 0;
const REPLY: usize = 64;

pub(crate) struct Spin {
    memory: Mapping,
    _fd: OwnedFd,
    remote: Remote,
}

impl Spin {
    pub(crate) fn start() -> Outcome<Self> {
        let fd = sealed_memfd("menagerie-peers", LEN)?;
        let memory = Mapping::new(fd.as_fd(), LEN, Access::ReadWrite)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let mut remote = Remote::start("spin", &path)?;
        remote.ready()?;
        Ok(Self { memory, _fd: fd, remote })
    }
}

impl Peer for Spin {
    fn null(&mut self) -> Outcome<()> {
        let words = self.memory.words();
        words[REQUEST].store(1, Release);
        take(&words[REPLY]);
        Ok(())
    }

    fn echo(&mut self, _data: &[u8]) -> Outcome<usize> {
        Err("the floor carries no bytes".into())
    }

    fn echoes(&self) -> bool {
        false
    }

    fn awake(&mut self, awake: bool) -> Outcome<()> {
        self.remote.awake(awake)
    }
}

#[inline]
fn take(word: &AtomicU64) {
    while word.load(Acquire) == 0 {
        std::hint::spin_loop();
    }
    word.store(0, Relaxed);
}

pub(crate) fn serve(path: &str, ready: impl FnOnce()) -> Outcome<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let memory = Mapping::new(file.as_fd(), LEN, Access::ReadWrite)?;
    let words = memory.words();
    ready();
    loop {
        take(&words[REQUEST]);
        words[REPLY].store(1, Release);
    }
}
