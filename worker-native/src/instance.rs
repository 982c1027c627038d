//! A generation that is loaded: its functions, and how they are called.

use std::ptr::NonNull;

use menagerie_protocol::msgpack::Writer;
use menagerie_protocol::{Args, Failure, FunctionId, GuestError, Instance, Reply};

use crate::call::{CallState, Parts};
use crate::host::LaneHost;
use crate::registrar::{Entry, Function};

/// A generation that is loaded.
#[derive(Debug)]
pub(crate) struct NativeInstance {
    functions: Vec<Function>,
    on_load: Option<Entry>,
    on_unload: Option<Entry>,
    /// The one call that runs, with its buffers. Guests hold pointers to it
    /// while they run, so it is no `Box`, which would claim it for itself.
    call: NonNull<CallState>,
    _host: Box<LaneHost>,
}

impl NativeInstance {
    /// An instance of these functions, in the order of their ids.
    pub(crate) fn new(
        functions: Vec<Function>,
        on_load: Option<Entry>,
        on_unload: Option<Entry>,
        host: Box<LaneHost>,
    ) -> Self {
        let call = Box::leak(Box::new(CallState::new(host.as_abi())));
        Self { functions, on_load, on_unload, call: NonNull::from(call), _host: host }
    }

    /// Runs a function or hook from its arguments to its answer. `check` may
    /// refuse the arguments before; `answer` is given the result while all that
    /// it refers to is still there.
    fn invoke<R>(
        call: NonNull<CallState>,
        entry: Entry,
        args: &[u8],
        check: impl FnOnce(&mut CallState) -> Result<(), String>,
        answer: impl FnOnce(Result<Parts<'_>, Box<Failure>>) -> R,
    ) -> R {
        let pointer = call.as_ptr();
        // SAFETY: the box of `new`, which nobody else refers to now.
        let call = unsafe { &mut *pointer };
        call.begin(args);
        let outcome = match check(call) {
            // SAFETY: the library is mapped as long as the instance exists. The
            // pointer is to the whole call, and `call` is not used until the
            // guest has returned.
            Ok(()) => Ok(unsafe { (entry.run)(pointer.cast(), entry.userdata) }),
            Err(message) => Err(Box::new(Failure::BadArguments { message })),
        };
        // SAFETY: as above; the guest does not have the call any more.
        let call = unsafe { &mut *pointer };
        let answered = answer(outcome.and_then(|status| call.outcome(status)));
        call.end();
        answered
    }

    /// Runs a hook, and returns its result.
    fn run_hook(&mut self, entry: Entry, args: &[u8]) -> Result<Vec<u8>, GuestError> {
        let outcome = Self::invoke(
            self.call,
            entry,
            args,
            |_| Ok(()),
            |outcome| outcome.map(|parts| parts.concat()),
        );
        outcome.map_err(|failure| match *failure {
            Failure::Guest(error) => *error,
            other => GuestError::new("BadArguments", other.to_string()),
        })
    }
}

#[cold]
fn no_such_function(reply: Reply) {
    reply.fail(GuestError::new("MenagerieError", "there is no such function"));
}

/// What is not a value in one piece.
#[inline(never)]
fn answer(outcome: Result<Parts<'_>, Box<Failure>>, reply: Reply) {
    match outcome {
        Ok(parts) => reply.ok_parts(&parts),
        Err(failure) => reply.fail(*failure),
    }
}

impl Drop for NativeInstance {
    fn drop(&mut self) {
        // SAFETY: the box of `new`; nothing refers to it any more.
        drop(unsafe { Box::from_raw(self.call.as_ptr()) });
    }
}

impl Instance for NativeInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        let Some(function) = self.functions.get(function as usize) else {
            return no_such_function(reply);
        };
        let check = |call: &mut CallState| match &function.params {
            Some(params) => call.check(params, args.bytes),
            None => Ok(()),
        };
        Self::invoke(self.call, function.entry, args.bytes, check, |outcome| match outcome {
            Ok([value, []]) => reply.ok(value),
            other => answer(other, reply),
        });
    }

    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let Some(hook) = self.on_load else { return Ok(()) };
        let mut args = Vec::new();
        let mut writer = Writer::new(&mut args);
        writer.array(1);
        match state {
            Some(state) => writer.raw(state),
            None => writer.nil(),
        }
        self.run_hook(hook, &args).map(drop)
    }

    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        let Some(hook) = self.on_unload else { return Ok(None) };
        let state = self.run_hook(hook, &[0x90])?;
        Ok((state != [0xc0]).then_some(state))
    }
}
