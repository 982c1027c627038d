//! The Python loader, driven through lanes in this process.

#![allow(clippy::unwrap_used, reason = "a test panics where it should fail")]

// What all of them use: bundles written into temporary folders.
mod support;

// Arguments, results, kinds and numbers of them (C1, C2).
mod values;

// Exceptions, cancellation, recursion (C3, S6).
mod errors;

// `async` functions (C6).
mod asynchronous;

// How they are stopped (S6).
mod stops;

// Calls to others (C5).
mod outcalls;

// Loading, sources, failures at load (L4, L5), hooks, reloads (L6), unloads (L8).
mod lifecycle;

// Which file an import means.
mod imports;

// stdout, stderr, `logging`, `menagerie.log`.
mod logs;

// Virtual environments.
mod venv;

// Many lanes at once.
mod together;

// The bundles in tests/bundles.
mod samples;
