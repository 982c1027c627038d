//! A call's arguments.

use menagerie_protocol::{Failure, msgpack};
use serde::Serialize;

use crate::lane::{Arguments, Lane};

/// Arguments that can be written to a lane, again if need be.
pub(super) trait Encode {
    fn encode(&self, lane: &Lane, into: &mut Arguments<'_>) -> Result<(), Failure>;
}

/// A tuple, or whatever else is serialized as one.
pub(super) struct Tuple<'a, A>(pub(super) &'a A);

impl<A: Serialize> Encode for Tuple<'_, A> {
    #[inline]
    fn encode(&self, lane: &Lane, into: &mut Arguments<'_>) -> Result<(), Failure> {
        /// The error with its cause: rmp-serde keeps the interesting part there.
        #[cold]
        fn failure(
            error: &rmp_serde::encode::Error,
            too_large: Option<u64>,
            lane: &Lane,
        ) -> Failure {
            use std::error::Error as _;
            if let Some(size) = too_large {
                return Failure::PayloadTooLarge { size, limit: lane.limits.max_payload };
            }
            let message = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            Failure::BadArguments { message }
        }
        msgpack::encode_args(into, self.0).map_err(|error| failure(&error, into.too_large, lane))
    }
}

/// MessagePack already.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Encode for Raw<'_> {
    fn encode(&self, lane: &Lane, into: &mut Arguments<'_>) -> Result<(), Failure> {
        use std::io::Write;
        into.write_all(self.0).map_err(|error| match into.too_large {
            Some(size) => Failure::PayloadTooLarge { size, limit: lane.limits.max_payload },
            None => Failure::BadValue { message: error.to_string() },
        })
    }
}
