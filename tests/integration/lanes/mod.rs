//! Lanes: between two real processes, without a supervisor, with many callers, and
//! what they cost the kernel.

mod callers;
mod descriptors;
mod host;
mod idle;
mod system_calls;
mod tracer;
mod two_processes;
