//! Lua errors → [`GuestError`]s.

use menagerie_protocol::GuestError;
use mlua::{Error, Table, Value};

/// The type of an error that gives none itself: Lua's errors are any value.
const TYPE: &str = "error";

/// How many causes of causes are told.
const MAX_CAUSES: usize = 8;
/// How many causes an error has at most: some are their own causes, in more than one
/// way at each level.
const MOST_CAUSES: usize = 64;

/// The error that the prelude's handler caught; anything else if it could not
/// run, for want of stack for example.
pub(crate) fn caught(info: &Value) -> GuestError {
    let mut left = MOST_CAUSES;
    let Value::Table(info) = info else { return from_value(info, MAX_CAUSES, &mut left) };
    let value = info.raw_get::<Value>("error").unwrap_or(Value::Nil);
    let stack = info.raw_get::<Value>("stack").ok().and_then(|v| text(&v)).unwrap_or_default();
    let mut error = from_value(&value, MAX_CAUSES, &mut left);
    if error.stack.is_empty() {
        error.stack = trim(&stack);
    }
    error
}

/// An error of `mlua`'s.
pub(crate) fn from_mlua(error: &Error) -> GuestError {
    match error {
        Error::CallbackError { cause, .. } | Error::BadArgument { cause, .. } => from_mlua(cause),
        Error::WithContext { cause, .. } => from_mlua(cause),
        Error::SyntaxError { message, .. } => GuestError::new("SyntaxError", message),
        Error::MemoryError(message) => GuestError::new("MemoryError", message),
        Error::RuntimeError(message) => {
            let (message, stack) =
                message.split_once("\nstack traceback:").unwrap_or((message, ""));
            GuestError::new(TYPE, message).with_stack(trim(stack))
        }
        other => GuestError::new(TYPE, other.to_string()),
    }
}

/// `error("text")` and `error { type = ..., message = ... }`.
fn from_value(value: &Value, depth: usize, left: &mut usize) -> GuestError {
    match value {
        Value::Error(error) => from_mlua(error),
        Value::Table(table) => from_table(table, depth, left),
        other => GuestError::new(TYPE, text(other).unwrap_or_else(|| other.type_name().to_owned())),
    }
}

fn from_table(table: &Table, depth: usize, left: &mut usize) -> GuestError {
    // A field may come from a class, so `__index` counts; one that raises
    // itself is taken for absent.
    let field = |name: &str| table.get::<Value>(name).ok().as_ref().and_then(text);
    let message = field("message").or_else(|| Value::Table(table.clone()).to_string().ok());
    let mut causes = Vec::new();
    if depth > 0 {
        causes.extend(table.get("cause").ok().filter(|cause: &Value| !cause.is_nil()));
        if let Ok(errors) = table.get::<Table>("errors") {
            causes.extend(errors.sequence_values().map_while(Result::ok).take(*left));
        }
    }
    let mut inner = Vec::new();
    for cause in causes {
        let Some(rest) = left.checked_sub(1) else { break };
        *left = rest;
        inner.push(from_value(&cause, depth - 1, left));
    }
    GuestError {
        type_name: field("type").unwrap_or_else(|| TYPE.to_owned()),
        message: message.unwrap_or_else(|| "table".to_owned()),
        stack: field("stack").unwrap_or_default(),
        code: field("code"),
        help: field("help"),
        url: field("url"),
        inner,
    }
}

/// A string, or anything with a plain text: numbers, booleans.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Nil => None,
        Value::String(text) => Some(text.to_string_lossy()),
        Value::Table(_) | Value::Function(_) | Value::Thread(_) => None,
        other => other.to_string().ok(),
    }
}

/// Lua's traceback without its title, and without the frames below the
/// bundle's own, which are the worker's.
fn trim(traceback: &str) -> String {
    let lines = traceback.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut lines: Vec<&str> = lines.filter(|line| *line != "stack traceback:").collect();
    // LuaJIT calls them `[C]: at 0x…` and `[builtin#21]: at 0x…`.
    while lines.last().is_some_and(|line| line.starts_with("[C]: ") || line.starts_with("[builtin"))
    {
        lines.pop();
    }
    lines.join("\n")
}
