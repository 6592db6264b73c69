//! [`Pkcs11Signer`]: a key on a token, with its certificate.

use super::error::Error;
use super::health::{Health, Statistics};
use super::key::Pkcs11Key;
use crate::certificate::Certificate;
use crate::pss::Scheme;
use crate::signer::{SignError, Signature, Signer, SigningKey as _};

/// A [`Signer`] whose key is an object on a PKCS#11 token.
///
/// May be used from many threads at once; see [`Builder::max_sessions`](super::Builder::max_sessions).
#[derive(Debug)]
pub struct Pkcs11Signer {
    key: Pkcs11Key,
    certificate: Certificate,
}

impl Pkcs11Signer {
    /// The key without its certificate.
    #[must_use]
    pub const fn key(&self) -> &Pkcs11Key {
        &self.key
    }

    /// Joins a key with the certificate that was checked to be its.
    pub(super) const fn new(key: Pkcs11Key, certificate: Certificate) -> Self {
        Self { key, certificate }
    }

    /// As [`Pkcs11Key::health`].
    #[must_use]
    pub fn health(&self) -> Health {
        self.key.health()
    }

    /// As [`Pkcs11Key::statistics`].
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.key.statistics()
    }

    /// As [`Pkcs11Key::close`].
    ///
    /// # Errors
    /// As for [`Pkcs11Key::close`].
    pub fn close(&self) -> Result<(), Error> {
        self.key.close()
    }
}

impl Signer for Pkcs11Signer {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn scheme(&self) -> Scheme {
        self.key.scheme()
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        Ok(Signature::new(
            self.key.sign_message(message)?,
            self.certificate.clone(),
        ))
    }
}
