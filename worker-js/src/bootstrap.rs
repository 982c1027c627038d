//! Runs `bootstrap.js` in a new engine.

use std::rc::Rc;

use deno_core::v8;
use menagerie_protocol::GuestError;

use crate::engine::Engine;
use crate::guest_error::{from_exception, property};
use crate::instance::enter;
use crate::lane::Lane;
use crate::rejections::{Rejections, on_promise_reject};
use crate::{modules, natives};

/// Functions that `bootstrap.js` returns to the worker.
pub(crate) struct World {
    /// `fireTimer(id)`: runs a timer's callback.
    pub(crate) fire_timer: v8::Global<v8::Function>,
    /// `follow(promise, id)`: calls `settle` when the promise is settled.
    pub(crate) follow: v8::Global<v8::Function>,
    /// `importLater(referrer, specifier, json)`: a module's namespace.
    pub(crate) import_later: v8::Global<v8::Function>,
    /// `makeCallError(kind, message, ...)`.
    pub(crate) make_call_error: v8::Global<v8::Function>,
    /// `String.prototype.isWellFormed`.
    pub(crate) is_well_formed: v8::Global<v8::Function>,
    /// `Array.isArray`, which looks behind proxies.
    pub(crate) is_array: v8::Global<v8::Function>,
    /// `mapEntries(map)`: its keys and values in turn.
    pub(crate) map_entries: v8::Global<v8::Function>,
    /// `makeList()`: an array for a [`List`](crate::list::List).
    pub(crate) make_list: v8::Global<v8::Function>,
    /// `Object.prototype`.
    pub(crate) object_prototype: v8::Global<v8::Object>,
}

/// An engine with the guest's world in it, and no guest yet: all of a start that
/// does not depend on a bundle.
pub(crate) struct Blank {
    world: World,
    /// What the module `menagerie` exports.
    api: v8::Global<v8::Object>,
    /// Dropped last, as the others refer to it.
    pub(crate) engine: Engine,
}

fn failed(what: &str) -> GuestError {
    GuestError::new("Error", format!("the worker's bootstrap: {what}"))
}

impl Blank {
    /// Starts an engine on this thread that may use `heap_limit` bytes.
    pub(crate) fn start(heap_limit: usize) -> Result<Self, GuestError> {
        let mut engine = Engine::start(heap_limit);
        let (world, api) = build(&mut engine)?;
        Ok(Self { world, api, engine })
    }

    /// Gives the engine to a lane.
    pub(crate) fn settle(self, lane: &Rc<Lane>) -> Result<Engine, GuestError> {
        let Self { world, api, mut engine } = self;
        engine.isolate.set_slot(Rc::clone(lane));
        engine.isolate.set_promise_reject_callback(on_promise_reject);
        *lane.world.borrow_mut() = Some(world);
        let added = {
            enter!(scope, engine);
            let api = v8::Local::new(scope, api);
            modules::add_api(scope, lane, api).and_then(|()| {
                *lane.rejections.borrow_mut() = Some(Rejections::new(scope, lane)?);
                Some(())
            })
        };
        if added.is_none() {
            lane.clear();
            return Err(failed("its module"));
        }
        Ok(engine)
    }
}

/// The guest's world. Nothing of it asks for a lane before a guest runs.
fn build(engine: &mut Engine) -> Result<(World, v8::Global<v8::Object>), GuestError> {
    enter!(scope, *engine);
    v8::tc_scope!(let tc, scope);
    let world = run(tc).map_err(failed)?;
    let Some(world) = world else {
        let thrown = tc.exception().map(|e| from_exception(tc, e));
        return Err(thrown.unwrap_or_else(|| failed("it did not return")));
    };
    let mut object = |name: &str| -> Result<v8::Global<v8::Object>, GuestError> {
        property(tc, world, name)
            .and_then(|value| value.try_cast::<v8::Object>().ok())
            .map(|object| v8::Global::new(tc, object))
            .ok_or_else(|| failed(name))
    };
    let (api, object_prototype) = (object("api")?, object("ObjectPrototype")?);
    let mut function = |name: &str| {
        property(tc, world, name)
            .and_then(|value| value.try_cast::<v8::Function>().ok())
            .map(|function| v8::Global::new(tc, function))
            .ok_or_else(|| failed(name))
    };
    let functions = World {
        fire_timer: function("fireTimer")?,
        follow: function("follow")?,
        import_later: function("importLater")?,
        make_call_error: function("makeCallError")?,
        is_well_formed: function("isWellFormed")?,
        is_array: function("isArray")?,
        map_entries: function("mapEntries")?,
        make_list: function("makeList")?,
        object_prototype,
    };
    Ok((functions, api))
}

/// What the script returns; nothing if it threw.
fn run<'s>(
    scope: &mut v8::PinScope<'s, '_>,
) -> Result<Option<v8::Local<'s, v8::Object>>, &'static str> {
    let text = v8::String::new(scope, include_str!("bootstrap.js")).ok_or("its text")?;
    let name = v8::String::new(scope, "menagerie:bootstrap").ok_or("its name")?;
    let origin =
        v8::ScriptOrigin::new(scope, name.into(), 0, 0, false, 0, None, false, false, false, None);
    let native = natives::object(scope).ok_or("no native functions")?;
    let Some(script) = v8::Script::compile(scope, text, Some(&origin)) else { return Ok(None) };
    let Some(main) = script.run(scope) else { return Ok(None) };
    let main = main.try_cast::<v8::Function>().map_err(|_| "it is no function")?;
    let receiver = v8::undefined(scope).into();
    let Some(world) = main.call(scope, receiver, &[native.into()]) else { return Ok(None) };
    world.try_cast().map(Some).map_err(|_| "it returned no object")
}
