//! From MessagePack to Rust types. Strings and bytes are borrowed.

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::CodecError;
use super::token::{Token, next, skip};

/// Reads values off a slice, one after the other.
#[derive(Debug)]
pub(crate) struct Decoder<'de> {
    rest: &'de [u8],
    depth: usize,
}

/// Integers beyond this are not all exact as `f64`.
const EXACT: u64 = 1 << 53;

/// The same of `f32`.
const EXACT_F32: u64 = 1 << 24;

impl<'de> Decoder<'de> {
    pub(crate) const fn new(bytes: &'de [u8]) -> Self {
        Self { rest: bytes, depth: 0 }
    }

    /// A decoder behind the head of a list of arguments, if `bytes` begin with that of one
    /// of this length, and it takes one byte. The list itself is no level of a value.
    #[inline]
    pub(crate) fn in_short_list(bytes: &'de [u8], len: usize) -> Option<Self> {
        let (head, rest) = bytes.split_first()?;
        (len < 16 && usize::from(*head) == 0x90 | len).then_some(Self { rest, depth: 0 })
    }

    /// The head of a list of arguments.
    #[inline]
    pub(crate) fn list(&mut self) -> Result<usize, CodecError> {
        match next(&mut self.rest)? {
            Token::Array(len) => Ok(len),
            other => Err(CodecError::invalid_type(other.unexpected(), &"a list")),
        }
    }

    /// The next value as it is encoded.
    pub(crate) fn raw(&mut self) -> Result<&'de [u8], CodecError> {
        skip(&mut self.rest, self.depth)
    }

    #[cfg(test)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Runs `read` over the elements of a list or map.
    fn nested<T>(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut Elements<'_, 'de>) -> Result<T, CodecError>,
    ) -> Result<T, CodecError> {
        if self.depth >= super::MAX_DEPTH {
            return Err(CodecError::too_deep());
        }
        self.depth += 1;
        let mut elements = Elements { decoder: self, left: len };
        let value = read(&mut elements)?;
        if elements.left != 0 {
            let read = len - elements.left;
            return Err(CodecError::new(format_args!("expected {read} elements, found {len}")));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn visit<V: Visitor<'de>>(
        &mut self,
        token: Token<'de>,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        match token {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Int(value) => visitor.visit_i64(value),
            Token::UInt(value) => visitor.visit_u64(value),
            Token::Float(value) => visitor.visit_f64(value),
            Token::Str(value) => visitor.visit_borrowed_str(value),
            Token::Bin(value) => visitor.visit_borrowed_bytes(value),
            Token::Array(len) => self.nested(len, |elements| visitor.visit_seq(elements)),
            Token::Map(len) => self.nested(len, |elements| visitor.visit_map(elements)),
        }
    }
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = CodecError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        let token = next(&mut self.rest)?;
        self.visit(token, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match next(&mut self.rest)? {
            Token::Str(value) => visitor.visit_borrowed_str(value),
            other => Err(CodecError::invalid_type(other.unexpected(), &"a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match next(&mut self.rest)? {
            Token::Bin(value) => visitor.visit_borrowed_bytes(value),
            other => Err(CodecError::invalid_type(other.unexpected(), &"bytes")),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        let token = next(&mut self.rest)?;
        match token {
            Token::Int(value) if value.unsigned_abs() <= EXACT => self.visit(token, visitor),
            Token::Float(value) => visitor.visit_f64(value),
            other => Err(CodecError::invalid_type(
                other.unexpected(),
                &"a float, or an integer that a float holds exactly",
            )),
        }
    }

    /// Who declares an `f32` wants its precision; its range is another matter, at both ends.
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        #[allow(clippy::cast_possible_truncation, reason = "only to see what comes of it")]
        let fits = |value: f64| {
            let single = value as f32;
            single.is_infinite() == value.is_infinite() && (single == 0.0) == (value == 0.0)
        };
        let token = next(&mut self.rest)?;
        match token {
            Token::Int(value) if value.unsigned_abs() <= EXACT_F32 => self.visit(token, visitor),
            Token::Float(value) if fits(value) => visitor.visit_f64(value),
            other => Err(CodecError::invalid_type(
                other.unexpected(),
                &"a float within the range of 32 bits, or an integer that one holds exactly",
            )),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        if self.peek() == Some(0xc0) {
            self.rest = &self.rest[1..];
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        if name == super::RAW {
            return visitor.visit_borrowed_bytes(self.raw()?);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        match next(&mut self.rest)? {
            Token::Str(variant) => visitor.visit_enum(variant.into_deserializer()),
            Token::Map(1) => self.nested(1, |elements| {
                elements.left = 0;
                visitor.visit_enum(Variant { decoder: elements.decoder })
            }),
            other => Err(CodecError::invalid_type(
                other.unexpected(),
                &"a variant's name, or a map of one variant",
            )),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.raw()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 unit unit_struct seq tuple tuple_struct map
        struct identifier
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a list or map that are left.
struct Elements<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
}

impl Elements<'_, '_> {
    /// serde allocates by this: no more than the data can hold.
    fn hint(&self) -> Option<usize> {
        Some(self.left.min(self.decoder.rest.len()))
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = CodecError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, CodecError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for &mut Elements<'_, 'de> {
    type Error = CodecError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, CodecError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, CodecError> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

/// An enum's variant with content: the one pair of a map.
struct Variant<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), CodecError> {
        let variant = seed.deserialize(&mut *self.decoder)?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;

    fn unit_variant(self) -> Result<(), CodecError> {
        serde::Deserialize::deserialize(self.decoder)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, CodecError> {
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        self.decoder.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        self.decoder.deserialize_any(visitor)
    }
}
