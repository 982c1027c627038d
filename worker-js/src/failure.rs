//! Why a call failed, read off the engine.

use deno_core::v8;
use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{Failure, GuestError};

use crate::encode::EncodeError;
use crate::guest_error::{from_exception, to_log};
use crate::interrupt::Gate;
use crate::lane::Lane;

/// A `TryCatch` scope within a context.
pub(crate) type Catch<'p, 't, 's, 'i> =
    v8::PinnedRef<'p, v8::TryCatch<'t, 's, v8::HandleScope<'i>>>;

/// What made a call into the engine return nothing.
pub(crate) fn thrown(tc: &mut Catch<'_, '_, '_, '_>, gate: &Gate) -> Failure {
    if let Some(failure) = ended(tc, gate) {
        return failure;
    }
    match tc.exception() {
        Some(exception) => from_exception(tc, exception).into(),
        None => GuestError::new("Error", "the call ended without a result").into(),
    }
}

/// Why a value was not sent: what a getter of it threw, or `problem`.
pub(crate) fn unsendable(
    tc: &mut Catch<'_, '_, '_, '_>,
    gate: &Gate,
    problem: EncodeError,
) -> Failure {
    if tc.has_caught() || gate.is_interrupted() || tc.is_execution_terminating() {
        return thrown(tc, gate);
    }
    match problem {
        EncodeError::TooLarge { size, limit } => {
            Failure::PayloadTooLarge { size: size as u64, limit: limit as u64 }
        }
        problem => GuestError::new("TypeError", problem.to_string()).into(),
    }
}

/// The failure as an error of the guest, where only those are possible.
pub(crate) fn guest_error(failure: Failure) -> GuestError {
    match failure {
        Failure::Guest(error) => *error,
        Failure::Cancelled => GuestError::new("Interrupted", "it was interrupted"),
        other => GuestError::new("Error", other.to_string()),
    }
}

/// What has ended scripts from outside, if anything has. They can run again, except
/// after an interrupt: then when the gate is left.
pub(crate) fn ended(isolate: &v8::Isolate, gate: &Gate) -> Option<Failure> {
    if gate.is_interrupted() {
        return Some(Failure::Cancelled);
    }
    recover_from_full_heap(isolate)
        .then(|| GuestError::new("OutOfMemory", "the bundle's heap is full").into())
}

/// The engine ends a script that exceeds the heap's limit as it ends one that
/// is interrupted. True if that happened; scripts can run again then.
pub(crate) fn recover_from_full_heap(isolate: &v8::Isolate) -> bool {
    let terminating = isolate.is_execution_terminating();
    if terminating {
        isolate.cancel_terminate_execution();
    }
    terminating
}

impl Lane {
    /// Runs the microtasks. If scripts are ended from outside, so that
    /// continuations may be lost, it says by what.
    pub(crate) fn run_microtasks(&self, scope: &mut v8::PinScope<'_, '_>) -> Option<Failure> {
        if !self.gate.is_interrupted() {
            scope.perform_microtask_checkpoint();
        }
        ended(scope, &self.gate)
    }

    /// Logs an error that nobody is there to catch.
    pub(crate) fn uncaught(&self, what: &str, error: &GuestError) {
        self.logger.log(LogLevel::Error, "console", &format!("{what} {}", to_log(error)));
    }
}
