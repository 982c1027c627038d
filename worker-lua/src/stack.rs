//! Lua's stack inside one protected call: the only unsafe code of this crate
//! but for the bytes views and two symbols of the vendored library.
//!
//! Values could cross through `mlua`'s own handles as well; each of them costs
//! a reference slot and a protected call, which is dear for a list of a
//! thousand strings. Here a whole argument list or result is walked within one
//! protected call.

use std::ffi::{c_int, c_void};

use mlua::{FromLuaMulti, IntoLuaMulti, Lua, ffi};

/// The stack of a C function's frame that [`protected`] opened.
#[derive(Debug)]
pub(crate) struct Stack {
    state: *mut ffi::lua_State,
}

/// The kind of a value on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nil,
    Bool,
    Number,
    String,
    Table,
    Function,
    Thread,
    Userdata,
    LightUserdata,
    /// LuaJIT's cdata, of which the 64-bit integers are values of ours.
    Cdata,
}

/// The index of an upvalue of the running C function.
pub(crate) const fn upvalue(n: c_int) -> c_int {
    ffi::lua_upvalueindex(n)
}

/// Runs `f` in a protected C function whose stack holds `args`, and returns
/// what `f` leaves on it, or the Lua error that was raised meanwhile.
///
/// # Safety
///
/// - While `f` runs a method of [`Stack`] that says "may raise", no frame of
///   `f` owns a value with a destructor: the raise unwinds or jumps over it.
/// - Every index that `f` passes is one that is on the stack, of the kind that
///   the method asks for.
/// - `f` pushes no more than the 15 values that a frame has room for, beside
///   what it got from [`Stack::reserve`].
pub(crate) unsafe fn protected<R: FromLuaMulti>(
    lua: &Lua,
    args: impl IntoLuaMulti,
    f: impl FnOnce(&Stack),
) -> mlua::Result<R> {
    // SAFETY: `exec_raw` asks for a closure that owns nothing across a raise
    // and keeps the stack in order, which is what our caller promises.
    unsafe { lua.exec_raw(args, |state| f(&Stack { state })) }
}

/// What `lua_gc` takes to ask whether the collector runs; `mlua` names it for PUC Lua
/// only.
const IS_RUNNING: c_int = 9;

/// Runs the collector as far as an allocation of `bytes` would, unless the bundle has
/// stopped it.
pub(crate) fn collect(lua: &Lua, bytes: usize) -> mlua::Result<()> {
    let kilobytes = c_int::try_from(bytes >> 10).unwrap_or(c_int::MAX);
    let step = |stack: &Stack| {
        // SAFETY: the state is live.
        if unsafe { ffi::lua_gc(stack.state, IS_RUNNING, 0) } == 0 {
            return;
        }
        // SAFETY: the state is live and in a protected call: a finalizer may raise, over
        // frames that own nothing.
        unsafe { ffi::lua_gc(stack.state, ffi::LUA_GCSTEP, kilobytes) };
    };
    // SAFETY: the closure owns nothing, and leaves the stack as it is.
    unsafe { protected(lua, (), step) }
}

// Each method is sound by the promises that were given to `protected` or `of`:
// the state is live and in a protected call, indices exist, there is room.
impl Stack {
    /// The stack of a running C function.
    ///
    /// # Safety
    ///
    /// The function was called by Lua with this state, in a protected call;
    /// and it keeps the promises that [`protected`] asks for.
    pub(crate) const unsafe fn of(state: *mut ffi::lua_State) -> Self {
        Self { state }
    }

    /// How many values there are.
    pub(crate) fn top(&self) -> c_int {
        // SAFETY: reads a live state.
        unsafe { ffi::lua_gettop(self.state) }
    }

    /// Cuts the stack to `top` values, or fills it up with nils.
    pub(crate) fn set_top(&self, top: c_int) {
        // SAFETY: `top` is within the room that was promised.
        unsafe { ffi::lua_settop(self.state, top) }
    }

    /// Drops the value on top.
    pub(crate) fn pop(&self) {
        // SAFETY: there is a value, as promised.
        unsafe { ffi::lua_settop(self.state, -2) }
    }

