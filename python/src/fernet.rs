//! `taskseal.Fernet` and `MultiFernet`, with keys in memory.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet as Keys, FernetError, MultiFernet as ManyKeys};
use zeroize::Zeroizing;

use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, configuration};
use crate::input::Input;

/// Encrypts and authenticates bytes under one key, as Python's `cryptography.fernet` does.
#[pyclass(frozen, module = "taskseal", from_py_object)]
#[derive(Clone)]
pub(crate) struct Fernet(pub(crate) Keys);

#[pymethods]
impl Fernet {
    /// Takes a key: 32 bytes in base64url with padding, 44 characters.
    #[new]
    fn new(key: Input<'_>) -> PyResult<Self> {
        let text = String::from_utf8_lossy(key.as_bytes()?);
        let keys = SoftwareKeys::from_text(&text).map_err(|error| error.into_py_err())?;
        Ok(Self(Keys::new(keys)))
    }

    /// Makes a random key, as text.
    #[staticmethod]
    fn generate_key<'py>(py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let keys = SoftwareKeys::generate().map_err(|error| error.into_py_err())?;
        Ok(PyBytes::new(py, keys.expose_text().as_bytes()))
    }

    /// Encrypts `data`: a token.
    fn encrypt<'py>(&self, py: Python<'py>, data: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let data = data.as_bytes()?;
        token(py, detached(py, || self.0.encrypt(data)))
    }

    /// Decrypts a token; with `ttl`, only one that is at most that many seconds old.
    #[pyo3(signature = (token, ttl=None))]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        token: Input<'_>,
        ttl: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (token, ttl) = (token.as_bytes()?, time_to_live(ttl)?);
        data(py, detached(py, || self.0.decrypt(token, ttl)))
    }

    fn __repr__(&self) -> &'static str {
        "<taskseal.Fernet>"
    }
}

/// Several keys: encrypts with the first, decrypts with any.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct MultiFernet(ManyKeys);

#[pymethods]
impl MultiFernet {
    #[new]
    fn new(fernets: Vec<Fernet>) -> PyResult<Self> {
        let mut fernets = fernets.into_iter().map(|fernet| fernet.0);
        let first = fernets
            .next()
            .ok_or_else(|| configuration("MultiFernet needs a key"))?;
        Ok(Self(ManyKeys::new(first, fernets)))
    }

    /// Encrypts `data` with the first key.
    fn encrypt<'py>(&self, py: Python<'py>, data: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let data = data.as_bytes()?;
        token(py, detached(py, || self.0.encrypt(data)))
    }

    /// Decrypts a token with whichever key made it; with `ttl`, only one that is at most that many seconds old.
    #[pyo3(signature = (token, ttl=None))]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        token: Input<'_>,
        ttl: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (token, ttl) = (token.as_bytes()?, time_to_live(ttl)?);
        data(py, detached(py, || self.0.decrypt(token, ttl)))
    }

    /// Encrypts what is in a token anew, with the first key and the token's own time.
    fn rotate<'py>(&self, py: Python<'py>, token: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let text = token.as_bytes()?;
        self::token(py, detached(py, || self.0.rotate(text)))
    }

    fn __repr__(&self) -> &'static str {
        "<taskseal.MultiFernet>"
    }
}

fn time_to_live(ttl: Option<f64>) -> PyResult<Option<Duration>> {
    ttl.map(|ttl| choices::seconds("ttl", ttl)).transpose()
}

fn token(py: Python<'_>, made: Result<String, FernetError>) -> PyResult<Bound<'_, PyBytes>> {
    let made = made.map_err(|error| error.into_py_err())?;
    Ok(PyBytes::new(py, made.as_bytes()))
}

fn data(py: Python<'_>, made: Result<Vec<u8>, FernetError>) -> PyResult<Bound<'_, PyBytes>> {
    let made = Zeroizing::new(made.map_err(|error| error.into_py_err())?);
    Ok(PyBytes::new(py, &made))
}
