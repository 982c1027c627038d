//! Decoding a call's value.

use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::MAX_DEPTH;
use rmp_serde::decode::{Error, ReadRefReader};
use serde::de::{DeserializeOwned, Deserializer, Visitor};

/// Decodes a value.
#[inline]
pub(crate) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, Failure> {
    #[cold]
    fn misfit(error: &Error, wanted: &str) -> Failure {
        Failure::BadValue { message: format!("the result does not fit {wanted}: {error}") }
    }
    R::deserialize(Value(bytes)).map_err(|error| misfit(&error, std::any::type_name::<R>()))
}

/// A value. The smallest ones, of one byte, are read here: to begin to read any kind
/// of value costs a hot call a twentieth of its time. The rest is `rmp-serde`'s.
struct Value<'de>(&'de [u8]);

type Whole<'de> = rmp_serde::Deserializer<ReadRefReader<'de, [u8]>>;

impl<'de> Value<'de> {
    /// The byte of a value that has but one.
    #[inline]
    const fn byte(&self) -> Option<u8> {
        match self.0 {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    /// Reads whatever it is.
    #[inline(never)]
    fn whole<T>(self, read: impl FnOnce(&mut Whole<'de>) -> Result<T, Error>) -> Result<T, Error> {
        let mut decoder = rmp_serde::Deserializer::from_read_ref(self.0);
        // A bundle may return lists as deep as it likes. At its limit the decoder refuses.
        decoder.set_max_depth(MAX_DEPTH + 1);
        read(&mut decoder)
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.byte() {
                // The smallest are their own byte.
                Some(byte @ ..0x80) => visitor.visit_u8(byte),
                _ => self.whole(|value| value.$method(visitor)),
            }
        }
    )*};
}

macro_rules! others {
    ($($method:ident($($arg:ident: $kind:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $kind,)* visitor: V) -> Result<V::Value, Error> {
            self.whole(|value| value.$method($($arg,)* visitor))
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.byte() {
            Some(0xc0) => visitor.visit_unit(),
            _ => self.whole(|value| value.deserialize_unit(visitor)),
        }
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.byte() {
            Some(0xc2) => visitor.visit_bool(false),
            Some(0xc3) => visitor.visit_bool(true),
            _ => self.whole(|value| value.deserialize_bool(visitor)),
        }
    }

    integers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    others! {
        deserialize_any() deserialize_u128() deserialize_i128() deserialize_f32()
        deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq() deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize) deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier() deserialize_ignored_any()
    }

    fn is_human_readable(&self) -> bool {
        // As `rmp-serde`'s, which does not say so without a reader.
        false
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    /// What `rmp-serde` alone makes of the bytes, and what we do.
    fn agrees<R: DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
        let theirs: Option<R> = rmp_serde::from_slice(bytes).ok();
        assert_eq!(decode::<R>(bytes).ok(), theirs, "{bytes:02x?}");
    }

    #[test]
    fn decode_of_one_byte_is_what_it_is_to_rmp_serde() {
        for byte in 0..=u8::MAX {
            let bytes = &[byte];
            agrees::<()>(bytes);
            agrees::<bool>(bytes);
            agrees::<u8>(bytes);
            agrees::<i8>(bytes);
            agrees::<u64>(bytes);
            agrees::<i64>(bytes);
            agrees::<f64>(bytes);
            agrees::<Option<u32>>(bytes);
            agrees::<String>(bytes);
            agrees::<Vec<u8>>(bytes);
            agrees::<rmpv::Value>(bytes);
        }
    }

    #[test]
    fn decode_is_as_readable_as_rmp_serde() {
        let theirs = &mut rmp_serde::Deserializer::from_read_ref(&[]);
        assert_eq!(Value(&[]).is_human_readable(), Deserializer::is_human_readable(&theirs));
    }

    #[test]
    fn decode_of_more_is_what_it_is_to_rmp_serde() {
        for bytes in [&[][..], &[0xcc, 0xff], &[0xd1, 0xff, 0x00], &[0xa1, b'a'], &[0x92, 1, 2]] {
            agrees::<()>(bytes);
            agrees::<u8>(bytes);
            agrees::<i16>(bytes);
            agrees::<String>(bytes);
            agrees::<(u8, u8)>(bytes);
            agrees::<rmpv::Value>(bytes);
        }
    }
}
