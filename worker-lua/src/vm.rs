//! One Lua state, and calls into it.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use menagerie_protocol::GuestError;
use menagerie_protocol::msgpack::Reader;
use mlua::{Function, Lua, LuaOptions, StdLib, Table, Value, ffi};

use crate::bytes::Unseen;
use crate::decode::{Shared, objects};
use crate::encode::{EncodeError, Scratch, Splice, splice};
use crate::interrupt::Interrupter;
use crate::native;
use crate::outcall::Converter;
use crate::raised;
use crate::trampoline::{self, Arguments, Frame, Outcome, Shelves};
use crate::wide::Wide;

/// The Lua half of the worker.
const PRELUDE: &str = include_str!("prelude.lua");

/// A Lua state with the prelude run, and what the host needs of it.
///
/// It belongs to one generation of one bundle; dropping it frees everything
/// that the bundle has in Lua.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) lua: Lua,
    /// The functions that the prelude got.
    pub(crate) native: Table,
    pub(crate) interrupter: Arc<Interrupter>,
    /// What converts values of this state.
    pub(crate) converter: Rc<Converter>,
    xpcall: Function,
    on_error: Function,
    arity: Function,
    trampoline: Function,
    shelves: Shelves,
    map_metatable: *const c_void,
    scratch: Scratch,
}

/// Why a call into Lua gave no value.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The arguments do not fit on Lua's stack, or into a Lua table.
    Arguments,
    /// It was asked to stop.
    Cancelled,
    /// Lua raised an error.
    Raised(GuestError),
    /// The result has no MessagePack form.
    Result(EncodeError),
}

/// A result: MessagePack with gaps, and what belongs there.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    pub(crate) out: &'a [u8],
    pub(crate) splices: Vec<Splice>,
    /// How many bytes it may have in all.
    pub(crate) limit: usize,
}

impl Vm {
    /// A new state, in which no bundle's code has run, and nothing is any bundle's.
    pub(crate) fn new() -> mlua::Result<Self> {
        let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::default())?;
        lua.set_app_data(Unseen::default());
        let interrupter = Arc::new(Interrupter::default());
        interrupter.install(&lua)?;
        let functions = lua.create_table()?;
        native::fill(&lua, &functions, &interrupter)?;
        let debug = open_library(&lua, ffi::luaopen_debug)?;
        #[cfg(feature = "luajit")]
        let ffi = open_library(&lua, ffi::luaopen_ffi)?;
        // The FFI's own tables hang on this one: without it they would be
        // collected, and every cdata would look into freed memory.
        #[cfg(feature = "luajit")]
        lua.set_named_registry_value("menagerie.ffi", &ffi)?;
        #[cfg(not(feature = "luajit"))]
        let ffi = Value::Nil;
        let prelude: Table =
            lua.load(PRELUDE).set_name("=menagerie").call((debug, ffi, &functions))?;
        forget_library(&lua, "ffi")?;
        let shelves = Shelves {
            functions: lua.create_table()?,
            inbox: lua.create_table()?,
            outbox: lua.create_table()?,
        };
        let on_error: Function = prelude.get("on_error")?;
        let map_metatable: Table = prelude.get("map_metatable")?;
        let trampoline = trampoline::create(&lua, &shelves, &map_metatable, &on_error)?;
        let converter = Rc::new(Converter {
            wide: Wide::new(&prelude)?,
            map_metatable,
            interrupter: Arc::clone(&interrupter),
            limit: Cell::new(usize::MAX),
        });
        native::fill_integers(&lua, &functions, &converter)?;
        Ok(Self {
            trampoline,
            shelves,
            map_metatable: converter.map_metatable.to_pointer(),
            converter,
            native: functions,
            interrupter,
            xpcall: prelude.get("xpcall")?,
            on_error,
            arity: prelude.get("arity")?,
            scratch: Scratch::default(),
            lua,
        })
    }

    /// How many arguments a function takes; none if any number.
    pub(crate) fn arity(&self, function: &Function) -> mlua::Result<Option<usize>> {
        let (count, any): (usize, bool) = self.arity.call(function)?;
        Ok((!any).then_some(count))
    }

    /// Runs the bundle's main chunk, and returns what it returns.
    pub(crate) fn run(&self, chunk: &Function) -> Result<Value, CallError> {
        match self.xpcall.call::<(bool, Value)>((chunk, &self.on_error))? {
            (true, value) => Ok(value),
            (false, info) => Err(CallError::Raised(raised::caught(&info))),
        }
    }

    /// Adds a function that [`call`](Self::call) can call, and returns its
    /// number.
    pub(crate) fn add_function(&self, function: &Function) -> mlua::Result<i64> {
        self.shelves.functions.raw_push(function)?;
        Ok(i64::try_from(self.shelves.functions.raw_len()).unwrap_or(i64::MAX))
    }

    /// Calls a function with `count` values in MessagePack, which were scanned,
    /// and encodes its first result.
    pub(crate) fn call(
        &mut self,
        function: i64,
        reader: Reader<'_>,
        count: usize,
    ) -> Result<Encoded<'_>, CallError> {
        let limit = self.converter.limit.get();
        self.run_frame(function, Arguments::Packed { reader, count }, limit)
    }

    /// As [`call`](Self::call), where [`objects`] have to be made first.
    pub(crate) fn call_with_objects(
        &mut self,
        function: i64,
        reader: Reader<'_>,
        count: usize,
        shared: Shared<'_>,
    ) -> Result<Encoded<'_>, CallError> {
        let inbox = self.shelves.inbox.clone();
        let limit = self.converter.limit.get();
        let made = objects(&self.lua, &self.converter, reader.rest(), shared, &inbox);
        let result = match made {
            Ok(()) => self.run_frame(function, Arguments::Packed { reader, count }, limit),
            Err(_) if self.interrupter.is_stopped() => Err(CallError::Cancelled),
            Err(error) => Err(error.into()),
        };
        // However it went: what is left there would be the next call's arguments.
        inbox.clear()?;
        result
    }

    /// As [`call`](Self::call), with one Lua value, and a result of this many bytes at most.
    pub(crate) fn call_with(
        &mut self,
        function: i64,
        value: &Value,
        limit: usize,
    ) -> Result<Encoded<'_>, CallError> {
        let inbox = self.shelves.inbox.clone();
        inbox.raw_push(value)?;
        let result = self.run_frame(function, Arguments::Object, limit);
        inbox.clear()?;
        result
    }

    fn run_frame(
        &mut self,
        function: i64,
        arguments: Arguments<'_>,
        limit: usize,
    ) -> Result<Encoded<'_>, CallError> {
        self.scratch.clear(limit);
        let mut frame = Frame {
            function,
            arguments,
            map_metatable: self.map_metatable,
            scratch: &mut self.scratch,
            interrupter: &self.interrupter,
            outcome: Outcome::Arguments,
        };
        let Shelves { outbox, .. } = &self.shelves;
        let called = trampoline::call(&self.trampoline, &mut frame);
        let outcome = frame.outcome;
        let is_outbox_used = outcome != Outcome::Done || !self.scratch.gaps.is_empty();
        let result = match called.map(|()| outcome) {
            Ok(Outcome::Done) => splice(&self.converter.wide, &self.scratch, outbox)
                .map_err(CallError::from)
                .and_then(|splices| splices.map_err(CallError::Result)),
            // Telling an error runs the guest's code as well, `__index` and `__tostring`.
            Ok(Outcome::Raised) => Err(match outbox.raw_get::<Value>(1) {
                Ok(info) => CallError::Raised(raised::caught(&info)),
                Err(error) => error.into(),
            }),
            Ok(Outcome::Arguments) => Err(CallError::Arguments),
            Ok(Outcome::Result(error)) => Err(CallError::Result(error)),
            Err(error) => Err(error.into()),
        };
        if is_outbox_used {
            outbox.clear()?;
        }
        match result {
            Ok(splices) => Ok(Encoded { out: &self.scratch.out, splices, limit }),
            Err(_) if self.interrupter.is_stopped() => Err(CallError::Cancelled),
            Err(error) => Err(error),
        }
    }
}

