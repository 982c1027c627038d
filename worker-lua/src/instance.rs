//! A loaded generation of a Lua bundle.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use menagerie_protocol::msgpack::Reader;
use menagerie_protocol::{Args, Failure, FunctionId, GuestError, Instance, Reply, Runtime};
use mlua::Value;

use crate::bytes::Epoch;
use crate::decode::scan;
use crate::encode::with_pieces;
use crate::exports::Exports;
use crate::raised;
use crate::vm::{CallError, Encoded, Vm};

/// What answers a bundle's calls. Everything of the bundle is in its state,
/// which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct LuaInstance {
    exports: Exports,
    vm: Vm,
    epoch: Epoch,
    bundle: String,
    generation: u32,
    /// How many bytes a state may have.
    max_state: usize,
    /// None, if it came from memory.
    dir: Option<PathBuf>,
}

impl LuaInstance {
    pub(crate) fn new(vm: Vm, exports: Exports, runtime: &Runtime, dir: Option<PathBuf>) -> Self {
        let (bundle, generation) = (runtime.bundle_name().to_owned(), runtime.generation());
        let max_state = runtime.host().max_state();
        Self { exports, vm, epoch: Epoch::default(), bundle, generation, max_state, dir }
    }

    fn begin(&mut self, id: FunctionId, args: Args<'_>, reply: Reply) {
        let bad = |message: String| Failure::BadArguments { message };
        let Some(export) = self.exports.functions.get(id as usize) else {
            return reply.fail(bad(format!("there is no function number {id}")));
        };
        let name = &export.name;
        let mut reader = Reader::new(args.bytes);
        let count = match reader.array() {
            Ok(count) => count,
            Err(error) => return reply.fail(bad(format!("{name}: {error}"))),
        };
        if let Some(arity) = export.arity.filter(|arity| *arity != count) {
            let s = if arity == 1 { "" } else { "s" };
            return reply.fail(bad(format!("{name} takes {arity} argument{s}, got {count}")));
        }
        let found = match scan(reader.clone(), count) {
            Ok(found) => found,
            Err((at, e)) => return reply.fail(bad(format!("{name}: argument {}: {e}", at + 1))),
        };
        let result = if found.has_objects {
            let shared = args.segment.map(|segment| (segment, &self.epoch));
            self.vm.call_with_objects(export.function, reader, count, shared)
        } else {
            self.vm.call(export.function, reader, count)
        };
        let problem = match result {
            Ok(encoded) if encoded.splices.is_empty() => return reply.ok(encoded.out),
            Ok(encoded) => {
                let mut reply = Some(reply);
                let sent = with_pieces(encoded.out, &encoded.splices, encoded.limit, |pieces| {
                    reply.take().map(|reply| reply.ok_parts(pieces))
                });
                if let (Err(error), Some(reply)) = (sent, reply) {
                    reply.fail(error.into_failure());
                }
                return;
            }
            Err(problem) => problem,
        };
        reply.fail(match problem {
            CallError::Arguments => {
                bad(format!("{name}: the arguments do not fit into Lua: too many, or two keys of a map are the same number"))
            }
            other => failure(other),
        });
    }

    /// Calls a hook with one value, and returns what it returns.
    fn hook(&mut self, function: i64, value: &Value) -> Result<Option<Vec<u8>>, GuestError> {
        let result = self.vm.call_with(function, value, self.max_state);
        let sent = match result {
            Ok(Encoded { out, splices, limit }) => {
                with_pieces(out, &splices, limit, |pieces| pieces.concat())
                    .map_err(CallError::Result)
            }
            Err(error) => Err(error),
        };
        let value = sent.map_err(|error| match failure(error) {
            Failure::Guest(error) => *error,
            other => GuestError::new("error", other.to_string()),
        })?;
        Ok((value != [NIL]).then_some(value))
    }
}

/// MessagePack's nil.
const NIL: u8 = 0xc0;

fn failure(error: CallError) -> Failure {
    match error {
        CallError::Cancelled => Failure::Cancelled,
        CallError::Raised(error) => error.into(),
        CallError::Result(error) => error.into_failure(),
        CallError::Arguments => {
            Failure::BadArguments { message: "they do not fit into Lua".to_owned() }
        }
    }
}

impl Instance for LuaInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        // From its first moment on it can be stopped: its arguments may take long.
        self.vm.interrupter.begin(reply.call_id());
        self.begin(function, args, reply);
        self.vm.interrupter.end();
        // The call is answered: the memory of its arguments is used again.
        self.epoch.advance();
    }

    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let Some(hook) = self.exports.on_load else { return Ok(()) };
        let lua = &self.vm.lua;
        let context = || {
            let context = lua.create_table()?;
            context.raw_set("bundle", self.bundle.as_str())?;
            context.raw_set("generation", self.generation)?;
            if let Some(dir) = &self.dir {
                context.raw_set("dir", lua.create_string(dir.as_os_str().as_bytes())?)?;
            }
            if let Some(state) = state {
                context.raw_set("state", self.vm.converter.decode(lua, state)?)?;
            }
            Ok(Value::Table(context))
        };
        let context = context().map_err(|e: mlua::Error| raised::from_mlua(&e))?;
        self.hook(hook, &context).map(|_| ())
    }

    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        match self.exports.on_unload {
            Some(hook) => self.hook(hook, &Value::Nil),
            None => Ok(None),
        }
    }
}
