//! The modules of one bundle in its engine: compiled, linked, run.

use std::cell::RefCell;
use std::rc::Rc;

use deno_core::v8;

use crate::lane::Lane;
use crate::natives::{Arguments, Return, type_error};
use crate::sources::{API, ModuleKey, Sources};

/// A value that a script may be thrown: what went wrong with a module.
type Thrown<'s> = v8::Local<'s, v8::Value>;

/// The modules that have been compiled so far.
pub(crate) struct Modules {
    /// Where they come from.
    pub(crate) sources: Sources,
    loaded: RefCell<Vec<Module>>,
}

struct Module {
    key: ModuleKey,
    handle: v8::Global<v8::Module>,
    /// What its imports mean: specifier, whether as JSON, module.
    imports: Vec<(String, bool, ModuleKey)>,
    /// What a module that is no script exports.
    exports: Vec<(v8::Global<v8::String>, v8::Global<v8::Value>)>,
}

impl Modules {
    /// None so far.
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources, loaded: RefCell::default() }
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        self.loaded.borrow_mut().clear();
    }

    fn handle<'s>(
        &self,
        scope: &v8::PinScope<'s, '_>,
        key: &ModuleKey,
    ) -> Option<v8::Local<'s, v8::Module>> {
        let loaded = self.loaded.borrow();
        let module = loaded.iter().find(|module| module.key == *key)?;
        Some(v8::Local::new(scope, &module.handle))
    }

    /// Looks something up of a module that the engine asks about.
    fn of<T>(
        &self,
        handle: v8::Local<'_, v8::Module>,
        look: impl FnOnce(&Module) -> Option<T>,
    ) -> Option<T> {
        let loaded = self.loaded.borrow();
        loaded.iter().find(|module| module.handle == handle).and_then(look)
    }

    /// The module and all that it imports, compiled and linked. Of a graph that
    /// fails nothing stays, so that a later import tries again.
    pub(crate) fn load<'s>(
        &self,
        scope: &mut v8::PinScope<'s, '_>,
        root: &ModuleKey,
    ) -> Result<v8::Local<'s, v8::Module>, Thrown<'s>> {
        let before = self.loaded.borrow().len();
        let module = self.compile_graph(scope, root).and_then(|module| link(scope, module));
        if module.is_err() {
            self.loaded.borrow_mut().truncate(before);
        }
        module
    }

    fn compile_graph<'s>(
        &self,
        scope: &mut v8::PinScope<'s, '_>,
        root: &ModuleKey,
    ) -> Result<v8::Local<'s, v8::Module>, Thrown<'s>> {
        let mut missing = vec![root.clone()];
        while let Some(key) = missing.pop() {
            if self.handle(scope, &key).is_some() {
                continue;
            }
            let text = self.sources.read(&key).map_err(|problem| type_error(scope, &problem))?;
            if key.json {
                self.add_json(scope, key, &text)?;
                continue;
            }
            let handle = compile(scope, &key.name, &text)?;
            let mut imports = Vec::new();
            let requests = handle.get_module_requests();
            for index in 0..requests.length() {
                let request = requests.get(scope, index).and_then(|r| r.try_cast().ok());
                let Some(request): Option<v8::Local<'_, v8::ModuleRequest>> = request else {
                    continue;
                };
                let specifier = request.get_specifier().to_rust_string_lossy(scope);
                let json = is_json(scope, request.get_import_attributes(), STATIC)
                    .map_err(|problem| type_error(scope, &problem))?;
                let imported = self
                    .sources
                    .resolve(&specifier, &key.name, json)
                    .map_err(|problem| type_error(scope, &problem))?;
                missing.push(imported.clone());
                imports.push((specifier, json, imported));
            }
            let handle = v8::Global::new(scope, handle);
            self.loaded.borrow_mut().push(Module { key, handle, imports, exports: Vec::new() });
        }
        self.handle(scope, root).ok_or_else(|| type_error(scope, "the module is gone"))
    }

    /// Adds a module that is no script, with these exports.
    pub(crate) fn add_synthetic(
        &self,
        scope: &mut v8::PinScope<'_, '_>,
        key: ModuleKey,
        exports: &[(&str, v8::Local<'_, v8::Value>)],
    ) -> Option<()> {
        let mut names = Vec::new();
        let mut kept = Vec::new();
        for (name, value) in exports {
            let name = v8::String::new(scope, name)?;
            names.push(name);
            kept.push((v8::Global::new(scope, name), v8::Global::new(scope, *value)));
        }
        let name = v8::String::new(scope, &key.name)?;
        let module = v8::Module::create_synthetic_module(scope, name, &names, set_exports);
        let handle = v8::Global::new(scope, module);
        let module = Module { key, handle, imports: Vec::new(), exports: kept };
        self.loaded.borrow_mut().push(module);
        Some(())
    }

    fn add_json<'s>(
        &self,
        scope: &mut v8::PinScope<'s, '_>,
        key: ModuleKey,
        text: &str,
    ) -> Result<(), Thrown<'s>> {
        v8::tc_scope!(let tc, scope);
        let value = v8::String::new(tc, text).and_then(|text| v8::json::parse(tc, text));
        let Some(value) = value else {
            let problem = tc.exception().map(|e| e.to_rust_string_lossy(tc)).unwrap_or_default();
            return Err(type_error(tc, &format!("{}: {problem}", key.name)));
        };
        self.add_synthetic(tc, key, &[("default", value)])
            .ok_or_else(|| type_error(tc, "out of memory"))
    }
}

