//! Calls of a bundle to contracts of others: `menagerie.call`.

use std::os::fd::AsRawFd;
use std::rc::Rc;

use menagerie_protocol::{Failure, GuestError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::forks;
use crate::interpreter;
use crate::lane::Lane;
use crate::thread::SameThread;
use crate::value::{decode_value, encode};

/// Calls and waits, without the interpreter lock.
pub(crate) fn call<'py>(
    py: Python<'py>,
    contract: &str,
    function: &str,
    args: &Bound<'_, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let lane = current(py)?;
    let bytes = match packed(&lane, args)? {
        Ok(bytes) => bytes,
        Err(failure) => return Err(call_error(py, &failure)?),
    };
    let host = lane.host.for_call(lane.serving.get());
    let host = SameThread(&host);
    let answer = py.detach(move || host.into_inner().call(contract, function, &bytes));
    lane.tasks.leave_wait(py)?;
    unpacked(py, answer)
}

/// Begins a call; `resolve(error, value)` is called with its end. `serving` is
/// the call that it is made for, or 0.
pub(crate) fn call_async(
    py: Python<'_>,
    contract: &str,
    function: &str,
    args: &Bound<'_, PyTuple>,
    resolve: Py<PyAny>,
    serving: u64,
) -> PyResult<()> {
    let lane = current(py)?;
    let packed = packed(&lane, args)?;
    let at_once = resolve.clone_ref(py);
    let then = Box::new(move |answer: Result<Vec<u8>, Failure>| {
        // The lane's own loop calls this, detached.
        Python::attach(|py| {
            let (error, value) = match unpacked(py, answer) {
                Ok(value) => (None, Some(value)),
                Err(error) => (Some(error.into_value(py)), None),
            };
            // It can only fail if the loop was closed, and nobody waits then.
            let _ = resolve.call1(py, (error, value));
            resolve.drop_ref(py);
        });
    });
    packed
        .and_then(|bytes| lane.host.for_call(serving).call_async(contract, function, &bytes, then))
        // The call's end like any other.
        .or_else(|failure| {
            let error = call_error(py, &failure)?.into_value(py);
            at_once.call1(py, (error, py.None())).map(drop)
        })
}

/// A call's arguments, or why they cannot be sent.
fn packed(lane: &Lane, args: &Bound<'_, PyTuple>) -> PyResult<Result<Vec<u8>, Failure>> {
    let mut bytes = Vec::new();
    match encode(args, lane.host.max_payload(), &mut bytes) {
        Ok(()) => Ok(Ok(bytes)),
        Err(error) => error.into_failure().map(Err),
    }
}

/// A call's value, or its `menagerie.CallError`: that of a value, too, which Python cannot
/// hold.
fn unpacked(py: Python<'_>, answer: Result<Vec<u8>, Failure>) -> PyResult<Bound<'_, PyAny>> {
    let value = answer.and_then(|value| {
        decode_value(py, &value)
            .map_err(|error| Failure::BadValue { message: error.value(py).to_string() })
    });
    match value {
        Ok(value) => Ok(value),
        Err(failure) => Err(call_error(py, &failure)?),
    }
}

/// Receives answers for a hook that awaits them: `wait` is called with the descriptor
/// that is readable when something has come.
pub(crate) fn wait_for_answers(py: Python<'_>, wait: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut waited = Ok(());
    current(py)?.host.wait_for_answers(|wake| {
        waited = wait.call1((wake.as_raw_fd(),)).map(drop);
        // A callback may have forked; what follows is the lane's.
        forks::check(py, &waited);
    });
    waited
}

fn current(py: Python<'_>) -> PyResult<Rc<Lane>> {
    match Lane::current() {
        Some(lane) => Ok(lane),
        None => Err(new_call_error(
            py,
            "WrongThread",
            "calls to other contracts can only be made on the thread that the bundle was loaded \
             on, not on one or in a process that it has started",
            None,
        )?),
    }
}

/// A `menagerie.CallError` for a failure.
fn call_error(py: Python<'_>, failure: &Failure) -> PyResult<PyErr> {
    let remote = match failure {
        Failure::Guest(error) => Some(remote_error(py, error)?),
        _ => None,
    };
    new_call_error(py, failure.kind(), &failure.to_string(), remote)
}

/// A `menagerie.RemoteError`.
fn remote_error<'py>(py: Python<'py>, error: &GuestError) -> PyResult<Bound<'py, PyAny>> {
    let GuestError { type_name, message, stack, code, help, url, inner } = error;
    let causes = inner.iter().map(|cause| remote_error(py, cause)).collect::<PyResult<Vec<_>>>()?;
    let class = interpreter::class(py, "RemoteError")?;
    class.call1((type_name, message, stack, code, help, url, causes))
}

fn new_call_error(
    py: Python<'_>,
    kind: &str,
    message: &str,
    remote: Option<Bound<'_, PyAny>>,
) -> PyResult<PyErr> {
    let error = interpreter::class(py, "CallError")?.call1((kind, message, remote))?;
    Ok(PyErr::from_value(error))
}
