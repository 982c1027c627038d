//! Lua's stack → MessagePack.

use std::collections::HashSet;
use std::ffi::{c_int, c_void};

use menagerie_protocol::msgpack::{DecodeError, MAX_DEPTH, Reader, Token, Writer};
use menagerie_protocol::{Failure, GuestError};
use mlua::{Table, UserDataRef, Value};

use crate::bytes::{Bytes, STALE};
use crate::interrupt::{CANCELLED, Interrupter, LOOK_EVERY};
use crate::stack::{Kind, Stack};
use crate::wide::{Int64, Wide};

/// Why a Lua value has no MessagePack form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodeError {
    Unsupported(&'static str),
    Cyclic,
    TooDeep,
    TooLarge { size: usize, limit: usize },
    Stale,
    Stopped,
    SameKey,
}

impl EncodeError {
    /// The error as the caller sees it.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::TooLarge { size, limit } => {
                Failure::PayloadTooLarge { size: size as u64, limit: limit as u64 }
            }
            Self::Stopped => Failure::Cancelled,
            other => GuestError::new("error", other.to_string()).into(),
        }
    }
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(kind) => {
                write!(
                    f,
                    "a {kind} cannot leave Lua; nil, booleans, numbers, strings, bytes and tables of these can"
                )
            }
            Self::Cyclic => f.write_str("the table contains itself"),
            Self::TooDeep => write!(f, "tables are nested deeper than {MAX_DEPTH} levels"),
            Self::TooLarge { limit, .. } => write!(f, "the value is larger than {limit} bytes"),
            Self::Stale => f.write_str(STALE),
            Self::Stopped => f.write_str(CANCELLED),
            Self::SameKey => f.write_str("two keys of a map are the same value"),
        }
    }
}

/// What an [`Encoder`] writes into, outside its own frame, where no Lua error
/// can leak it; and again and again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// MessagePack.
    pub(crate) out: Vec<u8>,
    /// Where in `out` the values belong that were set aside.
    pub(crate) gaps: Vec<usize>,
    /// The tables that are being written, outermost first.
    path: Vec<*const c_void>,
    /// How many values have been begun.
    values: usize,
    /// Whether a map has keys that are objects: two of them, or one and a plain value,
    /// differ in Lua and may be one key outside.
    has_object_keys: bool,
    /// How many bytes the value may have in all.
    limit: usize,
}

/// A buffer that grew beyond this by one large result is given back.
const KEEP: usize = 1 << 20;

impl Scratch {
    /// For values of so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Empties it, for a value of so many bytes.
    pub(crate) fn clear(&mut self, limit: usize) {
        self.limit = limit;
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        self.out.clear();
        self.gaps.clear();
        self.path.clear();
        self.values = 0;
        self.has_object_keys = false;
    }
}

/// Writes values from the stack. What only Rust can read, userdata and cdata,
/// it sets aside in the outbox, to be spliced in by [`splice`].
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) scratch: &'a mut Scratch,
    /// The index of the table for what is set aside: an absolute one.
    pub(crate) outbox: c_int,
    /// The metatable that makes a table a map.
    pub(crate) map_metatable: *const c_void,
    pub(crate) interrupter: &'a Interrupter,
}

