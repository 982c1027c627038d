//! The guest's own errors, and the bounds of lists that come from a worker.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An error that the guest's own code raised, told in its language's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{type_name}: {message}")]
pub struct GuestError {
    /// The exception's type as its language names it: `ValueError`, `Error`,
    /// `System.InvalidOperationException`.
    pub type_name: String,
    /// The message.
    pub message: String,
    /// The stack in the language's own format, or empty where it has none.
    #[serde(default)]
    pub stack: String,
    /// A code, where the guest gives one.
    #[serde(default)]
    pub code: Option<String>,
    /// A text that helps, where the guest gives one.
    #[serde(default)]
    pub help: Option<String>,
    /// A page that helps, where the guest gives one.
    #[serde(default)]
    pub url: Option<String>,
    /// Causes, outermost first, at most [`MAX_CAUSES`] deep and [`MAX_ALL_CAUSES`] in all.
    #[serde(default, deserialize_with = "inner_errors")]
    pub inner: Vec<GuestError>,
}

/// How deep causes may nest: a worker cuts them there, and more is refused, so
/// that no recursion over them can exhaust a stack.
pub const MAX_CAUSES: usize = 32;

/// How many causes an error may have, with those that they have themselves: a worker cuts
/// the others off, and more is refused. One takes a few bytes of a message, and much more
/// of memory.
pub const MAX_ALL_CAUSES: usize = 512;

/// Names that a failure may list. As with causes, the shortest ones would take much more
/// memory than the message.
const MAX_NAMES: usize = 65_536;

/// Reads a list, and refuses it when `count` says that it has come to its end.
struct Bounded<T, F>(F, PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut() -> bool> Visitor<'de> for Bounded<T, F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list that is not too long")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut from: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(next) = from.next_element()? {
            if !(self.0)() {
                return Err(A::Error::custom("a list is too long"));
            }
            all.push(next);
        }
        Ok(all)
    }
}

/// Reads names, and refuses more than [`MAX_NAMES`].
pub(super) fn names<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut left = MAX_NAMES;
    let count = || left.checked_sub(1).map(|less| left = less).is_some();
    from.deserialize_seq(Bounded(count, PhantomData))
}

/// Reads causes, and refuses those that nest too deep before it reads them, and those that
/// are too many.
fn inner_errors<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<GuestError>, D::Error> {
    thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }
    struct Level;
    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    if DEPTH.get() == 0 {
        COUNT.set(0);
    }
    DEPTH.set(DEPTH.get() + 1);
    let _level = Level;
    if DEPTH.get() > MAX_CAUSES + 1 {
        return Err(D::Error::custom("causes are nested too deep"));
    }
    let count = || {
        COUNT.set(COUNT.get() + 1);
        COUNT.get() <= MAX_ALL_CAUSES
    };
    from.deserialize_seq(Bounded(count, PhantomData))
}

impl GuestError {
    /// An error with a type and a message, and nothing else.
    pub fn new(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_name: type_name.into(), message: message.into(), ..Self::default() }
    }

    /// The same error without the causes beyond [`MAX_CAUSES`] and [`MAX_ALL_CAUSES`].
    #[must_use]
    pub fn cut(self) -> Self {
        self.cut_at(MAX_CAUSES, &mut { MAX_ALL_CAUSES })
    }

    /// Keeps causes of so many levels, and no more than are left.
    fn cut_at(mut self, depth: usize, left: &mut usize) -> Self {
        let mut inner = std::mem::take(&mut self.inner).into_iter();
        if depth > 0 {
            while *left > 0
                && let Some(error) = inner.next()
            {
                *left -= 1;
                self.inner.push(error.cut_at(depth - 1, left));
            }
        }
        // Dropping a chain recurses as deep as it is, so it is taken apart.
        let mut rest: Vec<Self> = inner.collect();
        while let Some(mut error) = rest.pop() {
            rest.append(&mut error.inner);
        }
        self
    }

    /// The same error with short texts, of so many bytes each at most, and without causes,
    /// where the whole is too long to be sent.
    pub(crate) fn short(&self, most: usize) -> Self {
        let cut = |text: &str| cut_text(text, most);
        let maybe = |text: &Option<String>| text.as_deref().map(cut);
        Self {
            type_name: cut(&self.type_name),
            message: cut(&self.message),
            stack: cut(&self.stack),
            code: maybe(&self.code),
            help: maybe(&self.help),
            url: maybe(&self.url),
            inner: Vec::new(),
        }
    }

    /// The same error with a stack.
    #[must_use]
    pub fn with_stack(mut self, stack: impl Into<String>) -> Self {
        self.stack = stack.into();
        self
    }
}

