//! [`Signer`]: a private RSA key that signs messages, and the certificate that belongs to it.

pub mod failover;
#[cfg(feature = "software")]
pub mod software;

use std::fmt;
use std::time::SystemTime;

use crate::certificate::{Certificate, rfc3339};
use crate::error::ErrorClass;
use crate::pss::{Scheme, SchemeError};
use crate::public_key::PublicKey;

/// A private RSA key that signs **messages** with RSA-PSS, wherever the key is.
///
/// The message crosses this trait, not a digest of it: users of raw PKCS#11 mechanisms have signed the wrong thing. An
/// implementation hashes with the digest of its [`scheme`](Signer::scheme) itself.
///
/// Implementers owe: the signature verifies under the certificate that is returned with it; no panic; no secret in an
/// error; calls from many threads at once. A signer may own several keys: [`sign`](Signer::sign) therefore names the
/// certificate of the key that was used, and whoever packs an envelope takes the signer id from there.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The certificate of the key that signs (of the preferred one, if there are several).
    fn certificate(&self) -> &Certificate;

    /// Digest and salt length of the signatures.
    fn scheme(&self) -> Scheme;

    /// Signs `message`.
    ///
    /// # Errors
    /// [`SignError`], whose [`class`](SignError::class) says whether trying again makes sense.
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError>;

    /// Signs `message` as if it were `at`. A signer that owns several keys takes one whose certificate is valid then. One that
    /// owns a single key signs at any time: whether its certificate is valid is judged by whoever opens the message.
    ///
    /// # Errors
    /// As for [`sign`](Self::sign).
    fn sign_at(&self, message: &[u8], at: SystemTime) -> Result<Signature, SignError> {
        let _ = at;
        self.sign(message)
    }
}

/// A private RSA key without a certificate yet: what a self-signed certificate or a request is made with.
///
/// The difference to [`Signer`] is only that nobody vouches for the key so far.
pub trait SigningKey: Send + Sync + fmt::Debug {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Digest and salt length of the signatures.
    fn scheme(&self) -> Scheme;

    /// Signs `message`; returns as many bytes as the modulus has.
    ///
    /// # Errors
    /// [`SignError`], as for [`Signer::sign`].
    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A signature and the certificate that verifies it.
#[derive(Debug, Clone)]
pub struct Signature {
    bytes: Vec<u8>,
    certificate: Certificate,
}

impl Signature {
    /// Joins a signature with its certificate. The caller says that they belong together.
    #[must_use]
    pub fn new(bytes: Vec<u8>, certificate: Certificate) -> Self {
        Self { bytes, certificate }
    }

    /// The signature, as long as the modulus, big-endian.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The certificate of the key that made it.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

/// A signature that could not be made, or a signer that could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key is too small, too large, or does not fit the scheme.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// The private key does not belong to the certificate.
    #[error(
        "the key does not belong to the certificate {certificate:?}: their public keys differ; \
         use the certificate that was issued for this key"
    )]
    KeyMismatch {
        /// Id of the certificate.
        certificate: String,
    },
    /// Of several keys, none has a certificate that is valid.
    #[error(
        "no signer has a certificate that is valid at {}: {}; renew them, or set this machine's clock",
        rfc3339(*at), certificates.join("; ")
    )]
    OutOfTime {
        /// The time of the check.
        at: SystemTime,
        /// The certificates, and what is wrong with each.
        certificates: Vec<String>,
        /// Whether one of them becomes valid by itself.
        will_be_valid: bool,
    },
    /// `aws-lc-rs` did not make the signature.
    #[error("the software key could not make a signature with {scheme}")]
    Software {
        /// What was wanted.
        scheme: Scheme,
    },
    /// The PKCS#11 token did not make the signature.
    #[cfg(feature = "pkcs11")]
    #[error(transparent)]
    Token(#[from] crate::pkcs11::error::Error),
    /// A signer from outside this crate failed.
    #[error("{source}")]
    Other {
        /// What a caller may do about it.
        class: ErrorClass,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SignError {
    /// What a caller may do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Scheme(_) | Self::KeyMismatch { .. } | Self::Software { .. } => {
                ErrorClass::Permanent
            }
            Self::OutOfTime {
                will_be_valid: true,
                ..
            } => ErrorClass::Transient,
            Self::OutOfTime { .. } => ErrorClass::Permanent,
            #[cfg(feature = "pkcs11")]
            Self::Token(error) => error.class(),
            Self::Other { class, .. } => *class,
        }
    }
}

/// The check that every signer makes when it is built: the key's size, the scheme's fit, and that key and certificate
/// belong together.
#[cfg(any(feature = "pkcs11", feature = "software"))]
pub(crate) fn check_pair(
    key: &PublicKey,
    certificate: &Certificate,
    scheme: Scheme,
    sizes: crate::pss::KeySizes,
) -> Result<(), SignError> {
    sizes.check(key.bits())?;
    key.salt_len(scheme)?;
    if key != certificate.public_key() {
        return Err(SignError::KeyMismatch {
            certificate: certificate.id().to_owned(),
        });
    }
    // The certificate may allow less than the key does.
    certificate.public_key().salt_len(scheme)?;
    Ok(())
}
