//! The .NET worker of Menagerie: a loader that hosts CoreCLR, and a bridge
//! written in C# (`bridge/`) that reads arguments and writes results on its
//! own side, so that a call crosses between the two once.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod abi;
mod clr;
mod guest_error;
mod icu;
mod image;
mod instance;
mod lanes;
mod loader;
mod rehearsal;
mod search;
mod siblings;
mod signals;

pub use loader::DotnetLoader;
pub use search::{Installation, Search};
