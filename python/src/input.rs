//! Bytes that come from Python.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString};

use crate::errors::configuration;

/// `bytes` or `str` (as UTF-8) without a copy; `bytearray` and `memoryview`, which can change, are copied.
pub(crate) enum Input<'py> {
    Bytes(Bound<'py, PyBytes>),
    Text(Bound<'py, PyString>),
    Copied(Vec<u8>),
}

impl Input<'_> {
    /// The bytes. They stay as they are while the GIL is released: `bytes` and `str` never change.
    pub(crate) fn as_bytes(&self) -> PyResult<&[u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.as_bytes()),
            Self::Text(text) => Ok(utf8(text)?.as_bytes()),
            Self::Copied(bytes) => Ok(bytes),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Input<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            Ok(Self::Bytes(bytes.to_owned()))
        } else if let Ok(text) = object.cast::<PyString>() {
            Ok(Self::Text(text.to_owned()))
        } else if let Ok(bytes) = object.cast::<PyByteArray>() {
            Ok(Self::Copied(bytes.to_vec()))
        } else if let Ok(view) = object.cast::<PyMemoryView>() {
            let bytes = view.call_method0("tobytes")?;
            Ok(Self::Copied(bytes.cast::<PyBytes>()?.as_bytes().to_vec()))
        } else {
            let kind = object.get_type().name()?;
            Err(PyTypeError::new_err(format!(
                "bytes or str is wanted, not {kind}"
            )))
        }
    }
}

/// A `str` of Python's as UTF-8. Python's own error has all of the text in it, which may be a secret.
pub(crate) fn utf8<'a>(text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    text.to_str()
        .map_err(|_| configuration("a text that cannot be written as UTF-8"))
}

/// A PKCS#11 URI: a `str`, which may hold a PIN.
pub(crate) struct UriText(pub(crate) String);

impl<'py> FromPyObject<'_, 'py> for UriText {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text = object
            .cast::<PyString>()
            .map_err(|_| PyTypeError::new_err("a PKCS#11 URI is a str"))?;
        Ok(Self(utf8(&text.to_owned())?.to_owned()))
    }
}