impl Encoder<'_> {
    /// Writes the value on top of the stack, and leaves it there. May raise.
    pub(crate) fn value(&mut self) -> Result<(), EncodeError> {
        let size = self.scratch.out.len();
        if size > self.scratch.limit {
            return Err(EncodeError::TooLarge { size, limit: self.scratch.limit });
        }
        // No hook is called in here, and tables that share parts take long.
        self.scratch.values += 1;
        if self.scratch.values.is_multiple_of(LOOK_EVERY) && self.interrupter.is_stopped() {
            return Err(EncodeError::Stopped);
        }
        let mut writer = Writer::new(&mut self.scratch.out);
        match self.stack.kind(-1) {
            Kind::Nil => writer.nil(),
            Kind::Bool => writer.bool(self.stack.to_bool(-1)),
            Kind::Number => self.number(),
            // Lua has one type for both; `menagerie.bytes` says which is meant.
            Kind::String => match std::str::from_utf8(self.stack.string(-1)) {
                Ok(text) => writer.str(text),
                Err(_) => writer.bin(self.stack.string(-1)),
            },
            Kind::LightUserdata if self.stack.to_address(-1).is_null() => writer.nil(),
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
        let mut writer = Writer::new(&mut self.scratch.out);
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
        let mut writer = Writer::new(&mut self.scratch.out);
        match self.stack.to_integer(-1) {
            Some(value) => writer.int(value),
            None => writer.float(canonical(self.stack.to_number(-1))),
        }
    }

    fn set_aside(&mut self) -> Result<(), EncodeError> {
        if !self.stack.reserve(1) {
            return Err(EncodeError::TooDeep);
        }
        self.scratch.gaps.push(self.scratch.out.len());
        let number = i64::try_from(self.scratch.gaps.len()).unwrap_or(i64::MAX);
        self.stack.push_copy(-1);
        self.stack.raw_set_index(self.outbox, number);
        Ok(())
    }

    fn table(&mut self) -> Result<(), EncodeError> {
        let this = self.stack.pointer(-1);
        if self.scratch.path.contains(&this) {
            return Err(EncodeError::Cyclic);
        }
        if self.scratch.path.len() >= MAX_DEPTH || !self.stack.reserve(4) {
            return Err(EncodeError::TooDeep);
        }
        self.scratch.path.push(this);
        let (pairs, is_list) = self.shape();
        if is_list {
            Writer::new(&mut self.scratch.out).array(pairs);
            for n in (1..).take(pairs) {
                self.stack.raw_get_index(-1, n);
                self.value()?;
                self.stack.pop();
            }
        } else {
            Writer::new(&mut self.scratch.out).map(pairs);
            self.stack.push_nil();
            while self.stack.next(-2) {
                self.stack.push_copy(-2);
                self.scratch.has_object_keys |=
                    matches!(self.stack.kind(-1), Kind::Table | Kind::Userdata | Kind::Cdata);
                self.value()?;
                self.stack.pop();
                self.value()?;
                self.stack.pop();
            }
        }
        self.scratch.path.pop();
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

/// One value that was set aside: a head of a few bytes, and the bytes themselves.
#[derive(Debug)]
pub(crate) struct Splice {
    at: usize,
    head: Vec<u8>,
    body: Option<UserDataRef<Bytes>>,
}

/// Reads the values that were set aside.
pub(crate) fn splice(
    wide: &Wide,
    Scratch { out, gaps, has_object_keys, limit, .. }: &Scratch,
    outbox: &Table,
) -> mlua::Result<Result<Vec<Splice>, EncodeError>> {
    if gaps.is_empty() && !has_object_keys {
        return Ok(Ok(Vec::new()));
    }
    // One after the other: `mlua` has a few thousand places for values that it holds.
    let mut splices = Vec::with_capacity(gaps.len());
    for (number, &at) in (1_i64..).zip(gaps) {
        match splice_one(wide, at, &outbox.raw_get(number)?)? {
            Ok(splice) => splices.push(splice),
            Err(error) => return Ok(Err(error)),
        }
    }
    if !has_object_keys {
        return Ok(Ok(splices));
    }
    let whole = match with_pieces(out, &splices, *limit, |pieces| pieces.concat()) {
        Ok(whole) => whole,
        Err(error) => return Ok(Err(error)),
    };
    Ok(match keys_differ(&mut Reader::new(&whole)) {
        Ok(false) => Err(EncodeError::SameKey),
        _ => Ok(splices),
    })
}

/// Whether no map has a key twice.
fn keys_differ(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.token()? {
        Token::Array(len) => {
            for _ in 0..len {
                if !keys_differ(reader)? {
                    return Ok(false);
                }
            }
        }
        Token::Map(len) => {
            let mut keys = HashSet::new();
            for _ in 0..len {
                let key = reader.rest();
                if !keys_differ(reader)? || !keys.insert(&key[..key.len() - reader.rest().len()]) {
                    return Ok(false);
                }
                if !keys_differ(reader)? {
                    return Ok(false);
                }
            }
        }
        _ => {}
    }
    Ok(true)
}

fn splice_one(wide: &Wide, at: usize, value: &Value) -> mlua::Result<Result<Splice, EncodeError>> {
    let mut head = Vec::new();
    let mut writer = Writer::new(&mut head);
    let mut body = None;
    match value {
        Value::UserData(data) if data.is::<Bytes>() => {
            let bytes = data.borrow::<Bytes>()?;
            writer.bin_head(bytes.len());
            body = Some(bytes);
        }
        _ => match wide.read(value)? {
            Some(Int64::Signed(v)) => writer.int(v),
            Some(Int64::Unsigned(v)) => writer.uint(v),
            None if matches!(value, Value::Other(_)) => {
                return Ok(Err(EncodeError::Unsupported("cdata")));
            }
            None => return Ok(Err(EncodeError::Unsupported("userdata"))),
        },
    }
    Ok(Ok(Splice { at, head, body }))
}

/// Shows `f` the value in pieces, in order.
pub(crate) fn with_pieces<R>(
    out: &[u8],
    splices: &[Splice],
    limit: usize,
    f: impl FnOnce(&[&[u8]]) -> R,
) -> Result<R, EncodeError> {
    let mut bodies: Vec<Option<&[u8]>> = Vec::with_capacity(splices.len());
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
    // The same bytes may stand in it many times.
    let size = pieces.iter().fold(0, |sum: usize, piece| sum.saturating_add(piece.len()));
    if size > limit {
        return Err(EncodeError::TooLarge { size, limit });
    }
    Ok(f(&pieces))
}
