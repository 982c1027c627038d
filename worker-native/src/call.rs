//! One call as the guest sees it, and the part of the host's table that takes
//! an `mg_call`.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use menagerie_guest::abi;
use menagerie_protocol::msgpack::{Reader, Token, Writer};
use menagerie_protocol::{Failure, GuestError};

use crate::cursor::{REFUSED, as_c, kind, take, writer};
use crate::errors::{guest_error, text};
use crate::params::{Params, Span, index};

/// A result buffer that has grown beyond this is not kept for the next call.
const KEEP: usize = 1 << 20;

/// A call. The guest sees the first field only, by a pointer to the whole.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct CallState {
    head: abi::Call,
    /// Where the arguments are, if anybody has asked.
    spans: Vec<Span>,
    indexed: bool,
    /// The result was written value by value, so it may be none.
    unchecked: bool,
    view: Option<View>,
    failure: Option<Box<Failure>>,
}

/// A result that stays where it is until it is sent.
#[derive(Debug)]
struct View {
    bytes: abi::Bytes,
    release: Option<abi::Release>,
    owner: *mut c_void,
}

/// A result, in one or two pieces.
pub(crate) type Parts<'a> = [&'a [u8]; 2];

const NULL: &[u8] = &[0xc0];
const NO_ARGS: &[u8] = &[0x90];

impl CallState {
    pub(crate) fn new(host: *const abi::Host) -> Self {
        let args = abi::Bytes::NONE;
        Self {
            head: abi::Call { host, args, result: writer(host) },
            spans: Vec::new(),
            indexed: false,
            unchecked: false,
            view: None,
            failure: None,
        }
    }

    /// Begins a call. `args` has to stay until [`end`](Self::end).
    #[inline]
    pub(crate) fn begin(&mut self, args: &[u8]) {
        self.head.args = abi::Bytes::of(args);
        self.head.result.len = 0;
        self.indexed = false;
        self.unchecked = false;
        REFUSED.set(false);
    }

    /// Checks the arguments of a function that has declared its parameters.
    #[inline]
    pub(crate) fn check(&mut self, params: &Params, args: &[u8]) -> Result<(), String> {
        self.indexed = true;
        if params.are_none() && args == NO_ARGS {
            self.spans.clear();
            return Ok(());
        }
        params.check(args, &mut self.spans)
    }

    /// The value that a function has left which returned `status`, if it stands in
    /// the buffer, as small ones do, and needs no further look: then there is nothing to
    /// [end](Self::end) but the arguments.
    #[inline]
    pub(crate) fn plain_value(&self, status: c_int) -> Option<&[u8]> {
        let result = &self.head.result;
        let usual = status == abi::OK
            && self.failure.is_none()
            && self.view.is_none()
            && result.capacity <= KEEP;
        // SAFETY: the buffer is this worker's `Vec`, and holds as many bytes.
        let value = unsafe { abi::Bytes { ptr: result.data, len: result.len }.as_slice() };
        let whole = match value {
            [] => false,
            [byte] if is_whole_value(*byte) => true,
            _ => !self.unchecked,
        };
        (usual && whole).then_some(value)
    }

