//! Values between MessagePack and Python (C1).

mod decode;
mod encode;

pub(crate) use decode::{Decoder, decode_value};
pub(crate) use encode::{EncodeError, LARGE, Part, encode, encode_apart};
