//! What host functions may return.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error as StdError;

use menagerie_protocol::{Failure, GuestError};
use serde::Serialize;

/// An error of a host function, as the calling guest sees it. Every error type
/// turns into one by `?`; a [`GuestError`] keeps its type, code and help, and the
/// [`Failure`] of a call that the function has made its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError(Failure);

impl HostError {
    /// An error with a type, such as `KeyError`, and a message.
    pub fn new(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self(GuestError::new(type_name, message).into())
    }
}

// `HostError` itself is no `std::error::Error`: this would clash with
// `From<T> for T`.
impl<E: StdError + 'static> From<E> for HostError {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        if let Some(guest) = any.downcast_ref::<GuestError>() {
            return Self(guest.clone().into());
        }
        if let Some(failure) = any.downcast_ref::<Failure>() {
            return Self(failure.clone());
        }
        let name = std::any::type_name::<E>();
        // Without its parameters, which may have paths of their own.
        let path = name.split('<').next().unwrap_or(name);
        let name = path.rsplit("::").next().unwrap_or(path);
        let mut told = GuestError::new(name, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            told.inner.push(GuestError::new("Error", cause.to_string()));
            source = cause.source();
        }
        Self(told.cut().into())
    }
}

/// A value of any type that can be serialized, for host functions that return
/// one of their own: a struct becomes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned<T>(pub T);

/// What a host function may return: plain values, lists and maps of what can be
/// serialized, [`Returned`], or a `Result` of anything that can be serialized.
#[diagnostic::on_unimplemented(
    message = "a host function cannot return `{Self}`",
    note = "return `Ok::<_, HostError>(value)`, or `Returned(value)`, for a type of your own"
)]
pub trait IntoAnswer {
    /// One MessagePack value, or how the call fails.
    ///
    /// # Errors
    ///
    /// The function's own error, or a value that cannot be serialized.
    fn into_answer(self) -> Result<Vec<u8>, Failure>;
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let mut serializer = rmp_serde::Serializer::new(&mut out).with_struct_map();
    match value.serialize(&mut serializer) {
        Ok(()) => Ok(out),
        Err(error) => Err(Failure::BadValue { message: format!("the host's result: {error}") }),
    }
}

impl<T: Serialize, E: Into<HostError>> IntoAnswer for Result<T, E> {
    fn into_answer(self) -> Result<Vec<u8>, Failure> {
        match self {
            Ok(value) => encode(&value),
            Err(error) => Err(error.into().0),
        }
    }
}

impl<T: Serialize> IntoAnswer for Returned<T> {
    fn into_answer(self) -> Result<Vec<u8>, Failure> {
        encode(&self.0)
    }
}

/// One implementation for each type, because one for all that can be serialized
/// would take a `Result` for a value.
macro_rules! answers {
    ($([$($generics:tt)*] $type:ty),* $(,)?) => {$(
        impl<$($generics)*> IntoAnswer for $type {
            fn into_answer(self) -> Result<Vec<u8>, Failure> {
                encode(&self)
            }
        }
    )*};
}

answers! {
    [] (), [] bool, [] char, [] String, [] &'static str,
    [] i8, [] i16, [] i32, [] i64, [] isize,
    [] u8, [] u16, [] u32, [] u64, [] usize,
    [] f32, [] f64,
    [] serde_bytes::ByteBuf, [] rmpv::Value, [] serde_json::Value,
    [T: Serialize] Option<T>, [T: Serialize] Vec<T>, [T: Serialize] Box<T>,
    [T: Serialize, S] HashSet<T, S>, [T: Serialize] BTreeSet<T>,
    [K: Serialize, V: Serialize, S] HashMap<K, V, S>,
    [K: Serialize, V: Serialize] BTreeMap<K, V>,
    [A: Serialize] (A,), [A: Serialize, B: Serialize] (A, B),
    [A: Serialize, B: Serialize, C: Serialize] (A, B, C),
}
