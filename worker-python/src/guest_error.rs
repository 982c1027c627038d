//! Exceptions as [`GuestError`]s.

use menagerie_protocol::{Failure, GuestError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::interpreter;
use crate::lane::Lane;

/// How `call` ends, which raised `error`. To tell it may run the guest's code, its
/// `__str__`.
pub(crate) fn failure(py: Python<'_>, lane: &Lane, call: u64, error: &PyErr) -> Failure {
    let told = lane.run(py, call, |stop| {
        stop.map_or_else(|| described(py, error, &lane.prefix), |_| Ok(None))
    });
    ended(py, error, told)
}

/// The same where a cancellation is an error like any other: at load. `prefix` is the
/// name of the bundle's package, which is ours and not the guest's to see.
pub(crate) fn guest_error(py: Python<'_>, error: &PyErr, prefix: &str) -> GuestError {
    match ended(py, error, described(py, error, prefix)) {
        Failure::Guest(error) => *error,
        other => GuestError::new("menagerie.Cancelled", other.to_string()),
    }
}

fn ended(py: Python<'_>, error: &PyErr, told: PyResult<Option<GuestError>>) -> Failure {
    match told {
        Ok(Some(error)) => error.into(),
        Ok(None) => Failure::Cancelled,
        Err(again) if is_cancelled(py, &again) => Failure::Cancelled,
        // No memory, or the stack is used up.
        Err(again) => {
            let name = |error: &PyErr| {
                let kind = error.get_type(py);
                kind.name().map_or_else(|_| "Exception".to_owned(), |name| name.to_string())
            };
            let message = format!("it cannot be told: {}", name(&again));
            GuestError::new(name(error), message).into()
        }
    }
}

fn is_cancelled(py: Python<'_>, error: &PyErr) -> bool {
    interpreter::class(py, "Cancelled").is_ok_and(|class| error.is_instance(py, &class))
}

fn described(py: Python<'_>, error: &PyErr, prefix: &str) -> PyResult<Option<GuestError>> {
    let errors = interpreter::internal(py, "errors")?;
    // Not `value`, which leaves the traceback behind.
    let exception = error.clone_ref(py).into_value(py);
    let told = errors.call_method1("describe", (exception, prefix))?;
    if told.is_none() {
        return Ok(None);
    }
    from_tuple(&told).map(Some)
}

fn from_tuple(told: &Bound<'_, PyAny>) -> PyResult<GuestError> {
    let told = told.cast::<PyTuple>()?;
    let inner: Vec<Bound<'_, PyAny>> = told.get_item(6)?.extract()?;
    Ok(GuestError {
        type_name: text(told.get_item(0)?.cast()?)?,
        message: text(told.get_item(1)?.cast()?)?,
        stack: text(told.get_item(2)?.cast()?)?,
        code: optional(&told.get_item(3)?)?,
        help: optional(&told.get_item(4)?)?,
        url: optional(&told.get_item(5)?)?,
        inner: inner.iter().map(from_tuple).collect::<PyResult<_>>()?,
    })
}

/// A str, which may hold lone surrogates that no Rust string can.
pub(crate) fn text(text: &Bound<'_, PyString>) -> PyResult<String> {
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => text
            .call_method1("encode", ("utf-8", "backslashreplace"))?
            .call_method1("decode", ("utf-8",))?
            .extract(),
    }
}

fn optional(value: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if value.is_none() { Ok(None) } else { text(value.cast()?).map(Some) }
}
