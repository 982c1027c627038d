//! What serde reports.

use std::fmt;

use serde::de::{Expected, Unexpected};

/// A value that could not be decoded as, or encoded from, a Rust type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError(Box<str>);

impl CodecError {
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string().into())
    }

    #[cold]
    pub(super) fn truncated() -> Self {
        Self::new("the data ends in the middle of a value")
    }

    #[cold]
    pub(super) fn too_deep() -> Self {
        Self::new(format_args!("lists and maps nest deeper than {} levels", super::MAX_DEPTH))
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

impl serde::de::Error for CodecError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }

    // serde speaks of sequences, byte arrays and units; whoever made the call,
    // in whatever language, knows them as lists, bytes and null.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "a sequence" => "a list",
            "unit" => "null",
            "byte array" => "bytes",
            other => other,
        };
        match found {
            Unexpected::Unit | Unexpected::Option => {
                Self::new(format_args!("expected {expected}, found null"))
            }
            Unexpected::Bytes(_) => Self::new(format_args!("expected {expected}, found bytes")),
            Unexpected::Seq => Self::new(format_args!("expected {expected}, found a list")),
            Unexpected::Map => Self::new(format_args!("expected {expected}, found a map")),
            Unexpected::Str(_) => Self::new(format_args!("expected {expected}, found a string")),
            other => Self::new(format_args!("expected {expected}, found {other}")),
        }
    }
}

impl serde::ser::Error for CodecError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}
