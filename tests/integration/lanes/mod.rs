//! Lanes between two real processes, without a supervisor.

mod two_processes;
