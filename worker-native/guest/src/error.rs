//! The errors that callers see.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

use crate::{CallError, abi};

/// What a caller sees of an error: any error type turns into it by `?`.
///
/// A function may return any `Result<T, E>` whose `E` can be displayed; with
/// this type it can also give a code for programs and help for people.
///
/// ```
/// use menagerie_guest::Error;
///
/// fn parse(text: &str) -> Result<u16, Error> {
///     if text.is_empty() {
///         return Err(Error::new("Empty", "there is no number").with_help("write one"));
///     }
///     Ok(text.parse()?) // the standard library's own errors, by their types
/// }
///
/// assert_eq!(parse("x").unwrap_err().type_name, "ParseIntError");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Error {
    /// The type's name, without its path.
    pub type_name: String,
    /// What people read.
    pub message: String,
    /// Where it happened.
    pub stack: String,
    /// What programs read.
    pub code: String,
    /// How to get out of it.
    pub help: String,
    /// Where to read on.
    pub url: String,
    /// Causes, outermost first.
    pub inner: Vec<Error>,
}

impl Error {
    /// An error with a type and a message, and nothing else.
    pub fn new(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_name: type_name.into(), message: message.into(), ..Self::default() }
    }

    /// The same error with a code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    /// The same error with a text that helps.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// An error of a type that can only be displayed.
    pub(crate) fn displayed<E: fmt::Display>(error: &E) -> Self {
        Self::new(short_type_name::<E>(), error.to_string())
    }

    /// A copy of an error that the worker owns.
    ///
    /// # Safety
    ///
    /// The error, its texts and its inner errors are valid for reads.
    pub(crate) unsafe fn from_abi(error: &abi::Error) -> Self {
        let text = |str: abi::Str| {
            // SAFETY: the caller promises that the texts are valid.
            let bytes = unsafe { abi::Bytes::from(str).as_slice() };
            String::from_utf8_lossy(bytes).into_owned()
        };
        let inner = if error.inner.is_null() {
            &[][..]
        } else {
            // SAFETY: the caller promises that the inner errors are valid.
            unsafe { std::slice::from_raw_parts(error.inner, error.inner_len) }
        };
        Self {
            type_name: text(error.type_name),
            message: text(error.message),
            stack: text(error.stack),
            code: text(error.code),
            help: text(error.help),
            url: text(error.url),
            // SAFETY: as above.
            inner: inner.iter().map(|error| unsafe { Self::from_abi(error) }).collect(),
        }
    }

    /// The error in the words of the C interface, valid as long as `self` and
    /// `arena` are: the causes' lists stay where they are on the heap.
    pub(crate) fn to_abi(&self, arena: &mut Vec<Vec<abi::Error>>) -> abi::Error {
        let inner: Vec<_> = self.inner.iter().map(|error| error.to_abi(arena)).collect();
        let error = abi::Error {
            type_name: abi::Str::of(&self.type_name),
            message: abi::Str::of(&self.message),
            stack: abi::Str::of(&self.stack),
            code: abi::Str::of(&self.code),
            help: abi::Str::of(&self.help),
            url: abi::Str::of(&self.url),
            inner: inner.as_ptr(),
            inner_len: inner.len(),
        };
        arena.push(inner);
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.type_name, self.message)
    }
}

// `Error` itself does not implement `std::error::Error`, or this would clash
// with `From<T> for T`.
impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        if let Some(call) = (&error as &dyn Any).downcast_ref::<CallError>() {
            return call.to_error();
        }
        let mut described = Self::displayed(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            described.inner.push(match cause.downcast_ref::<CallError>() {
                Some(call) => call.to_error(),
                None => Self::new("Error", cause.to_string()),
            });
            source = cause.source();
        }
        described
    }
}

/// `ParseIntError` for `core::num::error::ParseIntError`.
fn short_type_name<T: ?Sized>() -> String {
    let mut short = String::new();
    for part in
        std::any::type_name::<T>().split_inclusive(|c: char| !c.is_alphanumeric() && c != '_')
    {
        if part.ends_with(':') {
            // Part of a path: what stands before it in this word goes.
            let keep =
                short.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
            short.truncate(keep);
        } else {
            short.push_str(part);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_type_names_lose_their_paths() {
        assert_eq!(short_type_name::<std::num::ParseIntError>(), "ParseIntError");
        assert_eq!(short_type_name::<String>(), "String");
        assert_eq!(short_type_name::<Box<dyn StdError>>(), "Box<dyn Error>");
        assert_eq!(short_type_name::<&str>(), "&str");
    }

    #[test]
    fn error_survives_the_c_interface() {
        let mut error = Error::new("A", "a").with_code("c").with_help("h");
        error.inner = vec![Error::new("B", "b"), Error::new("C", "c")];
        error.inner[0].inner = vec![Error::new("D", "d")];
        let mut arena = Vec::new();
        let abi = error.to_abi(&mut arena);
        // SAFETY: `error` and `arena` are alive.
        let copy = unsafe { Error::from_abi(&abi) };
        assert_eq!(copy, error);
    }

    #[test]
    fn error_takes_the_sources_of_std_errors() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no number")
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        let error = Error::from(Outer("x".parse::<i32>().unwrap_err()));
        assert_eq!((error.type_name.as_str(), error.message.as_str()), ("Outer", "no number"));
        assert_eq!(error.inner[0].message, "invalid digit found in string");
    }
}
