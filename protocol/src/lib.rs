//! What both sides of Menagerie keep: ids, errors, the manifest, the loader's
//! contract, the control messages, and the lanes that calls travel on.
//!
//! A worker's `main` is one call to [`serve::serve`] with its
//! [`BundleLoader`]. A host does not use this crate
//! directly: it embeds `menagerie-supervisor`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod codec;
pub mod contract;
pub mod control;
pub mod error;
pub mod id;
pub mod instance;
pub mod lane;
pub mod language;
pub mod loader;
pub mod message;
pub mod msgpack;
pub mod ring;
pub mod robust;
pub mod runtime;
pub mod sandbox;
pub mod serve;
pub mod shm;
mod short;
pub mod testing;

pub use contract::{Compatibility, ContractId, ContractRequest};
pub use error::{Failure, GuestError, LoaderError, RuntimeError};
pub use id::BundleId;
pub use instance::{Args, ContractInterface, FunctionId, Instance, Interrupt};
pub use language::SupportedLanguage;
pub use loader::{BundleLoader, bundle_source::BundleSource, manifest::ManifestData};
pub use runtime::{Host, Logger, Reply, Runtime};
