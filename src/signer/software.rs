//! [`SoftwareSigner`]: a key in memory (feature `software`).
//!
//! It is what a caller names, never what anything here falls back to. A build without the feature has no code that
//! could load a private key.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair, RsaPssSaltLength,
    RsaSignatureEncoding,
};
use der::asn1::OctetStringRef;
use der::{Decode as _, SecretDocument, Sequence};
use pkcs8::pkcs5::{self, pbes2::PBES2_OID};
use pkcs8::{AlgorithmIdentifierRef, EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::certificate::Certificate;
use crate::error::{ErrorClass, Untrusted};
use crate::pem::{Section, Sections};
use crate::pss::{Digest, KeySizes, Salt, Scheme, SchemeError};
use crate::public_key::{PssRestriction, PublicKey, PublicKeyError, algorithm_name};
use crate::secret::{self, SecretError};
use crate::signer::{SignError, Signature, Signer, SigningKey, check_pair};

/// A private RSA key of 2048 to 8192 bits in memory.
///
/// The key lives in `aws-lc`, which clears its memory when the key is dropped; the bytes it was read from are cleared
/// as soon as they are parsed. Clones share the one key.
#[derive(Clone)]
pub struct SoftwareKey {
    pair: Arc<RsaKeyPair>,
    public_key: PublicKey,
    scheme: Scheme,
}

impl SoftwareKey {
    /// Reads the first private key of a PEM text: PKCS#8 (`PRIVATE KEY`), PKCS#1 (`RSA PRIVATE KEY`), or PKCS#8 under a
    /// password (`ENCRYPTED PRIVATE KEY`, PBES2 with AES or 3DES and PBKDF2 or scrypt). Certificates and text around it
    /// are skipped.
    ///
    /// `password` is wanted exactly when the key has one; a password for a key that has none is an error, because
    /// somebody believes the file to be protected. An empty one counts as none.
    ///
    /// # Errors
    /// [`KeyError`] when there is no such key, when the password is missing, not wanted or wrong, or when the key is not
    /// RSA or does not fit the scheme.
    pub fn from_pem(pem: &[u8], password: Option<&[u8]>, scheme: Scheme) -> Result<Self, KeyError> {
        let section = key_section(pem)?;
        let passwords = Passwords::new(password)?;
        match (section.label, passwords) {
            ("PRIVATE KEY", None) => Self::from_pkcs8(&decode(&section)?, scheme),
            ("RSA PRIVATE KEY", None) => Self::from_pkcs1(&decode(&section)?, scheme),
            ("ENCRYPTED PRIVATE KEY", Some(passwords)) => {
                let plain = passwords.decrypt(&decode(&section)?)?;
                Self::from_pkcs8(plain.as_bytes(), scheme)
            }
            ("ENCRYPTED PRIVATE KEY", None) => Err(KeyError::PasswordMissing),
            ("PRIVATE KEY" | "RSA PRIVATE KEY", Some(_)) => Err(KeyError::PasswordNotWanted),
            (label @ ("EC PRIVATE KEY" | "DSA PRIVATE KEY"), _) => Err(KeyError::NotRsa {
                algorithm: label.trim_end_matches(" PRIVATE KEY").to_owned(),
            }),
            ("OPENSSH PRIVATE KEY", _) => Err(KeyError::OpenSsh),
            (label, _) => Err(KeyError::Unsupported {
                label: label.into(),
            }),
        }
    }

    /// Reads a DER `PrivateKeyInfo` (PKCS#8, RFC 5958) without a password. The caller clears `der`. Parameters of an
    /// `id-RSASSA-PSS` key (RFC 4055, 3.3) hold: it signs under no other digest and no shorter salt.
    ///
    /// # Errors
    /// [`KeyError`] when it is none, is not RSA or does not fit the scheme.
    pub fn from_pkcs8(der: &[u8], scheme: Scheme) -> Result<Self, KeyError> {
        let info = PrivateKeyInfoRef::from_der(der).map_err(|_| KeyError::Malformed)?;
        let restriction = PssRestriction::of(info.algorithm).map_err(|error| match error {
            PublicKeyError::NotRsa { algorithm } => KeyError::NotRsa { algorithm },
            PublicKeyError::Parameters => KeyError::Parameters(error),
            _ => KeyError::Malformed,
        })?;
        Self::new(info.private_key.as_bytes(), restriction, scheme)
    }

    /// Reads a DER `RSAPrivateKey` (PKCS#1, RFC 8017, A.1.2). The caller clears `der`.
    ///
    /// # Errors
    /// [`KeyError`] when it is none or does not fit the scheme.
    pub fn from_pkcs1(der: &[u8], scheme: Scheme) -> Result<Self, KeyError> {
        Self::new(der, None, scheme)
    }

    /// Takes the `RSAPrivateKey` that all kinds of RSA keys have inside.
    fn new(
        der: &[u8],
        restriction: Option<PssRestriction>,
        scheme: Scheme,
    ) -> Result<Self, KeyError> {
        let pair =
            RsaKeyPair::from_der(der).map_err(|rejected| match rejected.to_string().as_str() {
                "TooSmall" | "TooLarge" => KeyError::Size,
                _ => KeyError::Malformed,
            })?;
        let public_key =
            PublicKey::from_pkcs1(pair.public_key().as_ref()).map_err(|_| KeyError::Malformed)?;
        let public_key = public_key.restricted(restriction);
        KeySizes::default().check(public_key.bits())?;
        public_key.salt_len(scheme)?;
        Ok(Self {
            pair: Arc::new(pair),
            public_key,
            scheme,
        })
    }

    /// The same key, signing under another scheme.
    ///
    /// # Errors
    /// [`SchemeError::KeyTooSmall`] when digest and salt do not fit it; [`SchemeError::Restricted`] when it is for others.
    pub fn with_scheme(&self, scheme: Scheme) -> Result<Self, SchemeError> {
        self.public_key.salt_len(scheme)?;
        Ok(Self {
            scheme,
            ..self.clone()
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
        "a PEM section {label} is not supported; convert the key with `openssl pkcs8 -topk8 -in KEY -out NEW`"
    )]
    Unsupported {
        /// The label of the section.
        label: Untrusted,
    },
    /// OpenSSH's own format.
    #[error(
        "keys in OpenSSH's own format are not supported; convert a copy of it with `ssh-keygen -p -m PKCS8 -f COPY`"
    )]
    OpenSsh,
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
    /// An `id-RSASSA-PSS` key whose parameters no scheme here fulfils.
    #[error(transparent)]
    Parameters(PublicKeyError),
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
    /// The password is wrong, or the encrypted bytes are damaged; nothing tells the two apart.
    #[error("the private key cannot be decrypted: the password is wrong")]
    WrongPassword,
    /// The password is not one that can be meant.
    #[error("the password of the private key cannot be used: {0}")]
    Password(SecretError),
    /// The encryption is of a kind that is not read.
    #[error(
        "the private key is encrypted with {algorithm}, which is not supported; convert it with \
         `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW`"
    )]
    Encryption {
        /// Names or OIDs of the algorithms.
        algorithm: String,
    },
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

