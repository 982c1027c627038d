//! MessagePack into JavaScript values.

use deno_core::v8;
use menagerie_protocol::msgpack::{DecodeError, MAX_DEPTH, Reader, Token};

use crate::borrowed::Borrowed;
use crate::encode::stretches;

/// The largest integer that a JS number holds exactly, `Number.MAX_SAFE_INTEGER`;
/// what lies beyond becomes a `BigInt`.
const MAX_SAFE: i64 = (1 << 53) - 1;

/// Why a value did not become a JavaScript one.
#[derive(Debug)]
pub(crate) enum DecodeFailure {
    /// The bytes are no MessagePack of ours.
    Data(DecodeError),
    /// The engine refused: a string too long for it, or no memory left.
    Engine(&'static str),
    /// A map with two keys that are one in JavaScript: a value would be lost.
    SameKey,
}

impl From<DecodeError> for DecodeFailure {
    fn from(error: DecodeError) -> Self {
        Self::Data(error)
    }
}

impl std::fmt::Display for DecodeFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data(error) => error.fmt(f),
            Self::Engine(what) => write!(f, "the engine could not create a {what}"),
            Self::SameKey => f.write_str("a map has the same key twice"),
        }
    }
}

/// Reads the next value. Large bytes are lent to the guest through `borrowed`
/// where that is possible, and copied where it is not.
pub(crate) fn decode<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    reader: &mut Reader<'_>,
    borrowed: &mut Borrowed<'_>,
) -> Result<v8::Local<'s, v8::Value>, DecodeFailure> {
    nested(scope, reader, borrowed, 0)
}

fn nested<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    reader: &mut Reader<'_>,
    borrowed: &mut Borrowed<'_>,
    depth: usize,
) -> Result<v8::Local<'s, v8::Value>, DecodeFailure> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep.into());
    }
    Ok(match reader.token()? {
        Token::Nil => v8::null(scope).into(),
        Token::Bool(value) => v8::Boolean::new(scope, value).into(),
        Token::Int(value) => integer(scope, value),
        Token::UInt(value) => v8::BigInt::new_from_u64(scope, value).into(),
        Token::Float(value) => v8::Number::new(scope, value).into(),
        Token::Str(value) => string(scope, value)?.into(),
        Token::Bin(value) => borrowed.bytes(scope, value)?,
        Token::Array(len) => {
            // It grows with the data: no memory is spent on a mere claim.
            let array = v8::Array::new(scope, 0);
            for stretch in stretches(length(len)?) {
                v8::scope!(let scope, scope);
                for index in stretch {
                    let element = nested(scope, reader, borrowed, depth + 1)?;
                    array.set_index(scope, index, element).ok_or(DecodeFailure::Engine("array"))?;
                }
            }
            array.into()
        }
        Token::Map(len) => map(scope, reader, borrowed, len, depth)?,
    })
}

/// MessagePack counts elements in 32 bits.
fn length(len: usize) -> Result<u32, DecodeFailure> {
    u32::try_from(len).map_err(|_| DecodeFailure::Engine("collection"))
}

fn integer<'s>(scope: &mut v8::PinScope<'s, '_>, value: i64) -> v8::Local<'s, v8::Value> {
    if let Ok(small) = i32::try_from(value) {
        v8::Integer::new(scope, small).into()
    } else if (-MAX_SAFE..=MAX_SAFE).contains(&value) {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        v8::Number::new(scope, value as f64).into()
    } else {
        v8::BigInt::new_from_i64(scope, value).into()
    }
}

/// A JavaScript string.
pub(crate) fn string<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    value: &str,
) -> Result<v8::Local<'s, v8::String>, DecodeFailure> {
    v8::String::new(scope, value).ok_or(DecodeFailure::Engine("string"))
}

/// A map with string keys only becomes a plain object, any other one a `Map`.
fn map<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    reader: &mut Reader<'_>,
    borrowed: &mut Borrowed<'_>,
    len: usize,
    depth: usize,
) -> Result<v8::Local<'s, v8::Value>, DecodeFailure> {
    let mut ahead = reader.clone();
    let mut keys = Vec::with_capacity(len);
    for _ in 0..len {
        let Token::Str(key) = ahead.token()? else { break };
        keys.push(key);
        ahead.skip()?;
    }
    if keys.len() == len {
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(DecodeFailure::SameKey);
        }
        let object = v8::Object::new(scope);
        for stretch in stretches(length(len)?) {
            v8::scope!(let scope, scope);
            for _ in stretch {
                let Token::Str(key) = reader.token()? else {
                    unreachable!("every key is a string")
                };
                let key = string(scope, key)?;
                let value = nested(scope, reader, borrowed, depth + 1)?;
                // Defined, not assigned: `__proto__` is a key like any other.
                object
                    .create_data_property(scope, key.into(), value)
                    .ok_or(DecodeFailure::Engine("property"))?;
            }
        }
        return Ok(object.into());
    }
    let map = v8::Map::new(scope);
    for stretch in stretches(length(len)?) {
        v8::scope!(let scope, scope);
        for _ in stretch {
            let key = nested(scope, reader, borrowed, depth + 1)?;
            let value = nested(scope, reader, borrowed, depth + 1)?;
            map.set(scope, key, value).ok_or(DecodeFailure::Engine("map entry"))?;
        }
    }
    // 1 and 1.0 are one key as well.
    if map.size() != len {
        return Err(DecodeFailure::SameKey);
    }
    Ok(map.into())
}
