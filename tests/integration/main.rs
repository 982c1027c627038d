//! Tests of the whole: a supervisor with real workers.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod support;

// The same cases for every language: calls, values, errors, hooks, recovery.
mod conformance;
