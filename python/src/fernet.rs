//! `taskseal.Fernet` and `MultiFernet`, with keys in memory or on a token.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet as Keys, FernetError, MultiFernet as ManyKeys};
use zeroize::Zeroizing;

use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, configuration};
use crate::input::{Input, UriText};
use crate::keys::TokenKey;

/// Encrypts and authenticates bytes under one key, as Python's `cryptography.fernet` does.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct Fernet {
    /// Where the keys are on a token; None for keys in memory.
    token: Option<Box<TokenKey>>,
    // Locked with the GIL held, for a moment, so that no fork copies it locked.
    opened: Mutex<Option<Keys>>,
}

#[pymethods]
impl Fernet {
    /// Takes a key: 32 bytes in base64url with padding, 44 characters.
    #[new]
    fn new(key: Input<'_>) -> PyResult<Self> {
        // Neither is longer than what is compared: a key that is no text is no key.
        let text = std::str::from_utf8(key.as_bytes()?).unwrap_or_default();
        let keys = SoftwareKeys::from_text(text).map_err(|error| error.into_py_err())?;
        Ok(Self {
            token: None,
            opened: Mutex::new(Some(Keys::new(keys))),
        })
    }

    /// The pair of keys on a PKCS#11 token that `uri` (RFC 7512) names, which `taskseal fernet key generate` makes. The
    /// token is opened by the first call.
    #[staticmethod]
    #[pyo3(signature = (uri, *, pin=None, max_sessions=None, deadline=None))]
    fn from_uri(
        uri: UriText,
        pin: Option<Bound<'_, PyAny>>,
        max_sessions: Option<usize>,
        deadline: Option<f64>,
    ) -> PyResult<Self> {
        let token = TokenKey::new(&uri.0, pin, max_sessions, deadline, false)?;
        Ok(Self {
            token: Some(Box::new(token)),
            opened: Mutex::new(None),
        })
    }

    /// Makes a random key, as text.
    #[staticmethod]
    fn generate_key<'py>(py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let keys = SoftwareKeys::generate().map_err(|error| error.into_py_err())?;
        Ok(PyBytes::new(py, keys.expose_text().as_bytes()))
    }

    /// Encrypts `data`: a token.
    fn encrypt<'py>(&self, py: Python<'py>, data: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        encrypt(py, &self.open_now(py)?.into(), &data)
    }

    /// Decrypts a token; with `ttl`, only one that is at most that many seconds old.
    #[pyo3(signature = (token, ttl=None))]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        token: Input<'_>,
        ttl: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        decrypt(py, &self.open_now(py)?.into(), &token, ttl)
    }

    /// Encrypts each of `data`: their tokens, in their order. With keys on a token faster than one after the other.
    fn encrypt_all<'py>(
        &self,
        py: Python<'py>,
        data: Vec<Input<'_>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        encrypt_all(py, &self.open_now(py)?.into(), &data)
    }

    /// Decrypts each of `tokens`, in their order: `None` in the place of one that is refused.
    #[pyo3(signature = (tokens, ttl=None))]
    fn decrypt_all<'py>(
        &self,
        py: Python<'py>,
        tokens: Vec<Input<'_>>,
        ttl: Option<f64>,
    ) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
        decrypt_all(py, &self.open_now(py)?.into(), &tokens, ttl)
    }

    fn __repr__(&self) -> String {
        match &self.token {
            Some(key) => format!("<taskseal.Fernet {}>", key.name()),
            None => "<taskseal.Fernet in memory>".to_owned(),
        }
    }
}

impl Fernet {
    /// The keys, opened if they are not yet.
    fn open_now(&self, py: Python<'_>) -> PyResult<Keys> {
        let lock = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = &*lock() {
            return Ok(keys.clone());
        }
        let Some(token) = &self.token else {
            return Err(configuration("keys in memory are open from the start"));
        };
        let builder = token.builder();
        let keys = detached(py, || builder.open_fernet_keys());
        let keys = keys.map_err(|error| {
            let class = error.class();
            let source = Box::new(error);
            FernetError::Keys { class, source }.into_py_err()
        })?;
        Ok(lock().get_or_insert_with(|| Keys::new(keys)).clone())
    }
}

/// The keys of these, the first to encrypt with; None when there are none.
pub(crate) fn open_all(py: Python<'_>, fernets: &[Py<Fernet>]) -> PyResult<Option<ManyKeys>> {
    let mut keys = Vec::with_capacity(fernets.len());
    for fernet in fernets {
        keys.push(fernet.get().open_now(py)?);
    }
    let mut keys = keys.into_iter();
    Ok(keys.next().map(|first| ManyKeys::new(first, keys)))
}

/// Several keys: encrypts with the first, decrypts with any.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct MultiFernet(Vec<Py<Fernet>>);

#[pymethods]
impl MultiFernet {
    #[new]
    fn new(fernets: Vec<Py<Fernet>>) -> PyResult<Self> {
        match fernets.is_empty() {
            true => Err(configuration("MultiFernet needs a key")),
            false => Ok(Self(fernets)),
        }
    }

