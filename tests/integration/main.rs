//! Tests of the whole: a supervisor with real workers.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

#[allow(dead_code, reason = "each module of tests uses a part of it")]
mod support;

// The same cases for every language: calls, values, errors, hooks, recovery.
mod conformance;

// A worker that misbehaves, by one switch for each fault: no hello, half a
// frame, a scribbled ring. What becomes of it, and that nobody else is touched.
mod faults;
