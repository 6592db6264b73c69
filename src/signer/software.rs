//! [`SoftwareSigner`]: a key in memory (feature `software`).
//!
//! It is what a caller names, never what anything here falls back to. A build without the feature has no code that
//! could load a private key.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair, RsaPssSaltLength,
    RsaSignatureEncoding,
};
use const_oid::db::rfc5912::{ID_RSASSA_PSS, RSA_ENCRYPTION};
use der::{Decode as _, SecretDocument};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};

use crate::certificate::Certificate;
use crate::error::ErrorClass;
use crate::pss::{Digest, KeySizes, Salt, Scheme, SchemeError};
use crate::public_key::{PublicKey, algorithm_name};
use crate::signer::{SignError, Signature, Signer, SigningKey, check_pair};

/// A private RSA key of 2048 to 8192 bits in memory.
///
/// The key lives in `aws-lc`, which clears its memory when the key is dropped; the bytes it was read from are cleared
/// as soon as they are parsed.
pub struct SoftwareKey {
    pair: RsaKeyPair,
    public_key: PublicKey,
    scheme: Scheme,
}

impl SoftwareKey {
    /// Reads the first private key of a PEM text: PKCS#8 (`PRIVATE KEY`), PKCS#1 (`RSA PRIVATE KEY`), or PKCS#8 under a
    /// password (`ENCRYPTED PRIVATE KEY`, PBES2 with AES or 3DES and PBKDF2 or scrypt). Certificates and text around it
    /// are skipped.
    ///
    /// `password` is wanted exactly when the key has one; a password for a key that has none is an error, because
    /// somebody believes the file to be protected.
    ///
    /// # Errors
    /// [`KeyError`] when there is no such key, when the password is missing, not wanted or wrong, or when the key is not
    /// RSA or does not fit the scheme.
    pub fn from_pem(pem: &[u8], password: Option<&[u8]>, scheme: Scheme) -> Result<Self, KeyError> {
        let section = PemSection::find(pem)?;
        match (section.label, password) {
            ("PRIVATE KEY", None) => Self::from_pkcs8(section.decode()?.as_bytes(), scheme),
            ("RSA PRIVATE KEY", None) => Self::from_pkcs1(section.decode()?.as_bytes(), scheme),
            ("ENCRYPTED PRIVATE KEY", Some(password)) => {
                let document = section.decode()?;
                let encrypted = EncryptedPrivateKeyInfoRef::from_der(document.as_bytes())
                    .map_err(|_| KeyError::Malformed)?;
                let plain = encrypted
                    .decrypt(password)
                    .map_err(|_| KeyError::WrongPassword)?;
                Self::from_pkcs8(plain.as_bytes(), scheme)
            }
            ("ENCRYPTED PRIVATE KEY", None) => Err(KeyError::PasswordMissing),
            ("PRIVATE KEY" | "RSA PRIVATE KEY", Some(_)) => Err(KeyError::PasswordNotWanted),
            (label, _) => Err(KeyError::Unsupported {
                label: label.to_owned(),
            }),
        }
    }

    /// Reads a DER `PrivateKeyInfo` (PKCS#8, RFC 5958) without a password. The caller clears `der`.
    ///
    /// # Errors
    /// [`KeyError`] when it is none, is not RSA or does not fit the scheme.
    pub fn from_pkcs8(der: &[u8], scheme: Scheme) -> Result<Self, KeyError> {
        let info = PrivateKeyInfoRef::from_der(der).map_err(|_| KeyError::Malformed)?;
        match info.algorithm.oid {
            RSA_ENCRYPTION => Self::from_pkcs1(info.private_key.as_bytes(), scheme),
            // Its parameters would bind the scheme, and no tool of this field makes such keys by default.
            ID_RSASSA_PSS => Err(KeyError::PssKey),
            other => Err(KeyError::NotRsa {
                algorithm: algorithm_name(other),
            }),
        }
    }

