//! tarpc over a Unix socket, with bincode.

use futures_util::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Peer;
use crate::Outcome;
use crate::remote::Remote;

#[tarpc::service]
trait Probe {
    async fn null();
    async fn echo(data: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Server;

impl Probe for Server {
    async fn null(self, _: context::Context) {}

    async fn echo(self, _: context::Context, data: ByteBuf) -> ByteBuf {
        data
    }
}

pub(crate) struct Rpc {
    runtime: Runtime,
    client: ProbeClient,
    remote: Remote,
    _dir: TempDir,
}

/// One thread: the fewest hands that a call passes through.
pub(super) fn runtime() -> Outcome<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

impl Rpc {
    pub(crate) fn start() -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let mut remote = Remote::start("tarpc", &path.display().to_string())?;
        remote.ready()?;
        let runtime = runtime()?;
        let client = runtime.block_on(async {
            let transport = serde_transport::unix::connect(&path, Bincode::default).await?;
            Ok::<_, std::io::Error>(ProbeClient::new(client::Config::default(), transport).spawn())
        })?;
        Ok(Self { runtime, client, remote, _dir: dir })
    }
}

impl Peer for Rpc {
    fn null(&mut self) -> Outcome<()> {
        Ok(self.runtime.block_on(self.client.null(context::current()))?)
    }

    fn echo(&mut self, data: &[u8]) -> Outcome<usize> {
        let call = self.client.echo(context::current(), ByteBuf::from(data));
        Ok(self.runtime.block_on(call)?.len())
    }

    fn awake(&mut self, awake: bool) -> Outcome<()> {
        self.remote.awake(awake)
    }
}

pub(crate) fn serve(path: &str, ready: impl FnOnce()) -> Outcome<()> {
    runtime()?.block_on(async {
        let mut incoming = serde_transport::unix::listen(path, Bincode::default).await?;
        ready();
        while let Some(transport) = incoming.next().await {
            let requests = BaseChannel::with_defaults(transport?).execute(Server.serve());
            requests
                .for_each(|answer| async {
                    tokio::spawn(answer);
                })
                .await;
        }
        Ok(())
    })
}
