//! bincode, behind one module: 2.0.1 is the last version that compiles.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The largest control message, in bytes (`DESIGN.md`, chapter Lanes).
pub const MAX_MESSAGE: usize = 16 << 20;

/// Why a message could not be encoded or decoded.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The bytes are no such message.
    #[error("the message cannot be decoded: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// Bytes are left over after the message.
    #[error("{0} bytes are left over after the message")]
    Trailing(usize),
    /// The value cannot be encoded.
    #[error("the message cannot be encoded: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The message is larger than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is over the limit of {MAX_MESSAGE} bytes")]
    TooLarge(usize),
}

// The limit also bounds what a hostile length prefix inside a message can make
// the decoder allocate.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_MESSAGE>,
> = bincode::config::standard().with_limit::<MAX_MESSAGE>();

/// Encodes a message.
///
/// ```
/// use menagerie_protocol::codec::{decode, encode};
///
/// let bytes = encode(&(7_u32, "seven"))?;
/// assert_eq!(decode::<(u32, String)>(&bytes)?, (7, "seven".to_owned()));
/// assert!(decode::<u8>(&bytes).is_err(), "there is more than one");
/// # Ok::<(), menagerie_protocol::codec::CodecError>(())
/// ```
///
/// # Errors
///
/// The value has no bincode form, or is larger than [`MAX_MESSAGE`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())?;
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// Decodes a whole message.
///
/// # Errors
///
/// The bytes are no such message, or more than one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, CONFIG)?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    Ok(value)
}
