//! `taskseal.Certificate`.

use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::choices;
use crate::detach::detached;
use crate::errors::IntoPyErr as _;
use crate::input::Input;

/// An X.509 certificate with an RSA key, and Celery's name for it.
#[pyclass(frozen, eq, hash, module = "taskseal", from_py_object)]
#[derive(Clone)]
pub(crate) struct Certificate(pub(crate) taskseal::Certificate);

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl std::hash::Hash for Certificate {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.thumbprint_sha256().hash(state);
    }
}

#[pymethods]
impl Certificate {
    /// Reads the first certificate of a PEM text, or one certificate in DER.
    #[new]
    fn new(pem_or_der: Input<'_>) -> PyResult<Self> {
        taskseal::Certificate::from_pem_or_der(pem_or_der.as_bytes()?)
            .map(Self)
            .map_err(|error| error.into_py_err())
    }

    /// Reads every certificate of a PEM text.
    #[staticmethod]
    fn all_from_pem(pem: Input<'_>) -> PyResult<Vec<Self>> {
        let all = taskseal::Certificate::all_from_pem(pem.as_bytes()?);
        Ok(all
            .map_err(|error| error.into_py_err())?
            .into_iter()
            .map(Self)
            .collect())
    }

    /// Celery's `get_id()`: issuer values and serial number; the signer id of a message.
    #[getter]
    fn id(&self) -> &str {
        self.0.id()
    }

    /// Celery's `get_issuer()`: the issuer's attribute values, joined by one space.
    #[getter]
    fn issuer(&self) -> &str {
        self.0.issuer()
    }

    /// The serial number.
    #[getter]
    fn serial_number<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.get_type::<pyo3::types::PyInt>()
            .call1((self.0.serial_number(),))
    }

    /// The subject's distinguished name (RFC 4514).
    #[getter]
    fn subject(&self) -> &str {
        self.0.subject()
    }

    /// The issuer's distinguished name (RFC 4514).
    #[getter]
    fn issuer_name(&self) -> &str {
        self.0.issuer_name()
    }

    /// The first second at which it is valid, in seconds since 1970.
    #[getter]
    fn not_before(&self) -> f64 {
        since_1970(self.0.not_before())
    }

    /// The second at which it ends, in seconds since 1970.
    #[getter]
    fn not_after(&self) -> f64 {
        since_1970(self.0.not_after())
    }

    /// The size of its RSA key in bits.
    #[getter]
    fn key_bits(&self) -> usize {
        self.0.public_key().bits()
    }

    /// SHA-256 of the DER, in lower-case hexadecimal.
    #[getter]
    fn thumbprint(&self) -> String {
        self.0.thumbprint_hex()
    }

    /// Whether it has expired.
    #[pyo3(signature = (at=None))]
    fn has_expired(&self, at: Option<f64>) -> PyResult<bool> {
        Ok(self.0.has_expired(choices::time(at)?))
    }

    /// Whether it is not valid yet.
    #[pyo3(signature = (at=None))]
    fn is_not_yet_valid(&self, at: Option<f64>) -> PyResult<bool> {
        Ok(self.0.is_not_yet_valid(choices::time(at)?))
    }

    /// Whether its key usage allows signatures on messages.
    fn allows_signatures(&self) -> bool {
        self.0.allows_signatures()
    }

    /// OIDs of the extensions for which it must be refused: critical and not understood, or a precertificate's.
    #[getter]
    fn refused_extensions(&self) -> Vec<String> {
        let refused = self.0.refused_extensions().iter();
        refused.map(ToString::to_string).collect()
    }

    /// Whether it is an authority's.
    #[getter]
    fn is_authority(&self) -> bool {
        self.0.is_authority()
    }

    /// Whether `signature` is this key's RSA-PSS signature of `message`, with either salt length unless one is named.
    /// Looks at the key alone: validity, key size and usage are the opener's policy.
    #[pyo3(signature = (message, signature, digest="sha256", salt=None))]
    fn verifies(
        &self,
        py: Python<'_>,
        message: Input<'_>,
        signature: Input<'_>,
        digest: &str,
        salt: Option<&str>,
    ) -> PyResult<bool> {
        let digest = choices::digest(digest)?;
        let salts = match salt {
            Some(name) => vec![choices::salt(name)?],
            None => taskseal::pss::Salt::ALL.to_vec(),
        };
        let (message, signature) = (message.as_bytes()?, signature.as_bytes()?);
        Ok(detached(py, || {
            salts.into_iter().any(|salt| {
                let scheme = taskseal::pss::Scheme::new(digest, salt);
                self.0.verify(message, signature, scheme).is_ok()
            })
        }))
    }

    /// The certificate as PEM text.
    fn to_pem(&self) -> String {
        self.0.to_pem()
    }

    /// The DER, as read.
    fn der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.der())
    }

    /// The DER of the public key, a `SubjectPublicKeyInfo` with the algorithm `rsaEncryption`.
    fn public_key_der<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.public_key().spki())
    }

    fn __repr__(&self) -> String {
        format!("<taskseal.Certificate {:?}>", self.0.id())
    }
}

fn since_1970(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
