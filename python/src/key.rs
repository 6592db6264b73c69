//! `taskseal.PrivateKey`: a key without a certificate yet, on a token or in memory.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use taskseal::pkcs11::{Builder, Pin, PinError, PinSource, UriError};
use taskseal::pss::{Salt, Scheme, SchemeError};
use taskseal::signer::SignError;
use taskseal::{KeyError, Pkcs11Key, Pkcs11Signer, Pkcs11Uri, SigningKey, SoftwareKey};
use zeroize::Zeroizing;

use crate::certificate::Certificate;
use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, configuration};
use crate::input::{Input, UriText, utf8};
use crate::signer::Signer;

/// A private RSA key without a certificate.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct PrivateKey(Kind);

enum Kind {
    Memory(Box<SoftwareKey>),
    Token(Box<TokenKey>),
}

#[pymethods]
impl PrivateKey {
    /// The key on a PKCS#11 token that `uri` (RFC 7512) names. The token is opened by the first signature.
    #[staticmethod]
    #[pyo3(signature = (
        uri,
        *,
        pin=None,
        max_sessions=None,
        deadline=None,
        dangerous_allow_extractable=false,
    ))]
    fn from_uri(
        uri: UriText,
        pin: Option<Bound<'_, PyAny>>,
        max_sessions: Option<usize>,
        deadline: Option<f64>,
        dangerous_allow_extractable: bool,
    ) -> PyResult<Self> {
        TokenKey::new(
            &uri.0,
            pin,
            max_sessions,
            deadline,
            dangerous_allow_extractable,
        )
        .map(|key| Self(Kind::Token(Box::new(key))))
    }

    /// Reads the first private key of a PEM text: PKCS#8, PKCS#1, or PKCS#8 under a password.
    #[staticmethod]
    #[pyo3(signature = (key, password=None))]
    pub(crate) fn from_software_pem(key: Input<'_>, password: Option<Input<'_>>) -> PyResult<Self> {
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
        key.map(|key| Self(Kind::Memory(Box::new(key))))
            .map_err(|error| error.into_py_err())
    }

    /// Signs `message` under a digest and salt length.
    #[pyo3(signature = (message, digest="sha256", salt="digest"))]
    fn sign<'py>(
        &self,
        py: Python<'py>,
        message: Input<'_>,
        digest: &str,
        salt: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let scheme = choices::scheme(digest, salt)?;
        let message = message.as_bytes()?;
        let key: Arc<dyn SigningKey> = match &self.0 {
            Kind::Memory(key) => Arc::new(with_scheme(key, scheme)?),
            Kind::Token(key) => key.open(py, scheme)?,
        };
        let signature = detached(py, || key.sign_message(message));
        Ok(PyBytes::new(
            py,
            &signature.map_err(|error| error.into_py_err())?,
        ))
    }

    /// Joins it with its certificate.
    #[pyo3(signature = (certificate, digest="sha256", salt="digest"))]
    pub(crate) fn signer(
        &self,
        py: Python<'_>,
        certificate: &Certificate,
        digest: &str,
        salt: &str,
    ) -> PyResult<Signer> {
        let scheme = choices::scheme(digest, salt)?;
        let certificate = certificate.0.clone();
        match &self.0 {
            Kind::Memory(key) => {
                Signer::in_memory(py, with_scheme(key, scheme)?, scheme, certificate)
            }
            Kind::Token(key) => Signer::on_token(py, key, scheme, Some(certificate)),
        }
    }

    /// Whether the key is on a token.
    #[getter]
    fn is_token(&self) -> bool {
        matches!(self.0, Kind::Token(_))
    }

    fn __repr__(&self) -> String {
        match &self.0 {
            Kind::Memory(_) => "<taskseal.PrivateKey in memory>".to_owned(),
            Kind::Token(key) => format!("<taskseal.PrivateKey {}>", key.name),
        }
    }
}

fn with_scheme(key: &SoftwareKey, scheme: Scheme) -> PyResult<SoftwareKey> {
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
    fn open(&self, py: Python<'_>, scheme: Scheme) -> PyResult<Arc<Pkcs11Key>> {
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
