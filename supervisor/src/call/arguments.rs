//! A call's arguments.

use menagerie_protocol::{Failure, msgpack};
use serde::Serialize;

use crate::lane::Arguments;

/// Arguments that can be written to a lane, again if need be.
pub(super) trait Encode {
    fn encode(&self, into: &mut Arguments<'_>) -> Result<(), Failure>;
}

/// A tuple, or whatever else is serialized as one.
pub(super) struct Tuple<'a, A>(pub(super) &'a A);

impl<A: Serialize> Encode for Tuple<'_, A> {
    #[inline]
    fn encode(&self, into: &mut Arguments<'_>) -> Result<(), Failure> {
        /// The error with its cause: rmp-serde keeps the interesting part there.
        #[cold]
        fn failure(error: &rmp_serde::encode::Error, written: &Arguments<'_>) -> Failure {
            use std::error::Error as _;
            if let Some(failure) = written.failure() {
                return failure;
            }
            let message = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            Failure::BadArguments { message }
        }
        msgpack::encode_args(into, self.0).map_err(|error| failure(&error, into))
    }
}

/// MessagePack already.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Encode for Raw<'_> {
    fn encode(&self, into: &mut Arguments<'_>) -> Result<(), Failure> {
        use std::io::Write;
        into.write_all(self.0).map_err(|error| {
            into.failure().unwrap_or_else(|| Failure::BadValue { message: error.to_string() })
        })
    }
}
