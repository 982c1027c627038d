//! One Lua state, and calls into it.

use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use menagerie_protocol::GuestError;
use mlua::{Function, Lua, LuaOptions, MultiValue, StdLib, Table, Value, ffi};

use crate::encode::{EncodeError, Encoder, Splice, splice};
use crate::interrupt::Interrupter;
use crate::outcall::Converter;
use crate::raised;
use crate::stack::{Stack, protected};
use crate::wide::Wide;

/// The Lua half of the worker.
const PRELUDE: &str = include_str!("prelude.lua");

/// Indices of what [`Vm::call`] puts on the stack first.
pub(crate) const MAP_METATABLE: c_int = 4;
/// The first of the objects that the caller of [`Vm::call`] made.
pub(crate) const FIRST_OBJECT: c_int = 5;

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
    converter: Rc<Converter>,
    xpcall: Function,
    on_error: Function,
    arity: Function,
    scratch: Scratch,
}

/// Buffers that are used again by every call.
#[derive(Debug, Default)]
struct Scratch {
    out: Vec<u8>,
    gaps: Vec<usize>,
    path: Vec<*const c_void>,
}

/// A buffer that grew beyond this by one large result is given back.
const KEEP: usize = 1 << 20;

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
}

#[derive(Clone, Copy)]
enum Outcome {
    Arguments,
    Raised,
    Result(EncodeError),
    Done,
}

impl Vm {
    /// A new state; `native` makes the host's functions for the prelude.
    pub(crate) fn new(
        native: impl FnOnce(&Lua, &Table, &Arc<Interrupter>) -> mlua::Result<()>,
    ) -> mlua::Result<Self> {
        let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::default())?;
        let interrupter = Arc::new(Interrupter::default());
        interrupter.install(&lua)?;
        let functions = lua.create_table()?;
        native(&lua, &functions, &interrupter)?;
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
        Ok(Self {
            converter: Rc::new(Converter {
                wide: Wide::new(&prelude)?,
                map_metatable: prelude.get("map_metatable")?,
            }),
            native: functions,
            interrupter,
            xpcall: prelude.get("xpcall")?,
            on_error: prelude.get("on_error")?,
            arity: prelude.get("arity")?,
            scratch: Scratch::default(),
            lua,
        })
    }

    /// What converts values of this state.
    pub(crate) fn converter(&self) -> Rc<Converter> {
        Rc::clone(&self.converter)
    }

    /// How many arguments a function takes; none if any number.
    pub(crate) fn arity(&self, function: &Function) -> mlua::Result<Option<usize>> {
        let (count, any): (usize, bool) = self.arity.call(function)?;
        Ok((!any).then_some(count))
    }

    /// Runs the bundle's main chunk, and returns what it returns.
    pub(crate) fn run(&self, chunk: &Function) -> Result<Value, CallError> {
        self.interrupter.begin();
        let result = self.xpcall.call::<(bool, Value)>((chunk, &self.on_error));
        let stopped = self.interrupter.end();
        match result {
            Ok((true, value)) => Ok(value),
            _ if stopped => Err(CallError::Cancelled),
            Ok((false, info)) => Err(CallError::Raised(raised::caught(&info))),
            Err(error) => Err(CallError::Raised(raised::from_mlua(&error))),
        }
    }

    /// Calls `function` with what `push` pushes, and encodes its first result.
    ///
    /// `push` finds `objects` from [`FIRST_OBJECT`] on and the metatable of
    /// maps at [`MAP_METATABLE`]. It pushes `count` values, or returns false.
    ///
    /// # Safety
    ///
    /// `push` keeps the promises that [`protected`] asks for.
    pub(crate) unsafe fn call(
        &mut self,
        function: &Function,
        objects: MultiValue,
        count: c_int,
        push: impl FnOnce(&Stack) -> bool,
    ) -> Result<Encoded<'_>, CallError> {
        let Self { lua, converter, scratch: Scratch { out, gaps, path }, .. } = self;
        if out.capacity() > KEEP {
            *out = Vec::new();
        }
        out.clear();
        gaps.clear();
        path.clear();
        let map_metatable = converter.map_metatable.to_pointer();
        let mut outcome = Outcome::Arguments;
        let args = (&self.xpcall, function, &self.on_error, &converter.map_metatable, objects);
        self.interrupter.begin();
        // SAFETY: the closure owns nothing but what `push` owns, which is
        // nothing, as our caller promises; its indices are those of `args`;
        // room is reserved for all that it pushes.
        let result: mlua::Result<MultiValue> = unsafe {
            protected(lua, args, |stack| {
                outcome = Outcome::Arguments;
                if !stack.reserve(count.saturating_add(16)) {
                    return stack.set_top(0);
                }
                for index in 1..=3 {
                    stack.push_copy(index);
                }
                if !push(stack) {
                    return stack.set_top(0);
                }
                stack.call(count + 2, 2);
                if !stack.to_bool(-2) {
                    outcome = Outcome::Raised;
                    stack.insert(1);
                    return stack.set_top(1);
                }
                let mut encoder = Encoder { stack, out, gaps, map_metatable, path };
                outcome = match encoder.value() {
                    Ok(()) => Outcome::Done,
                    Err(error) => Outcome::Result(error),
                };
                let moved = encoder.moved();
                stack.set_top(moved);
            })
        };
        let stopped = self.interrupter.end();
        let values = match (result, outcome) {
            (Ok(values), Outcome::Done) => values,
            _ if stopped => return Err(CallError::Cancelled),
            (Ok(_), Outcome::Arguments) => return Err(CallError::Arguments),
            (Ok(_), Outcome::Result(error)) => return Err(CallError::Result(error)),
            (Ok(values), Outcome::Raised) => {
                let info = values.into_iter().next().unwrap_or(Value::Nil);
                return Err(CallError::Raised(raised::caught(&info)));
            }
            (Err(error), _) => return Err(CallError::Raised(raised::from_mlua(&error))),
        };
        let splices = splice(&converter.wide, gaps, values).map_err(CallError::Result)?;
        Ok(Encoded { out, splices })
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
    let lua = Lua::new();
    let version = || lua.globals().get::<Table>("jit")?.get::<String>("version");
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