    /// How a function that returned `status` has ended.
    #[inline(never)]
    pub(crate) fn outcome(&mut self, status: c_int) -> Result<Parts<'_>, Box<Failure>> {
        if self.failure.is_some() || status != abi::OK {
            return Err(self.failed(status));
        }
        let result = &self.head.result;
        // SAFETY: the buffer is this worker's `Vec`, and holds as many bytes.
        let buffer = unsafe { abi::Bytes { ptr: result.data, len: result.len }.as_slice() };
        let view = match &self.view {
            // SAFETY: the guest said that the bytes stay until they are sent.
            Some(view) => unsafe { view.bytes.as_slice() },
            None => &[],
        };
        if buffer.is_empty() && view.is_empty() {
            return Ok([NULL, &[]]);
        }
        if self.unchecked {
            check_value(if buffer.is_empty() { view } else { buffer })?;
        }
        Ok([buffer, view])
    }

    #[cold]
    fn failed(&mut self, status: c_int) -> Box<Failure> {
        self.failure.take().unwrap_or_else(|| {
            // What mg_write_str has returned, the function has most likely passed on.
            if status == abi::FAILED && REFUSED.get() {
                let message = "a text is no UTF-8, which strings have to be; others are bytes";
                return boxed(GuestError::new("MenagerieMisuse", message));
            }
            let message = format!("the function returned {status} and said no more");
            boxed(GuestError::new("Error", message))
        })
    }

    /// Ends a call, after its result was sent.
    #[inline(never)]
    pub(crate) fn end(&mut self) {
        self.end_args();
        self.forget_view();
        if self.head.result.capacity > KEEP {
            // SAFETY: the writer was made in `new`.
            drop(unsafe { take(&mut self.head.result) });
        }
    }

    /// A guest that keeps the call beyond its end finds no arguments there.
    #[inline]
    pub(crate) fn end_args(&mut self) {
        self.head.args = abi::Bytes::NONE;
    }

    #[inline]
    fn forget_view(&mut self) {
        if let Some(View { release: Some(release), owner, .. }) = self.view.take() {
            // SAFETY: the guest gave both for this one call.
            unsafe { release(owner) };
        }
    }

    /// Empties the result.
    #[inline]
    fn clear(&mut self) {
        self.forget_view();
        self.head.result.len = 0;
        self.unchecked = false;
    }

    fn args(&self) -> &[u8] {
        // SAFETY: the arguments stay until the call's end.
        unsafe { self.head.args.as_slice() }
    }

    fn is_in_args(&self, bytes: abi::Bytes) -> bool {
        let args = self.args().as_ptr_range();
        let Range { start, end } = args.start.addr()..args.end.addr();
        let at = bytes.ptr.addr();
        bytes.len > 0 && at >= start && at.checked_add(bytes.len).is_some_and(|to| to <= end)
    }

    fn span(&mut self, index: u32) -> Option<Range<usize>> {
        if !self.indexed {
            // SAFETY: the arguments stay until the call's end.
            let args = unsafe { self.head.args.as_slice() };
            if self::index(args, &mut self.spans).is_err() {
                self.spans.clear();
            }
            self.indexed = true;
        }
        self.spans.get(index as usize).map(|span| span.start..span.end)
    }

    fn token(&mut self, index: u32) -> Option<Token<'_>> {
        let span = self.span(index)?;
        Reader::new(&self.args()[span]).token().ok()
    }

    /// An argument as a type of C; if it is of another kind, the call fails.
    fn arg<T>(
        &mut self,
        index: u32,
        getter: &str,
        pick: impl FnOnce(Token<'_>) -> Option<T>,
        otherwise: T,
    ) -> T {
        let token = self.token(index);
        let found = token.map_or("missing", |token| token.kind());
        if let Some(value) = token.and_then(pick) {
            return value;
        }
        let message = format!("{getter}(call, {index}) does not fit: the argument is {found}");
        self.fail(GuestError::new("MenagerieMisuse", message).into());
        otherwise
    }

    /// Notes a failure; the first one counts.
    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert_with(|| Box::new(failure));
    }
}

impl Drop for CallState {
    fn drop(&mut self) {
        self.forget_view();
        // SAFETY: the writer was made in `new`.
        drop(unsafe { take(&mut self.head.result) });
    }
}

/// Whether a byte is a MessagePack value: a small integer, null or a boolean.
const fn is_whole_value(byte: u8) -> bool {
    matches!(byte, 0..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..)
}

