//! MessagePack between a VM's values and the wire, on top of `rmp`.
//!
//! The values are those of `DESIGN.md` rule C1: null, bool, i64/u64, f64,
//! string, bytes, list, map. A loader walks [`Token`]s from a [`Reader`] into
//! its VM's values, and writes its VM's values with [`Writer`].

mod args;

pub use args::encode_args;
use rmp::Marker;
use thiserror::Error;

/// How deep lists and maps may nest: deeper data is refused on both sides, so
/// that no recursion over it can exhaust a stack.
pub const MAX_DEPTH: usize = 128;

/// Why bytes are no MessagePack of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The data ended in the middle of a value.
    #[error("the data ends in the middle of a value")]
    Truncated,
    /// A string that is no UTF-8.
    #[error("a string is not valid UTF-8")]
    InvalidUtf8,
    /// A MessagePack type that is none of rule C1.
    #[error("the MessagePack type {marker:#04x} is not supported")]
    UnsupportedType {
        /// The marker byte.
        marker: u8,
    },
    /// Lists or maps nested deeper than [`MAX_DEPTH`].
    #[error("values are nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Another kind of value than was expected.
    #[error("expected {expected}")]
    Unexpected {
        /// What was expected.
        expected: &'static str,
    },
}

/// One value, or the head of a list or map whose elements follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// Null.
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer that fits an `i64`.
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    /// A float.
    Float(f64),
    /// A string.
    Str(&'a str),
    /// Bytes.
    Bin(&'a [u8]),
    /// A list: this many values follow.
    Array(usize),
    /// A map: this many pairs of key and value follow.
    Map(usize),
}

impl Token<'_> {
    /// The kind, as error messages name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::UInt(_) => "integer",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::Bin(_) => "bytes",
            Self::Array(_) => "list",
            Self::Map(_) => "map",
        }
    }
}

/// Reads tokens from a slice.
///
/// ```
/// use menagerie_protocol::msgpack::{Reader, Token, Writer};
///
/// let mut bytes = Vec::new();
/// let mut writer = Writer::new(&mut bytes);
/// writer.array(2);
/// writer.str("Ada");
/// writer.bin(&[0, 1, 2]);
///
/// let mut reader = Reader::new(&bytes);
/// assert_eq!(reader.array()?, 2);
/// assert_eq!(reader.token()?, Token::Str("Ada"));
/// assert_eq!(reader.token()?, Token::Bin(&[0, 1, 2]), "a view, and no copy");
/// assert!(reader.rest().is_empty());
/// # Ok::<(), menagerie_protocol::msgpack::DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let (head, tail) = self.rest.split_at(len);
        self.rest = tail;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn str(&mut self, len: usize) -> Result<Token<'a>, DecodeError> {
        std::str::from_utf8(self.take(len)?).map(Token::Str).map_err(|_| DecodeError::InvalidUtf8)
    }

    /// A list's or map's head. Each element takes a byte at least, so a length
    /// beyond the rest of the data is refused before anyone allocates for it.
    fn container(&self, len: usize, per_element: usize) -> Result<usize, DecodeError> {
        if len.saturating_mul(per_element) > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(len)
    }

    /// The next token.
    ///
    /// # Errors
    ///
    /// The data is truncated, no UTF-8 where it should be, or an extension
    /// type, which rule C1 does not have.
    pub fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        let marker = Marker::from_u8(self.take(1)?[0]);
        Ok(match marker {
            Marker::Null => Token::Nil,
            Marker::True => Token::Bool(true),
            Marker::False => Token::Bool(false),
            Marker::FixPos(v) => Token::Int(i64::from(v)),
            Marker::FixNeg(v) => Token::Int(i64::from(v)),
            Marker::U8 => Token::Int(i64::from(u8::from_be_bytes(self.number()?))),
            Marker::U16 => Token::Int(i64::from(u16::from_be_bytes(self.number()?))),
            Marker::U32 => Token::Int(i64::from(u32::from_be_bytes(self.number()?))),
            Marker::U64 => {
                let v = u64::from_be_bytes(self.number()?);
                i64::try_from(v).map_or(Token::UInt(v), Token::Int)
            }
            Marker::I8 => Token::Int(i64::from(i8::from_be_bytes(self.number()?))),
            Marker::I16 => Token::Int(i64::from(i16::from_be_bytes(self.number()?))),
            Marker::I32 => Token::Int(i64::from(i32::from_be_bytes(self.number()?))),
            Marker::I64 => Token::Int(i64::from_be_bytes(self.number()?)),
            Marker::F32 => Token::Float(f64::from(f32::from_be_bytes(self.number()?))),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.number()?)),
            Marker::FixStr(len) => self.str(usize::from(len))?,
            Marker::Str8 => {
                let len = u8::from_be_bytes(self.number()?);
                self.str(usize::from(len))?
            }
            Marker::Str16 => {
                let len = u16::from_be_bytes(self.number()?);
                self.str(usize::from(len))?
            }
            Marker::Str32 => {
                let len = u32::from_be_bytes(self.number()?);
                self.str(len as usize)?
            }
            Marker::Bin8 => {
                let len = u8::from_be_bytes(self.number()?);
                Token::Bin(self.take(usize::from(len))?)
            }
            Marker::Bin16 => {
                let len = u16::from_be_bytes(self.number()?);
                Token::Bin(self.take(usize::from(len))?)
            }
            Marker::Bin32 => {
                let len = u32::from_be_bytes(self.number()?);
                Token::Bin(self.take(len as usize)?)
            }
            Marker::FixArray(len) => Token::Array(self.container(usize::from(len), 1)?),
            Marker::Array16 => {
                let len = u16::from_be_bytes(self.number()?);
                Token::Array(self.container(usize::from(len), 1)?)
            }
            Marker::Array32 => {
                let len = u32::from_be_bytes(self.number()?);
                Token::Array(self.container(len as usize, 1)?)
            }
            Marker::FixMap(len) => Token::Map(self.container(usize::from(len), 2)?),
            Marker::Map16 => {
                let len = u16::from_be_bytes(self.number()?);
                Token::Map(self.container(usize::from(len), 2)?)
            }
            Marker::Map32 => {
                let len = u32::from_be_bytes(self.number()?);
                Token::Map(self.container(len as usize, 2)?)
            }
            other => return Err(DecodeError::UnsupportedType { marker: other.to_u8() }),
        })
    }

    /// The head of a list, for example of a call's arguments.
    ///
    /// # Errors
    ///
    /// The next value is no list, or as [`token`](Self::token).
    pub fn array(&mut self) -> Result<usize, DecodeError> {
        match self.token()? {
            Token::Array(len) => Ok(len),
            _ => Err(DecodeError::Unexpected { expected: "list" }),
        }
    }

    /// Passes over one whole value, and returns its bytes.
    ///
    /// # Errors
    ///
    /// As [`token`](Self::token), and nesting beyond [`MAX_DEPTH`].
    pub fn skip(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.rest;
        self.skip_nested(0)?;
        Ok(&start[..start.len() - self.rest.len()])
    }

    fn skip_nested(&mut self, depth: usize) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let children = match self.token()? {
            Token::Array(len) => len,
            Token::Map(len) => len * 2,
            _ => 0,
        };
        for _ in 0..children {
            self.skip_nested(depth + 1)?;
        }
        Ok(())
    }
}

