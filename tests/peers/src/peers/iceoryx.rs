//! iceoryx2's request-response, both sides polling: its fastest way. Each
//! function is a service with a server of its own, so that no server polls for
//! what nobody asks at the time.

use iceoryx2::port::client::Client;
use iceoryx2::prelude::*;

use super::Peer;
use crate::Outcome;
use crate::remote::Remote;

type Service = ipc::Service;

/// What asks a server to end, so that it takes its files with it.
const END: u64 = u64::MAX;
const MOST: usize = 1 << 20;

pub(crate) struct Iceoryx {
    null: Client<Service, u64, (), u64, ()>,
    echo: Client<Service, [u8], (), [u8], ()>,
    null_remote: Remote,
    echo_remote: Remote,
    _node: Node<Service>,
}

fn node() -> Outcome<Node<Service>> {
    set_log_level(LogLevel::Error);
    Ok(NodeBuilder::new().create::<Service>()?)
}

impl Iceoryx {
    pub(crate) fn start() -> Outcome<Self> {
        let name = format!("menagerie-peers/{}", std::process::id());
        let mut null_remote = Remote::start("iceoryx2-null", &name)?;
        null_remote.ready()?;
        null_remote.awake(false)?;
        let mut echo_remote = Remote::start("iceoryx2-echo", &name)?;
        echo_remote.ready()?;
        echo_remote.awake(false)?;
        let node = node()?;
        let null = node
            .service_builder(&format!("{name}/null").as_str().try_into()?)
            .request_response::<u64, u64>()
            .open()?
            .client_builder()
            .create()?;
        let echo = node
            .service_builder(&format!("{name}/echo").as_str().try_into()?)
            .request_response::<[u8], [u8]>()
            .open()?
            .client_builder()
            .initial_max_slice_len(MOST)
            .create()?;
        Ok(Self { null, echo, null_remote, echo_remote, _node: node })
    }
}

impl Drop for Iceoryx {
    fn drop(&mut self) {
        if self.awake(true).is_ok() {
            let null = self.null.send_copy(END);
            let echo =
                self.echo.loan_slice_uninit(0).map(|request| request.write_from_slice(&[]).send());
            self.null_remote.end();
            self.echo_remote.end();
            drop((null, echo));
        }
    }
}

impl Peer for Iceoryx {
    fn null(&mut self) -> Outcome<()> {
        let pending = self.null.send_copy(1)?;
        while pending.receive()?.is_none() {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn echo(&mut self, data: &[u8]) -> Outcome<usize> {
        let pending = self.echo.loan_slice_uninit(data.len())?.write_from_slice(data).send()?;
        loop {
            if let Some(response) = pending.receive()? {
                return Ok(std::hint::black_box(response.payload()).len());
            }
            std::hint::spin_loop();
        }
    }

    fn awake(&mut self, awake: bool) -> Outcome<()> {
        self.null_remote.awake(awake)?;
        self.echo_remote.awake(awake)
    }

    fn times(&mut self, what: super::What<'_>, batches: u32, batch: u32) -> Outcome<Vec<f64>> {
        // Only the server that is called may poll.
        let idle = match what {
            super::What::Null => &self.echo_remote,
            super::What::Echo(_) => &self.null_remote,
        };
        idle.awake(false)?;
        let times = super::timed(self, what, batches, batch);
        self.awake(true)?;
        times
    }
}

pub(crate) fn serve_null(name: &str, ready: impl FnOnce()) -> Outcome<()> {
    let node = node()?;
    let service = node
        .service_builder(&format!("{name}/null").as_str().try_into()?)
        .request_response::<u64, u64>()
        .create()?;
    let server = service.server_builder().create()?;
    ready();
    loop {
        match server.receive()? {
            Some(request) if *request == END => return Ok(()),
            Some(request) => request.send_copy(*request)?,
            None => std::hint::spin_loop(),
        }
    }
}

pub(crate) fn serve_echo(name: &str, ready: impl FnOnce()) -> Outcome<()> {
    let node = node()?;
    let service = node
        .service_builder(&format!("{name}/echo").as_str().try_into()?)
        .request_response::<[u8], [u8]>()
        .create()?;
    let server = service.server_builder().initial_max_slice_len(MOST).create()?;
    ready();
    loop {
        match server.receive()? {
            Some(request) if request.payload().is_empty() => return Ok(()),
            Some(request) => {
                let data = request.payload();
                request.loan_slice_uninit(data.len())?.write_from_slice(data).send()?;
            }
            None => std::hint::spin_loop(),
        }
    }
}
