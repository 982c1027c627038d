//! Exceptions as [`GuestError`]s.

use menagerie_protocol::{Failure, GuestError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::interpreter;

/// How a call ends that raised `error`. `prefix` is the name of the bundle's
/// package, which is ours and not the guest's to see.
pub(crate) fn failure(py: Python<'_>, error: PyErr, prefix: &str) -> Failure {
    match described(py, &error, prefix) {
        Ok(Some(error)) => error.into(),
        Ok(None) => Failure::Cancelled,
        // Formatting failed: no memory, or the stack is used up.
        Err(_) => {
            let kind = error.get_type(py);
            let name = kind.name().map_or_else(|_| "Exception".to_owned(), |name| name.to_string());
            GuestError::new(name, error.to_string()).into()
        }
    }
}

/// The same where a cancellation is an error like any other: at load.
pub(crate) fn guest_error(py: Python<'_>, error: PyErr, prefix: &str) -> GuestError {
    match failure(py, error, prefix) {
        Failure::Guest(error) => *error,
        other => GuestError::new("menagerie.Cancelled", other.to_string()),
    }
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
