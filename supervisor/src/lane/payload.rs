//! A reply's value, where it stands.

use menagerie_protocol::ring::Small;

use super::bulk::DownSegment;

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