/// What is left of a text in a message that was too long, in bytes.
pub(crate) const MAX_TEXT: usize = 16 << 10;

/// A text, cut where it is too long for a message that has to be short.
pub(crate) fn short_text(text: &str) -> String {
    cut_text(text, MAX_TEXT)
}

/// A text of at most so many bytes, and a sign that there was more.
pub(crate) fn cut_text<T: AsRef<str> + Into<String>>(text: T, most: usize) -> String {
    let whole = text.as_ref();
    if whole.len() <= most {
        return text.into();
    }
    let end = (0..=most).rev().find(|end| whole.is_char_boundary(*end)).unwrap_or(0);
    format!("{} […]", &whole[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, codec};

    fn chain(depth: usize) -> GuestError {
        (0..depth).fold(GuestError::new("E", "end"), |inner, _| GuestError {
            inner: vec![inner],
            ..GuestError::new("E", "link")
        })
    }

    #[test]
    fn c3_causes_are_cut_and_deeper_ones_refused() {
        let cut = Failure::from(chain(200).cut());
        let bytes = codec::encode(&cut).unwrap();
        assert_eq!(codec::decode::<Failure>(&bytes).unwrap(), cut);
        let deep = Failure::from(chain(60));
        let bytes = codec::encode(&deep).unwrap();
        assert!(codec::decode::<Failure>(&bytes).is_err());
        // Refused again and again: the depth is counted anew each time.
        let bytes = codec::encode(&cut).unwrap();
        assert!(codec::decode::<Failure>(&bytes).is_ok());
    }

    #[test]
    fn c3_causes_beyond_their_number_are_cut_and_refused() {
        let many = |each: usize| {
            let causes = || (0..each).map(|_| GuestError::new("E", ""));
            let inner = (0..64).map(|_| GuestError { inner: causes().collect(), ..chain(0) });
            GuestError { inner: inner.collect(), ..GuestError::new("E", "many") }
        };
        for each in [0, 7] {
            let few = Failure::from(many(each));
            assert_eq!(codec::decode::<Failure>(&codec::encode(&few).unwrap()).unwrap(), few);
            assert_eq!(Failure::from(many(each).cut()), few);
        }
        let bytes = codec::encode(&Failure::from(many(8))).unwrap();
        assert!(codec::decode::<Failure>(&bytes).is_err());
        let cut = Failure::from(many(8).cut());
        let bytes = codec::encode(&cut).unwrap();
        // Counted anew each time.
        assert_eq!(codec::decode::<Failure>(&bytes).unwrap(), cut);
        assert_eq!(codec::decode::<Failure>(&bytes).unwrap(), cut);
    }

    #[test]
    fn c3_names_beyond_their_number_are_refused() {
        let failure = |count| Failure::CycleDetected { chain: vec![String::new(); count] };
        for (count, fits) in [(MAX_NAMES, true), (MAX_NAMES + 1, false)] {
            let bytes = codec::encode(&failure(count)).unwrap();
            assert_eq!(codec::decode::<Failure>(&bytes).is_ok(), fits, "{count}");
        }
    }
}