    /// Reads a DER `RSAPrivateKey` (PKCS#1, RFC 8017, A.1.2). The caller clears `der`.
    ///
    /// # Errors
    /// [`KeyError`] when it is none or does not fit the scheme.
    pub fn from_pkcs1(der: &[u8], scheme: Scheme) -> Result<Self, KeyError> {
        let pair =
            RsaKeyPair::from_der(der).map_err(|rejected| match rejected.to_string().as_str() {
                "TooSmall" | "TooLarge" => KeyError::Size,
                _ => KeyError::Malformed,
            })?;
        let public_key =
            PublicKey::from_pkcs1(pair.public_key().as_ref()).map_err(|_| KeyError::Malformed)?;
        KeySizes::default().check(public_key.bits())?;
        scheme.salt_len(public_key.bits())?;
        Ok(Self {
            pair,
            public_key,
            scheme,
        })
    }
}

impl SigningKey for SoftwareKey {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn scheme(&self) -> Scheme {
        self.scheme
    }

    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                encoding(self.scheme),
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .map_err(|_| SignError::Software {
                scheme: self.scheme,
            })?;
        Ok(signature)
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey")
            .field("public_key", &self.public_key)
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// A [`Signer`] whose key is in memory.
///
/// ```
/// use taskseal::pss::Scheme;
/// use taskseal::{Certificate, Signer, SoftwareKey, SoftwareSigner};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = SoftwareKey::from_pem(include_bytes!("../../docs/examples/worker.key"), None, Scheme::default())?;
/// let certificate = Certificate::from_pem(include_bytes!("../../docs/examples/worker.pem"))?;
/// let signer = SoftwareSigner::new(key, certificate)?;
/// let signature = signer.sign(b"a message")?;
/// signer.certificate().verify(b"a message", signature.as_bytes(), signer.scheme())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SoftwareSigner {
    key: SoftwareKey,
    certificate: Certificate,
}

impl SoftwareSigner {
    /// Joins a key with its certificate.
    ///
    /// # Errors
    /// [`SignError::KeyMismatch`] when they do not belong together.
    pub fn new(key: SoftwareKey, certificate: Certificate) -> Result<Self, SignError> {
        check_pair(
            key.public_key(),
            &certificate,
            key.scheme,
            KeySizes::default(),
        )?;
        tracing::info!(
            signer = certificate.id(),
            bits = key.public_key.bits(),
            scheme = %key.scheme,
            "signer opened: the key is in memory"
        );
        Ok(Self { key, certificate })
    }
}

impl Signer for SoftwareSigner {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn scheme(&self) -> Scheme {
        self.key.scheme
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let signature = self.key.sign_message(message)?;
        tracing::debug!(
            signer = self.certificate.id(),
            bytes = message.len(),
            "signed"
        );
        Ok(Signature::new(signature, self.certificate.clone()))
    }
}

