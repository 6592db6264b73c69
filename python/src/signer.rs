//! `taskseal.Signer`: a private key, on a token or in memory, with its certificate.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use taskseal::pkcs11::Builder;
use taskseal::pss::Scheme;
use taskseal::signer::SignError;
use taskseal::{SoftwareKey, SoftwareSigner};

use crate::certificate::Certificate;
use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, configuration};
use crate::input::{Input, UriText};
use crate::keys::{self, TokenKey};
use crate::logging;

/// A private RSA key with its certificate, which signs messages with RSA-PSS.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct Signer {
    scheme: Scheme,
    certificate: Option<taskseal::Certificate>,
    place: Place,
    // Locked with the GIL held, for a moment, so that no fork copies it locked.
    opened: Mutex<Option<Arc<dyn taskseal::Signer>>>,
}

enum Place {
    Memory,
    Token { builder: Box<Builder>, name: String },
}

#[pymethods]
impl Signer {
    /// The key on a PKCS#11 token that `uri` (RFC 7512) names. The token is opened by the first signature, in each
    /// process anew.
    #[staticmethod]
    #[pyo3(signature = (
        uri,
        certificate=None,
        *,
        pin=None,
        digest="sha256",
        salt="digest",
        max_sessions=None,
        deadline=None,
        dangerous_allow_extractable=false,
    ))]
    #[allow(clippy::too_many_arguments)] // They are keyword arguments of Python.
    fn from_uri(
        py: Python<'_>,
        uri: UriText,
        certificate: Option<Certificate>,
        pin: Option<Bound<'_, PyAny>>,
        digest: &str,
        salt: &str,
        max_sessions: Option<usize>,
        deadline: Option<f64>,
        dangerous_allow_extractable: bool,
    ) -> PyResult<Self> {
        let key = TokenKey::new(
            &uri.0,
            pin,
            max_sessions,
            deadline,
            dangerous_allow_extractable,
        )?;
        let scheme = choices::scheme(digest, salt)?;
        Self::on_token(
            py,
            &key,
            scheme,
            certificate.map(|certificate| certificate.0),
        )
    }

    /// A key in memory, from PEM: chosen by name, never fallen back to.
    #[staticmethod]
    #[pyo3(signature = (key, certificate, *, password=None, digest="sha256", salt="digest"))]
    fn from_software_pem(
        py: Python<'_>,
        key: Input<'_>,
        certificate: &Certificate,
        password: Option<Input<'_>>,
        digest: &str,
        salt: &str,
    ) -> PyResult<Self> {
        let scheme = choices::scheme(digest, salt)?;
        let key = keys::from_pem(&key, password.as_ref())?;
        Self::in_memory(
            py,
            keys::with_scheme(&key, scheme)?,
            scheme,
            certificate.0.clone(),
        )
    }

    /// Signs `message`: a signature as long as the modulus.
    fn sign<'py>(&self, py: Python<'py>, message: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let message = message.as_bytes()?;
        let signer = self.open_now(py)?;
        let signature =
            detached(py, || signer.sign(message)).map_err(|error| error.into_py_err())?;
        Ok(PyBytes::new(py, signature.as_bytes()))
    }

    /// Opens the token now, so that a wrong PIN or a missing key shows at once.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.open_now(py).map(drop)
    }

    /// The certificate. A signer that takes it from its token opens the token.
    #[getter]
    fn certificate(&self, py: Python<'_>) -> PyResult<Certificate> {
        match &self.certificate {
            Some(certificate) => Ok(Certificate(certificate.clone())),
            None => Ok(Certificate(self.open_now(py)?.certificate().clone())),
        }
    }

    /// The digest of the signatures.
    #[getter]
    fn digest(&self) -> &'static str {
        self.scheme.digest.as_str()
    }

    /// The salt length of the signatures: `digest` or `max`.
    #[getter]
    fn salt(&self) -> &'static str {
        self.scheme.salt.as_str()
    }

    /// Whether the key is on a token.
    #[getter]
    fn is_token(&self) -> bool {
        matches!(self.place, Place::Token { .. })
    }

    fn __repr__(&self) -> String {
        let id = self.certificate.as_ref().map(taskseal::Certificate::id);
        match &self.place {
            Place::Memory => format!(
                "<taskseal.Signer {:?}, key in memory>",
                id.unwrap_or_default()
            ),
            Place::Token { name, .. } => match id {
                Some(id) => format!("<taskseal.Signer {id:?}, key {name}>"),
                None => format!("<taskseal.Signer key {name}>"),
            },
        }
    }
}

impl Signer {
    /// A key on a token, not opened yet.
    pub(crate) fn on_token(
        py: Python<'_>,
        key: &TokenKey,
        scheme: Scheme,
        certificate: Option<taskseal::Certificate>,
    ) -> PyResult<Self> {
        logging::refresh(py)?;
        let builder = key.builder().scheme(scheme);
        let builder = Box::new(match &certificate {
            Some(certificate) => builder.certificate(certificate.clone()),
            None => builder.certificate_from_token(),
        });
        let place = Place::Token {
            builder,
            name: key.name().to_owned(),
        };
        let opened = Mutex::new(None);
        Ok(Self {
            scheme,
            certificate,
            place,
            opened,
        })
    }

    /// A key in memory.
    pub(crate) fn in_memory(
        py: Python<'_>,
        key: SoftwareKey,
        scheme: Scheme,
        certificate: taskseal::Certificate,
    ) -> PyResult<Self> {
        logging::refresh(py)?;
        let signer = SoftwareSigner::new(key, certificate.clone());
        logging::flush(py);
        let signer = signer.map_err(|error| error.into_py_err())?;
        Ok(Self {
            scheme,
            certificate: Some(certificate),
            place: Place::Memory,
            opened: Mutex::new(Some(Arc::new(signer))),
        })
    }

    /// The signer, opened if it is not yet. Of two threads that open it at once, one throws its own away.
    pub(crate) fn open_now(&self, py: Python<'_>) -> PyResult<Arc<dyn taskseal::Signer>> {
        if let Some(signer) = &*self.lock() {
            return Ok(Arc::clone(signer));
        }
        let Place::Token { builder, .. } = &self.place else {
            return Err(configuration("a signer in memory is open from the start"));
        };
        let opened =
            detached(py, || builder.open()).map_err(|error: SignError| error.into_py_err())?;
        Ok(Arc::clone(
            self.lock().get_or_insert_with(|| Arc::new(opened)),
        ))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn taskseal::Signer>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets which PINs tokens of this process have refused: for when a token's PIN was set to one that it had refused before.
/// Each wrong PIN may then cost one more try.
#[pyfunction]
pub(crate) fn forget_refused_pins() {
    taskseal::pkcs11::forget_refused_pins();
}
