//! The module `_menagerie`: what the worker's Python calls in Rust.

use std::path::PathBuf;

use menagerie_protocol::loader;
use menagerie_protocol::message::LogLevel;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyModule, PyString, PyTuple};

use crate::lane::{Export, Lane};
use crate::tasks::Step;
use crate::{call, forks, guest_error, host_call, interpreter, output};

/// Builds the module.
pub(crate) fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    let module = PyModule::new(py, "_menagerie")?;
    module.add_function(wrap_pyfunction!(internal, &module)?)?;
    module.add_function(wrap_pyfunction!(export, &module)?)?;
    module.add_function(wrap_pyfunction!(call_, &module)?)?;
    module.add_function(wrap_pyfunction!(call_async, &module)?)?;
    module.add_function(wrap_pyfunction!(wait_for_answers, &module)?)?;
    module.add_function(wrap_pyfunction!(log, &module)?)?;
    module.add_function(wrap_pyfunction!(lane, &module)?)?;
    module.add_function(wrap_pyfunction!(write, &module)?)?;
    module.add_function(wrap_pyfunction!(flush, &module)?)?;
    module.add_function(wrap_pyfunction!(forked, &module)?)?;
    module.add_function(wrap_pyfunction!(cancelling, &module)?)?;
    module.add_function(wrap_pyfunction!(ended_a_task, &module)?)?;
    module.add_function(wrap_pyfunction!(finish, &module)?)?;
    module.add_function(wrap_pyfunction!(check_contained, &module)?)?;
    module.add_function(wrap_pyfunction!(read_contained, &module)?)?;
    module.add_class::<Step>()?;
    Ok(module)
}

/// A module of the worker's own.
#[pyfunction]
fn internal<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyModule>> {
    interpreter::internal(py, name)
}

/// Raises an `OSError` if a path leads out of a bundle's folder.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "what Python passes")]
fn check_contained(py: Python<'_>, folder: PathBuf, path: PathBuf) -> PyResult<()> {
    py.detach(|| loader::contained(&folder, &path))?;
    Ok(())
}

/// What is in a file of a bundle's folder; an `OSError` if it leads out of it,
/// or cannot be read.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "what Python passes")]
fn read_contained(py: Python<'_>, folder: PathBuf, path: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    let bytes = py.detach(|| loader::read_contained(&folder, &path))?;
    Ok(PyBytes::new(py, &bytes))
}

#[pyfunction]
fn export(contract: String, function: String, callable: Py<PyAny>) -> PyResult<()> {
    let lane = Lane::current().filter(|lane| lane.loading.get()).ok_or_else(|| {
        PyRuntimeError::new_err(format!(
            "{function} is exported too late: exports are taken while the bundle's main module \
             runs for the first time, on the thread that runs it"
        ))
    })?;
    let mut exports = lane.exports.borrow_mut();
    if exports.iter().any(|other| other.contract == contract && other.function == function) {
        return Err(PyValueError::new_err(format!("{contract} exports {function} twice")));
    }
    exports.push(Export { contract, function, callable });
    Ok(())
}

#[pyfunction]
#[pyo3(name = "call")]
fn call_<'py>(
    py: Python<'py>,
    contract: &str,
    function: &str,
    args: &Bound<'_, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    host_call::call(py, contract, function, args)
}

#[pyfunction]
fn call_async(
    py: Python<'_>,
    contract: &str,
    function: &str,
    args: &Bound<'_, PyTuple>,
    resolve: Py<PyAny>,
    serving: u64,
) -> PyResult<()> {
    host_call::call_async(py, contract, function, args, resolve, serving)
}

#[pyfunction]
fn wait_for_answers(py: Python<'_>, wait: &Bound<'_, PyAny>) -> PyResult<()> {
    host_call::wait_for_answers(py, wait)
}

#[pyfunction]
fn log(py: Python<'_>, level: &str, target: &str, message: &Bound<'_, PyString>) -> PyResult<()> {
    let message = guest_error::text(message)?;
    let level = match level.to_ascii_lowercase().as_str() {
        "trace" => LogLevel::Trace,
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" | "warning" => LogLevel::Warn,
        "error" | "critical" => LogLevel::Error,
        other => {
            return Err(PyValueError::new_err(format!(
                "there is no level {other:?}: trace, debug, info, warn and error are"
            )));
        }
    };
    match output::logger(py)? {
        Some(logger) => logger.log(level, &target.replace(&prefix(), ""), &message),
        None => output::write(py, 1, &format!("{target}: {message}\n"))?,
    }
    Ok(())
}

/// The serial number of the bundle whose lane's thread this is, or 0.
#[pyfunction]
fn lane() -> u64 {
    Lane::current().map_or(0, |lane| lane.serial)
}

/// What stands before the names of the running bundle's modules.
fn prefix() -> String {
    // No name contains a NUL, so that off a lane's thread nothing is replaced.
    Lane::current().map_or_else(|| "\0".to_owned(), |lane| format!("{}.", lane.prefix))
}

#[pyfunction]
fn write(py: Python<'_>, which: usize, text: &Bound<'_, PyString>) -> PyResult<()> {
    output::write(py, which, &guest_error::text(text)?)
}

#[pyfunction]
fn flush(which: usize) {
    output::flush(which);
}

#[pyfunction]
fn forked() {
    forks::begun();
}

/// Whether the loop has to cancel an `async` call: its own code was not told to stop
/// meanwhile.
#[pyfunction]
fn cancelling(token: u64) -> bool {
    Lane::current().is_some_and(|lane| lane.interrupt.cancels(token))
}

/// Whether an exception that has left the loop is that with which a task of the bundle's
/// ended.
#[pyfunction]
fn ended_a_task(error: &Bound<'_, PyAny>) -> bool {
    Lane::current().is_some_and(|lane| lane.tasks.ended_a_task(error))
}

/// The end of an `async` call.
#[pyfunction]
fn finish(token: u64, error: Option<Bound<'_, PyAny>>, value: &Bound<'_, PyAny>) {
    let Some(lane) = Lane::current() else { return };
    let Some(pending) = lane.tasks.take(token) else { return };
    let result = match error {
        Some(error) => Err(PyErr::from_value(error)),
        None => Ok(value.clone()),
    };
    call::finish_pending(value.py(), &lane, pending, result);
    // What it has left in the loop is not stopped with it.
    lane.interrupt.forget_unless(|other| other != token);
}
