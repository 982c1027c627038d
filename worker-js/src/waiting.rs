//! Sleeping on the lane's thread.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Sleeps until `wake` is readable or the time is over; true if `wake` is
/// readable.
pub(crate) fn sleep(wake: Option<BorrowedFd<'_>>, time: Option<Duration>) -> bool {
    let mut fds: Vec<_> = wake.iter().map(|wake| PollFd::new(*wake, PollFlags::POLLIN)).collect();
    // Interrupted by a signal, it wakes for nothing, which does no harm.
    let _ = ppoll(&mut fds, time.map(TimeSpec::from_duration), None);
    fds.first().is_some_and(|wake| wake.any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn sleep_ends_by_time_and_by_readiness() {
        let wake = EventFd::new().unwrap();
        assert!(!sleep(Some(wake.as_fd()), Some(Duration::ZERO)));
        assert!(!sleep(None, Some(Duration::from_millis(1))));
        wake.write(1).unwrap();
        assert!(sleep(Some(wake.as_fd()), None));
    }
}
