//! A generation that is loaded: its functions, and how they are called.

use std::ffi::c_int;
use std::ptr::NonNull;

use menagerie_protocol::msgpack::Writer;
use menagerie_protocol::{Args, Failure, FunctionId, GuestError, Instance, Reply};

use crate::call::CallState;
use crate::host::LaneHost;
use crate::registrar::{Entry, Function};

/// A generation that is loaded.
#[derive(Debug)]
pub(crate) struct NativeInstance {
    functions: Vec<Function>,
    on_load: Option<Entry>,
    on_unload: Option<Entry>,
    call: Call,
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
        let call = Call::new(CallState::new(host.as_abi()));
        Self { functions, on_load, on_unload, call, _host: host }
    }

    /// Runs a hook, and returns its result.
    fn run_hook(&mut self, entry: Entry, args: &[u8]) -> Result<Vec<u8>, GuestError> {
        self.call.state().begin(args);
        let status = self.call.run(entry);
        let call = self.call.state();
        let outcome = call.outcome(status).map(|parts| parts.concat());
        call.end();
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

#[cold]
fn refused(reply: Reply, message: String) {
    reply.fail(Failure::BadArguments { message });
}

/// What is no small value.
#[inline(never)]
fn answer(call: &mut CallState, status: c_int, reply: Reply) {
    match call.outcome(status) {
        Ok(parts) => reply.ok_parts(&parts),
        Err(failure) => reply.fail(*failure),
    }
    call.end();
}

/// The one call that runs, with its buffers. Guests hold pointers to it while they
/// run, so it is no `Box`, which would claim it for itself.
#[derive(Debug)]
struct Call(NonNull<CallState>);

impl Call {
    fn new(state: CallState) -> Self {
        Self(NonNull::from(Box::leak(Box::new(state))))
    }

    /// What this side has of it while no guest runs.
    #[inline]
    fn state(&mut self) -> &mut CallState {
        // SAFETY: the box of `new`. A guest refers to it during `run` only.
        unsafe { self.0.as_mut() }
    }

    /// Runs a function or hook with the arguments that the call has begun with.
    #[inline]
    fn run(&mut self, entry: Entry) -> c_int {
        // SAFETY: the library is mapped as long as the instance exists. The pointer is
        // to the whole call, and nobody else refers to that before the guest returns.
        unsafe { (entry.run)(self.0.as_ptr().cast(), entry.userdata) }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: the box of `new`; nothing refers to it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Instance for NativeInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        let Some(function) = self.functions.get(function as usize) else {
            return no_such_function(reply);
        };
        let call = self.call.state();
        call.begin(args.bytes);
        if let Some(params) = &function.params
            && let Err(message) = call.check(params, args.bytes)
        {
            call.end();
            return refused(reply, message);
        }
        let status = self.call.run(function.entry);
        let call = self.call.state();
        match call.plain_value(status) {
            Some(value) => {
                reply.ok(value);
                call.end_args();
            }
            None => answer(call, status, reply),
        }
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
