//! Bytes without copies: a guest's view of shared memory, and our view of a
//! guest's bytes.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::Arc;

use menagerie_protocol::shm::Segment;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

/// What a `memoryview` of a large argument looks at. It keeps the memory
/// mapped, so a view that a guest keeps beyond its call is never dangling.
#[pyclass(frozen, module = "menagerie")]
#[derive(Debug)]
pub(crate) struct SharedBytes {
    segment: Arc<Segment>,
    offset: usize,
    len: usize,
}

#[pymethods]
impl SharedBytes {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        // SAFETY: the supervisor wrote the range before the call and leaves it
        // alone until the reply. The slice is given up at once: what Python
        // gets is the address, in memory that `segment` keeps mapped. A view
        // that a guest reads after its call may see another call's bytes.
        let bytes = unsafe { this.segment.mapping.bytes(this.offset, this.len) };
        let start = bytes.as_ptr().cast_mut().cast();
        let len = this.len.cast_signed();
        // SAFETY: `view` is Python's to fill in; `start` is valid for `len`
        // bytes while `slf` lives, of which the view takes a reference; the 1
        // says that it is read-only, so the constness cast away stays kept.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// A read-only `memoryview` of `bytes`, if they lie in the segment.
pub(crate) fn view<'py>(
    py: Python<'py>,
    segment: &Arc<Segment>,
    bytes: &[u8],
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(offset) = segment.mapping.offset_of(bytes) else { return Ok(None) };
    let shared = SharedBytes { segment: Arc::clone(segment), offset, len: bytes.len() };
    let shared = Bound::new(py, shared)?;
    Ok(Some(PyMemoryView::from(shared.as_any())?.into_any()))
}

/// Ends the views of a call that has ended: later reads raise `ValueError`. A
/// view of which the guest has made another one stays, and its memory with it.
pub(crate) fn release(py: Python<'_>, views: &[Bound<'_, PyAny>]) {
    for view in views {
        // It fails, and is no harm, where a buffer of the view is in use.
        let _ = view.call_method0(pyo3::intern!(py, "release"));
    }
}

/// A guest's bytes, pinned where they are.
pub(crate) struct Buffer<'py> {
    view: Box<ffi::Py_buffer>,
    py: Python<'py>,
}

impl<'py> Buffer<'py> {
    /// Whether the value is `bytes`, `bytearray` or `memoryview`. All tests are
    /// comparisons of pointers or flags, for this is asked of every result.
    pub(crate) fn is_bytes_like(value: &Bound<'_, PyAny>) -> bool {
        value.is_instance_of::<PyBytes>()
            || value.is_exact_instance_of::<PyByteArray>()
            || value.is_exact_instance_of::<PyMemoryView>()
    }

    /// Whether nobody can change the bytes, even while the lock is not held.
    pub(crate) fn is_immutable(&self) -> bool {
        // SAFETY: a filled-in buffer holds a reference to its exporter, or null.
        let owner = unsafe { Bound::from_borrowed_ptr_or_opt(self.py, self.view.obj) };
        owner.is_some_and(|owner| {
            owner.is_exact_instance_of::<PyBytes>() || owner.is_instance_of::<SharedBytes>()
        })
    }

    /// The value's bytes.
    ///
    /// # Errors
    ///
    /// The value is a view that is not contiguous, or not of single bytes, or
    /// was released.
    pub(crate) fn of(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        let mut view = Box::new(MaybeUninit::<ffi::Py_buffer>::zeroed());
        let flags = ffi::PyBUF_CONTIG_RO;
        // SAFETY: `value` is alive and the lock is held by its type; `view` is
        // ours to be filled in, at an address that does not change.
        let got = unsafe { ffi::PyObject_GetBuffer(value.as_ptr(), view.as_mut_ptr(), flags) };
        if got != 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: `PyObject_GetBuffer` succeeded, so it is filled in.
        let view = unsafe { view.assume_init() };
        let buffer = Self { view, py };
        if buffer.view.itemsize != 1 {
            return Err(PyTypeError::new_err(format!(
                "a memoryview of elements of {} bytes cannot leave the bundle; cast it to bytes",
                buffer.view.itemsize
            )));
        }
        if buffer.view.buf.is_null() && buffer.view.len != 0 {
            return Err(PyBufferError::new_err("the buffer has no memory"));
        }
        Ok(buffer)
    }

    /// The bytes. Unless they are immutable, guest code must not run while they
    /// are in use.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        let len = self.view.len.unsigned_abs();
        if len == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `buf` valid for `len` bytes until the
        // buffer is released in `drop`. Nobody writes them meanwhile: bytes and
        // shared views never change, and to change a bytearray guest code would
        // have to run, which callers do not let happen.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast::<u8>(), len) }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let _attached: Python<'_> = self.py;
        // SAFETY: filled in by `PyObject_GetBuffer`, released once, attached.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}
