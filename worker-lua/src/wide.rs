//! Integers that a plain Lua number cannot hold.
//!
//! LuaJIT's numbers are doubles; beyond ±2^53 an integer is an `int64_t` or
//! `uint64_t` of its FFI, which calculates and prints as one expects. PUC
//! Lua's integers are `i64`; above that there is `menagerie.uint64`.

#[cfg(feature = "luajit")]
pub(crate) use jit::Wide;
#[cfg(not(feature = "luajit"))]
pub(crate) use puc::Wide;

/// A 64-bit integer on its way through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int64 {
    Signed(i64),
    Unsigned(u64),
}

/// The greatest integer up to which every integer is a double of its own.
#[cfg(feature = "luajit")]
pub(crate) const EXACT: i64 = (1 << 53) - 1;

#[cfg(feature = "luajit")]
mod jit {
    use mlua::{Function, Lua, Table, Value};

    use super::{EXACT, Int64};

    /// The prelude's halves of the FFI: the FFI itself is not the guest's.
    #[derive(Debug)]
    pub(crate) struct Wide {
        join: Function,
        split: Function,
    }

    impl Wide {
        pub(crate) fn new(prelude: &Table) -> mlua::Result<Self> {
            Ok(Self { join: prelude.get("join")?, split: prelude.get("split")? })
        }

        /// Whether an argument needs [`make`](Self::make).
        pub(crate) const fn is_wide(value: i64) -> bool {
            value > EXACT || value < -EXACT
        }

        /// A cdata of the value.
        #[allow(clippy::cast_sign_loss, reason = "two's complement, told apart by the flag")]
        pub(crate) fn make(&self, _: &Lua, value: Int64) -> mlua::Result<Value> {
            let (unsigned, bits) = match value {
                Int64::Signed(v) => (false, v as u64),
                Int64::Unsigned(v) => (true, v),
            };
            self.join.call((unsigned, bits >> 32, bits & 0xffff_ffff))
        }

        /// The value of a cdata, if it is an integer.
        #[allow(clippy::cast_possible_wrap, reason = "two's complement, told apart by the flag")]
        pub(crate) fn read(&self, value: &Value) -> mlua::Result<Option<Int64>> {
            let Value::Other(_) = value else { return Ok(None) };
            let (unsigned, high, low): (Option<bool>, u64, u64) = self.split.call(value)?;
            let bits = high << 32 | low;
            Ok(unsigned.map(|unsigned| {
                if unsigned { Int64::Unsigned(bits) } else { Int64::Signed(bits as i64) }
            }))
        }
    }
}

#[cfg(not(feature = "luajit"))]
mod puc {
    use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, Value};

    use super::Int64;

    /// Makes and reads `menagerie.uint64`.
    #[derive(Debug)]
    pub(crate) struct Wide;

    impl Wide {
        pub(crate) const fn new(_: &Table) -> mlua::Result<Self> {
            Ok(Self)
        }

        /// Whether an argument needs [`make`](Self::make): no `i64` does.
        pub(crate) const fn is_wide(_: i64) -> bool {
            false
        }

        /// An integer, or the userdata for those above `i64::MAX`.
        #[allow(clippy::unused_self, reason = "the same shape as with LuaJIT")]
        pub(crate) fn make(&self, lua: &Lua, value: Int64) -> mlua::Result<Value> {
            match value {
                Int64::Signed(v) => Ok(Value::Integer(v)),
                Int64::Unsigned(v) => Ok(Value::UserData(lua.create_userdata(Uint64(v))?)),
            }
        }

        /// The value of the userdata, if it is one.
        #[allow(clippy::unused_self, reason = "the same shape as with LuaJIT")]
        pub(crate) fn read(&self, value: &Value) -> mlua::Result<Option<Int64>> {
            match value {
                Value::UserData(data) if data.is::<Uint64>() => {
                    Ok(Some(Int64::Unsigned(data.borrow::<Uint64>()?.0)))
                }
                _ => Ok(None),
            }
        }
    }

    struct Uint64(u64);

    type Operator = fn(i128, i128) -> Option<i128>;

    /// Either operand as a number that holds both kinds.
    fn operand(value: &Value) -> mlua::Result<i128> {
        match value {
            Value::Integer(v) => Ok(i128::from(*v)),
            Value::UserData(data) if data.is::<Uint64>() => {
                Ok(i128::from(data.borrow::<Uint64>()?.0))
            }
            other => {
                let problem = format!("uint64: expected an integer, got {}", other.type_name());
                Err(mlua::Error::runtime(problem))
            }
        }
    }

    /// The result as an integer where it fits, else as another `uint64`.
    fn result(lua: &Lua, value: Option<i128>) -> mlua::Result<Value> {
        let overflow = || mlua::Error::runtime("uint64: the result does not fit 64 bits");
        let value = value.ok_or_else(overflow)?;
        if let Ok(signed) = i64::try_from(value) {
            return Ok(Value::Integer(signed));
        }
        let unsigned = u64::try_from(value).map_err(|_| overflow())?;
        Ok(Value::UserData(lua.create_userdata(Uint64(unsigned))?))
    }

    impl UserData for Uint64 {
        fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
            let operators: [(MetaMethod, Operator); 5] = [
                (MetaMethod::Add, i128::checked_add),
                (MetaMethod::Sub, i128::checked_sub),
                (MetaMethod::Mul, i128::checked_mul),
                (MetaMethod::IDiv, i128::checked_div_euclid),
                (MetaMethod::Mod, i128::checked_rem_euclid),
            ];
            for (name, operator) in operators {
                methods.add_meta_function(name, move |lua, (a, b): (Value, Value)| {
                    result(lua, operator(operand(&a)?, operand(&b)?))
                });
            }
            methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (Value, Value)| {
                Ok(operand(&a)? == operand(&b)?)
            });
            methods.add_meta_function(MetaMethod::Lt, |_, (a, b): (Value, Value)| {
                Ok(operand(&a)? < operand(&b)?)
            });
            methods.add_meta_function(MetaMethod::Le, |_, (a, b): (Value, Value)| {
                Ok(operand(&a)? <= operand(&b)?)
            });
            methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(this.0.to_string()));
        }
    }
}