/// What a bundle in C has written is exactly one value.
#[inline(never)]
fn check_value(value: &[u8]) -> Result<(), Box<Failure>> {
    let mut reader = Reader::new(value);
    let problem = match reader.skip() {
        Ok(_) if reader.rest().is_empty() => return Ok(()),
        Ok(_) => "more than one value was written".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("the result is not one value: {problem}");
    Err(boxed(GuestError::new("MenagerieMisuse", message)))
}

/// A failure is large, and every call carries the place for one.
fn boxed(error: GuestError) -> Box<Failure> {
    Box::new(error.into())
}

/// The call behind the guest's pointer.
///
/// # Safety
///
/// It is the pointer that a function was given, while that function runs, and
/// nothing else refers to the call meanwhile.
unsafe fn state<'a>(call: *mut abi::Call) -> &'a mut CallState {
    // SAFETY: the pointer was made from one to the whole `CallState`, whose
    // first field it names; the caller promises that nothing else refers to it.
    unsafe { &mut *call.cast::<CallState>() }
}

/// Entries of the host's table that get an argument.
macro_rules! args {
    ($($name:ident -> $ty:ty, $getter:literal, $pick:path, $otherwise:expr;)*) => {$(
        pub(crate) unsafe extern "C" fn $name(call: *mut abi::Call, index: u32) -> $ty {
            // SAFETY: the guest passes on the call that it was given.
            let call = unsafe { state(call) };
            call.arg(index, $getter, $pick, $otherwise)
        }
    )*};
}

args! {
    arg_bool -> c_int, "mg_arg_bool", as_c::bool, 0;
    arg_i64 -> i64, "mg_arg_i64", as_c::i64, 0;
    arg_u64 -> u64, "mg_arg_u64", as_c::u64, 0;
    arg_f64 -> f64, "mg_arg_f64", as_c::f64, 0.0;
    arg_str -> abi::Str, "mg_arg_str", as_c::str, abi::Str::NONE;
    arg_bytes -> abi::Bytes, "mg_arg_bytes", as_c::bytes, abi::Bytes::NONE;
}

pub(crate) unsafe extern "C" fn arg_raw(call: *mut abi::Call, index: u32) -> abi::Bytes {
    // SAFETY: the guest passes on the call that it was given.
    let call = unsafe { state(call) };
    match call.span(index) {
        Some(span) => abi::Bytes::of(&call.args()[span]),
        None => call.arg(index, "mg_arg_raw", |_| None, abi::Bytes::NONE),
    }
}

pub(crate) unsafe extern "C" fn arg_count(call: *mut abi::Call) -> u32 {
    // SAFETY: the guest passes on the call that it was given.
    let call = unsafe { state(call) };
    call.span(0);
    u32::try_from(call.spans.len()).unwrap_or(u32::MAX)
}

pub(crate) unsafe extern "C" fn arg_kind(call: *mut abi::Call, index: u32) -> u32 {
    // SAFETY: the guest passes on the call that it was given.
    let call = unsafe { state(call) };
    call.token(index).map_or(abi::KIND_NONE, |token| kind(&token))
}

pub(crate) unsafe extern "C" fn result(call: *mut abi::Call) -> *mut abi::Writer {
    // SAFETY: the guest passes on the call that it was given.
    let call = unsafe { state(call) };
    call.clear();
    call.unchecked = true;
    &raw mut call.head.result
}

pub(crate) unsafe extern "C" fn return_bytes(call: *mut abi::Call, bytes: abi::Bytes) -> c_int {
    // SAFETY: the guest passes on the call that it was given.
    let state = unsafe { state(call) };
    if state.is_in_args(bytes) {
        // SAFETY: as above; the arguments stay until the answer is sent.
        return unsafe { return_view(call, bytes, None, std::ptr::null_mut()) };
    }
    state.clear();
    let writer = &raw mut state.head.result;
    // SAFETY: the writer is the call's own, and the guest's bytes are valid.
    unsafe { crate::cursor::write_bytes(writer, bytes) }
}

pub(crate) unsafe extern "C" fn return_raw(call: *mut abi::Call, value: abi::Bytes) -> c_int {
    // SAFETY: the guest passes on the call that it was given.
    let call = unsafe { state(call) };
    call.clear();
    call.unchecked = true;
    if call.is_in_args(value) {
        call.view = Some(View { bytes: value, release: None, owner: std::ptr::null_mut() });
        return abi::OK;
    }
    let writer = &raw mut call.head.result;
    // SAFETY: the writer is the call's own, and the guest's bytes are valid.
    unsafe { crate::cursor::write_raw(writer, value) }
}

pub(crate) unsafe extern "C" fn return_view(
    call: *mut abi::Call,
    bytes: abi::Bytes,
    release: Option<abi::Release>,
    owner: *mut c_void,
) -> c_int {
    // SAFETY: the guest passes on the call that it was given.
    let call = unsafe { state(call) };
    call.clear();
    // SAFETY: the writer was made by `writer`.
    let mut buffer = unsafe { take(&mut call.head.result) };
    Writer::new(&mut buffer).bin_head(bytes.len);
    crate::cursor::store(&mut call.head.result, buffer);
    call.view = Some(View { bytes, release, owner });
    abi::OK
}

pub(crate) unsafe extern "C" fn fail(call: *mut abi::Call, error: *const abi::Error) -> c_int {
    // SAFETY: the guest's error is valid, by the contract of menagerie.h.
    let error = unsafe { guest_error(error) };
    // SAFETY: the guest passes on the call that it was given.
    unsafe { state(call) }.fail(error.into());
    abi::FAILED
}

pub(crate) unsafe extern "C" fn bad_arguments(call: *mut abi::Call, message: abi::Str) -> c_int {
    // SAFETY: the guest's text is valid, by the contract of menagerie.h.
    let message = unsafe { text(message) };
    // SAFETY: the guest passes on the call that it was given.
    unsafe { state(call) }.fail(Failure::BadArguments { message });
    abi::FAILED
}
