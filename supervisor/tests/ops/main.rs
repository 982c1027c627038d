//! What an operator sees, against a supervisor of its own: with the Lua worker,
//! and in `bundles` with those of the other languages, which are built with the
//! workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

/// `menagerie run`, and requests to it.
mod common;

/// Who may do what, and how much of it.
mod access;
/// Supervisors that hang, crowds, requests and settings that are wrong.
mod bad_days;
/// `menagerie new` and `menagerie check`.
mod bundles;
/// `menagerie run --config`, tables, completions, man pages.
mod cli;
/// What the documents say is so.
mod docs;
/// `examples/http_server.rs`: handlers in five languages.
mod http_server;
/// What `--json` prints.
mod json;
/// `/metrics`, read by a strict parser.
mod metrics;
/// The status service and its description.
mod openapi;
/// The page for people, in a browser.
mod page;
/// Programs that a machine may have or not.
mod programs;
/// A real Prometheus, where there is one.
mod prometheus;
/// A loader with several workers.
mod replicas;
/// Logs and events: kept, chosen, followed, resumed.
mod streams;
/// `menagerie top` on a terminal.
mod terminal;
