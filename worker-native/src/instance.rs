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

    /// The call, between the times that the guest has it.
    fn call(&mut self) -> &mut CallState {
        // SAFETY: the box of `new`, which only this instance refers to while no
        // guest code runs; the borrow of `self` keeps it so.
        unsafe { self.call.as_mut() }
    }

    fn run(&self, entry: Entry) -> c_int {
        // SAFETY: the library is mapped as long as this instance exists; the
        // pointer is to the whole call, to which no reference exists now.
        unsafe { (entry.run)(self.call.as_ptr().cast(), entry.userdata) }
    }

    /// Runs a hook, and returns its result.
    fn run_hook(&mut self, entry: Entry, args: &[u8]) -> Result<Vec<u8>, GuestError> {
        self.call().begin(args);
        let status = self.run(entry);
        let call = self.call();
        let outcome = call.outcome(status).map(|parts| parts.concat());
        call.end();
        outcome.map_err(|failure| match failure {
            Failure::Guest(error) => error,
            other => GuestError::new("BadArguments", other.to_string()),
        })
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
        // SAFETY: the box of `new`, as in `call`; written out, because the
        // function is borrowed from `self` meanwhile.
        let call = unsafe { &mut *self.call.as_ptr() };
        let Some(function) = self.functions.get(function as usize) else {
            return reply.fail(GuestError::new("MenagerieError", "there is no such function"));
        };
        call.begin(args.bytes);
        if let Some(params) = &function.params
            && let Err(message) = call.check(params, args.bytes)
        {
            return reply.fail(Failure::BadArguments { message });
        }
        let status = self.run(function.entry);
        // SAFETY: as above; the guest does not have the call any more.
        let call = unsafe { &mut *self.call.as_ptr() };
        match call.outcome(status) {
            Ok([value, []]) => reply.ok(value),
            Ok(parts) => reply.ok_parts(&parts),
            Err(failure) => reply.fail(failure),
        }
        call.end();
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
