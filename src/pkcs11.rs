//! RSA keys on PKCS#11 tokens.

/// What a token, its module or its configuration did wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}

impl Error {
    /// What a caller may do about it.
    #[must_use]
    pub fn class(&self) -> crate::error::ErrorClass {
        match *self {}
    }
}
