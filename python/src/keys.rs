//! Private keys, on a token or in memory, as signers and keys alone are made of them.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use taskseal::pkcs11::{Builder, Pin, PinError, PinSource, UriError};
use taskseal::pss::{Salt, Scheme, SchemeError};
use taskseal::signer::SignError;
use taskseal::{KeyError, Pkcs11Key, Pkcs11Signer, Pkcs11Uri, SigningKey as _, SoftwareKey};
use zeroize::Zeroizing;

use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, configuration};
use crate::input::{Input, utf8};

/// Reads the first private key of a PEM text.
pub(crate) fn from_pem(key: &Input<'_>, password: Option<&Input<'_>>) -> PyResult<SoftwareKey> {
    let password = match &password {
        Some(password) => Some(Zeroizing::new(password.as_bytes()?.to_vec())),
        None => None,
    };
    let password = password.as_ref().map(|password| password.as_slice());
    let pem = key.as_bytes()?;
    let load = |scheme| SoftwareKey::from_pem(pem, password, scheme);
    // The scheme is chosen when something is signed. Until then it is one that the key allows.
    let key = load(Scheme::default()).or_else(|error| match error {
        KeyError::Scheme(SchemeError::Restricted { digest, .. }) => {
            load(Scheme::new(digest, Salt::Maximum))
        }
        other => Err(other),
    });
    key.map_err(|error| error.into_py_err())
}

/// The same key, for signatures of another scheme.
pub(crate) fn with_scheme(key: &SoftwareKey, scheme: Scheme) -> PyResult<SoftwareKey> {
    key.with_scheme(scheme)
        .map_err(|error| SignError::from(error).into_py_err())
}

/// Where a key on a token is, and what was opened of it.
pub(crate) struct TokenKey {
    builder: Builder,
    name: String,
    // Locked with the GIL held, for a moment, so that no fork copies it locked.
    opened: Mutex<Vec<Arc<Pkcs11Key>>>,
}

impl TokenKey {
    pub(crate) fn new(
        uri: &str,
        pin: Option<Bound<'_, PyAny>>,
        max_sessions: Option<usize>,
        deadline: Option<f64>,
        dangerous_allow_extractable: bool,
    ) -> PyResult<Self> {
        let uri: Pkcs11Uri = uri
            .trim()
            .parse()
            .map_err(|error: UriError| error.into_py_err())?;
        let mut builder = Pkcs11Signer::builder().uri(&uri);
        // The URI's own source goes before it, whichever order the builder is told of them in.
        if let Some(pin) = pin {
            builder = builder.pin(pin_source(&pin)?);
        }
        if let Some(sessions) = max_sessions {
            builder = builder.max_sessions(sessions);
        }
        if let Some(value) = deadline {
            builder = builder.deadline(choices::seconds("deadline", value)?);
        }
        if dangerous_allow_extractable {
            builder = builder.dangerous_allow_extractable();
        }
        let object = uri.object().unwrap_or("a key");
        let token = uri.token().unwrap_or("a token");
        Ok(Self {
            builder,
            name: format!("{object:?} on {token:?}"),
            opened: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn builder(&self) -> Builder {
        self.builder.clone()
    }

    /// For people: label of the key and of the token.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The key, opened for this scheme if it is not yet.
    pub(crate) fn open(&self, py: Python<'_>, scheme: Scheme) -> PyResult<Arc<Pkcs11Key>> {
        let lock = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lock().iter().find(|key| key.scheme() == scheme).cloned();
        if let Some(key) = found {
            return Ok(key);
        }
        let builder = self.builder().scheme(scheme);
        let key = detached(py, || builder.open_key());
        let key = Arc::new(key.map_err(|error| SignError::from(error).into_py_err())?);
        lock().push(Arc::clone(&key));
        Ok(key)
    }
}

/// A PIN as text, or a callable that is asked for it whenever a login is needed.
fn pin_source(pin: &Bound<'_, PyAny>) -> PyResult<PinSource> {
    if let Ok(text) = pin.cast::<PyString>() {
        let pin = Pin::new(utf8(text)?).map_err(|error| configuration(error.to_string()))?;
        return Ok(PinSource::Value(pin));
    }
    if !pin.is_callable() {
        return Err(PyTypeError::new_err(
            "pin is a str, or a callable that returns one",
        ));
    }
    let ask = pin.clone().unbind();
    Ok(PinSource::callback(move |_token| {
        let entered = Python::try_attach(|py| ask_for_pin(&ask, py));
        entered.unwrap_or_else(|| Err(PinError::Callback("the interpreter shuts down".to_owned())))
    }))
}

/// The text of an exception is not handed on: it might hold what was entered.
fn ask_for_pin(ask: &Py<PyAny>, py: Python<'_>) -> Result<Pin, PinError> {
    let failed = |what: &str| PinError::Callback(what.to_owned());
    let answer = ask
        .call0(py)
        .map_err(|error| PinError::Callback(format!("it raised {}", error.get_type(py))))?;
    let text = answer
        .bind(py)
        .cast::<PyString>()
        .map_err(|_| failed("it returned no str"))?;
    Pin::new(text.to_str().map_err(|_| failed("it is no UTF-8"))?)
}
