//! One worker: its processes, one after the other, and its life.

pub(crate) mod actor;
pub(crate) mod connection;
pub(crate) mod listener;
mod output;
pub(crate) mod process;
mod reap;
pub(crate) mod spawn;
