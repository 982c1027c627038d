//! MessagePack → Lua's stack.
//!
//! Two passes: [`scan`] checks everything outside the VM and finds what needs
//! an object made by Rust; [`Decoder`] then pushes the values within one
//! protected call, where a Lua error may jump away at any time.

use std::ffi::c_int;
use std::sync::Arc;

use menagerie_protocol::msgpack::{DecodeError, MAX_DEPTH, Reader, Token};
use menagerie_protocol::shm::Segment;
use mlua::{Lua, Table, Value};

use crate::bytes::{Bytes, Epoch, VIEW_FROM};
use crate::interrupt::{Interrupter, LOOK_EVERY};
use crate::outcall::Converter;
use crate::stack::Stack;
use crate::wide::{Int64, Wide};

/// Where the data lies, if views of it may be given out.
pub(crate) type Shared<'a> = Option<(&'a Arc<Segment>, &'a Epoch)>;

/// Puts the objects for bytes and wide integers into the inbox, in the order
/// of the data. An error if the call is asked to stop meanwhile.
pub(crate) fn objects(
    lua: &Lua,
    Converter { wide, interrupter, .. }: &Converter,
    data: &[u8],
    shared: Shared<'_>,
    inbox: &Table,
) -> mlua::Result<()> {
    let mut reader = Reader::new(data);
    let mut values = 0_usize;
    while !reader.rest().is_empty() {
        values += 1;
        if values.is_multiple_of(LOOK_EVERY) {
            interrupter.check()?;
        }
        let value = match reader.token().map_err(mlua::Error::external)? {
            Token::Bin(bytes) => {
                let bytes = match shared {
                    Some((segment, epoch)) if bytes.len() >= VIEW_FROM => {
                        Bytes::view(bytes, segment, epoch)
                    }
                    _ => Bytes::copy(bytes),
                };
                Value::UserData(bytes.create(lua)?)
            }
            Token::Int(v) if Wide::is_wide(v) => wide.make(lua, Int64::Signed(v))?,
            Token::UInt(v) => wide.make(lua, Int64::Unsigned(v))?,
            _ => continue,
        };
        inbox.raw_push(value)?;
    }
    Ok(())
}

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Whether [`objects`] has anything to make.
    pub(crate) has_objects: bool,
}

/// Checks `count` values: well-formed, not too deep, with keys that a Lua
/// table can hold, and nothing after them. An error comes with the number,
/// from 0, of the value that it is in.
pub(crate) fn scan(mut reader: Reader<'_>, count: usize) -> Result<Scan, (usize, DecodeError)> {
    let mut scan = Scan::default();
    for at in 0..count {
        scan_value(&mut reader, 0, &mut scan).map_err(|error| (at, error))?;
    }
    if reader.rest().is_empty() {
        Ok(scan)
    } else {
        Err((count, DecodeError::Unexpected { expected: "the end of the data" }))
    }
}

fn scan_value(reader: &mut Reader<'_>, depth: usize, scan: &mut Scan) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep);
    }
    match reader.token()? {
        Token::Bin(_) | Token::UInt(_) => scan.has_objects = true,
        Token::Int(v) if Wide::is_wide(v) => scan.has_objects = true,
        Token::Array(len) => {
            for _ in 0..len {
                scan_value(reader, depth + 1, scan)?;
            }
        }
        Token::Map(len) => {
            for _ in 0..len {
                let mut key = reader.clone();
                if matches!(key.token()?, Token::Float(v) if v.is_nan()) {
                    return Err(DecodeError::Unexpected { expected: "a map key other than NaN" });
                }
                scan_value(reader, depth + 1, scan)?;
                scan_value(reader, depth + 1, scan)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Pushes values that were scanned.
#[derive(Debug)]
pub(crate) struct Decoder<'a, 's> {
    stack: &'s Stack,
    reader: Reader<'a>,
    /// The index of the table with the [`objects`], an absolute one.
    inbox: c_int,
    /// Which of them comes next.
    next_object: i64,
    /// The index of the metatable of maps, an absolute one.
    map_metatable: c_int,
    interrupter: &'s Interrupter,
    /// How many values have been begun.
    values: usize,
}

impl<'a, 's> Decoder<'a, 's> {
    pub(crate) const fn new(
        stack: &'s Stack,
        reader: Reader<'a>,
        inbox: c_int,
        map_metatable: c_int,
        interrupter: &'s Interrupter,
    ) -> Self {
        Self { stack, reader, inbox, next_object: 1, map_metatable, interrupter, values: 0 }
    }

    /// Pushes one value; a null as nil. False if the stack or the data ends,
    /// two keys of a map are one in Lua, or the call is asked to stop. May raise.
    #[must_use]
    pub(crate) fn push_argument(&mut self) -> bool {
        let mut ahead = self.reader.clone();
        if matches!(ahead.token(), Ok(Token::Nil)) {
            self.reader = ahead;
            self.stack.push_nil();
            return true;
        }
        self.push()
    }

    fn push(&mut self) -> bool {
        // No hook is called in here.
        self.values += 1;
        if self.values.is_multiple_of(LOOK_EVERY) && self.interrupter.is_stopped() {
            return false;
        }
        let Ok(token) = self.reader.token() else { return false };
        match token {
            Token::Nil => self.stack.push_null(),
            Token::Bool(v) => self.stack.push_bool(v),
            Token::Int(v) if Wide::is_wide(v) => self.push_object(),
            Token::Int(v) => self.stack.push_integer(v),
            Token::Float(v) => self.stack.push_number(v),
            Token::Str(v) => self.stack.push_string(v.as_bytes()),
            Token::UInt(_) | Token::Bin(_) => self.push_object(),
            Token::Array(len) => return self.push_list(len),
            Token::Map(len) => return self.push_map(len),
        }
        true
    }

    fn push_object(&mut self) {
        self.stack.raw_get_index(self.inbox, self.next_object);
        self.next_object += 1;
    }

    fn push_list(&mut self, len: usize) -> bool {
        if !self.stack.reserve(2) {
            return false;
        }
        self.stack.push_table(len, 0);
        for n in (1..).take(len) {
            if !self.push() {
                return false;
            }
            self.stack.raw_set_index(-2, n);
        }
        true
    }

    fn push_map(&mut self, len: usize) -> bool {
        if !self.stack.reserve(5) {
            return false;
        }
        self.stack.push_table(0, len);
        // It tells an empty map from an empty list, and integer keys from
        // positions, when the guest hands the table back.
        self.stack.push_copy(self.map_metatable);
        self.stack.set_metatable(-2);
        for _ in 0..len {
            if !self.push() {
                return false;
            }
            // In LuaJIT 1 and 1.0 are one key: nothing may get lost silently.
            self.stack.push_copy(-1);
            self.stack.raw_get(-3);
            let taken = self.stack.kind(-1) != crate::stack::Kind::Nil;
            self.stack.pop();
            if taken || !self.push() {
                return false;
            }
            self.stack.raw_set(-3);
        }
        true
    }
}
