//! The control channel's messages. `docs/protocol.md` describes them on the
//! wire.

use std::num::NonZero;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::MAX_MESSAGE;
use crate::error::{GuestError, LoaderError};
use crate::instance::ContractInterface;
use crate::language::SupportedLanguage;
use crate::loader::bundle_source::BundleSource;
use crate::loader::manifest::ManifestData;

/// What a hello begins with: `MNGR`.
pub const MAGIC: u32 = u32::from_be_bytes(*b"MNGR");

/// The protocol's version: peers of another major version are refused; minor
/// versions add what older peers may ignore.
pub const PROTOCOL_VERSION: (u16, u16) = (1, 0);

/// The largest state that `on_unload` can leave to the next generation, in bytes of
/// MessagePack: it has to fit into one message, which is a little more.
pub const MAX_STATE: usize = MAX_MESSAGE - 1024;

/// The environment variable with the control socket's path.
pub const ENV_SOCKET: &str = "MENAGERIE_CONTROL_SOCKET";
/// The environment variable with the one-time token, in hexadecimal digits.
pub const ENV_TOKEN: &str = "MENAGERIE_TOKEN";
/// The environment variable with the worker's scratch folder.
pub const ENV_SCRATCH: &str = "MENAGERIE_SCRATCH";
/// Set to `1` for a standby: nothing waits for it, so it may prepare for bundles
/// as long as it likes (S8).
pub const ENV_STANDBY: &str = "MENAGERIE_STANDBY";

/// The environment variable with the number of a descriptor on which the first load may
/// come ([`FEATURE_FIRST_LOAD`]).
pub const ENV_FIRST_LOAD: &str = "MENAGERIE_FIRST_LOAD";

/// The environment variable with the number of CPUs that the supervisor and its workers
/// may use: to find that out reads several files, which a start need not wait for.
pub const ENV_CPUS: &str = "MENAGERIE_CPUS";

/// The environment variable with the time in milliseconds that a call has to stop when it
/// was asked to, before it costs the worker its life (S6).
pub const ENV_GRACE: &str = "MENAGERIE_GRACE_MS";

/// What a worker exits with that cannot enter its sandbox ([`crate::sandbox`]); its
/// standard error says why.
pub const EXIT_NO_SANDBOX: i32 = 75;

/// What a worker exits with whose control socket does not work any more: code in its
/// own process has closed it, or another descriptor has its number now.
pub const EXIT_CONTROL_LOST: i32 = 74;

/// The target of a record of level error by which a worker says that it is about to
/// end, and that the bundle which the record names has brought it about: by an
/// exception that nobody catches, or by ending a thread that is not its own.
pub const ENDED_BY: &str = "unhandled";

/// The feature of a worker that takes [`ToWorker::LoadCopy`].
pub const FEATURE_COPY: &str = "private-copy";

/// The feature of a worker that, once it has said hello, waits for a [`ToWorker::Load`] or
/// [`ToWorker::LoadCopy`] on the socket that [`ENV_FIRST_LOAD`] names, if it does, or for
/// that socket's end: the supervisor has sent it when it knew what to load, before the
/// hello, most often, so that it is there.
pub const FEATURE_FIRST_LOAD: &str = "first-load";

/// The feature of a worker whose lanes' threads need one lock that any of them may keep,
/// as an interpreter's is: a call that does not end may only wait for another bundle's.
pub const FEATURE_SHARED_LOCK: &str = "shared-lock";

/// A lane's number, unique within one incarnation of a worker.
pub type LaneId = u32;

/// The worker's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`PROTOCOL_VERSION`].
    pub version: (u16, u16),
    /// The token that the worker was started with.
    pub token: String,
    /// The loader's name.
    pub loader: String,
    /// The loader's language.
    pub language: SupportedLanguage,
    /// Whether the loader can reload.
    pub supports_hot_reload: bool,
    /// The runtime, for example `CPython 3.11.7`.
    pub runtime: String,
    /// Optional features that this worker has; unknown ones are ignored.
    pub features: Vec<String>,
}

impl Hello {
    /// Whether the worker has an optional feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|other| other == feature)
    }
}

/// From the supervisor to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The hello was accepted.
    Welcome,
    /// Start a lane and load a bundle on it. With it come four descriptors:
    /// the memfd that the supervisor writes, the memfd that the worker writes,
    /// the wake socket that wakes the supervisor, the wake socket that wakes the lane.
    Load(Box<LoadRequest>),
    /// Ask the guest to stop a call (S6).
    Interrupt {
        /// The lane.
        lane: LaneId,
        /// The call's id in its frame.
        call: u64,
    },
    /// A shared segment; its memfd comes with it.
    Segment {
        /// The lane.
        lane: LaneId,
        /// The segment's number within the lane.
        segment: u32,
        /// Its length in bytes.
        len: u64,
        /// Whether the worker may write it.
        writable: bool,
    },
    /// Answer with [`ToSupervisor::Pong`].
    Ping {
        /// To be repeated.
        nonce: u64,
    },
    /// Unload everything and exit.
    Shutdown,
    /// Memory whose first word is made a robust futex of the thread that reads this
    /// channel ([`crate::robust`]); its memfd comes with it. Only workers that have
    /// said that they have this feature get it.
    RobustFutex,
    /// As [`ToWorker::Load`], with a fifth descriptor: the sealed copy of the
    /// artifact that is to be loaded. Only to workers with [`FEATURE_COPY`].
    LoadCopy(Box<LoadRequest>),
}

