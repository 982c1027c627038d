//! A reply's value, where it stands.

use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::MAX_DEPTH;
use menagerie_protocol::ring::Small;
use serde::de::DeserializeOwned;

use super::bulk::DownSegment;

/// Decodes a value.
pub(super) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, Failure> {
    #[cold]
    fn misfit(error: &rmp_serde::decode::Error, wanted: &str) -> Failure {
        Failure::BadValue { message: format!("the result does not fit {wanted}: {error}") }
    }
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    // A bundle may return lists as deep as it likes.
    decoder.set_max_depth(MAX_DEPTH);
    R::deserialize(&mut decoder).map_err(|error| misfit(&error, std::any::type_name::<R>()))
}

/// One MessagePack value.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A small one, by value.
    Small(Small),
    /// A larger one.
    Heap(Vec<u8>),
    /// The arguments' own bytes, sent back: they stand in a segment that only
    /// this process can write.
    Echo { start: usize, len: usize },
}

impl Payload {
    /// Gives the bytes to `read`. `segment` is the call's, for an echo.
    pub(crate) fn with<T>(
        &self,
        segment: Option<&DownSegment>,
        read: impl FnOnce(&[u8]) -> T,
    ) -> T {
        match self {
            Self::Small(small) => read(small.bytes()),
            Self::Heap(bytes) => read(bytes),
            Self::Echo { start, len } => match segment {
                Some(segment) => segment.with_bytes(*start, *len, read),
                None => read(&[]),
            },
        }
    }

    /// The bytes.
    pub(crate) fn into_vec(self, segment: Option<&DownSegment>) -> Vec<u8> {
        match self {
            Self::Heap(bytes) => bytes,
            other => other.with(segment, <[u8]>::to_vec),
        }
    }
}
