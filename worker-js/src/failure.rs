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
    if gate.is_interrupted() {
        return Failure::Cancelled;
    }
    if recover_from_full_heap(tc) {
        return full_heap().into();
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

/// The error of a script that the heap's limit ended.
pub(crate) fn full_heap() -> GuestError {
    GuestError::new("OutOfMemory", "the bundle's heap is full")
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
    /// A rejection that has been dealt with is not unhandled.
    pub(crate) fn forget_rejection(&self, promise: v8::Local<'_, v8::Promise>) {
        self.rejected.borrow_mut().retain(|(rejected, _)| *rejected != promise);
    }

    /// The end of a turn, with no script left to run: tells of promises that
    /// were rejected and to which nobody has subscribed. If scripts were ended
    /// from outside, so that continuations may be lost, it says by what.
    pub(crate) fn end_turn(
        &self,
        scope: &mut v8::PinScope<'_, '_>,
        gate: &Gate,
    ) -> Option<Failure> {
        if gate.is_interrupted() {
            return Some(Failure::Cancelled);
        }
        let ended = recover_from_full_heap(scope).then(|| full_heap().into());
        let rejected = std::mem::take(&mut *self.rejected.borrow_mut());
        for (_, reason) in rejected {
            let reason = v8::Local::new(scope, reason);
            let error = from_exception(scope, reason);
            self.uncaught("Uncaught (in promise)", &error);
        }
        ended
    }

    /// Logs an error that nobody is there to catch.
    pub(crate) fn uncaught(&self, what: &str, error: &GuestError) {
        self.logger.log(LogLevel::Error, "console", &format!("{what} {}", to_log(error)));
    }
}

/// The engine tells of a promise that is rejected without a subscriber, or
/// that gets its first one afterwards.
pub(crate) extern "C" fn on_promise_reject(message: v8::PromiseRejectMessage<'_>) {
    // SAFETY: the engine calls this with a message of its own, on the thread
    // and within the scope of the script that rejected the promise.
    v8::callback_scope!(unsafe scope, &message);
    let promise = message.get_promise();
    let Some(lane) = scope.get_slot::<std::rc::Rc<Lane>>().cloned() else { return };
    match message.get_event() {
        v8::PromiseRejectEvent::PromiseRejectWithNoHandler => {
            let reason = message.get_value().unwrap_or_else(|| v8::undefined(scope).into());
            let entry = (v8::Global::new(scope, promise), v8::Global::new(scope, reason));
            lane.rejected.borrow_mut().push(entry);
        }
        v8::PromiseRejectEvent::PromiseHandlerAddedAfterReject => lane.forget_rejection(promise),
        _ => {}
    }
}
