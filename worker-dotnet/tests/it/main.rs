//! The loader under test, with a real .NET in this process. Run
//! `scripts/setup-dotnet` first: it builds the bridge and the fixtures.

#![allow(clippy::unwrap_used)]

mod support;

/// Calls: values in both directions, tasks, calls of guests.
mod calls;
/// What ends the process, seen from outside.
mod crashes;
/// Exceptions and bad arguments, as their callers see them.
mod failures;
/// Hooks, state, logs.
mod hooks;
/// Loading: exports, sources, siblings, and what is refused.
mod loading;
/// What one bundle does in a runtime that others share.
mod neighbours;
/// Rule S8: what a standby rehearses on its first lane's thread leaves nothing.
mod standby;
/// Rule L8: what unloading frees.
mod unloading;
