//! What a library adds in `menagerie_init`.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use menagerie_guest::abi;
use menagerie_protocol::GuestError;

use crate::errors::{guest_error, text};
use crate::params::Params;

/// A function or hook of the library's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) run: abi::Function,
    pub(crate) userdata: *mut c_void,
}

/// A function that the library exports.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) entry: Entry,
    /// `None`: it checks its arguments itself.
    pub(crate) params: Option<Params>,
}

/// What a library has added so far. The guest sees the first field only.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Registrar {
    head: abi::Registrar,
    /// By contract, in the order of their names.
    pub(crate) contracts: BTreeMap<String, Vec<Function>>,
    pub(crate) on_load: Option<Entry>,
    pub(crate) on_unload: Option<Entry>,
    error: Option<GuestError>,
}

impl Registrar {
    /// What `init` adds.
    ///
    /// # Safety
    ///
    /// It is the entry of a library of this version of the interface, which is
    /// mapped, and `host` a generation's host.
    pub(crate) unsafe fn run(init: abi::Init, host: *const abi::Host) -> Result<Self, GuestError> {
        let mut registrar = Self {
            head: abi::Registrar { host },
            contracts: BTreeMap::new(),
            on_load: None,
            on_unload: None,
            error: None,
        };
        // SAFETY: the pointer is to the whole registrar, whose first field the
        // guest sees; the rest is the caller's promise.
        let status = unsafe { init(host, (&raw mut registrar).cast()) };
        match registrar.error.take() {
            Some(error) => Err(error),
            None if status != abi::OK => {
                let message = format!("menagerie_init returned {status} and said no more");
                Err(GuestError::new("Error", message))
            }
            None => Ok(registrar),
        }
    }

    fn misuse(&mut self, message: String) -> c_int {
        self.error.get_or_insert_with(|| GuestError::new("MenagerieMisuse", message));
        abi::FAILED
    }
}

/// The registrar behind the guest's pointer.
///
/// # Safety
///
/// It is the pointer that `menagerie_init` was given, and that still runs.
unsafe fn registrar<'a>(registrar: *mut abi::Registrar) -> &'a mut Registrar {
    // SAFETY: the pointer was made from one to the whole `Registrar`, which
    // nothing else refers to while `menagerie_init` runs.
    unsafe { &mut *registrar.cast::<Registrar>() }
}

pub(crate) unsafe extern "C" fn add_function(
    to: *mut abi::Registrar,
    contract: abi::Str,
    name: abi::Str,
    params: abi::Str,
    function: Option<abi::Function>,
    userdata: *mut c_void,
) -> c_int {
    // SAFETY: the guest passes on the registrar that it was given.
    let to = unsafe { registrar(to) };
    // SAFETY: the guest's text is valid, by the contract of menagerie.h.
    let contract = unsafe { text(contract) };
    // SAFETY: as above.
    let name = unsafe { text(name) };
    let Some(run) = function else {
        return to.misuse(format!("'{contract}': '{name}' was added without a function"));
    };
    let params = if params.ptr.is_null() {
        None
    } else {
        // SAFETY: as above.
        match Params::parse(&unsafe { text(params) }) {
            Ok(params) => Some(params),
            Err(problem) => return to.misuse(format!("'{contract}': '{name}': {problem}")),
        }
    };
    let functions = to.contracts.entry(contract.clone()).or_default();
    if functions.iter().any(|function| function.name == name) {
        return to.misuse(format!("'{contract}': '{name}' was added twice"));
    }
    functions.push(Function { name, entry: Entry { run, userdata }, params });
    abi::OK
}

pub(crate) unsafe extern "C" fn on_load(
    to: *mut abi::Registrar,
    hook: Option<abi::Function>,
    userdata: *mut c_void,
) -> c_int {
    // SAFETY: the guest passes on the registrar that it was given.
    let to = unsafe { registrar(to) };
    to.on_load = hook.map(|run| Entry { run, userdata });
    abi::OK
}

pub(crate) unsafe extern "C" fn on_unload(
    to: *mut abi::Registrar,
    hook: Option<abi::Function>,
    userdata: *mut c_void,
) -> c_int {
    // SAFETY: the guest passes on the registrar that it was given.
    let to = unsafe { registrar(to) };
    to.on_unload = hook.map(|run| Entry { run, userdata });
    abi::OK
}

pub(crate) unsafe extern "C" fn init_failed(
    to: *mut abi::Registrar,
    error: *const abi::Error,
) -> c_int {
    // SAFETY: the guest's error is valid, by the contract of menagerie.h.
    let error = unsafe { guest_error(error) };
    // SAFETY: the guest passes on the registrar that it was given.
    unsafe { registrar(to) }.error.get_or_insert(error);
    abi::FAILED
}
