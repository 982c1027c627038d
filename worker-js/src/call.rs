//! Calls of the guest into other bundles and the host: `menagerie.call`.

use deno_core::v8;
use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{Failure, GuestError};

use crate::borrowed::Borrowed;
use crate::decode::decode;
use crate::encode::{Buffers, EncodeError, Encoded};
use crate::lane::Lane;
use crate::natives::{Arguments, Return, throw_type_error};

/// `call(contract, function, args)`: a promise.
pub(crate) fn native<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    args: Arguments<'s>,
    mut rv: Return<'s>,
) {
    if !args.get(0).is_string() || !args.get(1).is_string() {
        return throw_type_error(scope, "call(contract, function, ...args): two strings expected");
    }
    let contract = args.get(0).to_rust_string_lossy(scope);
    let function = args.get(1).to_rust_string_lossy(scope);
    let lane = Lane::of(scope);
    let encoded = {
        v8::tc_scope!(let tc, scope);
        let mut encoded = Encoded::within(&lane, lane.host.max_payload(), Buffers::default());
        let result = encoded.push(tc, args.get(2)).and_then(|()| encoded.into_vec(tc));
        if tc.has_caught() {
            tc.rethrow();
            return;
        }
        result
    };
    let bytes = match encoded {
        Ok(bytes) => Ok(bytes),
        Err(EncodeError::TooLarge { size, limit }) => {
            Err(Failure::PayloadTooLarge { size: size as u64, limit: limit as u64 })
        }
        Err(problem) => {
            return throw_type_error(scope, &format!("call {contract} {function}: {problem}"));
        }
    };
    let Some(resolver) = v8::PromiseResolver::new(scope) else { return };
    rv.set(resolver.get_promise(scope).into());

    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(failure) => return deliver(scope, &lane, resolver, Err(failure)),
    };
    let serving = lane.serving.get();
    let host = lane.host.for_call(serving);
    if lane.blocking.get() {
        let result = host.call(&contract, &function, &bytes);
        return deliver(scope, &lane, resolver, result);
    }
    let id = lane.fresh_id();
    let answers = std::rc::Rc::clone(&lane.answers);
    let then = Box::new(move |result| answers.borrow_mut().push_back((id, result)));
    match host.call_async(&contract, &function, &bytes, then) {
        Ok(()) => {
            let resolver = v8::Global::new(scope, resolver);
            lane.resolvers.borrow_mut().insert(id, (resolver, serving));
        }
        Err(failure) => deliver(scope, &lane, resolver, Err(failure)),
    }
}

/// Settles the promise of a call that the guest made.
pub(crate) fn deliver(
    scope: &mut v8::PinScope<'_, '_>,
    lane: &Lane,
    resolver: v8::Local<'_, v8::PromiseResolver>,
    result: Result<Vec<u8>, Failure>,
) {
    let result = result.and_then(|bytes| {
        decode(scope, &mut Reader::new(&bytes), &mut Borrowed::nothing())
            .map_err(|error| Failure::BadValue { message: error.to_string() })
    });
    match result {
        Ok(value) => {
            resolver.resolve(scope, value);
        }
        Err(failure) => {
            let error = call_error(scope, lane, &failure);
            resolver.reject(scope, error);
        }
    }
}

/// The failure as a `CallError` of `bootstrap.js`.
fn call_error<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    lane: &Lane,
    failure: &Failure,
) -> v8::Local<'s, v8::Value> {
    let kind = text(scope, failure.kind());
    let message = text(scope, &failure.to_string());
    let told = match failure {
        Failure::Guest(error) => told(scope, error),
        _ => v8::undefined(scope).into(),
    };
    let world = lane.world.borrow();
    let make = world.as_ref().map(|world| v8::Local::new(scope, &world.make_call_error));
    let receiver = v8::undefined(scope);
    make.and_then(|make| make.call(scope, receiver.into(), &[kind, message, told]))
        .unwrap_or(message)
}

/// The callee's error as the list that `bootstrap.js` takes.
fn told<'s>(scope: &mut v8::PinScope<'s, '_>, error: &GuestError) -> v8::Local<'s, v8::Value> {
    let causes: Vec<_> = error.inner.iter().map(|cause| told(scope, cause)).collect();
    let maybe = |scope: &mut v8::PinScope<'s, '_>, value: &Option<String>| match value {
        Some(value) => text(scope, value),
        None => v8::undefined(scope).into(),
    };
    let told = [
        text(scope, &error.type_name),
        text(scope, &error.message),
        text(scope, &error.stack),
        maybe(scope, &error.code),
        maybe(scope, &error.help),
        maybe(scope, &error.url),
        v8::Array::new_with_elements(scope, &causes).into(),
    ];
    v8::Array::new_with_elements(scope, &told).into()
}

fn text<'s>(scope: &mut v8::PinScope<'s, '_>, text: &str) -> v8::Local<'s, v8::Value> {
    v8::String::new(scope, text).map_or_else(|| v8::null(scope).into(), Into::into)
}