    /// Makes room for `n` more values; false if there is none.
    pub(crate) fn reserve(&self, n: c_int) -> bool {
        // SAFETY: `lua_checkstack` reports failure by its result.
        unsafe { ffi::lua_checkstack(self.state, n) != 0 }
    }

    /// The kind of the value at `index`.
    pub(crate) fn kind(&self, index: c_int) -> Kind {
        // SAFETY: the index exists, as promised.
        match unsafe { ffi::lua_type(self.state, index) } {
            ffi::LUA_TBOOLEAN => Kind::Bool,
            ffi::LUA_TNUMBER => Kind::Number,
            ffi::LUA_TSTRING => Kind::String,
            ffi::LUA_TTABLE => Kind::Table,
            ffi::LUA_TFUNCTION => Kind::Function,
            ffi::LUA_TTHREAD => Kind::Thread,
            ffi::LUA_TUSERDATA => Kind::Userdata,
            ffi::LUA_TLIGHTUSERDATA => Kind::LightUserdata,
            ffi::LUA_TNIL | ffi::LUA_TNONE => Kind::Nil,
            _ => Kind::Cdata,
        }
    }

    /// The truth of the value at `index`.
    pub(crate) fn to_bool(&self, index: c_int) -> bool {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_toboolean(self.state, index) != 0 }
    }

    /// The number at `index`, which is of [`Kind::Number`].
    pub(crate) fn to_number(&self, index: c_int) -> f64 {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_tonumber(self.state, index) }
    }

    /// The integer at `index`, if it is a number of Lua's integer subtype.
    #[cfg(not(feature = "luajit"))]
    pub(crate) fn to_integer(&self, index: c_int) -> Option<i64> {
        // SAFETY: the index exists, as promised.
        if unsafe { ffi::lua_isinteger(self.state, index) } == 0 {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { ffi::lua_tointegerx(self.state, index, std::ptr::null_mut()) })
    }

    /// The bytes of the string at `index`, which is of [`Kind::String`] and
    /// stays on the stack while the slice is used.
    pub(crate) fn string(&self, index: c_int) -> &[u8] {
        let mut len = 0;
        // SAFETY: the index exists, and it is a string already, so that
        // nothing is converted in place.
        let data = unsafe { ffi::lua_tolstring(self.state, index, &raw mut len) };
        if data.is_null() {
            return &[];
        }
        // SAFETY: Lua's strings are immutable and do not move; this one is
        // alive while it is on the stack, and `len` is its length.
        unsafe { std::slice::from_raw_parts(data.cast(), len) }
    }

    /// The address of the object at `index`, or null.
    pub(crate) fn pointer(&self, index: c_int) -> *const c_void {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_topointer(self.state, index) }
    }

    /// The address that the light userdata at `index` is.
    pub(crate) fn to_address(&self, index: c_int) -> *mut c_void {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_touserdata(self.state, index) }
    }

    /// Whether the value at `index` has this very metatable.
    pub(crate) fn has_metatable(&self, index: c_int, metatable: *const c_void) -> bool {
        // SAFETY: the index exists, as promised; pushes one value at most.
        if unsafe { ffi::lua_getmetatable(self.state, index) } == 0 {
            return false;
        }
        let found = self.pointer(-1);
        self.pop();
        found == metatable
    }

    /// The border of the table at `index`, without metamethods.
    pub(crate) fn raw_len(&self, index: c_int) -> usize {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_rawlen(self.state, index) }
    }

    /// Pushes element `n` of the table at `index`.
    pub(crate) fn raw_get_index(&self, index: c_int, n: i64) {
        // SAFETY: the index is a table's, as promised; reading never raises.
        unsafe { ffi::lua_rawgeti(self.state, index, n) };
    }

    /// Replaces the key on top by the value that the table at `index` holds
    /// for it.
    pub(crate) fn raw_get(&self, index: c_int) {
        // SAFETY: the index is a table's, as promised; reading never raises.
        unsafe { ffi::lua_rawget(self.state, index) };
    }

    /// Replaces the key on top by the next key and value of the table at
    /// `index`; false, with nothing pushed, at the end.
    pub(crate) fn next(&self, index: c_int) -> bool {
        // SAFETY: the index is a table's and the key came from this iteration,
        // so that it never raises.
        unsafe { ffi::lua_next(self.state, index) != 0 }
    }

    /// Pushes a copy of the value at `index`.
    pub(crate) fn push_copy(&self, index: c_int) {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_pushvalue(self.state, index) }
    }

    /// Moves the value on top to `index`.
    pub(crate) fn insert(&self, index: c_int) {
        // SAFETY: the index exists, as promised.
        unsafe { ffi::lua_insert(self.state, index) }
    }

    /// Pushes nil.
    pub(crate) fn push_nil(&self) {
        // SAFETY: there is room, as promised.
        unsafe { ffi::lua_pushnil(self.state) }
    }

    /// Pushes the sentinel for null, `menagerie.null`.
    pub(crate) fn push_null(&self) {
        // SAFETY: there is room, as promised.
        unsafe { ffi::lua_pushlightuserdata(self.state, std::ptr::null_mut()) }
    }

    /// Pushes a boolean.
    pub(crate) fn push_bool(&self, value: bool) {
        // SAFETY: there is room, as promised.
        unsafe { ffi::lua_pushboolean(self.state, c_int::from(value)) }
    }

    /// Pushes a float.
    pub(crate) fn push_number(&self, value: f64) {
        // SAFETY: there is room, as promised.
        unsafe { ffi::lua_pushnumber(self.state, value) }
    }

    /// Pushes an integer; LuaJIT makes a double of it.
    pub(crate) fn push_integer(&self, value: i64) {
        // SAFETY: there is room, as promised.
        unsafe { ffi::lua_pushinteger(self.state, value as ffi::lua_Integer) }
    }

    /// Pushes a string. May raise.
    pub(crate) fn push_string(&self, value: &[u8]) {
        // SAFETY: `value` is valid for its length; Lua copies it.
        unsafe { ffi::lua_pushlstring(self.state, value.as_ptr().cast(), value.len()) };
    }

    /// Pushes an empty table with room for elements and pairs. May raise.
    pub(crate) fn push_table(&self, elements: usize, pairs: usize) {
        // Only hints: a table grows by itself.
        let hint = |n: usize| c_int::try_from(n.min(1 << 20)).unwrap_or(0);
        // SAFETY: there is room, as promised; the frame owns nothing.
        unsafe { ffi::lua_createtable(self.state, hint(elements), hint(pairs)) }
    }

    /// Pops the value on top into element `n` of the table at `index`. May
    /// raise.
    pub(crate) fn raw_set_index(&self, index: c_int, n: i64) {
        // SAFETY: the index is a table's, as promised; the frame owns nothing.
        unsafe { ffi::lua_rawseti(self.state, index, n) }
    }

    /// Pops value and key into the table at `index`; the key is neither nil
    /// nor NaN. May raise.
    pub(crate) fn raw_set(&self, index: c_int) {
        // SAFETY: the index is a table's, as promised; the frame owns nothing.
        unsafe { ffi::lua_rawset(self.state, index) }
    }

    /// Pops a table and makes it the metatable of the one at `index`.
    pub(crate) fn set_metatable(&self, index: c_int) {
        // SAFETY: both are tables, as promised.
        unsafe { ffi::lua_setmetatable(self.state, index) };
    }

    /// Calls the function below the `args` values on top, with the error
    /// handler at `handler`. Leaves its first result, or false and the error.
    pub(crate) fn protected_call(&self, args: c_int, handler: c_int) -> bool {
        // SAFETY: handler, function and arguments are there, as promised.
        unsafe { ffi::lua_pcall(self.state, args, 1, handler) == ffi::LUA_OK }
    }

    /// Replaces the `upvalues` values on top by a C function that has them. May
    /// raise.
    pub(crate) fn push_closure(&self, function: ffi::lua_CFunction, upvalues: c_int) {
        // SAFETY: the values are there, as promised; the frame owns nothing.
        unsafe { ffi::lua_pushcclosure(self.state, function, upvalues) }
    }
}
