//! The process's one interpreter: started once, never ended.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyDict, PyModule};
use pyo3::{ffi, intern};

use crate::native;

#[cfg(not(Py_3_11))]
compile_error!("the Python worker needs Python 3.11 or newer; set PYO3_PYTHON to choose one");

#[cfg(Py_GIL_DISABLED)]
compile_error!("the Python worker relies on the interpreter lock; a free-threaded build has none");

/// A module that is written in Python.
struct Source {
    name: &'static str,
    text: &'static str,
    /// What the build's interpreter made of it; its first four bytes say which
    /// versions can read it. Empty if there was none to ask.
    bytecode: &'static [u8],
    /// Held while it runs.
    running: Mutex<()>,
}

macro_rules! source {
    ($name:literal) => {
        Source {
            name: $name,
            text: include_str!(concat!("python/", $name, ".py")),
            bytecode: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bin")),
            running: Mutex::new(()),
        }
    };
}

/// The modules below `_menagerie`.
static SOURCES: [Source; 8] = [
    source!("bundles"),
    source!("errors"),
    source!("forks"),
    source!("logs"),
    source!("signatures"),
    source!("streams"),
    source!("tasks"),
    source!("venv"),
];

/// The module that bundles import.
static MENAGERIE: Source = source!("menagerie");

static STARTED: OnceLock<Result<(), String>> = OnceLock::new();

/// The interpreter that this worker is linked against, as `CPython 3.11.7`;
/// it need not have been started.
#[must_use]
pub fn runtime_version() -> String {
    // SAFETY: may be called before the interpreter is initialised, and returns
    // a string that is never freed.
    let version = unsafe { ffi::Py_GetVersion() };
    // SAFETY: it is a NUL-terminated string that lives for ever.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy();
    format!("CPython {}", version.split_whitespace().next().unwrap_or("?"))
}

/// Starts the interpreter, unless it has been. The first thread that comes
/// becomes Python's main thread.
pub(crate) fn start() -> Result<(), String> {
    STARTED.get_or_init(initialise).clone()
}

fn initialise() -> Result<(), String> {
    pre_configure()?;
    configure_and_run()?;
    // SAFETY: `configure_and_run` succeeded, so the interpreter is initialised
    // and this thread is attached to it.
    let py = unsafe { Python::assume_attached() };
    let prepared = Python::attach(prepare).map_err(|error| {
        format!("its own modules cannot be set up: {}", error.into_value(py).bind(py))
    });
    // SAFETY: this thread is attached and gives the interpreter lock away. Its
    // thread state stays, as the one that Python calls its main thread's.
    unsafe { ffi::PyEval_SaveThread() };
    prepared
}

/// The folders and archives that it imports from, and where its own libraries are.
pub(crate) fn folders() -> Vec<PathBuf> {
    if start().is_err() {
        return Vec::new();
    }
    let of_sys = |py: Python<'_>| -> PyResult<Vec<PathBuf>> {
        let sys = PyModule::import(py, intern!(py, "sys"))?;
        let mut folders: Vec<PathBuf> = sys.getattr(intern!(py, "path"))?.extract()?;
        for prefix in ["base_prefix", "base_exec_prefix", "prefix", "exec_prefix"] {
            let prefix: PathBuf = sys.getattr(prefix)?.extract()?;
            folders.push(prefix.join("lib"));
        }
        Ok(folders)
    };
    let mut folders = Python::attach(of_sys).unwrap_or_default();
    // An empty one means the folder that a process runs in.
    folders.retain(|folder| folder.is_absolute());
    folders
}

/// UTF-8 whatever the locale says: a worker's environment is scrubbed, and what
/// a plugin does should not hang on it.
fn pre_configure() -> Result<(), String> {
    let mut config = MaybeUninit::<ffi::PyPreConfig>::uninit();
    // SAFETY: the function fills in the whole structure.
    unsafe { ffi::PyPreConfig_InitPythonConfig(config.as_mut_ptr()) };
    // SAFETY: it has just been filled in.
    let mut config = unsafe { config.assume_init() };
    config.utf8_mode = 1;
    config.parse_argv = 0;
    // SAFETY: the structure is filled in and outlives the call.
    let status = unsafe { ffi::Py_PreInitialize(&raw const config) };
    check(status)
}

fn configure_and_run() -> Result<(), String> {
    let mut config = MaybeUninit::<ffi::PyConfig>::uninit();
    // SAFETY: the function fills in the whole structure.
    unsafe { ffi::PyConfig_InitPythonConfig(config.as_mut_ptr()) };
    // SAFETY: it has just been filled in.
    let mut config = unsafe { config.assume_init() };
    // Signals are the worker's own business; but a crash should leave Python's
    // stack on the real stderr, where the supervisor keeps the last lines.
    config.install_signal_handlers = 0;
    config.faulthandler = 1;
    config.parse_argv = 0;
    let status = name_program(&mut config).unwrap_or_else(|| {
        // SAFETY: the structure is filled in and outlives the call; the
        // interpreter is not initialised yet, as `STARTED` lets only one caller
        // get here.
        unsafe { ffi::Py_InitializeFromConfig(&raw const config) }
    });
    // SAFETY: the structure was filled in by `PyConfig_InitPythonConfig` and is
    // not used afterwards.
    unsafe { ffi::PyConfig_Clear(&raw mut config) };
    check(status)
}

