//! The load that is on its way before its worker says hello. What the worker loads first
//! is known when it is started: it finds the request on a socket of its own as soon as it
//! has said hello, and need not wait until that was read and answered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use menagerie_protocol::control::{frame, send_some};
use menagerie_protocol::message::{LaneId, LoadRequest, ToWorker};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::bundle::{Bundle, Content};
use crate::config::Config;
use crate::lane::Draft;
use crate::locate;
use crate::sandbox::{Rights, are_same};

/// The lane that it is for.
const LANE: LaneId = 1;
/// What surely fits into an empty socket, in bytes: 208 KiB do, as Linux comes
/// (socket(7), `wmem_default`), and what the kernel needs beside them. A larger one waits
/// for the hello.
const MAX: usize = 64 << 10;

/// The socket on which it travels: our end, and the worker's.
#[derive(Debug)]
pub(super) struct Way {
    ours: UnixStream,
    theirs: OwnedFd,
}

impl Way {
    pub(super) fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok(Self { ours, theirs: theirs.into() })
    }

    /// Our end, and the worker's.
    pub(super) fn into_ends(self) -> (UnixStream, OwnedFd) {
        (self.ours, self.theirs)
    }
}

/// A bundle that can be loaded first.
#[derive(Debug)]
pub(super) struct Chosen {
    bundle: Arc<Bundle>,
    content: Arc<Content>,
    copy: Option<OwnedFd>,
}

impl Chosen {
    /// Does what comes before a load into a process with these rights. Whatever is wrong is said when the bundle is loaded
    /// in the ordinary way.
    pub(super) async fn new(bundle: Arc<Bundle>, rights: Option<&Arc<Rights>>) -> Option<Self> {
        let content = bundle.content();
        if !are_same(rights, content.rights.as_ref()) {
            return None;
        }
        content.check(&bundle.loader).await.ok()?;
        let copy = content.copy(locate::maps_artifacts(&bundle.loader)).await;
        Some(Self { bundle, content, copy })
    }

    /// Sends the request, if it goes at once.
    pub(super) fn send(
        self,
        config: &Config,
        mut lane: Draft,
        socket: UnixStream,
    ) -> Option<FirstLoad> {
        let Self { bundle, content, copy } = self;
        let generation = bundle.next_generation();
        let message = load_message(config, &content, LANE, generation, false, copy.is_some());
        let bytes = frame(&message).ok()?;
        if bytes.len() > MAX {
            return None;
        }
        let fds: Vec<OwnedFd> = lane.take_descriptors().into_iter().chain(copy).collect();
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = send_some(socket.as_fd(), &bytes, &raw).ok()?;
        (sent == bytes.len()).then_some(FirstLoad { bundle, content, generation, lane, socket })
    }
}

/// One that was sent.
#[derive(Debug)]
pub(crate) struct FirstLoad {
    pub(super) bundle: Arc<Bundle>,
    pub(super) content: Arc<Content>,
    pub(super) generation: u32,
    pub(super) lane: Draft,
    socket: UnixStream,
}

impl FirstLoad {
    /// Whether a worker that has ended has read it: it had said hello then.
    pub(super) fn was_read(&self) -> bool {
        let mut nothing = [0];
        // The kernel tells of what the other end had not read when it was closed.
        let end = recv(self.socket.as_raw_fd(), &mut nothing, MsgFlags::MSG_DONTWAIT);
        end != Err(Errno::ECONNRESET)
    }
}

/// What asks a worker to load something, with its artifact's copy or without.
pub(super) fn load_message(
    config: &Config,
    content: &Content,
    lane: LaneId,
    generation: u32,
    reload: bool,
    copy: bool,
) -> ToWorker {
    let message = if copy { ToWorker::LoadCopy } else { ToWorker::Load };
    message(Box::new(LoadRequest {
        lane,
        generation,
        reload,
        manifest: (*content.manifest).clone(),
        source: content.source.clone(),
        ring_slots: config.ring_slots,
        max_payload: config.max_payload,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use menagerie_protocol::control::{Connection, Inbox};
    use menagerie_protocol::{BundleSource, ManifestData};

    use super::*;
    use crate::lane::LaneLimits;

    fn chosen(code: &str) -> Chosen {
        let text = "name = 'one'\nloader = 'lua'\nfile = 'main.lua'";
        let manifest = ManifestData::parse(text).unwrap().manifest;
        let content = Content::plain(manifest, BundleSource::Code(code.to_owned()));
        let bundle = Bundle::new(content, None);
        let content = bundle.content();
        Chosen { bundle, content, copy: None }
    }

    /// What was sent, if it was, and the worker's end.
    fn send(code: &str) -> (Option<FirstLoad>, UnixStream) {
        let config = Config::default();
        let draft = Draft::new(LaneLimits::of(&config)).unwrap();
        let (ours, theirs) = Way::new().unwrap().into_ends();
        (chosen(code).send(&config, draft, ours), theirs.into())
    }

    #[test]
    fn s4_a_first_load_tells_whether_it_was_read() {
        let (sent, theirs) = send("return {}");
        let sent = sent.unwrap();
        drop(theirs);
        assert!(!sent.was_read());
        let (sent, theirs) = send("return {}");
        let (sent, connection) = (sent.unwrap(), Connection::new(theirs.into()));
        let mut inbox = Inbox::default();
        let ToWorker::Load(request) = connection.receive(&mut inbox).unwrap() else { panic!() };
        assert_eq!((request.lane, request.generation), (LANE, sent.generation));
        assert_eq!(std::iter::from_fn(|| inbox.descriptor().ok()).count(), 4);
        drop(connection);
        assert!(sent.was_read());
    }

    #[test]
    fn s4_a_first_load_that_might_not_fit_is_not_sent() {
        let (sent, mut theirs) = send(&"-".repeat(MAX));
        assert!(sent.is_none());
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "nothing came");
    }
}
