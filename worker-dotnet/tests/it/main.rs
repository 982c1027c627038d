//! The loader under test, with a real .NET in this process. Run
//! `scripts/setup-dotnet` first: it builds the bridge and the fixtures.

#![allow(clippy::unwrap_used)]

mod support;

/// Calls: values in both directions, tasks, calls of guests.
mod calls;
/// Exceptions and bad arguments, as their callers see them.
mod failures;
/// Loading: exports, sources, siblings, and what is refused.
mod loading;
/// Hooks, state, logs.
mod hooks;
/// Rule L8: what unloading frees.
mod unloading;
