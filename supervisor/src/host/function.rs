//! Closures as host functions: arguments decoded, results encoded.

use std::future::Future;

use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::{MAX_DEPTH, Reader};
use serde::de::DeserializeOwned;

use super::answer::IntoAnswer;

/// An `async` closure of up to eight arguments that guests can call. `Args` is
/// the tuple of its arguments' types.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a host function",
    note = "expected a closure `|a: A, b: B| async move {{ … }}` that is `Send + Sync + 'static`, \
            whose arguments can be deserialized and whose result is an `IntoAnswer`"
)]
pub trait HostFunction<Args>: Send + Sync + 'static {
    /// Decodes the arguments, a MessagePack array, and begins.
    ///
    /// # Errors
    ///
    /// [`Failure::BadArguments`].
    fn run(&self, args: &[u8]) -> Result<super::Run, Failure>;
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::BadArguments { message: message.into() }
}

/// The arguments' elements, still encoded.
fn split(args: &[u8], expected: usize) -> Result<Reader<'_>, Failure> {
    let mut reader = Reader::new(args);
    let found = reader.array().map_err(|error| bad(error.to_string()))?;
    if found != expected {
        let s = if expected == 1 { "" } else { "s" };
        return Err(bad(format!("expected {expected} argument{s}, got {found}")));
    }
    Ok(reader)
}

fn decode<A: DeserializeOwned>(reader: &mut Reader<'_>, number: usize) -> Result<A, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        let expected = std::any::type_name::<A>();
        bad(format!("argument {number}: expected {expected}: {error}"))
    };
    let bytes = reader.skip().map_err(|error| wrong(&error))?;
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(MAX_DEPTH + 1);
    A::deserialize(&mut decoder).map_err(|error| wrong(&error))
}

macro_rules! functions {
    ($($count:literal: $($arg:ident $number:literal),*;)*) => {$(
        impl<F, Answer, Output, $($arg),*> HostFunction<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> Answer + Send + Sync + 'static,
            Answer: Future<Output = Output> + Send + 'static,
            Output: IntoAnswer,
            $($arg: DeserializeOwned,)*
        {
            #[allow(non_snake_case, unused_mut, unused_variables, reason = "of any number")]
            fn run(&self, args: &[u8]) -> Result<super::Run, Failure> {
                let mut reader = split(args, $count)?;
                $(let $arg: $arg = decode(&mut reader, $number)?;)*
                let answer = self($($arg),*);
                Ok(Box::pin(async move { answer.await.into_answer() }))
            }
        }
    )*};
}

functions! {
    0: ;
    1: A 1;
    2: A 1, B 2;
    3: A 1, B 2, C 3;
    4: A 1, B 2, C 3, D 4;
    5: A 1, B 2, C 3, D 4, E 5;
    6: A 1, B 2, C 3, D 4, E 5, G 6;
    7: A 1, B 2, C 3, D 4, E 5, G 6, H 7;
    8: A 1, B 2, C 3, D 4, E 5, G 6, H 7, I 8;
}
