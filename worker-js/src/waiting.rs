//! Sleeping on the lane's thread.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Sleeps until one of `wakes` is readable or the time is over; true if the
/// last of them is readable.
pub(crate) fn sleep(wakes: &[BorrowedFd<'_>], time: Option<Duration>) -> bool {
    let mut fds: Vec<_> = wakes.iter().map(|wake| PollFd::new(*wake, PollFlags::POLLIN)).collect();
    // Interrupted by a signal, it wakes for nothing, which does no harm.
    let _ = ppoll(&mut fds, time.map(TimeSpec::from_duration), None);
    fds.last().is_some_and(|wake| wake.any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn sleep_ends_by_time_and_by_readiness() {
        let (one, two) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let both = [one.as_fd(), two.as_fd()];
        assert!(!sleep(&both, Some(Duration::ZERO)));
        assert!(!sleep(&[], Some(Duration::from_millis(1))));
        one.write(1).unwrap();
        assert!(!sleep(&both, None));
        two.write(1).unwrap();
        assert!(sleep(&both, None));
    }
}
