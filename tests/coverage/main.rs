//! What the tests cover, read from their sources: no worker, no process.

#![allow(clippy::unwrap_used, missing_docs)]

/// The suffixes of the languages, in the order of the tables' columns; the same
/// as those of the sample bundles.
const LANGUAGES: [&str; 6] = ["rust", "c", "py", "lua", "js", "dotnet"];

// Which tests there are.
mod sources;

// The rules, and which tests hold them.
mod rules;

// `docs/contract.md`, written from both.
mod contract;

// Every variant of the public errors, and the test that provokes it.
mod errors;
