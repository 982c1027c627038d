//! Lua's stack → MessagePack.

use std::ffi::{c_int, c_void};

use menagerie_protocol::GuestError;
use menagerie_protocol::msgpack::{MAX_DEPTH, Writer};
use mlua::{MultiValue, UserDataRef, Value};

use crate::bytes::{Bytes, STALE, Slice};
use crate::stack::{Kind, Stack};
use crate::wide::{Int64, Wide};

/// A result beyond this is refused before it eats the machine's memory: tables
/// that share parts may be small in Lua and endless on the wire. The lane's
/// own, configured limit is far lower.
const MAX_SIZE: usize = 1 << 30;

/// Why a Lua value has no MessagePack form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodeError {
    Unsupported(&'static str),
    Cyclic,
    TooDeep,
    TooLarge,
    Stale,
}

impl EncodeError {
    /// The error as the caller sees it.
    pub(crate) fn into_guest_error(self) -> GuestError {
        GuestError::new("error", self.to_string())
    }
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(kind) => {
                write!(f, "a {kind} cannot leave Lua; nil, booleans, numbers, strings, bytes and tables of these can")
            }
            Self::Cyclic => f.write_str("the table contains itself"),
            Self::TooDeep => write!(f, "tables are nested deeper than {MAX_DEPTH} levels"),
            Self::TooLarge => write!(f, "the value is larger than {MAX_SIZE} bytes"),
            Self::Stale => f.write_str(STALE),
        }
    }
}

/// Writes values from the stack. What only Rust can read, userdata and cdata,
/// it moves to the bottom of the stack, to be spliced in by [`splice`].
///
/// It uses relative indices alone, so that these moves disturb nothing, and
/// only methods that never raise.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) out: &'a mut Vec<u8>,
    /// Where in `out` the moved values belong.
    pub(crate) gaps: &'a mut Vec<usize>,
    /// The metatable that makes a table a map.
    pub(crate) map_metatable: *const c_void,
    /// The tables that are being written, outermost first.
    pub(crate) path: &'a mut Vec<*const c_void>,
}

impl Encoder<'_> {
    /// How many values stand at the bottom of the stack.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "each took a slot of Lua's stack")]
    pub(crate) fn moved(&self) -> c_int {
        self.gaps.len() as c_int
    }

    /// Writes the value on top of the stack, and leaves it there.
    pub(crate) fn value(&mut self) -> Result<(), EncodeError> {
        if self.out.len() > MAX_SIZE {
            return Err(EncodeError::TooLarge);
        }
        let mut writer = Writer::new(self.out);
        match self.stack.kind(-1) {
            Kind::Nil => writer.nil(),
            Kind::Bool => writer.bool(self.stack.to_bool(-1)),
            Kind::Number => self.number(),
            // Lua has one type for both; `menagerie.bytes` says which is meant.
            Kind::String => match std::str::from_utf8(self.stack.string(-1)) {
                Ok(text) => writer.str(text),
                Err(_) => writer.bin(self.stack.string(-1)),
            },
            Kind::LightUserdata if self.stack.is_null(-1) => writer.nil(),
            Kind::LightUserdata => return Err(EncodeError::Unsupported("light userdata")),
            Kind::Function => return Err(EncodeError::Unsupported("function")),
            Kind::Thread => return Err(EncodeError::Unsupported("coroutine")),
            Kind::Userdata | Kind::Cdata => return self.set_aside(),
            Kind::Table => return self.table(),
        }
        Ok(())
    }

    #[cfg(feature = "luajit")]
    fn number(&mut self) {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let value = self.stack.to_number(-1);
        let integral = value.trunc() == value && value.abs() <= EXACT;
        let mut writer = Writer::new(self.out);
        // LuaJIT has one type of number: 1 and 1.0 are the same, and leave as
        // an integer. -0.0 is none.
        if integral && !(value == 0.0 && value.is_sign_negative()) {
            #[allow(clippy::cast_possible_truncation, reason = "integral and within ±2^53")]
            writer.int(value as i64);
        } else {
            writer.float(canonical(value));
        }
    }

    #[cfg(not(feature = "luajit"))]
    fn number(&mut self) {
        let mut writer = Writer::new(self.out);
        match self.stack.to_integer(-1) {
            Some(value) => writer.int(value),
            None => writer.float(canonical(self.stack.to_number(-1))),
        }
    }

    fn set_aside(&mut self) -> Result<(), EncodeError> {
        if !self.stack.reserve(2) {
            return Err(EncodeError::TooLarge);
        }
        self.stack.push_copy(-1);
        self.stack.insert(self.moved() + 1);
        self.gaps.push(self.out.len());
        Ok(())
    }

    fn table(&mut self) -> Result<(), EncodeError> {
        let this = self.stack.pointer(-1);
        if self.path.contains(&this) {
            return Err(EncodeError::Cyclic);
        }
        if self.path.len() >= MAX_DEPTH || !self.stack.reserve(4) {
            return Err(EncodeError::TooDeep);
        }
        self.path.push(this);
        let (pairs, is_list) = self.shape();
        if is_list {
            Writer::new(self.out).array(pairs);
            for n in (1..).take(pairs) {
                self.stack.raw_get_index(-1, n);
                self.value()?;
                self.stack.pop();
            }
        } else {
            Writer::new(self.out).map(pairs);
            self.stack.push_nil();
            while self.stack.next(-2) {
                self.stack.push_copy(-2);
                self.value()?;
                self.stack.pop();
                self.value()?;
                self.stack.pop();
            }
        }
        self.path.pop();
        Ok(())
    }

    /// How many pairs the table on top has, and whether it is a list: keys 1
    /// to n and no other, or empty, and not made by `menagerie.map`.
    fn shape(&self) -> (usize, bool) {
        let len = self.stack.raw_len(-1);
        let mut is_list = !self.stack.has_metatable(-1, self.map_metatable);
        let mut pairs = 0;
        self.stack.push_nil();
        while self.stack.next(-2) {
            self.stack.pop();
            pairs += 1;
            is_list = is_list && self.stack.kind(-1) == Kind::Number && {
                let key = self.stack.to_number(-1);
                // A border is far below 2^53, and so are keys up to it.
                #[allow(clippy::cast_precision_loss, reason = "see above")]
                let inside = key >= 1.0 && key <= len as f64;
                inside && key.trunc() == key
            };
        }
        (pairs, is_list && pairs == len)
    }
}

