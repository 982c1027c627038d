//! Errors and texts, between the C interface and ours.

use menagerie_guest::abi;
use menagerie_protocol::{Failure, GuestError};

/// Causes of causes beyond this are left out: a guest's list may be a ring.
const MAX_DEPTH: usize = 16;
/// So many causes an error has in all: where each has several they multiply.
const MAX_CAUSES: usize = 64;

/// A guest's text, repaired where it is no UTF-8.
///
/// # Safety
///
/// The text is null or valid for reads.
pub(crate) unsafe fn text(str: abi::Str) -> String {
    // SAFETY: the caller's promise.
    let bytes = unsafe { abi::Bytes::from(str).as_slice() };
    String::from_utf8_lossy(bytes).into_owned()
}

/// A copy of a guest's error.
///
/// # Safety
///
/// The pointer is null, or the error, its texts and its inner errors are valid
/// for reads.
pub(crate) unsafe fn guest_error(error: *const abi::Error) -> GuestError {
    let mut left = MAX_CAUSES;
    // SAFETY: the caller's promise.
    unsafe { nested(error, 0, &mut left) }
}

/// # Safety
///
/// As [`guest_error`].
unsafe fn nested(error: *const abi::Error, depth: usize, left: &mut usize) -> GuestError {
    // SAFETY: the caller's promise.
    let Some(error) = (unsafe { error.as_ref() }) else {
        return GuestError::new("Error", "an error that the bundle says nothing about");
    };
    let take = |str: abi::Str| {
        // SAFETY: the caller's promise.
        unsafe { text(str) }
    };
    let optional = |str: abi::Str| (str.len > 0).then(|| take(str));
    let mut inner = Vec::new();
    if !error.inner.is_null() && depth < MAX_DEPTH {
        // An error's own causes come before those of its causes.
        let count = error.inner_len.min(*left);
        *left -= count;
        for index in 0..count {
            // SAFETY: the index is within the list that the guest announced.
            let cause = unsafe { error.inner.add(index) };
            // SAFETY: the caller's promise.
            inner.push(unsafe { nested(cause, depth + 1, left) });
        }
    }
    let type_name = take(error.type_name);
    GuestError {
        type_name: if type_name.is_empty() { "Error".to_owned() } else { type_name },
        message: take(error.message),
        stack: take(error.stack),
        code: optional(error.code),
        help: optional(error.help),
        url: optional(error.url),
        inner,
    }
}

/// A failure as a guest sees it; it points into itself.
#[derive(Debug)]
pub(crate) struct ShownFailure {
    shown: abi::Failure,
    _message: String,
    _failure: Failure,
    _guest: Option<Box<abi::Error>>,
    _arena: Vec<Vec<abi::Error>>,
}

impl ShownFailure {
    /// All that `shown` points to is on the heap, or static, and nothing of it
    /// is changed later: it may be moved.
    pub(crate) fn new(failure: Failure) -> Self {
        let mut arena = Vec::new();
        let message = failure.to_string();
        let guest = match &failure {
            Failure::Guest(error) => Some(Box::new(to_abi(error, &mut arena))),
            _ => None,
        };
        let shown = abi::Failure {
            kind: abi::Str::of(failure.kind()),
            message: abi::Str::of(&message),
            guest: guest.as_deref().map_or(std::ptr::null(), std::ptr::from_ref),
        };
        Self { shown, _message: message, _failure: failure, _guest: guest, _arena: arena }
    }

    pub(crate) const fn shown(&self) -> *const abi::Failure {
        &raw const self.shown
    }
}

fn to_abi(error: &GuestError, arena: &mut Vec<Vec<abi::Error>>) -> abi::Error {
    let optional = |text: &Option<String>| text.as_deref().map_or(abi::Str::NONE, abi::Str::of);
    let inner: Vec<_> = error.inner.iter().map(|cause| to_abi(cause, arena)).collect();
    let shown = abi::Error {
        type_name: abi::Str::of(&error.type_name),
        message: abi::Str::of(&error.message),
        stack: abi::Str::of(&error.stack),
        code: optional(&error.code),
        help: optional(&error.help),
        url: optional(&error.url),
        inner: inner.as_ptr(),
        inner_len: inner.len(),
    };
    arena.push(inner);
    shown
}
