//! Values that are passed on as they are.

use std::fmt;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{CodecError, Decoder, RAW};

/// A value of any kind, still encoded: a view of the arguments.
///
/// As a result it goes back without a copy.
///
/// ```
/// use menagerie_guest::{CodecError, Raw};
///
/// struct Keeper;
///
/// #[menagerie_guest::contract("keeper@1")]
/// impl Keeper {
///     /// Whatever it is.
///     fn same(value: Raw<'_>) -> Raw<'_> {
///         value
///     }
///
///     fn sum(values: Raw<'_>) -> Result<i64, CodecError> {
///         Ok(values.decode::<Vec<i64>>()?.into_iter().sum())
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    /// The MessagePack value.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The value as a Rust type.
    ///
    /// # Errors
    ///
    /// It is of another kind.
    pub fn decode<T: Deserialize<'a>>(self) -> Result<T, CodecError> {
        T::deserialize(&mut Decoder::new(self.0))
    }
}

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(RAW, &crate::Bytes(self.0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW, Encoded).map(Raw)
    }
}

struct Encoded;

impl<'de> Visitor<'de> for Encoded {
    type Value = &'de [u8];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_bytes<E: serde::de::Error>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
        Ok(bytes)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<&'de [u8], D::Error> {
        Err(D::Error::custom("menagerie_guest::Raw can be read from Menagerie's arguments only"))
    }
}
