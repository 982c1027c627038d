//! A connection whose client may hang up.

use std::io::{ErrorKind, IoSlice, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What a socket of tokio's can do, of either kind.
pub(super) trait Socket: AsyncRead + AsyncWrite + AsFd + Unpin {
    /// Waits until there may be room.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<()>>;
    /// Sends, or takes note that there is no room.
    fn try_send(&self, send: impl FnOnce() -> Result<usize>) -> Result<usize>;
}

macro_rules! sockets {
    ($($socket:ty),*) => {$(
        impl Socket for $socket {
            fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
                self.poll_write_ready(context)
            }

            fn try_send(&self, send: impl FnOnce() -> Result<usize>) -> Result<usize> {
                self.try_io(Interest::WRITABLE, send)
            }
        }
    )*};
}

sockets!(UnixStream, TcpStream);

/// A socket that sends no SIGPIPE when its client has gone, as writev(2) does: it would
/// kill a host that does not ignore it.
#[derive(Debug)]
pub(super) struct Quiet<S>(pub(super) S);

impl<S: Socket> Quiet<S> {
    fn send(&self, slices: &[IoSlice<'_>]) -> Result<usize> {
        self.0.try_send(|| {
            let socket = self.0.as_fd().as_raw_fd();
            loop {
                match sendmsg::<()>(socket, slices, &[], MsgFlags::MSG_NOSIGNAL, None) {
                    Err(Errno::EINTR) => {}
                    sent => return Ok(sent?),
                }
            }
        })
    }
}

impl<S: Socket> AsyncRead for Quiet<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: Socket> AsyncWrite for Quiet<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        loop {
            ready!(self.0.poll_room(context))?;
            match self.send(slices) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Whether a SIGPIPE was sent to this thread, which blocks it: it stays then, also where
    /// the process ignores it.
    fn is_told_by_a_signal() -> bool {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap();
        let pending = u64::from_str_radix(pending.trim(), 16).unwrap();
        pending & (1 << (Signal::SIGPIPE as u32 - 1)) != 0
    }

    async fn hears_by_an_error(mut socket: impl AsyncWrite + Unpin) {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGPIPE);
        blocked.thread_block().unwrap();
        // By TCP the client's system says so after the first.
        let error = loop {
            if let Err(error) = socket.write_vectored(&[IoSlice::new(b"a")]).await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(gone.contains(&error.kind()), "{error}");
        assert!(socket.write(b"b").await.is_err());
        assert!(!is_told_by_a_signal());
    }

    #[tokio::test]
    async fn g_a_client_that_hangs_up_costs_its_host_no_signal() {
        let (server, client) = UnixStream::pair().unwrap();
        drop(client);
        hears_by_an_error(Quiet(server)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        drop(client.unwrap());
        hears_by_an_error(Quiet(server.unwrap().0)).await;
    }

    #[tokio::test]
    async fn g_what_the_system_has_no_room_for_waits() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let sent: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let bytes = sent.clone();
        let sends = tokio::spawn(async move { Quiet(server).write_all(&bytes).await });
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        sends.await.unwrap().unwrap();
        assert!(read == sent);
    }
}
