//! Pauses between looks at something that nobody tells of.

use std::time::Duration;

/// How long the next one is: twice as long each time, up to a bound. What comes soon is
/// seen soon, and what does not costs few wake-ups.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
    longest: Duration,
}

impl Pause {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound() {
        let mut pause = Pause::new(Duration::from_millis(2), Duration::from_millis(5));
        let pauses = [(); 4].map(|()| pause.next().as_millis());
        assert_eq!(pauses, [2, 4, 5, 5]);
    }
}