fn compile<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    name: &str,
    text: &str,
) -> Result<v8::Local<'s, v8::Module>, Thrown<'s>> {
    v8::tc_scope!(let tc, scope);
    let resource = v8::String::new(tc, name);
    let text = v8::String::new(tc, text);
    let (Some(resource), Some(text)) = (resource, text) else {
        return Err(type_error(tc, &format!("{name}: the text is too long")));
    };
    let origin =
        v8::ScriptOrigin::new(tc, resource.into(), 0, 0, false, 0, None, false, false, true, None);
    let mut source = v8::script_compiler::Source::new(text, Some(&origin));
    match v8::script_compiler::compile_module(tc, &mut source) {
        Some(module) => Ok(module),
        None => Err(tc.exception().unwrap_or_else(|| v8::undefined(tc).into())),
    }
}

fn link<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    module: v8::Local<'s, v8::Module>,
) -> Result<v8::Local<'s, v8::Module>, Thrown<'s>> {
    if module.get_status() != v8::ModuleStatus::Uninstantiated {
        return Ok(module);
    }
    v8::tc_scope!(let tc, scope);
    match module.instantiate_module(tc, imported) {
        Some(true) => Ok(module),
        _ => Err(tc.exception().unwrap_or_else(|| v8::undefined(tc).into())),
    }
}

/// Runs a linked module; the promise is settled when it has run to its end.
pub(crate) fn evaluate<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    module: v8::Local<'s, v8::Module>,
) -> Result<v8::Local<'s, v8::Promise>, Thrown<'s>> {
    v8::tc_scope!(let tc, scope);
    let promise = module.evaluate(tc).and_then(|promise| promise.try_cast().ok());
    promise.ok_or_else(|| tc.exception().unwrap_or_else(|| v8::undefined(tc).into()))
}

/// The engine asks, while it links, what an import means.
fn imported<'s>(
    context: v8::Local<'s, v8::Context>,
    specifier: v8::Local<'s, v8::String>,
    attributes: v8::Local<'s, v8::FixedArray>,
    referrer: v8::Local<'s, v8::Module>,
) -> Option<v8::Local<'s, v8::Module>> {
    // SAFETY: the engine calls this within a scope of the context that it
    // passes, on the lane's thread.
    v8::callback_scope!(unsafe scope, context);
    let lane = Lane::of(scope);
    let specifier = specifier.to_rust_string_lossy(scope);
    let json = is_json(scope, attributes, STATIC).unwrap_or(false);
    let key = lane.modules.of(referrer, |module| {
        let import = module.imports.iter().find(|i| i.0 == specifier && i.1 == json);
        import.map(|import| import.2.clone())
    });
    let module = key.and_then(|key| lane.modules.handle(scope, &key));
    if module.is_none() {
        let error = type_error(scope, &format!("cannot import '{specifier}'"));
        scope.throw_exception(error);
    }
    module
}

/// The engine runs a module that is no script: it gets its exports.
fn set_exports<'s>(
    context: v8::Local<'s, v8::Context>,
    module: v8::Local<'s, v8::Module>,
) -> Option<v8::Local<'s, v8::Value>> {
    // SAFETY: as in `imported`.
    v8::callback_scope!(unsafe scope, context);
    let lane = Lane::of(scope);
    let exports = lane.modules.of(module, |module| Some(module.exports.clone()))?;
    for (name, value) in exports {
        let name = v8::Local::new(scope, name);
        let value = v8::Local::new(scope, value);
        module.set_synthetic_module_export(scope, name, value)?;
    }
    let done = v8::PromiseResolver::new(scope)?;
    let undefined = v8::undefined(scope);
    done.resolve(scope, undefined.into());
    Some(done.get_promise(scope).into())
}

