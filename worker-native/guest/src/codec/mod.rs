//! MessagePack by serde, as strict as rule C1 asks: a string is never taken
//! for bytes or bytes for a string, floats lose nothing, maps keep any key.
//! Structs are maps of their field names; `Option` is null or the value.
//!
//! `rmp-serde` is close, but takes bytes where a `String` is wanted, has no
//! way to pass an encoded value on as it is ([`crate::Raw`]), and nests deeper
//! than the other languages do.

mod de;
mod error;
mod ser;
mod token;

#[cfg(test)]
mod tests;

pub(crate) use de::Decoder;
pub use error::CodecError;
pub(crate) use ser::{Out, encode};

/// As deep as lists and maps may nest, on both sides.
const MAX_DEPTH: usize = 128;

/// The newtype by whose name [`crate::Raw`] is told from other newtypes.
pub(crate) const RAW: &str = "$menagerie_guest::Raw";
