//! One call: arguments in, result out.

use std::ffi::{OsStr, c_int, c_void};
use std::fmt::Display;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, Decoder, Out, encode};
use crate::{ByteBuf, Bytes, Context, Error, Raw, abi, panic};

/// Bytes from this size on are not copied into the answer's buffer first.
const LARGE: usize = 4096;

/// How a call fails. In a box, because it is carried through every call, most
/// of which do not fail.
#[derive(Debug)]
pub struct Fault(Box<Kind>);

#[derive(Debug)]
enum Kind {
    /// By the function's own error.
    Guest(Error),
    /// By arguments that it does not take.
    BadArguments(String),
}

impl Fault {
    #[cold]
    fn guest(error: Error) -> Self {
        Self(Box::new(Kind::Guest(error)))
    }

    #[cold]
    fn bad_arguments(message: String) -> Self {
        Self(Box::new(Kind::BadArguments(message)))
    }
}

/// A call that runs; `'a` ends when it is answered.
#[derive(Clone, Copy, Debug)]
pub struct CallRef<'a> {
    call: NonNull<abi::Call>,
    /// Neither longer nor shorter than `'a`: a view that is sent has to stay as
    /// long as the call itself, not merely as long as this reference to it.
    life: PhantomData<fn(&'a ()) -> &'a ()>,
}

/// Runs a function's or hook's body, and tells the worker how it ended.
///
/// # Safety
///
/// `call` is the one that the worker gave to an [`abi::Function`].
pub unsafe fn run<F>(call: *mut abi::Call, body: F) -> c_int
where
    F: for<'a> FnOnce(CallRef<'a>) -> Result<(), Fault>,
{
    let Some(call) = NonNull::new(call) else { return abi::FAILED };
    let call = CallRef { call, life: PhantomData };
    // What a body touches that a panic left half done is the bundle's own, and
    // no more or less broken than if a thread of its own had panicked.
    match catch_unwind(AssertUnwindSafe(|| body(call))) {
        Ok(Ok(())) => abi::OK,
        Ok(Err(fault)) => call.fail(&fault),
        Err(payload) => call.fail(&Fault::guest(panic::caught(payload))),
    }
}

impl<'a> CallRef<'a> {
    #[inline]
    fn host(self) -> &'a abi::Host {
        // SAFETY: the worker's call is valid during 'a.
        let host = unsafe { (*self.call.as_ptr()).host };
        // SAFETY: it names the worker's table, which outlives the call.
        unsafe { &*host }
    }

    #[inline]
    fn arg_bytes(self) -> &'a [u8] {
        // SAFETY: the worker's call is valid during 'a.
        let args = unsafe { (*self.call.as_ptr()).args };
        // SAFETY: the arguments stay as they are until the call is answered.
        unsafe { args.as_slice() }
    }

    #[inline]
    fn result(self) -> ResultBuf<'a> {
        // SAFETY: the worker's call is valid during 'a.
        let writer = unsafe { &raw mut (*self.call.as_ptr()).result };
        ResultBuf { writer, host: self.host() }
    }

    /// The arguments; as many as there are names.
    ///
    /// # Errors
    ///
    /// There are more or fewer.
    #[inline]
    pub fn args(self, names: &'static [&'static str]) -> Result<Args<'a>, Fault> {
        // As many as there should be, and few: nearly always.
        match Decoder::in_short_list(self.arg_bytes(), names.len()) {
            Some(decoder) => Ok(Args { decoder, names }),
            None => self.counted_args(names),
        }
    }

    #[inline(never)]
    fn counted_args(self, names: &'static [&'static str]) -> Result<Args<'a>, Fault> {
        let mut decoder = Decoder::new(self.arg_bytes());
        let count = decoder.list().map_err(|e| Fault::bad_arguments(e.to_string()))?;
        if count != names.len() {
            return Err(Fault::bad_arguments(wrong_count(count, names)));
        }
        Ok(Args { decoder, names })
    }

    /// The `on_load` hook's context.
    ///
    /// # Errors
    ///
    /// The state is no value: a mistake of the worker's.
    pub fn context(self) -> Result<Context<'a>, Fault> {
        let state: Raw<'a> = self.args(&["state"])?.next()?;
        let host = self.host();
        // SAFETY: the worker's name of the bundle lives as long as its table.
        let bundle = unsafe { abi::Bytes::from(host.bundle).as_slice() };
        // SAFETY: so does its folder's.
        let dir = unsafe { abi::Bytes::from(host.dir).as_slice() };
        Ok(Context {
            bundle: std::str::from_utf8(bundle).unwrap_or_default(),
            generation: host.generation,
            dir: Path::new(OsStr::from_bytes(dir)),
            state: (state.as_bytes() != [0xc0]).then_some(state),
        })
    }

    #[cold]
    fn fail(self, fault: &Fault) -> c_int {
        let host = self.host();
        match &*fault.0 {
            Kind::Guest(error) => {
                let mut arena = Vec::new();
                let error = error.to_abi(&mut arena);
                // SAFETY: the call is the worker's; the error is valid while
                // `fault` and `arena` are, and the worker copies it.
                unsafe { (host.fail)(self.call.as_ptr(), &raw const error) }
            }
            // SAFETY: the call is the worker's, and it copies the text.
            Kind::BadArguments(message) => unsafe {
                (host.bad_arguments)(self.call.as_ptr(), abi::Str::of(message))
            },
        }
    }

    /// Answers with bytes that stay where they are during `'a`, or until they
    /// are released.
    fn send_view(self, bytes: &[u8], release: Option<abi::Release>, owner: *mut c_void) {
        let bytes = abi::Bytes::of(bytes);
        // SAFETY: the call is the worker's, and the bytes stay as promised.
        unsafe { (self.host().return_view)(self.call.as_ptr(), bytes, release, owner) };
    }
}

