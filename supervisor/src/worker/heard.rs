//! Whether all that a worker has said on its control channel is read.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long the last message may come after the end: for ever, where a forked child
/// has the socket too.
const LAST_MESSAGE: Duration = Duration::from_millis(50);

/// Whoever reads tells it here.
#[derive(Debug)]
pub(super) struct Reader(watch::Sender<bool>);

impl Reader {
    /// Nothing is left to be read.
    pub(super) fn is_heard(&self) {
        self.0.send_replace(true);
    }
}

/// And others wait for it.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    all: watch::Receiver<bool>,
    /// Until when the last message may come, once the process has ended.
    until: OnceLock<Instant>,
}

impl Heard {
    pub(super) fn new() -> (Reader, Self) {
        let (sender, all) = watch::channel(false);
        (Reader(sender), Self { all, until: OnceLock::new() })
    }

    /// Waits until all is read, or nobody reads any more.
    pub(super) async fn all(&self) {
        drop(self.all.clone().wait_for(|all| *all).await);
    }

    /// The process has ended: waits for its last message, which may say whose fault
    /// that was. The kernel closes a process's sockets before it tells of the end, so
    /// there is nothing to wait for but this runtime's own turn.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again, and then no longer than until the same moment.
    pub(super) async fn last_message(&self) {
        let until = *self.until.get_or_init(|| Instant::now() + LAST_MESSAGE);
        drop(tokio::time::timeout_at(until, self.all()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s2_the_last_message_is_waited_for_until_one_moment() {
        let (reader, heard) = Heard::new();
        let give_up = Instant::now() + Duration::from_secs(60);
        // Something else happens again and again, each time before the time is up.
        loop {
            tokio::select! {
                () = heard.last_message() => break,
                () = tokio::time::sleep(LAST_MESSAGE / 10) => {}
            }
            assert!(Instant::now() < give_up, "it waits for ever");
        }
        reader.is_heard();
        heard.all().await;
    }

    #[tokio::test]
    async fn s2_a_last_message_that_was_read_or_will_not_be_is_not_waited_for() {
        let (reader, heard) = Heard::new();
        reader.is_heard();
        heard.all().await;
        let (reader, heard) = Heard::new();
        drop(reader);
        heard.all().await;
    }
}