/// What is loaded how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The new lane.
    pub lane: LaneId,
    /// How many times the bundle has been loaded, this time included.
    pub generation: u32,
    /// Whether it is a reload, beside a running generation: then `on_load` is
    /// not run until [`LaneCommand::Resume`].
    pub reload: bool,
    /// The manifest.
    pub manifest: ManifestData,
    /// The source.
    pub source: BundleSource,
    /// The shape of the lane's rings, in slots.
    pub ring_slots: u32,
    /// The largest payload of a call or a result, in bytes.
    pub max_payload: u64,
}

/// To a lane itself, in order with its calls: these travel on its ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneCommand {
    /// Run `on_unload`, and answer with [`ToSupervisor::Finished`]. No call
    /// follows before [`LaneCommand::Resume`] or [`LaneCommand::Unload`], unless
    /// the answer is an error: then the generation goes on as it is.
    Finish,
    /// Run `on_load` with this state, and answer with
    /// [`ToSupervisor::Resumed`].
    Resume {
        /// What `on_unload` returned: a MessagePack value.
        state: Option<Vec<u8>>,
    },
    /// End the lane (`on_unload` runs unless it has), and answer with
    /// [`ToSupervisor::Unloaded`].
    Unload,
}

/// From a worker to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The first message.
    Hello(Hello),
    /// A lane has loaded its bundle.
    Loaded {
        /// The lane.
        lane: LaneId,
        /// What it registered; function ids count through it.
        contracts: Vec<ContractInterface>,
    },
    /// A lane could not load its bundle, and has ended.
    LoadFailed {
        /// The lane.
        lane: LaneId,
        /// Why.
        error: LoaderError,
    },
    /// `on_unload` has run.
    Finished {
        /// The lane.
        lane: LaneId,
        /// What it returned, at most [`MAX_STATE`] bytes, or threw.
        state: Result<Option<Vec<u8>>, GuestError>,
    },
    /// `on_load` has run.
    Resumed {
        /// The lane.
        lane: LaneId,
        /// What it threw.
        outcome: Result<(), GuestError>,
    },
    /// A lane has ended, and all of its generation was freed.
    Unloaded {
        /// The lane.
        lane: LaneId,
    },
    /// The lane needs a segment of its own to write.
    WantSegment {
        /// The lane.
        lane: LaneId,
        /// The least length in bytes.
        len: u64,
    },
    /// A log record.
    Log(LogRecord),
    /// The answer to [`ToWorker::Ping`].
    Pong {
        /// The ping's.
        nonce: u64,
    },
}

/// How grave a log record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For whoever follows every step.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// For everybody.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// A line of a bundle's or a worker's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The bundle, where it is known.
    pub bundle: Option<String>,
    /// How grave it is.
    pub level: LogLevel,
    /// Where it comes from: `stdout`, `stderr`, `console`, `logging.NAME`, `log`.
    pub target: String,
    /// The text, without a line end.
    pub message: String,
}

/// What a worker's `main` is started with, read from its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEnvironment {
    /// The control socket.
    pub socket: PathBuf,
    /// The one-time token.
    pub token: String,
    /// The scratch folder.
    pub scratch: PathBuf,
    /// Whether it is a standby.
    pub standby: bool,
    /// The socket of the first load.
    pub first_load: Option<RawFd>,
    /// The number of CPUs that it and its supervisor may use.
    pub cpus: Option<NonZero<u32>>,
    /// How long a call has to stop when it was asked to, if the supervisor says so.
    pub grace: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variants of a message type, in order, with their numbers on the
    /// wire, read off this very file.
    fn variants(of: &str) -> Vec<String> {
        let source = include_str!("message.rs");
        let start = source.find(&format!("pub enum {of} {{")).unwrap();
        let body = &source[start..];
        let body = &body[..body.find("\n}\n").unwrap()];
        body.lines()
            .filter_map(|line| line.strip_prefix("    "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
            .map(|line| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn protocol_document_matches_the_messages() {
        let document = include_str!("../../docs/protocol.md");
        for of in ["ToWorker", "ToSupervisor"] {
            let section = &document[document.find(&format!("(`{of}`)")).unwrap()..];
            let section = &section[..section.find("\n\n").map_or(section.len(), |at| {
                at + 2 + section[at + 2..].find("\n\n").unwrap_or(section.len() - at - 2)
            })];
            let listed: Vec<String> = section
                .lines()
                .filter_map(|line| line.strip_prefix("| `"))
                .map(|line| line.split('`').next().unwrap().to_owned())
                .collect();
            assert_eq!(listed, variants(of), "docs/protocol.md and {of}");
        }
        let version = format!("Version {}.{}.", PROTOCOL_VERSION.0, PROTOCOL_VERSION.1);
        assert!(document.contains(&version), "{version}");
        let others =
            [ENV_STANDBY, ENV_FIRST_LOAD, ENV_CPUS, ENV_GRACE, crate::sandbox::ENV_SANDBOX];
        for name in [ENV_SOCKET, ENV_TOKEN, ENV_SCRATCH].into_iter().chain(others) {
            assert!(document.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