    /// Encrypts `data` with the first key.
    fn encrypt<'py>(&self, py: Python<'py>, data: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        encrypt(py, &self.open_now(py)?, &data)
    }

    /// Decrypts a token with whichever key made it; with `ttl`, only one that is at most that many seconds old.
    #[pyo3(signature = (token, ttl=None))]
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        token: Input<'_>,
        ttl: Option<f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        decrypt(py, &self.open_now(py)?, &token, ttl)
    }

    /// Encrypts what is in a token anew, with the first key and the token's own time.
    fn rotate<'py>(&self, py: Python<'py>, token: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let (token, keys) = (token.as_bytes()?, self.open_now(py)?);
        text(py, detached(py, || keys.rotate(token)))
    }

    /// Encrypts each of `data` with the first key: their tokens, in their order. With keys on a token faster than one after
    /// the other.
    fn encrypt_all<'py>(
        &self,
        py: Python<'py>,
        data: Vec<Input<'_>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        encrypt_all(py, &self.open_now(py)?, &data)
    }

    /// Decrypts each of `tokens` with whichever key made it, in their order: `None` in the place of one that is refused.
    #[pyo3(signature = (tokens, ttl=None))]
    fn decrypt_all<'py>(
        &self,
        py: Python<'py>,
        tokens: Vec<Input<'_>>,
        ttl: Option<f64>,
    ) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
        decrypt_all(py, &self.open_now(py)?, &tokens, ttl)
    }

    /// Encrypts what is in each of `tokens` anew, as `rotate` does, in their order: `None` in the place of one that is refused.
    fn rotate_all<'py>(
        &self,
        py: Python<'py>,
        tokens: Vec<Input<'_>>,
    ) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
        let (tokens, keys) = (bytes(&tokens)?, self.open_now(py)?);
        let rotated =
            detached(py, || keys.rotate_all(&tokens)).map_err(|error| error.into_py_err())?;
        unless_refused(py, rotated)
    }

    fn __repr__(&self) -> &'static str {
        "<taskseal.MultiFernet>"
    }
}

impl MultiFernet {
    fn open_now(&self, py: Python<'_>) -> PyResult<ManyKeys> {
        open_all(py, &self.0)?.ok_or_else(|| configuration("MultiFernet needs a key"))
    }
}

fn encrypt<'py>(
    py: Python<'py>,
    keys: &ManyKeys,
    data: &Input<'_>,
) -> PyResult<Bound<'py, PyBytes>> {
    let data = data.as_bytes()?;
    text(py, detached(py, || keys.encrypt(data)))
}

fn decrypt<'py>(
    py: Python<'py>,
    keys: &ManyKeys,
    token: &Input<'_>,
    ttl: Option<f64>,
) -> PyResult<Bound<'py, PyBytes>> {
    let token = token.as_bytes()?;
    let ttl = ttl.map(|ttl| choices::seconds("ttl", ttl)).transpose()?;
    let data = detached(py, || keys.decrypt(token, ttl)).map_err(|error| error.into_py_err())?;
    Ok(PyBytes::new(py, &Zeroizing::new(data)))
}

fn encrypt_all<'py>(
    py: Python<'py>,
    keys: &ManyKeys,
    data: &[Input<'_>],
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let data = bytes(data)?;
    let tokens = detached(py, || keys.encrypt_all(&data)).map_err(|error| error.into_py_err())?;
    let tokens = tokens.iter();
    Ok(tokens
        .map(|token| PyBytes::new(py, token.as_bytes()))
        .collect())
}

fn decrypt_all<'py>(
    py: Python<'py>,
    keys: &ManyKeys,
    tokens: &[Input<'_>],
    ttl: Option<f64>,
) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
    let tokens = bytes(tokens)?;
    let ttl = ttl.map(|ttl| choices::seconds("ttl", ttl)).transpose()?;
    let opened = detached(py, || keys.decrypt_all(&tokens, ttl));
    let opened = opened.map_err(|error| error.into_py_err())?;
    let opened = opened.into_iter().map(|data| data.map(Zeroizing::new));
    unless_refused(py, opened)
}

fn bytes<'a>(inputs: &'a [Input<'_>]) -> PyResult<Vec<&'a [u8]>> {
    inputs.iter().map(Input::as_bytes).collect()
}

/// The answers for many tokens: None for one that is refused.
fn unless_refused<T: AsRef<[u8]>>(
    py: Python<'_>,
    answers: impl IntoIterator<Item = Result<T, FernetError>>,
) -> PyResult<Vec<Option<Bound<'_, PyBytes>>>> {
    let answer = |answer: Result<T, FernetError>| match answer {
        Ok(bytes) => Ok(Some(PyBytes::new(py, bytes.as_ref()))),
        Err(FernetError::Refused) => Ok(None),
        Err(error) => Err(error.into_py_err()),
    };
    answers.into_iter().map(answer).collect()
}

fn text(py: Python<'_>, token: Result<String, FernetError>) -> PyResult<Bound<'_, PyBytes>> {
    let token = token.map_err(|error| error.into_py_err())?;
    Ok(PyBytes::new(py, token.as_bytes()))
}