/// A private key that cannot be loaded. Says nothing of the key's bytes or of the password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text holds no private key.
    #[error("there is no private key in it (no \"-----BEGIN … PRIVATE KEY-----\")")]
    NoKey,
    /// A kind of PEM key that is not read.
    #[error(
        "a PEM section {label:?} is not supported; convert the key with `openssl pkcs8 -topk8 -in KEY -out NEW`"
    )]
    Unsupported {
        /// The label of the section.
        label: String,
    },
    /// The traditional OpenSSL encryption (`Proc-Type: 4,ENCRYPTED`), which no maintained crate reads and whose key
    /// derivation is one round of MD5.
    #[error(
        "the key uses OpenSSL's traditional encryption (Proc-Type: 4,ENCRYPTED), which protects it with one round of \
         MD5; convert it with `openssl pkcs8 -topk8 -in KEY -out NEW`"
    )]
    TraditionalEncryption,
    /// The bytes are no key of the kind that the label promises.
    #[error("the private key is damaged")]
    Malformed,
    /// Another algorithm than RSA. Celery refuses these too.
    #[error("non-RSA keys are not supported; this one is {algorithm}")]
    NotRsa {
        /// Name or OID of the algorithm.
        algorithm: String,
    },
    /// An `id-RSASSA-PSS` key.
    #[error(
        "the private key is restricted to RSASSA-PSS parameters, which is not supported; use a plain RSA key"
    )]
    PssKey,
    /// The key's size is not accepted.
    #[error(
        "RSA keys of {} to {} bits are accepted in software; this one is outside",
        KeySizes::MIN,
        KeySizes::MAX
    )]
    Size,
    /// The scheme does not fit the key.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// The key has a password and none was given.
    #[error("the private key is protected by a password, and none was given")]
    PasswordMissing,
    /// The key has no password and one was given.
    #[error("a password was given, but the private key is stored without one")]
    PasswordNotWanted,
    /// The password is wrong, or the encryption is of a kind that is not read.
    #[error(
        "the private key cannot be decrypted: wrong password, or an encryption other than PBES2 with AES or 3DES"
    )]
    WrongPassword,
}

impl KeyError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::PasswordMissing | Self::WrongPassword => ErrorClass::Credential,
            _ => ErrorClass::Permanent,
        }
    }
}

/// The first section of a PEM text whose label says private key.
struct PemSection<'a> {
    label: &'a str,
    text: &'a str,
}

impl<'a> PemSection<'a> {
    fn find(pem: &'a [u8]) -> Result<Self, KeyError> {
        const BEGIN: &str = "-----BEGIN ";
        // Text around the sections may have any encoding; it is skipped up to the first marker.
        let start = pem
            .windows(BEGIN.len())
            .position(|window| window == BEGIN.as_bytes())
            .ok_or(KeyError::NoKey)?;
        let mut rest =
            std::str::from_utf8(pem.split_at(start).1).map_err(|_| KeyError::Malformed)?;
        while let Some((_, from)) = rest.split_once(BEGIN) {
            let (label, body) = from.split_once("-----").ok_or(KeyError::Malformed)?;
            let end = format!("-----END {label}-----");
            let Some((inside, after)) = body.split_once(end.as_str()) else {
                return Err(KeyError::Malformed);
            };
            if label.ends_with("PRIVATE KEY") {
                if inside.contains("Proc-Type:") {
                    return Err(KeyError::TraditionalEncryption);
                }
                let len = BEGIN.len() + label.len() + 5 + inside.len() + end.len();
                let begin = rest.len() - from.len() - BEGIN.len();
                let text = rest.get(begin..begin + len).ok_or(KeyError::Malformed)?;
                return Ok(Self { label, text });
            }
            rest = after;
        }
        Err(KeyError::NoKey)
    }

    fn decode(&self) -> Result<SecretDocument, KeyError> {
        let (_, document) = SecretDocument::from_pem(self.text).map_err(|_| KeyError::Malformed)?;
        Ok(document)
    }
}

fn encoding(scheme: Scheme) -> &'static RsaSignatureEncoding {
    match (scheme.digest, scheme.salt) {
        (Digest::Sha256, Salt::DigestLength) => &RSA_PSS_SHA256,
        (Digest::Sha384, Salt::DigestLength) => &RSA_PSS_SHA384,
        (Digest::Sha512, Salt::DigestLength) => &RSA_PSS_SHA512,
        (Digest::Sha256, Salt::Maximum) => {
            &const { RSA_PSS_SHA256.with_pss_salt_length(RsaPssSaltLength::Max) }
        }
        (Digest::Sha384, Salt::Maximum) => {
            &const { RSA_PSS_SHA384.with_pss_salt_length(RsaPssSaltLength::Max) }
        }
        (Digest::Sha512, Salt::Maximum) => {
            &const { RSA_PSS_SHA512.with_pss_salt_length(RsaPssSaltLength::Max) }
        }
    }
}
