//! What a bundle threw, in terms that leave the engine.

use deno_core::v8;
use menagerie_protocol::GuestError;

/// How many causes are followed.
const MAX_CAUSES: usize = 8;

/// A property's value, if it exists, is a string and no getter throws.
fn text(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
    name: &str,
) -> Option<String> {
    let value = property(scope, object, name)?;
    value.is_string().then(|| value.to_rust_string_lossy(scope))
}

/// What identifies the error to a program: a text or, as with HTTP, a number.
fn code(scope: &mut v8::PinScope<'_, '_>, object: v8::Local<'_, v8::Object>) -> Option<String> {
    let code = property(scope, object, "code")?;
    (code.is_string() || code.is_number()).then(|| code.to_rust_string_lossy(scope))
}

/// A property, if no getter throws.
pub(crate) fn property<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    object: v8::Local<'_, v8::Object>,
    name: &str,
) -> Option<v8::Local<'s, v8::Value>> {
    let key = v8::String::new(scope, name)?;
    v8::tc_scope!(let tc, scope);
    object.get(tc, key.into())
}

/// The error that `thrown` stands for.
pub(crate) fn from_exception<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    thrown: v8::Local<'s, v8::Value>,
) -> GuestError {
    from_value(scope, thrown, MAX_CAUSES, &mut { MOST_CAUSES })
}

/// How many causes an error has at most: some are their own causes, in more than one
/// way at each level.
const MOST_CAUSES: usize = 64;

fn from_value<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    thrown: v8::Local<'s, v8::Value>,
    depth: usize,
    left: &mut usize,
) -> GuestError {
    let Ok(object) = thrown.try_cast::<v8::Object>() else {
        // `throw "text"` is legal.
        return GuestError::new(
            thrown.type_of(scope).to_rust_string_lossy(scope),
            to_text(scope, thrown),
        );
    };
    let type_name = text(scope, object, "name")
        .filter(|name| !name.is_empty())
        .or_else(|| constructor_name(scope, object))
        .unwrap_or_else(|| "Object".to_owned());
    let message = text(scope, object, "message").unwrap_or_else(|| to_text(scope, thrown));
    let mut causes = Vec::new();
    if depth > 0 {
        causes.extend(property(scope, object, "cause").filter(|c| !c.is_null_or_undefined()));
        let errors = property(scope, object, "errors").and_then(|e| e.try_cast::<v8::Array>().ok());
        if let Some(errors) = errors {
            for index in 0..errors.length().min(16) {
                causes.extend(errors.get_index(scope, index));
            }
        }
    }
    let mut inner = Vec::new();
    for cause in causes {
        if let Some(rest) = left.checked_sub(1) {
            *left = rest;
            inner.push(from_value(scope, cause, depth - 1, left));
        }
    }
    GuestError {
        type_name,
        message,
        stack: stack(scope, object),
        code: code(scope, object),
        help: text(scope, object, "help"),
        url: text(scope, object, "url"),
        inner,
    }
}

/// The stack, without the worker's own frames. V8's begins with the message,
/// QuickJS' with the first frame.
fn stack(scope: &mut v8::PinScope<'_, '_>, object: v8::Local<'_, v8::Object>) -> String {
    let stack = text(scope, object, "stack").unwrap_or_default();
    let own = |line: &&str| !line.contains("(menagerie:bootstrap:");
    stack.lines().filter(own).collect::<Vec<_>>().join("\n")
}

fn constructor_name(
    scope: &mut v8::PinScope<'_, '_>,
    object: v8::Local<'_, v8::Object>,
) -> Option<String> {
    let constructor = property(scope, object, "constructor")?.try_cast::<v8::Object>().ok()?;
    text(scope, constructor, "name").filter(|name| !name.is_empty())
}

/// As JSON where there is such a thing: an object's own text says nothing.
fn to_text(scope: &mut v8::PinScope<'_, '_>, value: v8::Local<'_, v8::Value>) -> String {
    if value.is_symbol() {
        // It has no text of its own: the engine would throw.
        let object = value.to_object(scope);
        let description = object.and_then(|object| text(scope, object, "description"));
        return format!("Symbol({})", description.unwrap_or_default());
    }
    v8::tc_scope!(let tc, scope);
    if let Some(json) = v8::json::stringify(tc, value).filter(|_| value.is_object()) {
        return json.to_rust_string_lossy(tc);
    }
    value.to_detail_string(tc).map_or_else(String::new, |text| text.to_rust_string_lossy(tc))
}

/// `error` as it is logged: with its stack and its causes.
pub(crate) fn to_log(error: &GuestError) -> String {
    let head = format!("{}: {}", error.type_name, error.message);
    let mut text = match error.stack.as_str() {
        "" => head,
        stack if stack.starts_with(&head) => stack.to_owned(),
        stack => format!("{head}\n{stack}"),
    };
    for cause in &error.inner {
        text.push_str("\nCaused by: ");
        text.push_str(&to_log(cause));
    }
    text
}
