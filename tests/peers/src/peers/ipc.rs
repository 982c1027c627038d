//! ipc-channel: bincode over a Unix socket; bytes as shared memory, which is
//! its faster way and what its documentation advises.

use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory, channel};
use serde::{Deserialize, Serialize};

use super::Peer;
use crate::Outcome;
use crate::remote::Remote;

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Null,
    Echo(IpcSharedMemory),
}

type Ends = (IpcSender<Message>, IpcReceiver<Message>);

pub(crate) struct Ipc {
    requests: IpcSender<Message>,
    replies: IpcReceiver<Message>,
    remote: Remote,
}

impl Ipc {
    pub(crate) fn start() -> Outcome<Self> {
        let (server, name) = IpcOneShotServer::<Ends>::new()?;
        let mut remote = Remote::start("ipc-channel", &name)?;
        remote.ready()?;
        let (_, (requests, replies)) = server.accept()?;
        Ok(Self { requests, replies, remote })
    }
}

impl Peer for Ipc {
    fn null(&mut self) -> Outcome<()> {
        self.requests.send(Message::Null)?;
        match self.replies.recv()? {
            Message::Null => Ok(()),
            Message::Echo(_) => Err("another reply".into()),
        }
    }

    fn echo(&mut self, data: &[u8]) -> Outcome<usize> {
        self.requests.send(Message::Echo(IpcSharedMemory::from_bytes(data)))?;
        match self.replies.recv()? {
            Message::Echo(memory) => Ok(std::hint::black_box(&*memory).len()),
            Message::Null => Err("another reply".into()),
        }
    }

    fn awake(&mut self, awake: bool) -> Outcome<()> {
        self.remote.awake(awake)
    }
}

pub(crate) fn serve(name: &str, ready: impl FnOnce()) -> Outcome<()> {
    let (their_requests, requests) = channel::<Message>()?;
    let (replies, their_replies) = channel::<Message>()?;
    IpcSender::<Ends>::connect(name.to_owned())?.send((their_requests, their_replies))?;
    ready();
    while let Ok(message) = requests.recv() {
        replies.send(message)?;
    }
    Ok(())
}
