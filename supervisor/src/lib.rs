//! Menagerie's supervisor: what a host embeds to run plugins in worker
//! processes of their own, one for each language's VM, so that a plugin that
//! crashes, hangs or leaks never takes the host down.
//!
//! Start with [`Supervisor::builder`]; load bundles with [`Supervisor::load`];
//! call them through the [`Contract`] that [`Supervisor::contract`] finds.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod artifact;
mod blame;
mod blocking;
mod builder;
mod bundle;
mod call;
mod chain;
mod config;
mod core;
mod counters;
mod discovery;
pub mod doctor;
mod events;
mod hand_over;
mod history;
mod host;
mod http;
mod lane;
mod lifecycle;
mod locate;
mod logs;
mod mend;
mod outcall;
mod pause;
mod placement;
mod proc_stat;
mod random;
mod reconcile;
mod registry;
mod reload;
mod remove;
mod replicate;
mod restart;
mod runtime_dir;
mod sandbox;
mod seat;
mod shutdown;
mod signature;
mod status;
mod supervisor;
mod tally;
mod timer;
mod to_its_end;
mod unload;
mod waits;
mod watch;
mod watched_fd;
mod worker;

pub use builder::{StartError, SupervisorBuilder};
pub use call::Contract;
pub use config::file::{ConfigFile, FileError};
pub use config::log::check_log;
pub use config::{Config, ConfigError, units};
pub use discovery::LoadStep;
pub use events::{Event, EventKind, Events, NextEvent};
pub use host::{HostContract, HostContractError, HostError, HostFunction, IntoAnswer, Returned};
pub use http::{
    Access, BindError, StatusConfig, StatusSocket, check_values, default_socket, is_trusted,
};
pub use lifecycle::{PolicyError, RestartPolicy, WorkerState};
pub use locate::{ENV_WORKER_DIR, LOADERS, worker_program};
pub use logs::LogEntry;
pub use menagerie_protocol::contract::{ContractId, ContractSyntaxError};
pub use menagerie_protocol::loader::manifest::DependencyKind;
pub use menagerie_protocol::message::LogLevel;
pub use menagerie_protocol::{
    BundleId, Compatibility, Failure, GuestError, LoaderError, RuntimeError, SupportedLanguage,
};
pub use placement::{Isolation, UnknownIsolation};
pub use reconcile::Reconciled;
pub use rmpv;
pub use sandbox::{Grant, Sandbox, UnknownSandbox};
pub use serde_bytes::{ByteBuf, Bytes};
pub use signature::{
    KeyError, PublicKey, SIGNATURE_FILE, SignatureConfig, SignaturePolicy, SignatureState,
    SignatureStatus, SignedBundle, SigningKey, sign_bundle,
};
pub use status::{
    Activity, BundleState, BundleStatus, CallStatus, Condition, ContractStatus, CrashReport,
    ReplicaStatus, ResourceUsage, RunningCall, SandboxStatus, StandbyStatus, Status, WorkerStatus,
};
pub use supervisor::Supervisor;
pub use watch::{Watch, WatchSettings};

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeExamples;

#[cfg(doctest)]
#[doc = include_str!("../../docs/getting-started.md")]
struct GettingStartedExamples;
