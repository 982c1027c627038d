//! The loader: from a bundle's source to a running instance.

use std::rc::Rc;
use std::sync::Arc;

use menagerie_protocol::loader::{Demand, Prepared, read_file};
use menagerie_protocol::{
    BundleLoader, BundleSource, GuestError, LoaderError, ManifestData, Runtime, SupportedLanguage,
};

use crate::exports;
use crate::instance::LuaInstance;
use crate::native;
use crate::outcall;
use crate::raised;
use crate::require::{Code, Siblings};
use crate::vm::{CallError, Vm};

/// Loads Lua bundles, each generation into a Lua state of its own on its
/// lane's thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct LuaLoader;

impl LuaLoader {
    /// A loader; it keeps nothing between bundles.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl BundleLoader for LuaLoader {
    fn loader_name(&self) -> &'static str {
        "lua"
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Lua
    }

    fn supports_hot_reload(&self) -> bool {
        true
    }

    /// A state, which takes most of a load.
    fn prepares_before_hello(&self) -> bool {
        true
    }

    fn prepare(&self, _demand: &Demand) -> Option<Prepared> {
        let vm = Vm::new().ok()?;
        Some(Box::new(vm))
    }

    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let (code, siblings) = read(manifest, source)?;
        let bundle = runtime.bundle_name();
        let init = |step, error| LoaderError::init(bundle, step, error);
        let from_mlua = |error: mlua::Error| init("start Lua", raised::from_mlua(&error));
        let prepared = runtime.take_prepared::<Vm>();
        let vm = prepared.map_or_else(Vm::new, |vm| Ok(*vm)).map_err(from_mlua)?;
        settle(&vm, runtime, siblings).map_err(from_mlua)?;
        runtime.set_interrupt(vm.interrupter.clone());
        let chunk = code.compile(&vm.lua).map_err(|e| init("compile", raised::from_mlua(&e)))?;
        let value = vm.run(&chunk).map_err(|error| match error {
            CallError::Raised(error) => init("initialise", error),
            _ => init("initialise", GuestError::new("error", "the bundle was asked to stop")),
        })?;
        let exports =
            exports::read(&vm, &code.name, &value).map_err(|error| init("register", error))?;
        for contract in &exports.contracts {
            runtime.register(contract.clone())?;
        }
        let dir = matches!(source, BundleSource::Path(_)).then(|| manifest.dir.clone());
        runtime.install(Box::new(LuaInstance::new(vm, exports, runtime, dir)));
        Ok(())
    }

    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }
}

/// The bundle's main chunk, and where its siblings are.
fn read(manifest: &ManifestData, source: &BundleSource) -> Result<(Code, Siblings), LoaderError> {
    match source {
        BundleSource::Path(_) => {
            let path = manifest.artifact()?;
            let text = read_file(&path).map_err(|e| LoaderError::io(&path, &e))?;
            let code = Code { name: manifest.file.clone(), text };
            Ok((code, Siblings::Folder(manifest.dir.clone())))
        }
        BundleSource::Code(text) => {
            let name = if manifest.file.is_empty() { "main.lua" } else { &manifest.file };
            let code = Code { name: name.to_owned(), text: text.clone().into_bytes() };
            Ok((code, Siblings::Nowhere(manifest.name.clone())))
        }
        BundleSource::Bytes(_) => Err(LoaderError::UnsupportedBundleSource {
            loader: "lua".to_owned(),
            kind: source.kind().to_owned(),
        }),
    }
}

/// Gives a state to a bundle: adds what the bundle finds of its own in it.
fn settle(vm: &Vm, runtime: &Runtime, siblings: Siblings) -> mlua::Result<()> {
    let Vm { lua, native, interrupter, converter, .. } = vm;
    converter.limit.set(runtime.host().max_payload());
    native::fill_own(lua, native, runtime.logger(), siblings)?;
    let (converter, interrupter) = (Rc::clone(converter), Arc::clone(interrupter));
    let call = outcall::function(lua, converter, interrupter, runtime.host())?;
    native.set("call", call)
}
