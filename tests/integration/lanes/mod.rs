//! Lanes: between two real processes, without a supervisor, and with many callers.

mod callers;
mod two_processes;
