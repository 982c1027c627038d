//! The cursors of `menagerie.h`: readers over encoded values, and writers,
//! whose memory is a `Vec` of this worker's, told apart into its fields.

use std::cell::Cell;
use std::ffi::c_int;

use menagerie_guest::abi;
use menagerie_protocol::msgpack::{Reader, Token, Writer};

use crate::params::EXACT;

thread_local! {
    /// Whether a writer was given a text that is no UTF-8, since the call began.
    pub(crate) static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// An empty writer.
pub(crate) fn writer(host: *const abi::Host) -> abi::Writer {
    let mut writer = abi::Writer { host, data: std::ptr::null_mut(), len: 0, capacity: 0 };
    store(&mut writer, Vec::new());
    writer
}

pub(crate) fn store(writer: &mut abi::Writer, buffer: Vec<u8>) {
    let mut buffer = std::mem::ManuallyDrop::new(buffer);
    writer.data = buffer.as_mut_ptr();
    writer.len = buffer.len();
    writer.capacity = buffer.capacity();
}

/// Takes the writer's memory, which leaves it empty.
///
/// # Safety
///
/// The writer was made by [`writer`], and its fields were changed by this
/// module only, but for a `len` that grew over bytes that were written.
pub(crate) unsafe fn take(writer: &mut abi::Writer) -> Vec<u8> {
    // SAFETY: the fields are those of a `Vec` that `store` took apart, by the
    // caller's promise, and are not used again: `store` replaces them.
    let buffer = unsafe { Vec::from_raw_parts(writer.data, writer.len, writer.capacity) };
    store(writer, Vec::new());
    buffer
}

/// Runs `change` on the writer's memory.
///
/// # Safety
///
/// As [`take`].
unsafe fn change(writer: *mut abi::Writer, change: impl FnOnce(&mut Vec<u8>)) -> c_int {
    // SAFETY: the guest passes on a writer that it was given, and no other
    // code uses it during this call.
    let writer = unsafe { &mut *writer };
    // SAFETY: the caller's promise.
    let mut buffer = unsafe { take(writer) };
    change(&mut buffer);
    store(writer, buffer);
    abi::OK
}

/// As [`change`], to append a byte: in place where there is room, which takes a
/// fraction of the time.
///
/// # Safety
///
/// As [`take`].
unsafe fn append(writer: *mut abi::Writer, byte: u8) -> c_int {
    // SAFETY: as in `change`.
    let cursor = unsafe { &mut *writer };
    if cursor.len == cursor.capacity {
        // SAFETY: the caller's promise.
        return unsafe { change(writer, |out| out.push(byte)) };
    }
    // SAFETY: the length is within the buffer.
    let end = unsafe { cursor.data.add(cursor.len) };
    // SAFETY: there is room for a byte, in memory that is this worker's.
    unsafe { end.write(byte) };
    cursor.len += 1;
    abi::OK
}

pub(crate) unsafe extern "C" fn write_null(writer: *mut abi::Writer) -> c_int {
    // SAFETY: the writer is one of this worker's, by the contract of menagerie.h.
    unsafe { append(writer, 0xc0) }
}

pub(crate) unsafe extern "C" fn write_bool(writer: *mut abi::Writer, value: c_int) -> c_int {
    // SAFETY: the writer is one of this worker's, by the contract of menagerie.h.
    unsafe { append(writer, if value == 0 { 0xc2 } else { 0xc3 }) }
}

/// Entries of the host's table that append to a writer.
///
/// # Safety
///
/// The guest gives a writer that it got from this worker, and texts and bytes
/// that are valid for reads.
macro_rules! writes {
    ($($name:ident($($arg:ident: $ty:ty),*) |$out:ident| $body:expr;)*) => {$(
        pub(crate) unsafe extern "C" fn $name(writer: *mut abi::Writer, $($arg: $ty),*) -> c_int {
            // SAFETY: the writer is one of this worker's, by the contract of
            // menagerie.h.
            unsafe { change(writer, |$out| $body) }
        }
    )*};
}

writes! {
    reserve(more: usize) |out| out.reserve(more);
    write_i64(value: i64) |out| Writer::new(out).int(value);
    write_u64(value: u64) |out| Writer::new(out).uint(value);
    write_f64(value: f64) |out| Writer::new(out).float(value);
    write_list(len: usize) |out| Writer::new(out).array(len);
    write_map(len: usize) |out| Writer::new(out).map(len);
}

pub(crate) unsafe extern "C" fn write_str(writer: *mut abi::Writer, value: abi::Str) -> c_int {
    // SAFETY: the guest's text is valid for reads, by the contract of
    // menagerie.h.
    let bytes = unsafe { abi::Bytes::from(value).as_slice() };
    // A string has to be UTF-8, or nobody could read the message.
    let Ok(text) = std::str::from_utf8(bytes) else {
        REFUSED.set(true);
        return abi::FAILED;
    };
    // SAFETY: the writer is one of this worker's, likewise.
    unsafe { change(writer, |out| Writer::new(out).str(text)) }
}

pub(crate) unsafe extern "C" fn write_bytes(writer: *mut abi::Writer, value: abi::Bytes) -> c_int {
    // SAFETY: the guest's bytes are valid for reads, by the contract of
    // menagerie.h.
    let bytes = unsafe { value.as_slice() };
    // SAFETY: the writer is one of this worker's, likewise.
    unsafe { change(writer, |out| Writer::new(out).bin(bytes)) }
}

pub(crate) unsafe extern "C" fn write_raw(writer: *mut abi::Writer, value: abi::Bytes) -> c_int {
    // SAFETY: the guest's bytes are valid for reads, by the contract of
    // menagerie.h.
    let bytes = unsafe { value.as_slice() };
    // SAFETY: the writer is one of this worker's, likewise.
    unsafe { change(writer, |out| Writer::new(out).raw(bytes)) }
}

pub(crate) unsafe extern "C" fn writer_new(host: *const abi::Host) -> *mut abi::Writer {
    Box::into_raw(Box::new(writer(host)))
}

pub(crate) unsafe extern "C" fn writer_free(writer: *mut abi::Writer) {
    if writer.is_null() {
        return;
    }
    // SAFETY: the guest frees a writer of `writer_new`'s once.
    let mut writer = unsafe { Box::from_raw(writer) };
    // SAFETY: it was made by `writer`, and only this module changed it.
    drop(unsafe { take(&mut writer) });
}

/// The kind of a value, in the words of `menagerie.h`.
pub(crate) const fn kind(token: &Token<'_>) -> u32 {
    match token {
        Token::Nil => abi::KIND_NULL,
        Token::Bool(_) => abi::KIND_BOOL,
        Token::Int(_) => abi::KIND_I64,
        Token::UInt(_) => abi::KIND_U64,
        Token::Float(_) => abi::KIND_F64,
        Token::Str(_) => abi::KIND_STRING,
        Token::Bin(_) => abi::KIND_BYTES,
        Token::Array(_) => abi::KIND_LIST,
        Token::Map(_) => abi::KIND_MAP,
    }
}

/// What a token is as each type of C, if it is of that kind.
pub(crate) mod as_c {
    use super::{EXACT, Token, abi};

    pub(crate) const fn null(token: Token<'_>) -> Option<()> {
        match token {
            Token::Nil => Some(()),
            _ => None,
        }
    }

    pub(crate) const fn bool(token: Token<'_>) -> Option<std::ffi::c_int> {
        match token {
            Token::Bool(value) => Some(value as std::ffi::c_int),
            _ => None,
        }
    }

    pub(crate) const fn i64(token: Token<'_>) -> Option<i64> {
        match token {
            Token::Int(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) const fn u64(token: Token<'_>) -> Option<u64> {
        match token {
            Token::UInt(value) => Some(value),
            Token::Int(value) if value >= 0 => Some(value.cast_unsigned()),
            _ => None,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "only integers that are exact are cast")]
    pub(crate) const fn f64(token: Token<'_>) -> Option<f64> {
        match token {
            Token::Float(value) => Some(value),
            Token::Int(value) if value.unsigned_abs() <= EXACT => Some(value as f64),
            _ => None,
        }
    }

    pub(crate) const fn str(token: Token<'_>) -> Option<abi::Str> {
        match token {
            Token::Str(value) => Some(abi::Str::of(value)),
            _ => None,
        }
    }

    pub(crate) const fn bytes(token: Token<'_>) -> Option<abi::Bytes> {
        match token {
            Token::Bin(value) => Some(abi::Bytes::of(value)),
            _ => None,
        }
    }

    pub(crate) const fn list(token: Token<'_>) -> Option<usize> {
        match token {
            Token::Array(len) => Some(len),
            _ => None,
        }
    }

    pub(crate) const fn map(token: Token<'_>) -> Option<usize> {
        match token {
            Token::Map(len) => Some(len),
            _ => None,
        }
    }
}

/// What a reader has not read yet.
///
/// # Safety
///
/// The reader is over bytes that are valid for reads during `'a`.
unsafe fn rest<'a>(reader: *const abi::Reader) -> &'a [u8] {
    // SAFETY: the caller's promise.
    let reader = unsafe { &*reader };
    let len = reader.end.addr().saturating_sub(reader.at.addr());
    // SAFETY: likewise; the end is not before the beginning.
    unsafe { abi::Bytes { ptr: reader.at, len }.as_slice() }
}

/// Moves a reader to where `left` bytes are left.
///
/// # Safety
///
/// The reader is valid, and has as many bytes left at least.
unsafe fn advance(reader: *mut abi::Reader, left: usize) {
    // SAFETY: the caller's promise.
    let reader = unsafe { &mut *reader };
    let len = reader.end.addr().saturating_sub(reader.at.addr());
    reader.at = reader.at.wrapping_add(len - left);
}

pub(crate) unsafe extern "C" fn peek(reader: *const abi::Reader) -> u32 {
    // SAFETY: the guest's reader is valid, by the contract of menagerie.h.
    let rest = unsafe { rest(reader) };
    Reader::new(rest).token().map_or(abi::KIND_NONE, |token| kind(&token))
}

/// # Safety
///
/// The reader is over bytes that are valid for reads, and `value` for writes.
unsafe fn read<T>(
    reader: *mut abi::Reader,
    value: *mut T,
    pick: impl FnOnce(Token<'_>) -> Option<T>,
) -> c_int {
    // SAFETY: the caller's promise.
    let mut cursor = Reader::new(unsafe { rest(reader) });
    let Some(read) = cursor.token().ok().and_then(pick) else { return abi::FAILED };
    // SAFETY: the caller's promise.
    unsafe { value.write(read) };
    // SAFETY: the caller's promise; `cursor` has read a part of the rest.
    unsafe { advance(reader, cursor.rest().len()) };
    abi::OK
}

/// Entries of the host's table that read a value.
macro_rules! reads {
    ($($name:ident($ty:ty) $pick:path;)*) => {$(
        pub(crate) unsafe extern "C" fn $name(reader: *mut abi::Reader, value: *mut $ty) -> c_int {
            // SAFETY: the guest's reader and place for the value are valid, by
            // the contract of menagerie.h.
            unsafe { read(reader, value, $pick) }
        }
    )*};
}

reads! {
    read_bool(c_int) as_c::bool;
    read_i64(i64) as_c::i64;
    read_u64(u64) as_c::u64;
    read_f64(f64) as_c::f64;
    read_str(abi::Str) as_c::str;
    read_bytes(abi::Bytes) as_c::bytes;
    read_list(usize) as_c::list;
    read_map(usize) as_c::map;
}

pub(crate) unsafe extern "C" fn read_null(reader: *mut abi::Reader) -> c_int {
    // SAFETY: the guest's reader is valid, by the contract of menagerie.h.
    unsafe { read(reader, &mut (), as_c::null) }
}

pub(crate) unsafe extern "C" fn read_raw(
    reader: *mut abi::Reader,
    value: *mut abi::Bytes,
) -> c_int {
    // SAFETY: the guest's reader is valid, by the contract of menagerie.h.
    let mut cursor = Reader::new(unsafe { rest(reader) });
    let Ok(raw) = cursor.skip() else { return abi::FAILED };
    // SAFETY: the guest's place for the value is valid, likewise.
    unsafe { value.write(abi::Bytes::of(raw)) };
    // SAFETY: as above; `cursor` has read a part of the rest.
    unsafe { advance(reader, cursor.rest().len()) };
    abi::OK
}
