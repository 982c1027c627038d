//! The native functions that `bootstrap.js` builds the guest's world from.

use std::time::{Duration, Instant};

use deno_core::v8;
use menagerie_protocol::message::LogLevel;

use crate::borrowed::copy;
use crate::call;
use crate::instance::settle;
use crate::lane::Lane;
use crate::modules;

/// What a native function is called with.
pub(crate) type Arguments<'s> = v8::FunctionCallbackArguments<'s>;
/// Where a native function puts its result.
pub(crate) type Return<'s> = v8::ReturnValue<'s, v8::Value>;

/// The object that `bootstrap.js` is called with.
pub(crate) fn object<'s>(scope: &mut v8::PinScope<'s, '_>) -> Option<v8::Local<'s, v8::Object>> {
    let object = v8::Object::new(scope);
    macro_rules! provide {
        ($($name:literal => $function:path),* $(,)?) => {$(
            let function = v8::Function::new(scope, $function)?;
            let name = v8::String::new(scope, $name)?;
            object.set(scope, name.into(), function.into())?;
        )*};
    }
    provide! {
        "log" => log,
        "call" => call::native,
        "settle" => settle,
        "import" => modules::import,
        "setTimer" => set_timer,
        "clearTimer" => clear_timer,
        "encodeUtf8" => encode_utf8,
        "decodeUtf8" => decode_utf8,
        "detach" => detach,
        "now" => now,
        "abort" => abort,
    }
    Some(object)
}

/// A `TypeError`.
pub(crate) fn type_error<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    message: &str,
) -> v8::Local<'s, v8::Value> {
    let message = v8::String::new(scope, message).unwrap_or_else(|| v8::String::empty(scope));
    v8::Exception::type_error(scope, message)
}

/// Throws a `TypeError`.
pub(crate) fn throw_type_error(scope: &mut v8::PinScope<'_, '_>, message: &str) {
    let error = type_error(scope, message);
    scope.throw_exception(error);
}

/// `log(level, target, message)`; `level` counts from 0, trace.
fn log(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, _rv: Return<'_>) {
    let level = match args.get(0).int32_value(scope) {
        Some(0) => LogLevel::Trace,
        Some(1) => LogLevel::Debug,
        Some(3) => LogLevel::Warn,
        Some(4) => LogLevel::Error,
        _ => LogLevel::Info,
    };
    let target = args.get(1).to_rust_string_lossy(scope);
    let message = args.get(2).to_rust_string_lossy(scope);
    Lane::of(scope).logger.log(level, &target, &message);
}

fn timer_id(scope: &mut v8::PinScope<'_, '_>, args: &Arguments<'_>) -> u32 {
    args.get(0).uint32_value(scope).unwrap_or(0)
}

/// `setTimer(id, milliseconds)`.
fn set_timer(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, _rv: Return<'_>) {
    let id = timer_id(scope, &args);
    let milliseconds = args.get(1).number_value(scope).unwrap_or(0.0);
    // It is not negative, so that what is no duration is beyond all of them.
    let delay = Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or(Duration::MAX);
    let lane = Lane::of(scope);
    lane.timers.borrow_mut().set(id, Instant::now(), delay);
    if lane.serving.get() != 0 {
        lane.timer_calls.borrow_mut().insert(id, lane.serving.get());
    }
}

/// `clearTimer(id)`.
fn clear_timer(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, _rv: Return<'_>) {
    let id = timer_id(scope, &args);
    let lane = Lane::of(scope);
    lane.timers.borrow_mut().clear(id);
    lane.timer_calls.borrow_mut().remove(&id);
}

/// `encodeUtf8(string)`: a `Uint8Array`.
fn encode_utf8(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut rv: Return<'_>) {
    let text = args.get(0).to_rust_string_lossy(scope);
    let buffer = copy(scope, text.as_bytes());
    if let Some(array) = v8::Uint8Array::new(scope, buffer, 0, text.len()) {
        rv.set(array.into());
    }
}

/// `decodeUtf8(view, fatal)`: a string; `TypeError` if `fatal` and invalid.
fn decode_utf8(scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, mut rv: Return<'_>) {
    let Ok(view) = args.get(0).try_cast::<v8::ArrayBufferView>() else {
        return throw_type_error(scope, "expected an ArrayBuffer or a view of one");
    };
    let mut bytes = vec![0; view.byte_length()];
    let copied = view.copy_contents(&mut bytes);
    bytes.truncate(copied);
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) if args.get(1).is_true() => {
            return throw_type_error(scope, "the encoded data was not valid utf-8");
        }
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    if let Some(string) = v8::String::new(scope, &text) {
        rv.set(string.into());
    }
}

/// `detach(buffer)`.
fn detach(_scope: &mut v8::PinScope<'_, '_>, args: Arguments<'_>, _rv: Return<'_>) {
    if let Ok(buffer) = args.get(0).try_cast::<v8::ArrayBuffer>() {
        buffer.detach(None);
    }
}

/// `now()`: milliseconds of a clock that never goes back.
fn now(_scope: &mut v8::PinScope<'_, '_>, _args: Arguments<'_>, mut rv: Return<'_>) {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    rv.set_double(START.get_or_init(Instant::now).elapsed().as_secs_f64() * 1000.0);
}

/// `abort()`: ends the whole worker with SIGABRT.
fn abort(_scope: &mut v8::PinScope<'_, '_>, _args: Arguments<'_>, _rv: Return<'_>) {
    std::process::abort();
}
