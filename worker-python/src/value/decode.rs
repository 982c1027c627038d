//! MessagePack into Python's values.

use std::sync::Arc;

use menagerie_protocol::msgpack::{MAX_DEPTH, Reader, Token};
use menagerie_protocol::shm::Segment;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

use super::LARGE;
use crate::shared_bytes;

/// Turns one call's arguments into Python's values.
pub(crate) struct Decoder<'a, 'py> {
    py: Python<'py>,
    reader: Reader<'a>,
    segment: Option<&'a Arc<Segment>>,
    views: Vec<Bound<'py, PyAny>>,
}

impl<'a, 'py> Decoder<'a, 'py> {
    /// Bytes that lie in `segment` become views of it.
    pub(crate) const fn new(
        py: Python<'py>,
        reader: Reader<'a>,
        segment: Option<&'a Arc<Segment>>,
    ) -> Self {
        Self { py, reader, segment, views: Vec::new() }
    }

    /// The next token; [`value`](Self::value) makes a value of it.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, String> {
        self.reader.token().map_err(|error| error.to_string())
    }

    /// The views that were made: they must not be read after the call.
    pub(crate) fn into_views(self) -> Vec<Bound<'py, PyAny>> {
        self.views
    }

    /// The value that begins with `token`.
    pub(crate) fn value(&mut self, token: Token<'a>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        Ok(match token {
            Token::Nil => py.None().into_bound(py),
            Token::Bool(value) => PyBool::new(py, value).to_owned().into_any(),
            Token::Int(value) => PyInt::new(py, value).into_any(),
            Token::UInt(value) => PyInt::new(py, value).into_any(),
            Token::Float(value) => PyFloat::new(py, value).into_any(),
            Token::Str(value) => PyString::new(py, value).into_any(),
            Token::Bin(value) => self.bytes(value)?,
            Token::Array(len) => self.list(len, depth)?,
            Token::Map(len) => self.map(len, depth)?,
        })
    }

    fn nested(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        if depth > MAX_DEPTH {
            let message = format!("values are nested deeper than {MAX_DEPTH} levels");
            return Err(PyValueError::new_err(message));
        }
        let token = self.token().map_err(PyValueError::new_err)?;
        self.value(token, depth)
    }

    fn bytes(&mut self, value: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let Some(segment) = self.segment.filter(|_| value.len() >= LARGE) else {
            return Ok(PyBytes::new(self.py, value).into_any());
        };
        let Some(view) = shared_bytes::view(self.py, segment, value)? else {
            return Ok(PyBytes::new(self.py, value).into_any());
        };
        self.views.push(view.clone());
        Ok(view)
    }

    fn list(&mut self, len: usize, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let list = PyList::empty(self.py);
        for _ in 0..len {
            list.append(self.nested(depth + 1)?)?;
        }
        Ok(list.into_any())
    }

    /// As `nested`, but bytes are copied: a view is no key to look up by.
    fn key(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let segment = self.segment.take();
        let key = self.nested(depth);
        self.segment = segment;
        key
    }

    fn map(&mut self, len: usize, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let map = PyDict::new(self.py);
        for _ in 0..len {
            let key = self.key(depth + 1)?;
            let value = self.nested(depth + 1)?;
            if key.hash().is_err() {
                let kind = key.get_type().name()?;
                return Err(PyTypeError::new_err(format!(
                    "a map's key is a {kind}, which no dict can hold"
                )));
            }
            map.set_item(key, value)?;
        }
        // 1, 1.0 and True are one key to Python; dropping one of them would
        // change the value silently.
        if map.len() != len {
            return Err(PyValueError::new_err("a map has two keys that are equal in Python"));
        }
        Ok(map.into_any())
    }
}

/// One value that stands alone: a result, or a state.
pub(crate) fn decode_value<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    Decoder::new(py, Reader::new(bytes), None).nested(0)
}
