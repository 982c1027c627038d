//! The host's functions behind the prelude's `menagerie`, `require` and
//! `print`. Most return true and a value, or false and an error, which the
//! prelude raises at the place of the call.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use menagerie_protocol::Logger;
use menagerie_protocol::message::LogLevel;
use mlua::{IntoLua, Lua, LuaString, Table, Value};

use crate::bytes;
use crate::interrupt::Interrupter;
use crate::outcall::Converter;
use crate::output::Output;
use crate::raised;
use crate::require::Siblings;
use crate::wide::Int64;

/// True and a value, or false and an error's message.
type Checked = mlua::Result<(bool, Value)>;

fn fail(lua: &Lua, message: &str) -> Checked {
    Ok((false, message.into_lua(lua)?))
}

/// Fills `native`, the table that the prelude gets, with what is the same for every
/// bundle.
pub(crate) fn fill(lua: &Lua, native: &Table, interrupter: &Arc<Interrupter>) -> mlua::Result<()> {
    native.set("null", Value::NULL)?;
    native.set(
        "bytes",
        lua.create_function(|lua, value: Value| match bytes::make(lua, value) {
            Ok(bytes) => Ok((true, Value::UserData(bytes))),
            Err(mlua::Error::RuntimeError(problem)) => fail(lua, &problem),
            Err(error) => Err(error),
        })?,
    )?;
    native.set(
        "abort",
        lua.create_function(|_, ()| -> mlua::Result<()> { std::process::abort() })?,
    )?;
    // One of the errors that Rust raises in Lua: all of them have one metatable.
    native.set("problem", mlua::Error::runtime(""))?;
    native.set(
        "text_of",
        lua.create_function(|_, error: mlua::Error| Ok(raised::from_mlua(&error).message))?,
    )?;
    let stop = Arc::clone(interrupter);
    native.set(
        "sleep",
        lua.create_function(move |lua, ms: Value| {
            let ms = lua.coerce_number(ms)?.filter(|ms| *ms >= 0.0);
            let Some(seconds) = ms.map(|ms| ms / 1000.0) else {
                return fail(lua, "sleep: expected a number of milliseconds");
            };
            stop.sleep(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
            stop.check()?;
            Ok((true, Value::Nil))
        })?,
    )
}

/// Adds what belongs to one bundle: its log, and its other files.
pub(crate) fn fill_own(
    lua: &Lua,
    native: &Table,
    logger: Logger,
    siblings: Siblings,
) -> mlua::Result<()> {
    native.set("find", {
        lua.create_function(move |lua, name: LuaString| find(lua, &siblings, &name))?
    })?;
    let output = Rc::new(Output::new(logger.clone()));
    let flushed = Rc::clone(&output);
    native.set(
        "write",
        lua.create_function(move |_, (stream, text): (u8, LuaString)| {
            output.write(stream, &text.as_bytes());
            Ok(())
        })?,
    )?;
    native.set(
        "flush",
        lua.create_function(move |_, stream: u8| {
            flushed.flush(stream);
            Ok(())
        })?,
    )?;
    #[cfg(not(feature = "luajit"))]
    {
        let logger = logger.clone();
        lua.set_warning_function(move |_, text, _| {
            logger.log(LogLevel::Warn, "warn", text);
            Ok(())
        });
    }
    native.set(
        "log",
        lua.create_function(move |lua, (level, message): (Value, Value)| {
            let level = level.as_string().map(|level| level.to_string_lossy());
            let Some(level) = level.as_deref().and_then(level_of) else {
                return fail(lua, "log: the level is one of trace, debug, info, warn, error");
            };
            let Some(message) = lua.coerce_string(message)? else {
                return fail(lua, "log: expected a level and a message");
            };
            logger.log(level, "log", &message.to_string_lossy());
            Ok((true, Value::Nil))
        })?,
    )
}

fn level_of(name: &str) -> Option<LogLevel> {
    Some(match name {
        "trace" => LogLevel::Trace,
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" | "warning" => LogLevel::Warn,
        "error" => LogLevel::Error,
        _ => return None,
    })
}

/// The searcher of `require`: a loader and its file, or a note where it was
/// looked for, or an error.
fn find(lua: &Lua, siblings: &Siblings, name: &LuaString) -> mlua::Result<(bool, Value, Value)> {
    let error = |message: &str| Ok((false, message.into_lua(lua)?, Value::Nil));
    let name = name.to_string_lossy();
    match siblings.find(&name) {
        Err(problem) => error(&format!("cannot require '{name}': {problem}")),
        Ok(Err(missing)) => Ok((true, missing.into_lua(lua)?, Value::Nil)),
        Ok(Ok(code)) => match code.compile(lua) {
            Ok(loader) => Ok((true, loader.into_lua(lua)?, code.name.into_lua(lua)?)),
            Err(mlua::Error::SyntaxError { message, .. }) => error(&message),
            Err(other) => Err(other),
        },
    }
}

/// `menagerie.int64` and `menagerie.uint64`: of a number or decimal digits.
pub(crate) fn fill_integers(
    lua: &Lua,
    native: &Table,
    converter: &Rc<Converter>,
) -> mlua::Result<()> {
    for (name, unsigned) in [("int64", false), ("uint64", true)] {
        let converter = Rc::clone(converter);
        let make = lua.create_function(move |lua, value: Value| {
            let wide = &converter.wide;
            let digits = match &value {
                Value::Integer(v) => v.to_string(),
                Value::Number(v) => v.to_string(),
                Value::String(v) => v.to_string_lossy(),
                other => match wide.read(other)? {
                    Some(Int64::Signed(v)) => v.to_string(),
                    Some(Int64::Unsigned(v)) => v.to_string(),
                    None => String::new(),
                },
            };
            let parsed = if unsigned {
                digits.trim().parse().ok().map(Int64::Unsigned)
            } else {
                digits.trim().parse().ok().map(Int64::Signed)
            };
            match parsed {
                Some(value) => Ok((true, wide.make(lua, value)?)),
                None => fail(lua, &format!("{name}: '{digits}' is no such integer")),
            }
        })?;
        native.set(name, make)?;
    }
    Ok(())
}
