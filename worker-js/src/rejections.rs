//! Promises that were rejected while nobody had subscribed to them.

use std::mem;

use deno_core::v8;

use crate::failure::recover_from_full_heap;
use crate::guest_error::from_exception;
use crate::interrupt::Gate;
use crate::lane::Lane;
use crate::list::List;

/// Up to how many are kept before those are looked for that were handled meanwhile.
const FEW: u32 = 1024;

/// Those of the current turn, and among them some that have a subscriber by now:
/// that is looked at when they are told of, and when they are many.
pub(crate) struct Rejections {
    list: List,
    /// How many were left when the others were last dropped.
    left: u32,
    /// Takes the list's place while that is told. Both are made ahead: promises are
    /// rejected when the heap is full, too.
    other: Option<List>,
}

impl Rejections {
    /// None so far; nothing if there is no memory.
    pub(crate) fn new(scope: &mut v8::PinScope<'_, '_>, lane: &Lane) -> Option<Self> {
        Some(Self { list: List::new(scope, lane)?, left: 0, other: Some(List::new(scope, lane)?) })
    }

    fn push(&mut self, scope: &mut v8::PinScope<'_, '_>, promise: v8::Local<'_, v8::Promise>) {
        if self.list.len() >= self.left.saturating_mul(2).max(FEW) {
            self.list.retain(scope, |promise| unhandled(promise).is_some());
            self.left = self.list.len();
        }
        // Without memory for it, it is not told.
        let _ = self.list.push(scope, promise.into());
    }
}

/// The promise, if nobody has subscribed to it since.
fn unhandled(promise: v8::Local<'_, v8::Value>) -> Option<v8::Local<'_, v8::Promise>> {
    promise.try_cast::<v8::Promise>().ok().filter(|promise| !promise.has_handler())
}

impl Lane {
    /// The end of a turn, with no script left to run: tells of promises that were
    /// rejected and to which nobody has subscribed.
    pub(crate) fn tell_rejections(&self, scope: &mut v8::PinScope<'_, '_>, gate: &Gate) {
        // Telling runs getters of the guest's.
        if gate.is_interrupted() {
            return;
        }
        // Nor is what has filled the heap since the microtasks anybody else's affair.
        recover_from_full_heap(scope);
        let told = self.rejections.borrow_mut().as_mut().and_then(|rejections| {
            let some = rejections.list.len() > 0;
            let other = rejections.other.take_if(|_| some)?;
            rejections.left = 0;
            Some(mem::replace(&mut rejections.list, other))
        });
        let Some(mut told) = told else { return };
        for index in 0..told.len() {
            v8::scope!(let scope, scope);
            let Some(promise) = told.get(scope, index).and_then(unhandled) else { continue };
            let reason = promise.result(scope);
            let error = from_exception(scope, reason);
            self.uncaught("Uncaught (in promise)", &error);
        }
        recover_from_full_heap(scope);
        told.retain(scope, |_| false);
        if let Some(rejections) = self.rejections.borrow_mut().as_mut() {
            rejections.other = Some(told);
        }
    }
}

/// The engine tells of a promise that is rejected without a subscriber.
pub(crate) extern "C" fn on_promise_reject(message: v8::PromiseRejectMessage<'_>) {
    if message.get_event() != v8::PromiseRejectEvent::PromiseRejectWithNoHandler {
        return;
    }
    // SAFETY: the engine calls this with a message of its own, on the thread
    // and within the scope of the script that rejected the promise.
    v8::callback_scope!(unsafe scope, &message);
    v8::tc_scope!(let tc, scope);
    let Some(lane) = tc.get_slot::<std::rc::Rc<Lane>>().cloned() else { return };
    if let Some(rejections) = lane.rejections.borrow_mut().as_mut() {
        rejections.push(tc, message.get_promise());
    }
}
