//! One generation of a bundle: its engine, and the calls into it.

use std::rc::Rc;
use std::sync::Arc;

use deno_core::v8;
use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{
    Args, ContractInterface, Failure, FunctionId, GuestError, Instance, Interrupt, Reply,
};

use crate::bootstrap::Blank;
use crate::borrowed::{Borrowed, Lent};
use crate::decode::decode;
use crate::encode::{Buffers, Encoded};
use crate::engine::Engine;
use crate::exports::{self, Function};
use crate::failure::{thrown, unsendable};
use crate::guest_error::{from_exception, property};
use crate::interrupt::Gate;
use crate::lane::{Begun, Lane};
use crate::natives::{Arguments, Return};

/// Enters the engine: `$scope` is then a scope with its context.
macro_rules! enter {
    ($scope:ident, $engine:expr) => {
        let engine = &mut $engine;
        let isolate: &mut v8::Isolate = &mut engine.isolate;
        v8::scope!(let $scope, isolate);
        let context = v8::Local::new($scope, &*engine.context);
        let $scope = &mut v8::ContextScope::new($scope, context);
    };
}
pub(crate) use enter;

/// A loaded bundle.
pub(crate) struct JsInstance {
    pub(crate) lane: Rc<Lane>,
    pub(crate) gate: Arc<Gate>,
    functions: Vec<Function>,
    pub(crate) on_load: Option<v8::Global<v8::Function>>,
    pub(crate) on_unload: Option<v8::Global<v8::Function>>,
    buffers: Buffers,
    pub(crate) bundle: String,
    pub(crate) generation: u32,
    /// Dropped last: everything above refers to it.
    pub(crate) engine: Engine,
}

/// What became of a function that was called.
enum Outcome<'s> {
    /// It returned, or its promise is fulfilled.
    Value(v8::Local<'s, v8::Value>),
    /// It is still at work.
    Promise(v8::Local<'s, v8::Promise>),
    /// It did not, or it threw.
    Failed(Failure),
}

impl JsInstance {
    /// Takes an engine over in which nothing has run yet.
    pub(crate) fn new(
        blank: Blank,
        lane: Rc<Lane>,
        bundle: String,
        generation: u32,
    ) -> Result<Self, GuestError> {
        let engine = blank.settle(&lane)?;
        Ok(Self {
            gate: Arc::clone(&lane.gate),
            lane,
            functions: Vec::new(),
            on_load: None,
            on_unload: None,
            buffers: Buffers::default(),
            bundle,
            generation,
            engine,
        })
    }

    /// What stops a call that runs in this engine.
    pub(crate) fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.gate) as Arc<dyn Interrupt>
    }

    /// Reads what the main module exports, and says which contracts those are.
    pub(crate) fn read_exports(
        &mut self,
        namespace: &v8::Global<v8::Object>,
    ) -> Result<Vec<ContractInterface>, GuestError> {
        enter!(scope, self.engine);
        let namespace = v8::Local::new(scope, namespace);
        let exports = exports::read(scope, namespace)?;
        self.functions = exports.functions;
        self.on_load = exports.on_load;
        self.on_unload = exports.on_unload;
        Ok(exports.contracts)
    }
}

impl Instance for JsInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        let call = reply.call_id();
        self.lane.serving.set(call);
        self.gate.enter_call();
        let lost = {
            enter!(scope, self.engine);
            let gate = &*self.gate;
            let Some(target) = self.functions.get(function as usize) else {
                let _ = gate.leave();
                self.lane.serving.set(0);
                return reply
                    .fail(GuestError::new("RangeError", format!("no function {function}")));
            };
            let mut lent = Lent::default();
            let mut outcome = if gate.is_cancelled(call) {
                Outcome::Failed(Failure::Cancelled)
            } else {
                invoke(scope, gate, target, args, &mut lent)
            };
            // No microtask has run yet that could be lost: they go on later, as the lane
            // has this call's end to see to.
            if !gate.enter_microtasks(call) {
                reply.fail(Failure::Cancelled);
                lent.give_back(scope);
                None
            } else {
                let lost = self.lane.run_microtasks(scope);
                gate.enter_result();
                if let (Some(failure), Outcome::Promise(promise)) = (&lost, &outcome) {
                    promise.mark_as_handled();
                    outcome = Outcome::Failed(failure.clone());
                }
                match settled(scope, outcome) {
                    Outcome::Value(value) => {
                        answer(scope, &self.lane, value, reply, &mut self.buffers);
                        lent.give_back(scope);
                    }
                    Outcome::Failed(failure) => {
                        reply.fail(failure);
                        lent.give_back(scope);
                    }
                    Outcome::Promise(promise) => follow(scope, &self.lane, promise, reply, lent),
                }
                self.lane.tell_rejections(scope, gate);
                lost
            }
        };
        self.lane.serving.set(0);
        // An interrupt that has come since then has cost no other call anything; if this
        // one waits, it is answered in the next turn.
        let _ = self.gate.leave();
        self.fail_begun(lost);
    }

    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let result = self.run_on_load(state);
        // From now on calls come to the lane.
        self.lane.blocking.set(false);
        result
    }

    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        self.run_on_unload()
    }

    fn poll(&mut self) -> bool {
        self.turn();
        self.lane.has_work()
    }

    fn wait(&mut self, wake: std::os::fd::BorrowedFd<'_>) {
        self.wait_for(wake);
    }
}

impl Drop for JsInstance {
    fn drop(&mut self) {
        {
            enter!(scope, self.engine);
            let begun: Vec<_> = self.lane.begun.borrow_mut().drain().collect();
            for (_, Begun { reply, lent }) in begun {
                lent.give_back(scope);
                drop(reply);
            }
        }
        self.lane.clear();
    }
}

