//! The bundle's hooks, `on_load` and `on_unload`.

use deno_core::v8;
use menagerie_protocol::GuestError;
use menagerie_protocol::msgpack::Reader;

use crate::borrowed::Borrowed;
use crate::decode::decode;
use crate::encode::{Buffers, Encoded};
use crate::failure::{guest_error, thrown, unsendable};
use crate::guest_error::from_exception;
use crate::instance::{JsInstance, enter};

impl JsInstance {
    /// `on_load(context)`.
    pub(crate) fn run_on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let Some(hook) = self.on_load.clone() else { return Ok(()) };
        let context = {
            enter!(scope, self.engine);
            let context = v8::Object::new(scope);
            let state = match state {
                None => v8::null(scope).into(),
                Some(bytes) => decode(scope, &mut Reader::new(bytes), &mut Borrowed::nothing())
                    .map_err(|e| GuestError::new("TypeError", format!("context.state: {e}")))?,
            };
            let bundle = v8::String::new(scope, &self.bundle)
                .map_or_else(|| v8::null(scope).into(), v8::Local::<v8::Value>::from);
            let dir = self.lane.modules.sources.dir();
            let dir = dir
                .and_then(|dir| v8::String::new(scope, &dir.to_string_lossy()))
                .map_or_else(|| v8::null(scope).into(), v8::Local::<v8::Value>::from);
            let generation = v8::Integer::new_from_unsigned(scope, self.generation).into();
            let values =
                [("bundle", bundle), ("generation", generation), ("dir", dir), ("state", state)];
            for (name, value) in values {
                if let Some(name) = v8::String::new(scope, name) {
                    context.create_data_property(scope, name.into(), value);
                }
            }
            v8::Global::new(scope, v8::Local::<v8::Value>::from(context))
        };
        self.run_hook(&hook, Some(&context)).map(drop)
    }

    /// `on_unload()`.
    pub(crate) fn run_on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        match self.on_unload.clone() {
            Some(hook) => self.run_hook(&hook, None),
            None => Ok(None),
        }
    }

    /// Runs a hook to its end, however long its promise takes. No call comes to the
    /// lane meanwhile, so those of the guest block: then a chain that would come back
    /// is refused. Calls that were open before are answered while the hook waits.
    fn run_hook(
        &mut self,
        hook: &v8::Global<v8::Function>,
        argument: Option<&v8::Global<v8::Value>>,
    ) -> Result<Option<Vec<u8>>, GuestError> {
        self.gate.enter_call();
        self.lane.blocking.set(true);
        let result = self.run_hook_inside(hook, argument);
        self.lane.blocking.set(false);
        if self.gate.leave() && result.is_err() {
            return Err(GuestError::new("Interrupted", "the hook was interrupted"));
        }
        result
    }

    fn run_hook_inside(
        &mut self,
        hook: &v8::Global<v8::Function>,
        argument: Option<&v8::Global<v8::Value>>,
    ) -> Result<Option<Vec<u8>>, GuestError> {
        let promise = {
            enter!(scope, self.engine);
            v8::tc_scope!(let tc, scope);
            let hook = v8::Local::new(tc, hook);
            let argument = argument.map(|argument| v8::Local::new(tc, argument));
            let receiver = v8::undefined(tc).into();
            let Some(result) = hook.call(tc, receiver, argument.as_slice()) else {
                return Err(guest_error(thrown(tc, &self.gate)));
            };
            v8::Global::new(tc, result)
        };
        self.until_settled(&promise, "its promise is never settled")?;
        enter!(scope, self.engine);
        let mut value = v8::Local::new(scope, &promise);
        if let Ok(promise) = value.try_cast::<v8::Promise>() {
            value = promise.result(scope);
            if promise.state() == v8::PromiseState::Rejected {
                promise.mark_as_handled();
                return Err(from_exception(scope, value));
            }
        }
        if value.is_null_or_undefined() {
            return Ok(None);
        }
        v8::tc_scope!(let tc, scope);
        let limit = self.lane.host.max_state();
        let mut encoded = Encoded::within(&self.lane, limit, Buffers::default());
        match encoded.push(tc, value).and_then(|()| encoded.into_vec(tc)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(problem) => Err(guest_error(unsendable(tc, &self.gate, problem))),
        }
    }
}
