//! Tests of the whole: a supervisor with real workers.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[allow(dead_code, reason = "each module of tests uses a part of it")]
mod support;

// The same cases for every language: calls, values, errors, hooks, recovery.
mod conformance;

// What a host or a bundle gets wrong, in every language: the error is typed and
// clear, and nobody else notices.
mod bad_input;

// What bundles print and log reaches the host's `tracing`, with its origin.
mod output;

// A worker that misbehaves, by one switch for each fault: no hello, half a
// frame, a scribbled ring. What becomes of it, and that nobody else is touched.
mod faults;

// Calls of bundles of every language to the host and to each other (rule C5):
// host contracts, providers that die, chains that come back.
mod outcalls;

// Asynchronous functions: what they know after an await, and calls that their
// own bundle gives up.
mod asynchronous;

// Hooks: what they may wait for, and what is left when they fail.
mod hooks;

// Hosts without tokio, or with a runtime that lacks something.
mod executors;

// Contracts and functions of the longest names, through every language.
mod long_names;

// Bundles that fork: one process answers.
mod forks;

// Bundles that provide for each other and depend on each other: look-up, order,
// cycles, cascades, what comes back in which order.
mod registry;
mod rules;

// Signed bundles: who is let in, and that what is served is what was checked.
mod signatures;

// Bundles in the strict sandbox: what they reach, and what they are granted.
mod sandbox;

// Deaths, blame, isolation, standbys, restarts without a pause: what the
// supervisor makes of real workers that die.
mod supervision;

// Files of bundles that are edited, torn and replaced while they run.
mod watch;

// What unloading and reloading frees, in a few rounds.
mod reclaim;

// Lanes between two processes, without a supervisor: every byte of frames of
// every size.
mod lanes;