/// Calls the function; nothing of it runs if the arguments do not fit.
fn invoke<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    gate: &Gate,
    target: &Function,
    args: Args<'_>,
    lent: &mut Lent,
) -> Outcome<'s> {
    /// Most functions have no more parameters than this.
    const FEW: usize = 4;
    let bad = |message: String| Outcome::Failed(Failure::BadArguments { message });
    let mut reader = Reader::new(args.bytes);
    let given = match reader.array() {
        Ok(given) => given,
        Err(error) => return bad(error.to_string()),
    };
    if let Some(problem) = target.arity.problem(&target.name, given) {
        return bad(problem);
    }
    let mut few = [v8::undefined(scope).into(); FEW];
    let mut many = Vec::new();
    let arguments: &mut [v8::Local<'_, v8::Value>] = if given <= FEW {
        &mut few[..given]
    } else {
        many.resize(given, few[0]);
        &mut many
    };
    let mut borrowed = Borrowed::new(args.segment);
    for (index, argument) in arguments.iter_mut().enumerate() {
        match decode(scope, &mut reader, &mut borrowed) {
            Ok(value) => *argument = value,
            Err(error) => {
                *lent = borrowed.into_lent();
                return bad(format!("{}: argument {}: {error}", target.name, index + 1));
            }
        }
    }
    *lent = borrowed.into_lent();
    v8::tc_scope!(let tc, scope);
    let function = v8::Local::new(tc, &target.function);
    let contract = v8::Local::new(tc, &target.contract);
    match function.call(tc, contract.into(), arguments) {
        Some(value) => match value.try_cast::<v8::Promise>() {
            Ok(promise) => Outcome::Promise(promise),
            Err(_) => awaitable(tc, value).map_or(Outcome::Value(value), Outcome::Promise),
        },
        None => Outcome::Failed(thrown(tc, gate)),
    }
}

/// A promise for what `await` would wait for although it is none: an object with a
/// method `then`, as many libraries' queries and deferred results are.
fn awaitable<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    value: v8::Local<'s, v8::Value>,
) -> Option<v8::Local<'s, v8::Promise>> {
    let object = value.try_cast::<v8::Object>().ok()?;
    if object.is_array() || object.is_array_buffer_view() {
        return None;
    }
    if !property(scope, object, "then")?.is_function() {
        return None;
    }
    let resolver = v8::PromiseResolver::new(scope)?;
    resolver.resolve(scope, value)?;
    Some(resolver.get_promise(scope))
}

/// A promise that is settled by now is its value.
fn settled<'s>(scope: &mut v8::PinScope<'s, '_>, outcome: Outcome<'s>) -> Outcome<'s> {
    let Outcome::Promise(promise) = outcome else { return outcome };
    match promise.state() {
        v8::PromiseState::Pending => Outcome::Promise(promise),
        v8::PromiseState::Fulfilled => Outcome::Value(promise.result(scope)),
        v8::PromiseState::Rejected => {
            promise.mark_as_handled();
            let thrown = promise.result(scope);
            Outcome::Failed(from_exception(scope, thrown).into())
        }
    }
}

/// The call is answered when its promise is settled.
fn follow(
    scope: &mut v8::PinScope<'_, '_>,
    lane: &Lane,
    promise: v8::Local<'_, v8::Promise>,
    reply: Reply,
    lent: Lent,
) {
    let call = reply.call_id();
    lane.begun.borrow_mut().insert(call, Begun { reply, lent });
    let follow = lane.world.borrow().as_ref().map(|w| v8::Local::new(scope, &w.follow));
    v8::tc_scope!(let tc, scope);
    let receiver = v8::undefined(tc).into();
    let id = v8::BigInt::new_from_u64(tc, call).into();
    if follow.and_then(|follow| follow.call(tc, receiver, &[promise.into(), id])).is_some() {
        return;
    }
    // A promise of a class of the guest's that does not let itself be subscribed to.
    let failure = thrown(tc, &lane.gate);
    if let Some(Begun { reply, lent }) = lane.begun.borrow_mut().remove(&call) {
        reply.fail(failure);
        lent.give_back(tc);
    }
}

/// Sends a value.
fn answer<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    lane: &Lane,
    value: v8::Local<'s, v8::Value>,
    reply: Reply,
    buffers: &mut Buffers,
) {
    v8::tc_scope!(let tc, scope);
    let limit = lane.host.max_payload();
    let mut encoded = Encoded::within(lane, limit, std::mem::take(buffers));
    let mut reply = Some(reply);
    let sent = encoded.push(tc, value).and_then(|()| {
        encoded.with_parts(tc, |parts| {
            if let Some(reply) = reply.take() {
                reply.ok_parts(parts);
            }
        })
    });
    if let (Err(problem), Some(reply)) = (sent, reply) {
        reply.fail(unsendable(tc, &lane.gate, problem));
    }
    *buffers = encoded.into_buffers(tc);
}

/// `settle(id, fulfilled, value)`: the promise of a call is settled.
pub(crate) fn settle<'s>(scope: &mut v8::PinScope<'s, '_>, args: Arguments<'s>, _rv: Return<'s>) {
    let lane = Lane::of(scope);
    let Ok(id) = args.get(0).try_cast::<v8::BigInt>() else { return };
    let begun = lane.begun.borrow_mut().remove(&id.u64_value().0);
    // Without one, the call was cancelled meanwhile.
    let Some(Begun { reply, lent }) = begun else { return };
    if args.get(1).is_true() {
        answer(scope, &lane, args.get(2), reply, &mut Buffers::default());
    } else {
        reply.fail(from_exception(scope, args.get(2)));
    }
    lent.give_back(scope);
}

#[cfg(test)]
mod tests;
