//! `menagerie.call`: calls of other bundles' contracts and the host's.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use menagerie_protocol::msgpack::{Reader, Writer};
use menagerie_protocol::{Failure, GuestError, Host};
use mlua::{Function, Lua, LuaString, Table, Value, Variadic};

use crate::decode::{Decoder, objects, scan};
use crate::encode::{EncodeError, Encoder, Scratch, splice, with_pieces};
use crate::interrupt::Interrupter;
use crate::raised;
use crate::stack::protected;
use crate::wide::Wide;

/// What converts values outside a call from the host.
#[derive(Debug)]
pub(crate) struct Converter {
    pub(crate) wide: Wide,
    pub(crate) map_metatable: Table,
    pub(crate) interrupter: Arc<Interrupter>,
    /// How many bytes a value may have that leaves Lua; told by the lane.
    pub(crate) limit: Cell<usize>,
}

impl Converter {
    /// Encodes a list of values.
    pub(crate) fn encode(
        &self,
        lua: &Lua,
        values: Variadic<Value>,
    ) -> mlua::Result<Result<Vec<u8>, EncodeError>> {
        let limit = self.limit.get();
        let mut scratch = Scratch::new(limit);
        Writer::new(&mut scratch.out).array(values.len());
        let outbox = lua.create_table()?;
        let map_metatable = self.map_metatable.to_pointer();
        let mut result = Ok(());
        // SAFETY: the closure only borrows; it uses indices up to the top, and
        // one slot of its own beside what the encoder reserves.
        let (): () = unsafe {
            protected(lua, (&outbox, values), |stack| {
                let interrupter = &self.interrupter;
                let mut encoder =
                    Encoder { stack, scratch: &mut scratch, outbox: 1, map_metatable, interrupter };
                for index in 2..=stack.top() {
                    stack.push_copy(index);
                    result = encoder.value();
                    if result.is_err() {
                        break;
                    }
                    stack.pop();
                }
                stack.set_top(0);
            })
        }?;
        if let Err(error) = result {
            return Ok(Err(error));
        }
        let splices = splice(&self.wide, &scratch, &outbox)?;
        Ok(splices.and_then(|splices| {
            with_pieces(&scratch.out, &splices, limit, |pieces| pieces.concat())
        }))
    }

    /// The Lua value of MessagePack; its bytes are copies.
    pub(crate) fn decode(&self, lua: &Lua, data: &[u8]) -> mlua::Result<Value> {
        let found = scan(Reader::new(data), 1).map_err(|(_, e)| mlua::Error::runtime(e))?;
        let inbox = lua.create_table()?;
        if found.has_objects {
            objects(lua, self, data, None, &inbox)?;
        }
        let mut pushed = false;
        // SAFETY: the closure only borrows; its indices are those of the inbox
        // and the metatable; the decoder reserves what it needs.
        let value: Value = unsafe {
            protected(lua, (&inbox, &self.map_metatable), |stack| {
                pushed = stack.reserve(4)
                    && Decoder::new(stack, Reader::new(data), 1, 2, &self.interrupter)
                        .push_argument();
                if pushed {
                    stack.insert(1);
                    stack.set_top(1);
                } else {
                    stack.set_top(0);
                }
            })
        }?;
        if pushed {
            return Ok(value);
        }
        self.interrupter.check()?;
        Err(mlua::Error::runtime("the value does not fit into Lua"))
    }
}

/// The prelude's `native.call`.
pub(crate) fn function(
    lua: &Lua,
    converter: Rc<Converter>,
    interrupter: Arc<Interrupter>,
    host: Host,
) -> mlua::Result<Function> {
    lua.create_function(move |lua, args: Variadic<Value>| {
        let refuse = |message: &str| Ok((false, Value::String(lua.create_string(message)?)));
        let mut args = args.into_iter();
        let (Some(Value::String(contract)), Some(Value::String(name))) = (args.next(), args.next())
        else {
            return refuse("call: expected a contract, a function and its arguments");
        };
        let packed = match converter.encode(lua, args.collect())? {
            Ok(packed) => packed,
            Err(error @ (EncodeError::Stopped | EncodeError::TooLarge { .. })) => {
                return Ok((false, Value::Table(describe(lua, &error.into_failure())?)));
            }
            Err(error) => return refuse(&format!("call: {error}")),
        };
        let text = |text: &LuaString| text.to_string_lossy();
        let answer = host
            .call(&text(&contract), &text(&name), &packed)
            .and_then(|value| converter.decode(lua, &value).map_err(|error| misfit(&error)));
        match answer {
            _ if interrupter.is_stopped() => {
                Ok((false, Value::Table(describe(lua, &Failure::Cancelled)?)))
            }
            Ok(value) => Ok((true, value)),
            Err(failure) => Ok((false, Value::Table(describe(lua, &failure)?))),
        }
    })
}

/// How a call ends whose value Lua cannot hold.
fn misfit(error: &mlua::Error) -> Failure {
    Failure::BadValue { message: raised::from_mlua(error).message }
}

/// The table that the prelude makes a `menagerie.CallError`.
fn describe(lua: &Lua, failure: &Failure) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("type", "menagerie.CallError")?;
    table.raw_set("kind", failure.kind())?;
    // What a caller further out is told of it, if the bundle lets it through.
    table.raw_set("code", failure.kind())?;
    table.raw_set("message", failure.to_string())?;
    if let Failure::Guest(error) = failure {
        table.raw_set("cause", describe_guest(lua, error)?)?;
    }
    Ok(table)
}

fn describe_guest(lua: &Lua, error: &GuestError) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("type", error.type_name.as_str())?;
    table.raw_set("message", error.message.as_str())?;
    table.raw_set("stack", error.stack.as_str())?;
    table.raw_set("code", error.code.as_deref())?;
    table.raw_set("help", error.help.as_deref())?;
    table.raw_set("url", error.url.as_deref())?;
    match &error.inner[..] {
        [] => {}
        [cause] => table.raw_set("cause", describe_guest(lua, cause)?)?,
        causes => {
            let errors = lua.create_table_with_capacity(causes.len(), 0)?;
            for cause in causes {
                errors.raw_push(describe_guest(lua, cause)?)?;
            }
            table.raw_set("errors", errors)?;
        }
    }
    Ok(table)
}
