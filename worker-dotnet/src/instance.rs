//! One generation of a bundle, in .NET.

use menagerie_protocol::msgpack::{Reader, Token};
use menagerie_protocol::{Args, Failure, FunctionId, GuestError, Instance, Reply};

use crate::abi::{BAD_ARGUMENTS, Entries, Handle, OK, Outcome, TOO_LARGE};
use crate::guest_error;
use crate::lanes::LaneNumber;

/// A bundle's objects live in C#; this lets go of them when it is dropped.
#[derive(Debug)]
pub(crate) struct DotnetInstance {
    entries: Entries,
    handle: Handle,
    /// How many bytes a result may take.
    max_payload: i64,
    /// After the handle: what the bundle says last is still logged.
    _lane: LaneNumber,
}

impl DotnetInstance {
    /// Takes over a handle that `Entry.Load` has made.
    pub(crate) const fn new(
        entries: Entries,
        handle: Handle,
        max_payload: i64,
        lane: LaneNumber,
    ) -> Self {
        Self { entries, handle, max_payload, _lane: lane }
    }
}

impl Drop for DotnetInstance {
    fn drop(&mut self) {
        // SAFETY: the handle is from Load, and this is its only Free.
        unsafe { (self.entries.free)(self.handle) };
    }
}

fn len_of(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// What the head of a result says that is too large.
fn size_of_value(head: &[u8]) -> u64 {
    match Reader::new(head).token() {
        Ok(Token::Int(size)) => size.unsigned_abs(),
        Ok(Token::UInt(size)) => size,
        _ => 0,
    }
}

impl Instance for DotnetInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        let mut outcome = Outcome::EMPTY;
        // The lane has checked the id against what was registered, which fits.
        let function = i32::try_from(function).unwrap_or(i32::MAX);
        let (start, len) = (args.bytes.as_ptr(), len_of(args.bytes));
        // SAFETY: the handle is from Load and not freed; the arguments are
        // readable memory of that length, and C# reads them within the call
        // only; the outcome has the declared layout.
        let result =
            unsafe { (self.entries.call)(self.handle, function, start, len, &raw mut outcome) };
        // SAFETY: the head is in the bundle's buffer, which the next entry with
        // this handle writes: `&mut self` is borrowed until then.
        let head: &[u8] = unsafe { outcome.head.get() };
        match result {
            OK => {
                // SAFETY: a body lies in the arguments, or in an array that
                // stays pinned until Unpin.
                let body: &[u8] = unsafe { outcome.body.get() };
                if body.is_empty() {
                    reply.ok(head);
                } else {
                    reply.ok_parts(&[head, body]);
                }
                if !outcome.handle.is_null() {
                    // SAFETY: the handle as above; the body is not used after
                    // this.
                    unsafe { (self.entries.unpin)(self.handle) };
                }
            }
            BAD_ARGUMENTS => reply.fail(Failure::BadArguments {
                message: String::from_utf8_lossy(head).into_owned(),
            }),
            TOO_LARGE => reply.fail(Failure::PayloadTooLarge {
                size: size_of_value(head),
                limit: self.max_payload.unsigned_abs(),
            }),
            _ => reply.fail(guest_error::read(head)),
        }
    }

    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let mut outcome = Outcome::EMPTY;
        let start = state.map_or(std::ptr::null(), <[u8]>::as_ptr);
        let len = state.map_or(0, len_of);
        // SAFETY: the handle is from Load and not freed; the state is null, or
        // readable memory of that length; the outcome has the declared layout.
        let result = unsafe { (self.entries.on_load)(self.handle, start, len, &raw mut outcome) };
        if result == OK {
            return Ok(());
        }
        // SAFETY: as in `call`.
        Err(guest_error::read(unsafe { outcome.head.get() }))
    }

    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        let mut outcome = Outcome::EMPTY;
        // SAFETY: the handle is from Load and not freed; the outcome has the
        // declared layout.
        let result = unsafe { (self.entries.on_unload)(self.handle, &raw mut outcome) };
        // SAFETY: as in `call`.
        let head: &[u8] = unsafe { outcome.head.get() };
        if result != OK {
            return Err(guest_error::read(head));
        }
        // SAFETY: as in `call`.
        let body: &[u8] = unsafe { outcome.body.get() };
        let state = (!head.is_empty()).then(|| [head, body].concat());
        if !outcome.handle.is_null() {
            // SAFETY: as in `call`.
            unsafe { (self.entries.unpin)(self.handle) };
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
