//! The `menagerie` program, as a person uses it: against a supervisor of its
//! own, with the Lua worker, which is built with the workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

// What all of them use.
mod running;

// Exit codes and arguments; the doctor.
mod usage;

// Calls and operations, and what people read of bundles, workers and crashes.
mod acting;

// Signals, killed hosts, sockets that are in use.
mod ending;

// A service of systemd's.
mod systemd;

// Folders of bundles, watched and not.
mod folders;

// keygen, sign, check, and what is run of it.
mod signing;
