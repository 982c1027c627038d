//! What one writes by hand: tokio's `UnixStream`, a length, and bincode.

use bincode::config::standard;
use bincode::serde::{decode_from_slice, encode_into_std_write};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;

use super::Peer;
use crate::Outcome;
use crate::remote::Remote;

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Null,
    Echo(ByteBuf),
}

/// A stream of messages, with a buffer that is used again.
struct Messages {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Messages {
    async fn send(&mut self, message: &Message) -> Outcome<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        encode_into_std_write(message, &mut self.buffer, standard())?;
        let len = u32::try_from(self.buffer.len() - 4)?;
        self.buffer[..4].copy_from_slice(&len.to_le_bytes());
        Ok(self.stream.write_all(&self.buffer).await?)
    }

    async fn receive(&mut self) -> Outcome<Message> {
        let len = self.stream.read_u32_le().await?;
        self.buffer.resize(usize::try_from(len)?, 0);
        self.stream.read_exact(&mut self.buffer).await?;
        Ok(decode_from_slice(&self.buffer, standard())?.0)
    }
}

pub(crate) struct Stream {
    runtime: Runtime,
    messages: Messages,
    remote: Remote,
    _dir: TempDir,
}

impl Stream {
    pub(crate) fn start() -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let mut remote = Remote::start("stream", &path.display().to_string())?;
        remote.ready()?;
        let runtime = super::rpc::runtime()?;
        let stream = runtime.block_on(UnixStream::connect(&path))?;
        let messages = Messages { stream, buffer: Vec::new() };
        Ok(Self { runtime, messages, remote, _dir: dir })
    }

    fn call(&mut self, message: &Message) -> Outcome<Message> {
        let messages = &mut self.messages;
        self.runtime.block_on(async {
            messages.send(message).await?;
            messages.receive().await
        })
    }
}

impl Peer for Stream {
    fn null(&mut self) -> Outcome<()> {
        self.call(&Message::Null).map(drop)
    }

    fn echo(&mut self, data: &[u8]) -> Outcome<usize> {
        match self.call(&Message::Echo(ByteBuf::from(data)))? {
            Message::Echo(data) => Ok(data.len()),
            Message::Null => Err("another reply".into()),
        }
    }

    fn awake(&mut self, awake: bool) -> Outcome<()> {
        self.remote.awake(awake)
    }
}

pub(crate) fn serve(path: &str, ready: impl FnOnce()) -> Outcome<()> {
    super::rpc::runtime()?.block_on(async {
        let listener = UnixListener::bind(path)?;
        ready();
        let (stream, _) = listener.accept().await?;
        let mut messages = Messages { stream, buffer: Vec::new() };
        while let Ok(message) = messages.receive().await {
            messages.send(&message).await?;
        }
        Ok(())
    })
}