/// Appends values to a buffer, each in its shortest form.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

/// `rmp` writes into a `Vec`, which cannot fail, and lengths are at most
/// `u32::MAX` because payloads are limited far below.
macro_rules! infallible {
    ($e:expr) => {
        match $e {
            Ok(_) => {}
            Err(e) => unreachable!("writing to a Vec failed: {e:?}"),
        }
    };
}

#[allow(clippy::cast_possible_truncation, reason = "payloads are limited far below u32::MAX")]
impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Null.
    pub fn nil(&mut self) {
        infallible!(rmp::encode::write_nil(self.out));
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        infallible!(rmp::encode::write_bool(self.out, value));
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) {
        infallible!(rmp::encode::write_sint(self.out, value));
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        infallible!(rmp::encode::write_uint(self.out, value));
    }

    /// A float.
    pub fn float(&mut self, value: f64) {
        infallible!(rmp::encode::write_f64(self.out, value));
    }

    /// A string.
    pub fn str(&mut self, value: &str) {
        infallible!(rmp::encode::write_str(self.out, value));
    }

    /// Bytes.
    pub fn bin(&mut self, value: &[u8]) {
        infallible!(rmp::encode::write_bin(self.out, value));
    }

    /// The head of bytes; the caller appends exactly `len` bytes itself.
    pub fn bin_head(&mut self, len: usize) {
        infallible!(rmp::encode::write_bin_len(self.out, len as u32));
    }

    /// The head of a list; the caller writes exactly `len` values after it.
    pub fn array(&mut self, len: usize) {
        infallible!(rmp::encode::write_array_len(self.out, len as u32));
    }

    /// The head of a map; the caller writes exactly `len` pairs after it.
    pub fn map(&mut self, len: usize) {
        infallible!(rmp::encode::write_map_len(self.out, len as u32));
    }

    /// A value that is MessagePack already.
    pub fn raw(&mut self, value: &[u8]) {
        self.out.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_reads_what_writer_writes() {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.array(8);
        w.nil();
        w.bool(true);
        w.int(-5);
        w.uint(u64::MAX);
        w.float(1.5);
        w.str("héllo");
        w.bin(&[1, 2, 3]);
        w.map(1);
        w.str("k");
        w.int(i64::MIN);
        let mut r = Reader::new(&out);
        let expected = [
            Token::Array(8),
            Token::Nil,
            Token::Bool(true),
            Token::Int(-5),
            Token::UInt(u64::MAX),
            Token::Float(1.5),
            Token::Str("héllo"),
            Token::Bin(&[1, 2, 3]),
            Token::Map(1),
            Token::Str("k"),
            Token::Int(i64::MIN),
        ];
        for token in expected {
            assert_eq!(r.token().unwrap(), token);
        }
        assert_eq!(r.token(), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&out).skip().unwrap(), &out[..]);
    }

    #[test]
    fn reader_refuses_lengths_beyond_the_data() {
        for bytes in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0x7f, 0, 0, 0],
        ] {
            assert_eq!(Reader::new(bytes).token(), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn reader_refuses_bottomless_nesting() {
        assert_eq!(Reader::new(&[0x91; 4096]).skip(), Err(DecodeError::TooDeep));
    }

    #[test]
    fn reader_refuses_extension_types() {
        assert!(matches!(
            Reader::new(&[0xd4, 1, 2]).token(),
            Err(DecodeError::UnsupportedType { .. })
        ));
    }
}