/// One NaN for all: a VM has its own bits for it.
const fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

/// One value that was moved: a head of a few bytes, and the bytes themselves.
#[derive(Debug)]
pub(crate) struct Splice {
    at: usize,
    head: Vec<u8>,
    body: Option<UserDataRef<Bytes>>,
}

/// Reads the values that the encoder moved.
pub(crate) fn splice(
    wide: &Wide,
    gaps: &[usize],
    values: MultiValue,
) -> Result<Vec<Splice>, EncodeError> {
    let mut splices = Vec::with_capacity(gaps.len());
    for (&at, value) in gaps.iter().zip(values) {
        let mut head = Vec::new();
        let mut writer = Writer::new(&mut head);
        let mut body = None;
        match &value {
            Value::UserData(data) if data.is::<Bytes>() => {
                let unreadable = EncodeError::Unsupported("userdata");
                let bytes = data.borrow::<Bytes>().map_err(|_| unreadable)?;
                writer.bin_head(bytes.len());
                body = Some(bytes);
            }
            _ => match wide.read(&value) {
                Ok(Some(Int64::Signed(v))) => writer.int(v),
                Ok(Some(Int64::Unsigned(v))) => writer.uint(v),
                _ if matches!(value, Value::Other(_)) => {
                    return Err(EncodeError::Unsupported("cdata"));
                }
                _ => return Err(EncodeError::Unsupported("userdata")),
            },
        }
        splices.push(Splice { at, head, body });
    }
    Ok(splices)
}

/// Shows `f` the value in pieces, in order.
pub(crate) fn with_pieces<R>(
    out: &[u8],
    splices: &[Splice],
    f: impl FnOnce(&[&[u8]]) -> R,
) -> Result<R, EncodeError> {
    let mut bodies: Vec<Option<Slice<'_>>> = Vec::with_capacity(splices.len());
    for splice in splices {
        let body = splice.body.as_ref().map(|body| body.slice()).transpose();
        bodies.push(body.map_err(|_| EncodeError::Stale)?);
    }
    let mut pieces: Vec<&[u8]> = Vec::with_capacity(splices.len() * 3 + 1);
    let mut done = 0;
    for (splice, body) in splices.iter().zip(&bodies) {
        pieces.push(&out[done..splice.at]);
        pieces.push(&splice.head);
        if let Some(body) = body {
            pieces.push(body);
        }
        done = splice.at;
    }
    pieces.push(&out[done..]);
    pieces.retain(|piece| !piece.is_empty());
    Ok(f(&pieces))
}
