//! One worker: its processes, one after the other, and its life.
//!
//! [`actor`] is the task that carries the life cycle out; the other modules are
//! the mechanisms that it uses.

mod actor;
mod alive;
mod child;
mod condition;
pub(crate) mod connection;
mod crash;
mod dying;
mod environment;
mod first_load;
pub(crate) mod gate;
pub(crate) mod handle;
mod heard;
mod heartbeat;
mod idle;
mod judge;
mod launch;
mod launching;
pub(crate) mod listener;
mod obituary;
mod operations;
mod output;
pub(crate) mod process;
mod questions;
pub(crate) mod reap;
mod restore;
mod roll;
mod rolling;
mod scratch;
mod sides;
pub(crate) mod spare;
pub(crate) mod spawn;
pub(crate) mod standby;
mod stop;
mod strangers;
mod succession;

pub use condition::Condition;
pub use reap::ResourceUsage;