/// `import()`: the rest is `importLater` of `bootstrap.js`, since a script must
/// not run before the one that imports it has come to an await.
pub(crate) fn import_dynamically<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    _options: v8::Local<'s, v8::Data>,
    referrer: v8::Local<'s, v8::Value>,
    specifier: v8::Local<'s, v8::String>,
    attributes: v8::Local<'s, v8::FixedArray>,
) -> Option<v8::Local<'s, v8::Promise>> {
    let lane = Lane::of(scope);
    let json = match is_json(scope, attributes, DYNAMIC) {
        Ok(json) => v8::Boolean::new(scope, json),
        Err(problem) => {
            let error = type_error(scope, &problem);
            scope.throw_exception(error);
            return None;
        }
    };
    let later = lane.world.borrow().as_ref().map(|world| world.import_later.clone())?;
    let later = v8::Local::new(scope, later);
    let receiver = v8::undefined(scope).into();
    let promise = later.call(scope, receiver, &[referrer, specifier.into(), json.into()])?;
    promise.try_cast().ok()
}

/// `import(referrer, specifier, json)`: the promise of the module's end and
/// its namespace.
pub(crate) fn import<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    args: Arguments<'s>,
    mut rv: Return<'s>,
) {
    let lane = Lane::of(scope);
    let referrer = args.get(0).to_rust_string_lossy(scope);
    let specifier = args.get(1).to_rust_string_lossy(scope);
    let module = lane
        .modules
        .sources
        .resolve(&specifier, &referrer, args.get(2).is_true())
        .map_err(|problem| type_error(scope, &problem))
        .and_then(|key| lane.modules.load(scope, &key))
        .and_then(|module| Ok((evaluate(scope, module)?, module.get_module_namespace())));
    match module {
        Ok((promise, namespace)) => {
            rv.set(v8::Array::new_with_elements(scope, &[promise.into(), namespace]).into());
        }
        Err(error) => {
            scope.throw_exception(error);
        }
    }
}

/// `import.meta`: the module's address.
pub(crate) extern "C" fn fill_import_meta(
    context: v8::Local<'_, v8::Context>,
    module: v8::Local<'_, v8::Module>,
    meta: v8::Local<'_, v8::Object>,
) {
    // SAFETY: as in `imported`.
    v8::callback_scope!(unsafe scope, context);
    let lane = Lane::of(scope);
    let Some(name) = lane.modules.of(module, |module| Some(module.key.name.clone())) else {
        return;
    };
    let url = deno_core::url::Url::from_file_path(&name).map_or(name, Into::into);
    let (Some(key), Some(url)) = (v8::String::new(scope, "url"), v8::String::new(scope, &url))
    else {
        return;
    };
    meta.create_data_property(scope, key.into(), url.into());
}

/// The attributes of an `import` declaration come with their places, …
const STATIC: usize = 3;
/// … those of `import()` without.
const DYNAMIC: usize = 2;

/// Whether the attributes ask for JSON.
fn is_json(
    scope: &mut v8::PinScope<'_, '_>,
    attributes: v8::Local<'_, v8::FixedArray>,
    stride: usize,
) -> Result<bool, String> {
    let text = |scope: &mut v8::PinScope<'_, '_>, index: usize| {
        let value = attributes.get(scope, index)?.try_cast::<v8::Value>().ok()?;
        Some(value.to_rust_string_lossy(scope))
    };
    let mut json = false;
    for index in (0..attributes.length()).step_by(stride) {
        let (Some(key), Some(value)) = (text(scope, index), text(scope, index + 1)) else {
            continue;
        };
        if key != "type" || value != "json" {
            return Err(format!("the import attribute {key}: \"{value}\" is not supported"));
        }
        json = true;
    }
    Ok(json)
}

/// The module `menagerie`, from the object that `bootstrap.js` made for it.
pub(crate) fn add_api(
    scope: &mut v8::PinScope<'_, '_>,
    lane: &Rc<Lane>,
    api: v8::Local<'_, v8::Object>,
) -> Option<()> {
    let mut exports = Vec::new();
    for name in ["abort", "call", "CallError", "log"] {
        exports.push((name, crate::guest_error::property(scope, api, name)?));
    }
    lane.modules.add_synthetic(scope, ModuleKey::script(API), &exports)
}
