//! The native worker, in this process: bundles in Rust and C on the harness.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

mod support;

// What goes in and out: values of each kind, arguments that do not fit, errors.
mod calls;

// What menagerie.h promises to C beyond what the sample bundles use.
mod c_interface;

// The header itself: languages, warnings, and that abi.rs says the same.
mod header;

// Hooks, state, generations side by side, and that nothing of them stays.
mod generations;

// The copy that the supervisor hands on: what is mapped, that generations stay
// apart, and that nobody can write to it.
mod handed_on;

// Files that are no bundles.
mod artifacts;
