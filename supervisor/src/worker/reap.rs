//! Noticing deaths: by the child's pidfd, whatever the cause (S2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::io::Interest;

use crate::watched_fd::watch;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
    /// Somebody else has waited for it.
    Unknown,
}

impl End {
    /// In words: `signal 9 (SIGKILL)`, `exit code 1`.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Exit(code) => format!("exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => format!("signal {number} ({signal})"),
                Err(_) => format!("signal {number}"),
            },
            Self::Unknown => "ended, and somebody else has reaped it".to_owned(),
        }
    }
}

/// Waits until the process has ended, and reaps it.
pub(crate) async fn wait(pidfd: Arc<OwnedFd>) -> io::Result<End> {
    let watched = watch(pidfd.try_clone()?, Interest::READABLE)?;
    // A pidfd is readable from the process's end on, for ever (pidfd_open(2)).
    drop(watched.readable().await?);
    Ok(match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, code)) => End::Exit(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => End::Signal(signal as i32),
        Ok(_) | Err(_) => End::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_described_in_words() {
        assert_eq!(End::Exit(3).describe(), "exit code 3");
        assert_eq!(End::Signal(9).describe(), "signal 9 (SIGKILL)");
        assert_eq!(End::Signal(35).describe(), "signal 35");
    }
}