impl From<mlua::Error> for CallError {
    fn from(error: mlua::Error) -> Self {
        Self::Raised(raised::from_mlua(&error))
    }
}

/// Opens a library for the prelude alone: `mlua` gives guests neither `debug`
/// nor `ffi`, with which they could corrupt the worker's memory.
fn open_library(
    lua: &Lua,
    open: unsafe extern "C-unwind" fn(*mut ffi::lua_State) -> c_int,
) -> mlua::Result<Value> {
    // SAFETY: the function is one of the vendored library's own openers, which
    // leave the library's table; it is called in protected mode.
    let open = unsafe { lua.create_c_function(open) }?;
    open.call(())
}

/// An opener may register its library for `require`.
fn forget_library(lua: &Lua, name: &str) -> mlua::Result<()> {
    let package: Table = lua.globals().get("package")?;
    let loaded: Table = package.get("loaded")?;
    loaded.set(name, Value::Nil)?;
    lua.globals().set(name, Value::Nil)
}

/// The runtime's name and version: `LuaJIT 2.1.…`, `Lua 5.4.…`.
#[cfg(feature = "luajit")]
#[must_use]
pub fn runtime_version() -> String {
    // The one library that knows it: all of them take 0.1 ms, and a hello waits.
    let version = || {
        let lua = Lua::new_with(mlua::StdLib::JIT, mlua::LuaOptions::new())?;
        lua.globals().get::<Table>("jit")?.get::<String>("version")
    };
    version().unwrap_or_else(|_| "LuaJIT".to_owned())
}

/// The runtime's name and version: `LuaJIT 2.1.…`, `Lua 5.4.…`.
#[cfg(not(feature = "luajit"))]
#[must_use]
pub fn runtime_version() -> String {
    use std::ffi::{CStr, c_char};
    unsafe extern "C" {
        /// `$LuaVersion: Lua 5.4.8  Copyright …`, in every Lua library.
        static lua_ident: c_char;
    }
    // SAFETY: Lua documents `lua_ident` as a C string constant; the library is
    // linked in.
    let ident = unsafe { CStr::from_ptr(&raw const lua_ident) }.to_string_lossy();
    let version = ident.split(": ").nth(1).and_then(|rest| rest.split("  ").next());
    version.unwrap_or("Lua 5.4").to_owned()
}
