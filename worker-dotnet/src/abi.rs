//! What is shared with C#: `bridge/bridge/Native.cs` declares the same.

use std::ffi::c_void;

/// The outcome is a value: head, then body.
pub(crate) const OK: i32 = 0;
/// The head is a text: what was wrong with the arguments.
pub(crate) const BAD_ARGUMENTS: i32 = 2;
/// The head is `[step, error]`.
pub(crate) const LOAD_FAILED: i32 = 3;
/// The head is a number: how many bytes a result takes, so far.
pub(crate) const TOO_LARGE: i32 = 4;

/// A bundle, as C# knows it.
pub(crate) type Handle = *mut c_void;

/// Memory of the other side.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    start: *const u8,
    len: i64,
}

impl Bytes {
    pub(crate) const NONE: Self = Self { start: std::ptr::null(), len: 0 };

    pub(crate) const fn new(start: *const u8, len: i64) -> Self {
        Self { start, len }
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr(), len: i64::try_from(bytes.len()).unwrap_or(i64::MAX) }
    }

    /// # Safety
    ///
    /// Unless it is empty, this is memory that can be read and is not written
    /// for as long as `'a`.
    pub(crate) unsafe fn get<'a>(self) -> &'a [u8] {
        let len = usize::try_from(self.len).unwrap_or(0);
        if self.start.is_null() || len == 0 {
            return &[];
        }
        // SAFETY: the caller's promise; an allocation is never longer than
        // `isize::MAX`.
        unsafe { std::slice::from_raw_parts(self.start, len) }
    }
}

/// What an entry point answers with, beside its code: [`OK`], an error in the
/// head (1), or one of the others.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Outcome {
    /// In the bundle's buffer, until the next call.
    pub(crate) head: Bytes,
    /// Elsewhere; pinned if `pinned`.
    pub(crate) body: Bytes,
    /// A new bundle, or not null if the body has to be unpinned.
    pub(crate) handle: Handle,
}

impl Outcome {
    pub(crate) const EMPTY: Self =
        Self { head: Bytes::NONE, body: Bytes::NONE, handle: std::ptr::null_mut() };
}

/// What to load.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LoadRequest {
    /// The lane's number in this worker.
    pub(crate) lane: u64,
    /// How many bytes a value may take.
    pub(crate) max_payload: i64,
    /// How many bytes a state may take.
    pub(crate) max_state: i64,
    /// `[bundle, generation, directory or null]`.
    pub(crate) head: Bytes,
    /// The assembly.
    pub(crate) image: Bytes,
    /// Its debug information, or none.
    pub(crate) symbols: Bytes,
}

/// The answer to a call that a guest made.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Answer {
    /// [`ANSWER_VALUE`] or another.
    pub(crate) kind: i32,
    /// MessagePack, made of a boxed slice.
    pub(crate) data: Bytes,
}

impl Answer {
    /// Its data is C#'s until it is passed to [`Callbacks::free_answer`].
    pub(crate) fn of(kind: i32, data: Vec<u8>) -> Self {
        Self { kind, data: Bytes::of(Box::leak(data.into_boxed_slice())) }
    }
}

/// A value.
pub(crate) const ANSWER_VALUE: i32 = 0;
/// A failure: `[kind, message, null or an error as `guest_error` writes it]`.
pub(crate) const ANSWER_FAILURE: i32 = 1;
/// This thread is not the lane's.
pub(crate) const ANSWER_WRONG_THREAD: i32 = 2;
/// There is no such file.
pub(crate) const ANSWER_NOTHING: i32 = 3;

/// Lane, level, target, message.
pub(crate) type LogFn = extern "C" fn(u64, i32, *const u8, i64, *const u8, i64);
/// Lane, `[contract, function]`, arguments, where to answer.
pub(crate) type CallFn = extern "C" fn(u64, *const u8, i64, *const u8, i64, *mut Answer);
/// A bundle's folder, a file, where to answer.
pub(crate) type ReadFn = extern "C" fn(*const u8, i64, *const u8, i64, *mut Answer);
/// The lane that this thread works for, or 0.
pub(crate) type WorkForFn = extern "C" fn(u64);
/// Ends an answer's life.
pub(crate) type FreeAnswerFn = extern "C" fn(*mut Answer);
pub(crate) type StartFn = unsafe extern "system" fn(*const Callbacks, *mut Outcome) -> i32;
pub(crate) type LoadFn = unsafe extern "system" fn(*const LoadRequest, *mut Outcome) -> i32;
pub(crate) type CallEntry =
    unsafe extern "system" fn(Handle, i32, *const u8, i64, *mut Outcome) -> i32;
pub(crate) type HandleFn = unsafe extern "system" fn(Handle);
pub(crate) type OnLoadFn = unsafe extern "system" fn(Handle, *const u8, i64, *mut Outcome) -> i32;
pub(crate) type OnUnloadFn = unsafe extern "system" fn(Handle, *mut Outcome) -> i32;
pub(crate) type CollectFn = unsafe extern "system" fn(u64) -> i32;

/// What C# calls.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Callbacks {
    pub(crate) log: LogFn,
    pub(crate) call: CallFn,
    pub(crate) read: ReadFn,
    pub(crate) free_answer: FreeAnswerFn,
    pub(crate) work_for: WorkForFn,
}

/// What Rust calls: the methods of `Menagerie.Bridge.Entry`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    pub(crate) load: LoadFn,
    pub(crate) call: CallEntry,
    pub(crate) unpin: HandleFn,
    pub(crate) on_load: OnLoadFn,
    pub(crate) on_unload: OnUnloadFn,
    pub(crate) free: HandleFn,
    pub(crate) collect: CollectFn,
}
