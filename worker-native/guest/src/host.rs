//! The worker, as this library was introduced to it.

use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::call::failure;
use crate::{CallError, abi};

/// Set once, by `menagerie_init`, before anything else of the bundle runs. Each
/// generation is a library of its own, so there is one of these for each.
static HOST: AtomicPtr<abi::Host> = AtomicPtr::new(null_mut());

pub(crate) fn set(host: *const abi::Host) {
    // SYNC: introduced to the host
    HOST.store(host.cast_mut(), Ordering::Release);
}

/// The worker's table; none in a test of the bundle's own.
pub(crate) fn get() -> Option<&'static abi::Host> {
    // SYNC: introduced to the host
    let host = NonNull::new(HOST.load(Ordering::Acquire))?;
    // SAFETY: the worker keeps the table where it is, and unchanged, until the
    // library is unmapped.
    Some(unsafe { host.as_ref() })
}

/// The level of a log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find mistakes.
    Debug,
    /// What happens.
    Info,
    /// What looks wrong.
    Warn,
    /// What went wrong.
    Error,
}

/// Writes into the bundle's log. The macros [`crate::info!`] and its
/// companions format.
pub fn log(level: Level, message: fmt::Arguments<'_>) {
    let Some(host) = get() else { return };
    let formatted;
    let text = match message.as_str() {
        Some(text) => text,
        None => {
            formatted = message.to_string();
            &formatted
        }
    };
    // SAFETY: the table is the worker's, and its log may be used from any
    // thread; the text is valid until it returns.
    unsafe { (host.log)(host, level as u32, abi::Str::of(text)) };
}

/// The answer of a call, which is the worker's memory.
#[derive(Debug)]
pub(crate) struct Answer {
    host: &'static abi::Host,
    answer: abi::Answer,
}

impl Answer {
    pub(crate) fn value(&self) -> &[u8] {
        // SAFETY: the worker keeps the value until `answer_free`.
        unsafe { self.answer.value.as_slice() }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: an answer of this worker's, freed this once.
        unsafe { (self.host.answer_free)(&raw mut self.answer) };
    }
}

pub(crate) fn call(contract: &str, function: &str, args: &[u8]) -> Result<Answer, CallError> {
    let Some(host) = get() else {
        return Err(CallError {
            kind: "NoHost".to_owned(),
            message: "no Menagerie worker has loaded this library".to_owned(),
            guest: None,
        });
    };
    let mut answer = abi::Answer { value: abi::Bytes::NONE, owner: null_mut() };
    let (contract, function) = (abi::Str::of(contract), abi::Str::of(function));
    // SAFETY: texts, arguments and the place for the answer are valid until the
    // call returns; the worker checks the thread itself.
    let status =
        unsafe { (host.call)(host, contract, function, abi::Bytes::of(args), &raw mut answer) };
    if status == abi::OK {
        return Ok(Answer { host, answer });
    }
    // SAFETY: the table is the worker's.
    let failed = unsafe { (host.failure)(host) };
    // SAFETY: after a call that failed the worker has a failure, which is valid
    // until the next call on this thread.
    let failed = unsafe { &*failed };
    // SAFETY: as above.
    Err(unsafe { failure(failed) })
}
