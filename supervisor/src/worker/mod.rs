//! One worker: its processes, one after the other, and its life.

pub(crate) mod actor;
pub(crate) mod connection;
mod gate;
pub(crate) mod listener;
mod output;
pub(crate) mod process;
mod questions;
mod reap;
pub(crate) mod spawn;
mod strangers;
