//! The process's one CoreCLR: started once, never ended.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use menagerie_protocol::LoaderError;
use menagerie_protocol::msgpack::{Reader, Token};
use netcorehost::hostfxr::{DelegateLoader, Hostfxr};
use netcorehost::pdcstring::PdCString;

use crate::abi::{
    CallEntry, CollectFn, Entries, HandleFn, LoadFn, OK, OnLoadFn, OnUnloadFn, Outcome, StartFn,
};
use crate::guest_error;
use crate::search::{BRIDGE, Installation, missing};
use crate::{icu, lanes, signals};

/// The bridge's settings for the runtime.
const RUNTIME_CONFIG: &str = "Menagerie.Bridge.runtimeconfig.json";
/// What bundles reference; the bridge does too.
const GUEST: &str = "Menagerie.Guest.dll";
/// The class of the entry points.
const ENTRY: &str = "Menagerie.Bridge.Entry, Menagerie.Bridge";

static STARTED: OnceLock<Result<Clr, LoaderError>> = OnceLock::new();

/// The running CoreCLR.
#[derive(Clone, Debug)]
pub(crate) struct Clr {
    pub(crate) entries: Entries,
    /// As it calls itself: `8.0.4`.
    pub(crate) version: String,
}

/// Starts CoreCLR, unless it has been.
pub(crate) fn start(installation: &Installation) -> Result<&'static Clr, LoaderError> {
    STARTED.get_or_init(|| Clr::start(installation)).as_ref().map_err(Clone::clone)
}

impl Clr {
    fn start(installation: &Installation) -> Result<Self, LoaderError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            let problem = format!("{what} of {} failed: {error}", installation.root.display());
            missing(problem, "Check that installation, or set DOTNET_ROOT to another one")
        };
        signals::tell_ends();
        let hostfxr = Hostfxr::load_from_path(&installation.hostfxr)
            .map_err(|error| failed("loading the host library", &error))?;
        let config = native(&installation.bridge.join(RUNTIME_CONFIG))?;
        let root = native(&installation.root)?;
        let mut context = hostfxr
            .initialize_for_runtime_config_with_dotnet_root(config, root)
            .map_err(|error| failed("initialising the host", &error))?;
        if !icu::is_installed() {
            let property = text("System.Globalization.Invariant")?;
            context
                .set_runtime_property_value(property, text("true")?)
                .map_err(|error| failed("a setting", &error))?;
        }
        let loader = context
            .get_delegate_loader()
            .map_err(|error| failed("starting the runtime", &error))?;
        // From bytes, so that the set-up may build them again at any time.
        for file in [GUEST, BRIDGE] {
            let path = installation.bridge.join(file);
            let image = fs::read(&path).map_err(|error| LoaderError::io(&path, &error))?;
            context
                .load_assembly_from_bytes(image, [])
                .map_err(|error| failed(&format!("loading {file} into the runtime"), &error))?;
        }
        let clr = Self::bind(&loader).map_err(|error| failed("binding the bridge", &error))?;
        signals::tell_ends();
        // CoreCLR cannot be ended and started again, so neither is its host.
        std::mem::forget(context);
        Ok(clr)
    }

    fn bind(loader: &DelegateLoader) -> Result<Self, Box<dyn std::error::Error>> {
        let class = PdCString::from_os_str(ENTRY)?;
        macro_rules! entry {
            ($name:literal, $type:ty) => {
                *loader.get_function_with_unmanaged_callers_only::<$type>(
                    &class,
                    &PdCString::from_os_str($name)?,
                )?
            };
        }
        let begin = entry!("Start", StartFn);
        let entries = Entries {
            load: entry!("Load", LoadFn),
            call: entry!("Call", CallEntry),
            unpin: entry!("Unpin", HandleFn),
            on_load: entry!("OnLoad", OnLoadFn),
            on_unload: entry!("OnUnload", OnUnloadFn),
            free: entry!("Free", HandleFn),
            collect: entry!("Collect", CollectFn),
        };
        let callbacks = lanes::callbacks();
        let mut outcome = Outcome::EMPTY;
        // SAFETY: C# declares Start with these two parameters; both pointers
        // are to live values of the declared layout, and it keeps neither.
        let result = unsafe { begin(&raw const callbacks, &raw mut outcome) };
        // SAFETY: the head is in this thread's scratch buffer of the bridge,
        // which nothing uses before this thread's next entry.
        let head = unsafe { outcome.head.get() };
        if result != OK {
            return Err(guest_error::read(head).to_string().into());
        }
        let Token::Str(version) = Reader::new(head).token()? else {
            return Err("it does not say its version".into());
        };
        Ok(Self { entries, version: version.to_owned() })
    }
}

fn native(path: &Path) -> Result<PdCString, LoaderError> {
    PdCString::from_os_str(path)
        .map_err(|error| missing(format!("{}: {error}", path.display()), "Move it elsewhere"))
}

fn text(text: &str) -> Result<PdCString, LoaderError> {
    native(Path::new(text))
}
