//! `taskseal.PrivateKey`: a key without a certificate yet, on a token or in memory.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use taskseal::{SigningKey, SoftwareKey};

use crate::certificate::Certificate;
use crate::choices;
use crate::detach::detached;
use crate::errors::IntoPyErr as _;
use crate::input::{Input, UriText};
use crate::keys::{self, TokenKey, with_scheme};
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
    fn from_software_pem(key: Input<'_>, password: Option<Input<'_>>) -> PyResult<Self> {
        keys::from_pem(&key, password.as_ref()).map(|key| Self(Kind::Memory(Box::new(key))))
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
    fn signer(
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
            Kind::Token(key) => format!("<taskseal.PrivateKey {}>", key.name()),
        }
    }
}