#[cold]
fn wrong_count(found: usize, names: &[&str]) -> String {
    let s = if names.len() == 1 { "" } else { "s" };
    let expected = names.len();
    let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    format!("expected {expected} argument{s}{names}, got {found}")
}

/// The arguments that have not been read yet.
#[derive(Debug)]
pub struct Args<'a> {
    decoder: Decoder<'a>,
    names: &'static [&'static str],
}

impl<'a> Args<'a> {
    /// The next argument.
    ///
    /// # Errors
    ///
    /// It is no `T`.
    #[allow(clippy::should_implement_trait, reason = "each argument is of another type")]
    pub fn next<T: Deserialize<'a>>(&mut self) -> Result<T, Fault> {
        let (name, rest) = self.names.split_first().unwrap_or((&"", &[]));
        self.names = rest;
        T::deserialize(&mut self.decoder).map_err(|e| bad_argument(name, &e))
    }
}

#[cold]
fn bad_argument(name: &str, error: &CodecError) -> Fault {
    Fault::bad_arguments(format!("argument '{name}': {error}"))
}

/// The worker's buffer for the result.
struct ResultBuf<'a> {
    writer: *mut abi::Writer,
    host: &'a abi::Host,
}

impl ResultBuf<'_> {
    #[cold]
    fn reserve(&mut self, more: usize) {
        // SAFETY: the writer is part of the worker's call, which is running,
        // and the worker grows its own buffer.
        unsafe { (self.host.reserve)(self.writer, more) };
    }
}

impl Out for ResultBuf<'_> {
    // Inlined, so that a piece of known length, as most are, is one store.
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        // SAFETY: the writer is part of the worker's call, which is running.
        let writer = unsafe { &*self.writer };
        if writer.capacity - writer.len < bytes.len() {
            self.reserve(bytes.len());
        }
        // SAFETY: as above; nothing else refers to the writer meanwhile.
        let writer = unsafe { &mut *self.writer };
        // SAFETY: the length is within the buffer.
        let end = unsafe { writer.data.add(writer.len) };
        // SAFETY: the buffer has room for as many bytes beyond its length, and
        // is the worker's own, apart from what this library can refer to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len()) };
        writer.len += bytes.len();
    }

    fn len(&self) -> usize {
        // SAFETY: the writer is part of the worker's call, which is running.
        unsafe { (*self.writer).len }
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        // SAFETY: the writer is part of the worker's call, which is running.
        let writer = unsafe { &*self.writer };
        assert!(at + bytes.len() <= writer.len);
        // SAFETY: `at` is within the buffer.
        let place = unsafe { writer.data.add(at) };
        // SAFETY: as many bytes were written there before, checked above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
    }
}

