//! [`CertificateError`]: what is no certificate that can be used.

use crate::error::{ErrorClass, Untrusted};
use crate::pem::PemError;
use crate::public_key::PublicKeyError;

/// The largest certificate that is read, in bytes of DER.
pub(super) const MAX_LEN: usize = 64 * 1024;
/// The longest serial number that is read, in bytes.
pub(super) const MAX_SERIAL_LEN: usize = 1024;

/// Bytes that are no certificate that can be used here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No `CERTIFICATE` section in the PEM text.
    #[error("there is no certificate in it (no \"-----BEGIN CERTIFICATE-----\")")]
    NoCertificate,
    /// The PEM text is damaged.
    #[error("the PEM text is damaged: {0}")]
    Pem(#[source] PemError),
    /// A PEM section that holds certificates, or whose label says so, is of a kind that is not read.
    #[error(
        "a PEM section {label} is not read; make it CERTIFICATE with `openssl x509` or `openssl pkcs7 -print_certs`"
    )]
    Label {
        /// Its label.
        label: Untrusted,
    },
    /// A `TRUSTED CERTIFICATE` of OpenSSL's that is marked as rejected for a purpose.
    #[error("the certificate is marked as rejected (openssl x509 -addreject)")]
    Rejected,
    /// The bytes are no certificate in DER.
    #[error("the certificate is damaged: its {part} cannot be read")]
    Damaged {
        /// Which part of it.
        part: &'static str,
    },
    /// More than [`Certificate::MAX_LEN`](crate::Certificate::MAX_LEN).
    #[error("a certificate of {len} bytes is refused; {} are read", MAX_LEN)]
    TooLarge {
        /// Its length, in bytes.
        len: usize,
    },
    /// A serial number of more than [`Certificate::MAX_SERIAL_LEN`](crate::Certificate::MAX_SERIAL_LEN).
    #[error(
        "a serial number of {len} bytes is refused; {} are read",
        MAX_SERIAL_LEN
    )]
    SerialNumber {
        /// Its length, in bytes.
        len: usize,
    },
    /// The key cannot be used: not RSA, or absurd.
    #[error("the certificate's key cannot be used: {0}")]
    Key(#[from] PublicKeyError),
    /// An attribute of the issuer is no text, so Celery cannot make an id of it either.
    #[error("the issuer's attribute {attribute} is no text, so the certificate has no signer id")]
    IssuerAttribute {
        /// OID of the attribute.
        attribute: String,
    },
    /// A multi-valued RDN of the issuer is not in DER's order, so that its text would be ambiguous.
    #[error("the issuer's name is not encoded as DER asks for (the order within an RDN)")]
    IssuerNotDer,
    /// The extension for the key usage, or for the extended one, is damaged or present twice.
    #[error("the certificate's key usage extension is damaged")]
    KeyUsage,
}

impl CertificateError {
    /// Always [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}
