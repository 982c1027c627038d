//! A connection whose client has to read.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that fails when nothing of what is written to it has been read for so long:
/// who reads, however slowly, may take any time.
#[derive(Debug)]
pub(super) struct Patience<S> {
    stream: S,
    limit: Duration,
    /// Runs while something waits to be written.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patience<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waits: None }
    }

    /// What a step of writing has come to, held against the clock.
    fn judge<T>(&mut self, context: &mut Context<'_>, step: Poll<Result<T>>) -> Poll<Result<T>> {
        if step.is_ready() {
            self.waits = None;
            return step;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        ready!(waits.as_mut().poll(context));
        let text = format!("the client has read nothing for {:?}", self.limit);
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patience<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn g_a_client_that_reads_nothing_is_given_up() {
        let (_client, server) = duplex(4);
        let mut server = Patience::new(server, Duration::from_millis(5));
        // What the kernel takes at once waits for nobody.
        server.write_all(b"abcd").await.unwrap();
        let error = server.write_all(b"e").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }

    #[tokio::test]
    async fn g_a_client_that_reads_slowly_is_not() {
        let (mut client, server) = duplex(1);
        // Longer than any stop of the machine; the clock begins anew with each byte.
        let mut server = Patience::new(server, Duration::from_secs(600));
        let writes = tokio::spawn(async move {
            for byte in 0..64 {
                server.write_all(&[byte]).await.unwrap();
                assert!(server.waits.is_none(), "a clock runs, and nothing waits");
            }
        });
        for byte in 0..64 {
            tokio::task::yield_now().await;
            assert_eq!(client.read_u8().await.unwrap(), byte);
        }
        writes.await.unwrap();
    }
}
