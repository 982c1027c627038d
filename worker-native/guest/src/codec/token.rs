//! The bytes of MessagePack, <https://github.com/msgpack/msgpack/blob/master/spec.md>,
//! without its extension types.

use serde::de::Unexpected;

use super::CodecError;

/// One value, or the head of a list or map whose elements follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX`.
    UInt(u64),
    Float(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    Array(usize),
    Map(usize),
}

impl<'a> Token<'a> {
    /// The token as serde's error messages tell of it.
    pub(super) const fn unexpected(self) -> Unexpected<'a> {
        match self {
            Self::Nil => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(value),
            Self::Int(value) => Unexpected::Signed(value),
            Self::UInt(value) => Unexpected::Unsigned(value),
            Self::Float(value) => Unexpected::Float(value),
            Self::Str(value) => Unexpected::Str(value),
            Self::Bin(value) => Unexpected::Bytes(value),
            Self::Array(_) => Unexpected::Seq,
            Self::Map(_) => Unexpected::Map,
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], CodecError> {
    let Some((head, tail)) = rest.split_at_checked(len) else {
        return Err(CodecError::truncated());
    };
    *rest = tail;
    Ok(head)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let Some((head, tail)) = rest.split_first_chunk::<N>() else {
        return Err(CodecError::truncated());
    };
    *rest = tail;
    Ok(*head)
}

/// A length of 1, 2 or 4 bytes.
fn len(rest: &mut &[u8], width: u8) -> Result<usize, CodecError> {
    Ok(match width {
        0 => u8::from_be_bytes(fixed(rest)?).into(),
        1 => u16::from_be_bytes(fixed(rest)?).into(),
        _ => u32::from_be_bytes(fixed(rest)?) as usize,
    })
}

fn text<'a>(rest: &mut &'a [u8], len: usize) -> Result<Token<'a>, CodecError> {
    let text = std::str::from_utf8(take(rest, len)?).map_err(CodecError::new)?;
    Ok(Token::Str(text))
}

/// Takes the next token off `rest`.
#[inline]
pub(super) fn next<'a>(rest: &mut &'a [u8]) -> Result<Token<'a>, CodecError> {
    let [marker] = fixed(rest)?;
    Ok(match marker {
        0x00..=0x7f => Token::Int(marker.into()),
        0x80..=0x8f => Token::Map((marker & 0x0f).into()),
        0x90..=0x9f => Token::Array((marker & 0x0f).into()),
        0xa0..=0xbf => text(rest, (marker & 0x1f).into())?,
        0xc0 => Token::Nil,
        0xc2 => Token::Bool(false),
        0xc3 => Token::Bool(true),
        0xc4..=0xc6 => {
            let len = len(rest, marker - 0xc4)?;
            Token::Bin(take(rest, len)?)
        }
        0xca => Token::Float(f32::from_be_bytes(fixed(rest)?).into()),
        0xcb => Token::Float(f64::from_be_bytes(fixed(rest)?)),
        0xcc => Token::Int(u8::from_be_bytes(fixed(rest)?).into()),
        0xcd => Token::Int(u16::from_be_bytes(fixed(rest)?).into()),
        0xce => Token::Int(u32::from_be_bytes(fixed(rest)?).into()),
        0xcf => {
            let value = u64::from_be_bytes(fixed(rest)?);
            i64::try_from(value).map_or(Token::UInt(value), Token::Int)
        }
        0xd0 => Token::Int(i8::from_be_bytes(fixed(rest)?).into()),
        0xd1 => Token::Int(i16::from_be_bytes(fixed(rest)?).into()),
        0xd2 => Token::Int(i32::from_be_bytes(fixed(rest)?).into()),
        0xd3 => Token::Int(i64::from_be_bytes(fixed(rest)?)),
        0xd9..=0xdb => {
            let len = len(rest, marker - 0xd9)?;
            text(rest, len)?
        }
        0xdc | 0xdd => Token::Array(len(rest, marker - 0xdc + 1)?),
        0xde | 0xdf => Token::Map(len(rest, marker - 0xde + 1)?),
        0xe0..=0xff => Token::Int(i8::from_be_bytes([marker]).into()),
        0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
            return Err(CodecError::new(format_args!(
                "the MessagePack type {marker:#04x} is not supported"
            )));
        }
    })
}

/// Takes one whole value off `rest`, and returns its bytes.
pub(super) fn skip<'a>(rest: &mut &'a [u8], depth: usize) -> Result<&'a [u8], CodecError> {
    if depth > super::MAX_DEPTH {
        return Err(CodecError::too_deep());
    }
    let start = *rest;
    let children = match next(rest)? {
        Token::Array(len) => len,
        Token::Map(len) => len * 2,
        _ => 0,
    };
    for _ in 0..children {
        skip(rest, depth + 1)?;
    }
    Ok(&start[..start.len() - rest.len()])
}
