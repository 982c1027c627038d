//! Whether all that a worker has said on its control channel is read.

use tokio::sync::watch;

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
pub(super) struct Heard(watch::Receiver<bool>);

impl Heard {
    pub(super) fn new() -> (Reader, Self) {
        let (sender, all) = watch::channel(false);
        (Reader(sender), Self(all))
    }

    /// Waits until all is read, or nobody reads any more. When the process has ended that
    /// is soon: there is nothing to wait for but this runtime's own turn.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again.
    pub(super) async fn all(&self) {
        drop(self.0.clone().wait_for(|all| *all).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
