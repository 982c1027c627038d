//! Native Menagerie bundles in Rust: a `cdylib` whose functions are contracts.
//!
//! ```
//! struct Greeter;
//!
//! #[menagerie_guest::contract("greeter@1")]
//! impl Greeter {
//!     fn greet(name: String) -> String {
//!         format!("Hello, {name}")
//!     }
//! }
//! ```
//!
//! [`contract`] says what functions may look like.

pub mod abi;
mod bytes;
mod call;
mod codec;
mod context;
mod contract;
mod error;
mod host;
mod log;
mod panic;
mod raw;
mod run;
mod value;

pub use bytes::{ByteBuf, Bytes};
pub use call::{CallError, call};
pub use codec::CodecError;
pub use context::Context;
pub use contract::Contract;
pub use error::Error;
pub use host::{Level, log};
pub use menagerie_guest_macros::{contract, on_load, on_unload};
pub use raw::Raw;
pub use value::Value;

#[doc(hidden)]
pub mod __private {
    //! What the macros' code refers to.

    pub use crate::contract::{Part, hooks_are_unique, init, one_hook};
    pub use crate::run::{
        Args, CallRef, Fault, Returned, SendSerialized, Sending, SettleDisplayed, SettlePlain, run,
    };
}

/// The Rust on the page about writing bundles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/bundles.md")]
struct BundleExamples;
