//! Python's values into MessagePack.

use std::collections::HashSet;

use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::{MAX_DEPTH, Writer};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::shared_bytes::Buffer;

/// From this many bytes on those of a result are not copied into the answer's buffer
/// first, and an argument in shared memory is not copied out of it.
pub(crate) const LARGE: usize = 4096;

/// What of a value stays where it is: the bytes that belong there in what is written.
pub(crate) type Part<'py> = (usize, Buffer<'py>);

/// Why a value cannot leave the bundle.
#[derive(Debug)]
pub(crate) enum EncodeError {
    /// It has more than `limit` bytes: `size`, so far.
    TooLarge { size: usize, limit: usize },
    /// It has no MessagePack form.
    Raised(PyErr),
}

impl From<PyErr> for EncodeError {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

impl EncodeError {
    /// The failure, if that is what it ends in.
    pub(crate) fn into_failure(self) -> Result<Failure, PyErr> {
        match self {
            Self::TooLarge { size, limit } => {
                Ok(Failure::PayloadTooLarge { size: size as u64, limit: limit as u64 })
            }
            Self::Raised(error) => Err(error),
        }
    }
}

/// Appends a value, which may have `limit` bytes: lists that share their parts may be
/// small in Python and endless here.
pub(crate) fn encode(
    value: &Bound<'_, PyAny>,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    nested(value, &mut Output { out, limit, apart: None, size_apart: 0 }, 0)
}

/// The same, but that many bytes, wherever they are in the value, are not copied.
pub(crate) fn encode_apart<'py>(
    value: &Bound<'py, PyAny>,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<Vec<Part<'py>>, EncodeError> {
    let mut apart = Vec::new();
    nested(value, &mut Output { out, limit, apart: Some(&mut apart), size_apart: 0 }, 0)?;
    Ok(apart)
}

/// Where a value is written.
struct Output<'a, 'py> {
    out: &'a mut Vec<u8>,
    limit: usize,
    /// Where many bytes go, if they are not to be copied, and how many these are.
    apart: Option<&'a mut Vec<Part<'py>>>,
    size_apart: usize,
}

impl<'py> Output<'_, 'py> {
    fn bytes(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let buffer = Buffer::of(value)?;
        let bytes = buffer.as_bytes();
        let mut writer = Writer::new(self.out);
        match &mut self.apart {
            Some(apart) if bytes.len() >= LARGE => {
                writer.bin_head(bytes.len());
                self.size_apart += bytes.len();
                apart.push((self.out.len(), buffer));
            }
            _ => writer.bin(bytes),
        }
        Ok(())
    }
}

fn nested<'py>(
    value: &Bound<'py, PyAny>,
    output: &mut Output<'_, 'py>,
    depth: usize,
) -> Result<(), EncodeError> {
    if depth > MAX_DEPTH {
        let message =
            format!("the value is nested deeper than {MAX_DEPTH} levels, or contains itself");
        return Err(PyValueError::new_err(message).into());
    }
    let size = output.out.len() + output.size_apart;
    if size > output.limit {
        return Err(EncodeError::TooLarge { size, limit: output.limit });
    }
    let mut writer = Writer::new(output.out);
    if value.is_none() {
        writer.nil();
    } else if let Ok(text) = value.cast::<PyString>() {
        writer.str(text.to_str()?);
    } else if let Ok(flag) = value.cast::<PyBool>() {
        // Before the integers: a bool is an int to Python.
        writer.bool(flag.is_true());
    } else if let Ok(number) = value.cast::<PyInt>() {
        integer(number, &mut writer)?;
    } else if let Ok(number) = value.cast::<PyFloat>() {
        writer.float(number.value());
    } else if let Ok(list) = value.cast::<PyList>() {
        // By index and with the length asked for again, for the elements'
        // buffers may run code; what was announced must be what follows.
        let len = list.len();
        writer.array(len);
        for index in 0..len {
            nested(&list.get_item(index)?, output, depth + 1)?;
        }
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        writer.array(tuple.len());
        for item in tuple.iter_borrowed() {
            nested(&item, output, depth + 1)?;
        }
    } else if let Ok(map) = value.cast::<PyDict>() {
        writer.map(map.len());
        let mut differ = true;
        for (key, value) in map.iter() {
            differ &= differs(&key);
            nested(&key, output, depth + 1)?;
            nested(&value, output, depth + 1)?;
        }
        if !differ {
            refuse_same_keys(map, output.limit)?;
        }
    } else if let Ok(bytes) = value.cast::<PyBytes>()
        && bytes.as_bytes().len() < LARGE
    {
        writer.bin(bytes.as_bytes());
    } else if Buffer::is_bytes_like(value) {
        output.bytes(value)?;
    } else {
        let kind = value.get_type().fully_qualified_name()?;
        let message = format!(
            "a value of type {kind} cannot leave the bundle: None, bool, int, float, str, bytes, \
             list, tuple and dict can"
        );
        return Err(PyTypeError::new_err(message).into());
    }
    Ok(())
}

/// Whether a dict's key that this is differs from all others when it is written too. What
/// is of a class of the guest's may say of itself that it does, and so does a NaN.
fn differs(key: &Bound<'_, PyAny>) -> bool {
    key.is_exact_instance_of::<PyString>()
        || key.is_exact_instance_of::<PyInt>()
        || key.is_exact_instance_of::<PyBool>()
        || key.is_none()
        || key.is_exact_instance_of::<PyBytes>()
        || key.cast_exact::<PyFloat>().is_ok_and(|number| !number.value().is_nan())
}

/// Keys that differ in Python may be the same elsewhere (C1).
fn refuse_same_keys(map: &Bound<'_, PyDict>, limit: usize) -> Result<(), EncodeError> {
    let mut seen = HashSet::new();
    for key in map.keys() {
        let mut written = Vec::new();
        encode(&key, limit, &mut written)?;
        if !seen.insert(written) {
            let message = "a dict has keys that are the same to other languages";
            return Err(PyValueError::new_err(message).into());
        }
    }
    Ok(())
}

fn integer(number: &Bound<'_, PyInt>, writer: &mut Writer<'_>) -> PyResult<()> {
    let mut overflow = 0;
    // SAFETY: `number` is an int and the interpreter lock is held, both by its
    // type; `overflow` outlives the call.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &raw mut overflow) };
    if overflow == 0 {
        // No error can be set: the object is an int.
        writer.int(value);
    } else if let Ok(value) = number.extract::<u64>() {
        writer.uint(value);
    } else {
        return Err(PyOverflowError::new_err("an int does not fit into 64 bits"));
    }
    Ok(())
}
