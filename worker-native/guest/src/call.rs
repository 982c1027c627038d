//! Calls to other contracts.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decoder, encode};
use crate::{Error, abi, host};

/// Why a call to another contract ended without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The kind of failure: `Guest`, `NoSuchContract`, `DeadlineExceeded`,
    /// `BadArguments`, …
    pub kind: String,
    /// What people read.
    pub message: String,
    /// The callee's own error, where the kind is `Guest`.
    pub guest: Option<Error>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CallError {}

impl CallError {
    fn new(kind: &str, message: impl fmt::Display) -> Self {
        Self { kind: kind.to_owned(), message: message.to_string(), guest: None }
    }

    /// The error as the caller of the function that lets it through sees it.
    pub(crate) fn to_error(&self) -> Error {
        Error {
            inner: self.guest.iter().cloned().collect(),
            ..Error::new("CallError", &self.message).with_code(&self.kind)
        }
    }
}

/// Calls a function of another bundle's contract, or of the host's, which the
/// manifest has to declare as a `[[dependency]]`, and waits for the result.
///
/// ```no_run
/// # fn main() -> Result<(), menagerie_guest::CallError> {
/// let text: String = menagerie_guest::call("greeter@1", "greet", ("Ada",))?;
/// # Ok(())
/// # }
/// ```
///
/// `args` is a tuple or a list. Only the bundle's own thread may call.
///
/// # Errors
///
/// The call's failure; `BadArguments` and `BadValue` also for arguments that
/// are no tuple or list, and a result that is no `R`.
pub fn call<R: DeserializeOwned>(
    contract: &str,
    function: &str,
    args: impl Serialize,
) -> Result<R, CallError> {
    let mut list = Vec::new();
    encode(&mut list, &args).map_err(|e| CallError::new("BadArguments", e))?;
    match list.first() {
        // `()` is null to serde, and no arguments to whoever writes it here.
        Some(0xc0) => list = vec![0x90],
        Some(0x90..=0x9f | 0xdc | 0xdd) => {}
        _ => return Err(CallError::new("BadArguments", "the arguments are no tuple or list")),
    }
    let answer = host::call(contract, function, &list)?;
    R::deserialize(&mut Decoder::new(answer.value())).map_err(|e| {
        CallError::new("BadValue", format_args!("the result of '{function}' does not fit: {e}"))
    })
}

/// What the worker says of the call that failed.
///
/// # Safety
///
/// The failure is the worker's own, not yet overwritten by another call.
pub(crate) unsafe fn failure(failure: &abi::Failure) -> CallError {
    let text = |str: abi::Str| {
        // SAFETY: the worker's texts are valid until the next call.
        let bytes = unsafe { abi::Bytes::from(str).as_slice() };
        String::from_utf8_lossy(bytes).into_owned()
    };
    // SAFETY: null, or an error of the worker's that lives as long as the
    // failure.
    let guest = unsafe { failure.guest.as_ref() };
    CallError {
        kind: text(failure.kind),
        message: text(failure.message),
        // SAFETY: as above.
        guest: guest.map(|error| unsafe { Error::from_abi(error) }),
    }
}
