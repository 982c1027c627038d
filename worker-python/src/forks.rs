//! Processes that bundles fork. They have a copy of the worker in them, down to the
//! call that it serves, but the lane is the worker's: a second process that takes
//! calls from it and answers would run them twice and mix up the answers.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

use crate::interpreter;
use crate::lane::Lane;

/// Whether this process was forked from a worker.
static FORKED: AtomicBool = AtomicBool::new(false);

/// The process that is running was forked just now. Its only thread has no lane: it
/// cannot call others, and knows by its code whose log is its.
pub(crate) fn begun() {
    FORKED.store(true, Ordering::Relaxed);
    Lane::lose();
}

/// To be called when guest code has come back to the worker's: ends a process that
/// was forked in there.
pub(crate) fn check<T>(py: Python<'_>, result: &PyResult<T>) {
    if FORKED.load(Ordering::Relaxed) {
        end(py, result.as_ref().err());
    }
}

#[cold]
fn end(py: Python<'_>, error: Option<&PyErr>) {
    let error = error.map(|error| error.clone_ref(py).into_value(py));
    let ended =
        interpreter::internal(py, "forks").and_then(|forks| forks.call_method1("end", (error,)));
    // It does not come back, unless there is no memory for it.
    drop(ended);
    std::process::abort();
}