/// Names the interpreter's program, if it is still where it was at build time:
/// from there CPython finds its standard library. Returns an error's status.
fn name_program(config: &mut ffi::PyConfig) -> Option<ffi::PyStatus> {
    let program = env!("MENAGERIE_BUILD_PYTHON");
    if !Path::new(program).is_file() {
        return None;
    }
    let text = CString::new(program).ok()?;
    let config = &raw mut *config;
    // SAFETY: `config` comes from a reference; no reference to it is formed.
    let field = unsafe { &raw mut (*config).program_name };
    // SAFETY: `config` is filled in, `field` is one of its strings, and `text`
    // is NUL-terminated and outlives the call, which copies it.
    let status = unsafe { ffi::PyConfig_SetBytesString(config, field, text.as_ptr()) };
    check(status).err().map(|_| status)
}

fn check(status: ffi::PyStatus) -> Result<(), String> {
    if status.err_msg.is_null() && status.exitcode == 0 {
        return Ok(());
    }
    if status.err_msg.is_null() {
        return Err(format!("its initialisation asked to exit with {}", status.exitcode));
    }
    // SAFETY: an error message of a `PyStatus` is a static string.
    Err(unsafe { CStr::from_ptr(status.err_msg) }.to_string_lossy().into_owned())
}

fn prepare(py: Python<'_>) -> PyResult<()> {
    // `threading` takes the thread that imports it first for the main one.
    py.import("threading")?;
    let modules = modules(py)?;
    modules.set_item("_menagerie", native::module(py)?)?;
    run(py, "menagerie", &MENAGERIE)?;
    internal(py, "bundles")?;
    internal(py, "streams")?;
    // What exists now stays for ever; the collections that follow each unload
    // need not look at it.
    py.import("gc")?.call_method0("freeze")?;
    Ok(())
}

/// Modules of the standard library that bundles import, directly or by way of
/// others; asyncio alone takes half of Python's own start.
const COMMON: [&str; 8] =
    ["asyncio", "dataclasses", "datetime", "json", "logging", "pathlib", "traceback", "typing"];

/// Our own modules that a bundle's load runs if they have not been: that of its
/// first function, of its first exception, of its first `async` function.
const NEEDED: [&str; 3] = ["signatures", "errors", "tasks"];

/// Imports them, unless `is_over`. A bundle's load that comes meanwhile goes on
/// between two modules, and finds those that it needs sooner.
pub(crate) fn import_common(is_over: impl Fn() -> bool) {
    for name in COMMON {
        if is_over() {
            return;
        }
        // What cannot be imported is told to the bundle that needs it.
        Python::attach(|py| drop(py.import(name)));
    }
    for name in NEEDED {
        if is_over() {
            return;
        }
        Python::attach(|py| drop(internal(py, name)));
    }
    Python::attach(|py| {
        // With the interpreter lock held: no code of a bundle has run yet, so
        // that nothing of one is taken for what stays for ever.
        if !is_over() {
            drop(py.import("gc").and_then(|gc| gc.call_method0("freeze")));
        }
    });
}

fn modules(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    Ok(py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?.cast_into()?)
}

/// One of [`SOURCES`], run when it is first needed: a worker that never sees
/// an exception never loads the code that formats one.
pub(crate) fn internal<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyModule>> {
    let full = format!("_menagerie.{name}");
    if let Some(module) = modules(py)?.get_item(&full)? {
        return Ok(module.cast_into()?);
    }
    let Some(source) = SOURCES.iter().find(|source| source.name == name) else {
        return Err(pyo3::exceptions::PyImportError::new_err(format!("no module {full}")));
    };
    run(py, &full, source)
}

/// Runs a module, unless another thread has by then: lanes that need one for the
/// first time at the same moment take turns. It is in `sys.modules` only once
/// it has run, so that who finds it there finds it whole. None of our modules
/// needs one of ours while it runs that would need it in turn.
fn run<'py>(py: Python<'py>, name: &str, source: &Source) -> PyResult<Bound<'py, PyModule>> {
    // Waits without the interpreter lock: who runs the module needs it.
    let _running = source.running.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules(py)?.get_item(name)? {
        return Ok(module.cast_into()?);
    }
    let module = PyModule::new(py, name)?;
    let file = format!("<menagerie>/{}.py", source.name);
    let builtins = py.import("builtins")?;
    let magic = py.import("_frozen_importlib_external")?.getattr("MAGIC_NUMBER")?;
    let code = match source.bytecode.strip_prefix(magic.extract::<&[u8]>()?) {
        Some(bytecode) => {
            py.import("marshal")?.call_method1("loads", (PyBytes::new(py, bytecode),))?
        }
        None => builtins.call_method1("compile", (source.text, &file, "exec", 0, true))?,
    };
    module.setattr("__file__", file)?;
    builtins.call_method1("exec", (code, module.dict()))?;
    modules(py)?.set_item(name, &module)?;
    Ok(module)
}

/// A class of the module `menagerie`.
pub(crate) fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import(intern!(py, "menagerie"))?.getattr(name)
}
