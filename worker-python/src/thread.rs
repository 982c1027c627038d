//! A lane thread's place in the interpreter.

use pyo3::{Python, ffi};

/// Gives the current thread a Python thread state of its own for as long as it
/// exists: attaching for a call, with [`Python::attach`], then costs no more
/// than taking the interpreter lock. Belongs to the thread that made it.
#[derive(Debug)]
pub(crate) struct ThreadPin {
    state: *mut ffi::PyThreadState,
    ensured: ffi::PyGILState_STATE,
}

impl ThreadPin {
    /// The interpreter must have been started, and the thread be detached; it
    /// is left so.
    pub(crate) fn new() -> Self {
        // SAFETY: the interpreter is initialised, and never finalised; the
        // matching release is in `drop`, on this very thread, as the raw
        // pointer makes this type neither `Send` nor `Sync`.
        let ensured = unsafe { ffi::PyGILState_Ensure() };
        // SAFETY: the line above attached this thread.
        let state = unsafe { ffi::PyEval_SaveThread() };
        Self { state, ensured }
    }

    /// Takes the interpreter lock and runs `f`.
    pub(crate) fn attach<R>(&self, f: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
        Python::attach(f)
    }
}

impl Drop for ThreadPin {
    fn drop(&mut self) {
        // SAFETY: `state` is this thread's own, and detached: `attach` has left
        // it so, and nothing else on this thread attaches.
        unsafe { ffi::PyEval_RestoreThread(self.state) };
        // SAFETY: matches the call in `new`; the thread is attached.
        unsafe { ffi::PyGILState_Release(self.ensured) };
    }
}

/// Carries a value into [`Python::detach`], which asks for `Send` so that no
/// Python object gets in: other threads may run Python meanwhile.
#[derive(Debug)]
pub(crate) struct SameThread<T>(pub(crate) T);

impl<T> SameThread<T> {
    pub(crate) fn into_inner(self) -> T {
        self.0
    }
}

// SAFETY: `detach` runs its closure on the thread that calls it, so what is
// inside is never sent anywhere. It is used for values without Python objects:
// a lane's ends, and slices of immutable bytes.
unsafe impl<T> Send for SameThread<T> {}
