//! The lanes of this worker, as C# names them: by number, so that a guest's
//! thread that outlives its bundle asks for a lane that is gone, not for
//! memory that is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use menagerie_protocol::message::{ENDED_BY, LogLevel};
use menagerie_protocol::msgpack::{Reader, Token, Writer};
use menagerie_protocol::serve::LastWords;
use menagerie_protocol::{Failure, Host, Logger, Runtime};

use crate::abi::{ANSWER_FAILURE, ANSWER_VALUE, ANSWER_WRONG_THREAD, Answer, Bytes, Callbacks};
use crate::{guest_error, siblings};

static NEXT: AtomicU64 = AtomicU64::new(1);
static KNOWN: RwLock<Option<HashMap<u64, Known>>> = RwLock::new(None);

thread_local! {
    /// The lanes whose thread this is: one, in a worker.
    static HOSTS: RefCell<HashMap<u64, Host>> = RefCell::default();
}

/// A lane, until nothing is left of its bundle.
#[derive(Clone, Debug)]
struct Known {
    logger: Logger,
    words: &'static LastWords,
    /// Its bundle has gone. What it has left running is heard no more, unless it ends
    /// the process: somebody has to be named for that.
    has_left: bool,
}

/// What is known of lanes, to be changed.
fn change<T>(change: impl FnOnce(&mut HashMap<u64, Known>) -> T) -> T {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    change(known.get_or_insert_default())
}

/// A lane that C# may ask for.
#[derive(Debug)]
pub(crate) struct LaneNumber(u64);

impl LaneNumber {
    /// Makes the lane of this thread known.
    pub(crate) fn new(runtime: &Runtime) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let words = LastWords::of(runtime.bundle_name());
        let lane = Known { logger: runtime.logger(), words, has_left: false };
        change(|known| known.insert(number, lane));
        HOSTS.with_borrow_mut(|hosts| hosts.insert(number, runtime.host()));
        Self(number)
    }

    pub(crate) const fn get(&self) -> u64 {
        self.0
    }
}

impl Drop for LaneNumber {
    fn drop(&mut self) {
        change(|known| {
            if let Some(lane) = known.get_mut(&self.0) {
                lane.has_left = true;
            }
        });
        HOSTS.with_borrow_mut(|hosts| hosts.remove(&self.0));
    }
}

/// The lane's bundle has been collected: no code of it runs any more.
pub(crate) fn forget(lane: u64) {
    change(|known| known.remove(&lane));
}

/// What the bridge is given to call.
pub(crate) fn callbacks() -> Callbacks {
    Callbacks { log, call, read: siblings::read, free_answer, work_for }
}

/// This thread works for a lane from now on, or for none: a thread of the pool, of a
/// timer, or of a bundle's own.
extern "C" fn work_for(lane: u64) {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let words = known.as_ref().and_then(|known| known.get(&lane)).map(|lane| lane.words);
    LastWords::belong_to_this_thread(words);
}

extern "C" fn log(
    lane: u64,
    level: i32,
    target: *const u8,
    target_len: i64,
    message: *const u8,
    message_len: i64,
) {
    let target = Bytes::new(target, target_len);
    let message = Bytes::new(message, message_len);
    let level = match level {
        0 => LogLevel::Trace,
        1 => LogLevel::Debug,
        3 => LogLevel::Warn,
        4 => LogLevel::Error,
        _ => LogLevel::Info,
    };
    let lane = {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().and_then(|known| known.get(&lane).cloned())
    };
    if let Some(Known { logger, has_left, .. }) = lane {
        // SAFETY: C# has the array fixed until this function returns.
        let target = String::from_utf8_lossy(unsafe { target.get() });
        if has_left && target != ENDED_BY {
            return;
        }
        // SAFETY: as above.
        let message = String::from_utf8_lossy(unsafe { message.get() });
        logger.log(level, &target, &message);
    }
}

extern "C" fn call(
    lane: u64,
    head: *const u8,
    head_len: i64,
    args: *const u8,
    args_len: i64,
    answer: *mut Answer,
) {
    // SAFETY: it is in a buffer that C# frees after this function returns.
    let head: &[u8] = unsafe { Bytes::new(head, head_len).get() };
    // SAFETY: as above.
    let args: &[u8] = unsafe { Bytes::new(args, args_len).get() };
    // Not borrowed while the call runs.
    let host = HOSTS.with_borrow(|hosts| hosts.get(&lane).cloned());
    let (kind, data) = match host {
        None => (ANSWER_WRONG_THREAD, Vec::new()),
        Some(host) => match call_host(&host, head, args) {
            Ok(value) => (ANSWER_VALUE, value),
            Err(failure) => (ANSWER_FAILURE, write_failure(&failure)),
        },
    };
    // SAFETY: C# passes the address of an Answer on its stack.
    unsafe { answer.write(Answer::of(kind, data)) };
}

/// Frees what [`call`] or [`siblings::read`] has answered with.
extern "C" fn free_answer(answer: *mut Answer) {
    // SAFETY: C# passes back the Answer that one of them wrote, once.
    let answer = unsafe { answer.read() };
    // SAFETY: `Answer::of` leaked a boxed slice with this address and length.
    let data = unsafe { answer.data.get() };
    let data = std::ptr::from_ref(data).cast_mut();
    // SAFETY: as above. For an empty slice, whose address `get` does not keep,
    // the box has no memory to free.
    drop(unsafe { Box::from_raw(data) });
}

fn call_host(host: &Host, head: &[u8], args: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut reader = Reader::new(head);
    let bad = || Failure::BadValue { message: "the bridge named no contract".to_owned() };
    reader.array().map_err(|_| bad())?;
    let Ok(Token::Str(contract)) = reader.token() else { return Err(bad()) };
    let Ok(Token::Str(function)) = reader.token() else { return Err(bad()) };
    host.call(contract, function, args)
}

/// `[kind, message, null or the error as guest_error::read reads it]`.
fn write_failure(failure: &Failure) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.array(3);
    writer.str(failure.kind());
    writer.str(&failure.to_string());
    match failure {
        Failure::Guest(error) => guest_error::write(&mut writer, error),
        _ => writer.nil(),
    }
    out
}