/// The first section of a PEM text that holds a private key, or must have been meant to.
fn key_section(pem: &[u8]) -> Result<Section<'_>, KeyError> {
    let section = Sections::new(pem)
        .find(|section| section.mentions("PRIVATE KEY"))
        .ok_or(KeyError::NoKey)?;
    match section.is_encrypted() {
        true => Err(KeyError::TraditionalEncryption),
        false => Ok(section),
    }
}

fn decode(section: &Section<'_>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    section.decode().map_err(|_| KeyError::Malformed)
}

/// `EncryptedPrivateKeyInfo` (RFC 5958, section 3) as far as every algorithm has it.
#[derive(Sequence)]
struct AnyEncrypted<'a> {
    algorithm: AlgorithmIdentifierRef<'a>,
    data: &'a OctetStringRef,
}

/// `PBES2-params` (RFC 8018, A.4) of any algorithms.
#[derive(Sequence)]
struct AnyPbes2<'a> {
    derivation: AlgorithmIdentifierRef<'a>,
    encryption: AlgorithmIdentifierRef<'a>,
}

/// What a password is taken for: without the newline of its file, and as it was given if that is wrong. A wrong one costs
/// nothing.
struct Passwords<'a> {
    usual: &'a [u8],
    given: &'a [u8],
}

impl<'a> Passwords<'a> {
    /// None where no password was given.
    fn new(given: Option<&'a [u8]>) -> Result<Option<Self>, KeyError> {
        let Some(given) = given else {
            return Ok(None);
        };
        match secret::password(given) {
            Ok(usual) => Ok(Some(Self { usual, given })),
            Err(SecretError::Empty) => Ok(None),
            Err(error) => Err(KeyError::Password(error)),
        }
    }

    fn decrypt(&self, der: &[u8]) -> Result<SecretDocument, KeyError> {
        match decrypt(der, self.usual) {
            Err(KeyError::WrongPassword) if self.usual != self.given => decrypt(der, self.given),
            other => other,
        }
    }
}

fn decrypt(der: &[u8], password: &[u8]) -> Result<SecretDocument, KeyError> {
    // The algorithms that are not known here are an error of this structure.
    let Ok(encrypted) = EncryptedPrivateKeyInfoRef::from_der(der) else {
        let any = AnyEncrypted::from_der(der).map_err(|_| KeyError::Malformed)?;
        return Err(KeyError::Encryption {
            algorithm: encryption_name(&any.algorithm),
        });
    };
    encrypted.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(
            pkcs5::Error::NoPbes1CryptSupport
            | pkcs5::Error::UnsupportedAlgorithm { .. }
            | pkcs5::Error::AlgorithmParametersInvalid { .. },
        ) => KeyError::Encryption {
            algorithm: AnyEncrypted::from_der(der)
                .map_or_else(|_| String::new(), |any| encryption_name(&any.algorithm)),
        },
        _ => KeyError::WrongPassword,
    })
}

fn encryption_name(algorithm: &AlgorithmIdentifierRef<'_>) -> String {
    let parts = algorithm
        .parameters
        .and_then(|any| any.decode_as::<AnyPbes2<'_>>().ok());
    match parts {
        Some(pbes2) if algorithm.oid == PBES2_OID => format!(
            "{} and {}",
            algorithm_name(pbes2.derivation.oid),
            algorithm_name(pbes2.encryption.oid)
        ),
        _ => algorithm_name(algorithm.oid),
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