// The macro calls `Returned(f(..)).settle()?` and `Sending(value).send(call)?`
// where the types are known. Rust prefers inherent methods to those of traits,
// and what needs no borrow to what needs one, so each type gets the most
// specific of these that applies to it.

/// What a function returned.
#[derive(Debug)]
pub struct Returned<T>(pub Option<T>);

impl<T> Returned<Result<T, Error>> {
    /// The value, or the error as it is.
    ///
    /// # Errors
    ///
    /// The function failed.
    pub fn settle(self) -> Result<T, Fault> {
        self.0.expect("settled once").map_err(Fault::guest)
    }
}

impl<T, E: std::error::Error + 'static> Returned<Result<T, E>> {
    /// The value, or the error with its sources.
    ///
    /// # Errors
    ///
    /// The function failed.
    pub fn settle(self) -> Result<T, Fault> {
        self.0.expect("settled once").map_err(|e| Fault::guest(e.into()))
    }
}

/// For errors that can only be displayed.
pub trait SettleDisplayed<T> {
    /// The value, or the error's text.
    ///
    /// # Errors
    ///
    /// The function failed.
    fn settle(self) -> Result<T, Fault>;
}

impl<T, E: Display> SettleDisplayed<T> for Returned<Result<T, E>> {
    fn settle(self) -> Result<T, Fault> {
        self.0.expect("settled once").map_err(|e| Fault::guest(Error::displayed(&e)))
    }
}

/// For functions that return no `Result`.
pub trait SettlePlain<T> {
    /// The value.
    ///
    /// # Errors
    ///
    /// None.
    fn settle(&mut self) -> Result<T, Fault>;
}

impl<T> SettlePlain<T> for Returned<T> {
    fn settle(&mut self) -> Result<T, Fault> {
        Ok(self.0.take().expect("settled once"))
    }
}

/// A result on its way out.
#[derive(Debug)]
pub struct Sending<T>(pub T);

impl<'a> Sending<Bytes<'a>> {
    /// Answers with a view.
    ///
    /// # Errors
    ///
    /// More than 4 GiB.
    pub fn send(self, call: CallRef<'a>) -> Result<(), Fault> {
        if self.0.len() < LARGE {
            return SendSerialized::send(Sending(self.0), call);
        }
        call.send_view(self.0.0, None, null_mut());
        Ok(())
    }
}

impl Sending<ByteBuf> {
    /// Answers with bytes that are dropped when they were sent.
    ///
    /// # Errors
    ///
    /// More than 4 GiB.
    pub fn send(self, call: CallRef<'_>) -> Result<(), Fault> {
        if self.0.len() < LARGE {
            return SendSerialized::send(Sending(Bytes(&self.0)), call);
        }
        let owner = Box::into_raw(Box::new(self.0.0));
        // SAFETY: it is a box's pointer, and nobody else refers to it yet.
        let bytes = unsafe { &*owner };
        call.send_view(bytes, Some(drop_vec), owner.cast());
        Ok(())
    }
}

/// Drops what [`Sending::<ByteBuf>::send`] handed over.
unsafe extern "C" fn drop_vec(owner: *mut c_void) {
    // SAFETY: the worker releases each owner that it was given once.
    drop(unsafe { Box::from_raw(owner.cast::<Vec<u8>>()) });
}

impl<'a> Sending<Raw<'a>> {
    /// Answers with the value as it is encoded.
    ///
    /// # Errors
    ///
    /// None.
    pub fn send(self, call: CallRef<'a>) -> Result<(), Fault> {
        let value = abi::Bytes::of(self.0.as_bytes());
        // SAFETY: the call is the worker's, and the value stays during 'a.
        unsafe { (call.host().return_raw)(call.call.as_ptr(), value) };
        Ok(())
    }
}

/// For all other results.
pub trait SendSerialized {
    /// Answers with the value.
    ///
    /// # Errors
    ///
    /// MessagePack cannot hold it.
    fn send(self, call: CallRef<'_>) -> Result<(), Fault>;
}

impl<T: Serialize> SendSerialized for Sending<T> {
    fn send(self, call: CallRef<'_>) -> Result<(), Fault> {
        encode(&mut call.result(), &self.0)
            .map_err(|e| Fault::guest(Error::new("BadValue", format!("the result: {e}"))))
    }
}
