//! [`Opener`] and [`Policy`]: unpack, find the signer, check, verify, and only then hand out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::certificate::{Certificate, rfc3339};
use crate::envelope::{Envelope, EnvelopeError, Format, SEALED_CONTENT_TYPE, Unpacked, celery};
use crate::error::{ErrorClass, Untrusted};
use crate::message::bound::is_bound;
use crate::pss::{Digest, KeySizes, Salt, Scheme, SchemeError};
use crate::store::CertStore;

/// Opens sealed messages: nothing comes out that was not verified.
///
/// ```
/// # use std::sync::Arc;
/// # use taskseal::pss::Scheme;
/// # use taskseal::{Certificate, MemoryCertStore, Sealer, SoftwareKey, SoftwareSigner};
/// use taskseal::Opener;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let key = SoftwareKey::from_pem(include_bytes!("../docs/examples/worker.key"), None, Scheme::default())?;
/// # let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
/// # let store = MemoryCertStore::new();
/// # store.add(certificate.clone())?;
/// # let sealed = Sealer::new(Arc::new(SoftwareSigner::new(key, certificate)?)).seal(&[1, 2])?;
/// # let (content_type, wire) = ("application/data", sealed.as_bytes());
/// let opener = Opener::new(store);
/// let opened = opener.open_message(content_type, wire)?;
/// println!("signed by {}", opened.signer().id());
/// let numbers: Vec<u32> = opened.json()?;
/// # assert_eq!(numbers, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Opener {
    store: Arc<dyn CertStore>,
    policy: Policy,
}

impl Opener {
    /// Opens with the default [`Policy`] what the certificates of `store` signed.
    #[must_use]
    pub fn new(store: impl CertStore + 'static) -> Self {
        Self {
            store: Arc::new(store),
            policy: Policy::default(),
        }
    }

    /// Opens under another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The counterpart of Celery's `setup_security`: opens a message as it came from the broker, with its outer content
    /// type. Anything but `application/data` is refused before a byte of it is looked at, so no unsigned message gets in.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open_message<'w>(
        &self,
        content_type: &str,
        wire: &'w [u8],
    ) -> Result<Opened<'w>, OpenError> {
        self.open_message_at(content_type, wire, SystemTime::now())
    }

    /// Like [`open_message`](Self::open_message), as if it were `at`.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open_message_at<'w>(
        &self,
        content_type: &str,
        wire: &'w [u8],
        at: SystemTime,
    ) -> Result<Opened<'w>, OpenError> {
        if content_type != SEALED_CONTENT_TYPE {
            let error = OpenError::NotSealed {
                content_type: content_type.into(),
            };
            return Err(refused(error));
        }
        self.open_at(wire, at)
    }

    /// Opens a wire form that is known to have come as `application/data`.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open<'w>(&self, wire: &'w [u8]) -> Result<Opened<'w>, OpenError> {
        self.open_at(wire, SystemTime::now())
    }

    /// Like [`open`](Self::open), as if it were `at`.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open_at<'w>(&self, wire: &'w [u8], at: SystemTime) -> Result<Opened<'w>, OpenError> {
        self.open_scope(wire, at, Scope::Body)
    }

    /// Opens what was signed for one scope; what was signed for the other is refused.
    pub(crate) fn open_scope<'w>(
        &self,
        wire: &'w [u8],
        at: SystemTime,
        scope: Scope,
    ) -> Result<Opened<'w>, OpenError> {
        let opened = self.verify(wire, at, scope).map_err(refused)?;
        tracing::debug!(
            signer = opened.signer().id(),
            format = %opened.format(),
            content_type = opened.content_type(),
            bytes = opened.body().len(),
            "message opened"
        );
        Ok(opened)
    }

    fn verify<'w>(
        &self,
        wire: &'w [u8],
        at: SystemTime,
        scope: Scope,
    ) -> Result<Opened<'w>, OpenError> {
        let policy = &self.policy;
        if wire.len() > policy.max_message_len {
            return Err(OpenError::TooLarge {
                len: wire.len(),
                max: policy.max_message_len,
            });
        }
        let signature_len = |id: &str| {
            self.store
                .get(id)
                .map(|found| found.public_key().signature_len())
        };
        let unpacked = celery::unpack(&policy.formats, wire, &signature_len)?;
        let certificate =
            self.store
                .get(unpacked.signer_id())
                .ok_or_else(|| OpenError::UnknownSigner {
                    signer_id: unpacked.signer_id().into(),
                })?;
        policy.check_certificate(&certificate, at)?;
        policy.check_content(unpacked.envelope())?;
        if is_bound(unpacked.body()) != (scope == Scope::Bound) {
            return Err(OpenError::Scope);
        }
        let salt = certificate
            .public_key()
            .verifies_any(
                unpacked.body(),
                unpacked.signature(),
                policy.digest,
                &policy.salts,
            )
            .ok_or_else(|| OpenError::BadSignature {
                signer_id: certificate.id().to_owned(),
            })?;
        Ok(Opened {
            unpacked,
            certificate,
            scheme: Scheme::new(policy.digest, salt),
        })
    }
}

/// What a signature was made for. The same keys sign both, so each opener takes one of them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The body of a task: any bytes, without the prefix of the other.
    Body,
    /// Bound content: a whole message, or a payload with a context.
    Bound,
}

/// Logs a refusal and hands it on.
fn refused(error: OpenError) -> OpenError {
    tracing::warn!(reason = error.reason(), %error, "message refused");
    error
}

/// What an [`Opener`] accepts. Closed by default; every method opens it a little.
///
/// | | default |
/// |---|---|
/// | inner content types | `application/json` |
/// | content encodings | `utf-8`, `binary` |
/// | formats | [`Format::Celery`] |
/// | digest | SHA-256 |
/// | salts | digest length and maximum |
/// | RSA key | 2048 to 8192 bits |
/// | wire form | 64 MiB |
/// | clock skew | none |
#[derive(Debug, Clone)]
pub struct Policy {
    content_types: BTreeSet<String>,
    content_encodings: BTreeSet<String>,
    formats: Vec<Format>,
    digest: Digest,
    salts: Vec<Salt>,
    key_sizes: KeySizes,
    max_message_len: usize,
    clock_skew: Duration,
    check_key_usage: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            content_types: BTreeSet::from(["application/json".to_owned()]),
            content_encodings: BTreeSet::from(["utf-8".to_owned(), "binary".to_owned()]),
            formats: vec![Format::Celery],
            digest: Digest::Sha256,
            salts: Salt::ALL.to_vec(),
            key_sizes: KeySizes::default(),
            max_message_len: Self::MAX_MESSAGE_LEN,
            clock_skew: Duration::ZERO,
            check_key_usage: true,
        }
    }
}

impl Policy {
    /// The default limit of a wire form: 64 MiB, in bytes.
    pub const MAX_MESSAGE_LEN: usize = 64 * 1024 * 1024;

    /// The default policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts one more inner content type, compared byte by byte. The signature does not cover the content type, so
    /// list only what the application would take from this signer under *any* listed type. Stock Celery loads whatever
    /// the message says.
    #[must_use]
    pub fn accept_content_type(mut self, content_type: &str) -> Self {
        self.content_types.insert(content_type.to_owned());
        self
    }

    /// Accepts these inner content types and no others.
    #[must_use]
    pub fn content_types<'a>(mut self, content_types: impl IntoIterator<Item = &'a str>) -> Self {
        self.content_types = content_types.into_iter().map(str::to_owned).collect();
        self
    }

    /// Accepts one more content encoding, compared byte by byte.
    #[must_use]
    pub fn accept_content_encoding(mut self, content_encoding: &str) -> Self {
        self.content_encodings.insert(content_encoding.to_owned());
        self
    }

    /// Accepts these content encodings and no others.
    #[must_use]
    pub fn content_encodings<'a>(mut self, encodings: impl IntoIterator<Item = &'a str>) -> Self {
        self.content_encodings = encodings.into_iter().map(str::to_owned).collect();
        self
    }

    /// Accepts messages in any of these formats; each tells which it is.
    #[must_use]
    pub fn formats(mut self, formats: impl IntoIterator<Item = Format>) -> Self {
        self.formats = formats.into_iter().collect();
        self
    }

    /// The digest that signers use; the envelope does not name it. Celery's `security_digest`.
    #[must_use]
    pub const fn digest(mut self, digest: Digest) -> Self {
        self.digest = digest;
        self
    }

    /// Accepts signatures with these salt lengths alone.
    #[must_use]
    pub fn salts(mut self, salts: impl IntoIterator<Item = Salt>) -> Self {
        self.salts = salts.into_iter().collect();
        self
    }

    /// The RSA key sizes that are accepted.
    #[must_use]
    pub const fn key_sizes(mut self, key_sizes: KeySizes) -> Self {
        self.key_sizes = key_sizes;
        self
    }

    /// The longest wire form, in bytes.
    #[must_use]
    pub const fn max_message_len(mut self, bytes: usize) -> Self {
        self.max_message_len = bytes;
        self
    }

    /// How far this host's clock may be off: a certificate counts as valid for that much longer at both ends.
    #[must_use]
    pub const fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// Accepts certificates whose key usage does not allow signatures on messages, as stock Celery does: for one that was
    /// issued as a CA and is used as a signer.
    #[must_use]
    pub const fn dangerous_ignore_key_usage(mut self) -> Self {
        self.check_key_usage = false;
        self
    }

    pub(crate) const fn longest_message(&self) -> usize {
        self.max_message_len
    }

    fn check_certificate(
        &self,
        certificate: &Certificate,
        at: SystemTime,
    ) -> Result<(), OpenError> {
        let signer_id = || certificate.id().to_owned();
        // A clock so close to either end of time that the skew leaves its range is read as it is.
        let earliest = at.checked_sub(self.clock_skew).unwrap_or(at);
        let latest = at.checked_add(self.clock_skew).unwrap_or(at);
        if certificate.has_expired(earliest) {
            let not_after = certificate.not_after();
            return Err(OpenError::Expired {
                signer_id: signer_id(),
                not_after,
                at,
            });
        }
        if certificate.is_not_yet_valid(latest) {
            let not_before = certificate.not_before();
            return Err(OpenError::NotYetValid {
                signer_id: signer_id(),
                not_before,
                at,
            });
        }
        if self.check_key_usage && !certificate.allows_signatures() {
            return Err(OpenError::KeyUsage {
                signer_id: signer_id(),
            });
        }
        self.key_sizes
            .check(certificate.public_key().bits())
            .map_err(|source| OpenError::Key {
                signer_id: signer_id(),
                source,
            })
    }

    fn check_content(&self, envelope: Envelope<'_>) -> Result<(), OpenError> {
        if !self.content_types.contains(envelope.content_type) {
            return Err(OpenError::ContentType {
                content_type: envelope.content_type.into(),
                accepted: self.content_types.iter().cloned().collect(),
            });
        }
        if !self.content_encodings.contains(envelope.content_encoding) {
            return Err(OpenError::ContentEncoding {
                content_encoding: envelope.content_encoding.into(),
                accepted: self.content_encodings.iter().cloned().collect(),
            });
        }
        Ok(())
    }
}

/// A message whose signature was verified.
///
/// Content type and encoding are on the policy's list, but not covered by the signature in any of Celery's formats.
#[derive(Debug)]
pub struct Opened<'w> {
    unpacked: Unpacked<'w>,
    certificate: Certificate,
    scheme: Scheme,
}

impl Opened<'_> {
    /// The certificate of the signer.
    #[must_use]
    pub fn signer(&self) -> &Certificate {
        &self.certificate
    }

    /// The scheme under which the signature verified.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The format that the message came in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.unpacked.format()
    }

    /// The inner content type.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.unpacked.content_type()
    }

    /// The inner content encoding.
    #[must_use]
    pub fn content_encoding(&self) -> &str {
        self.unpacked.content_encoding()
    }

    /// The body, as it was signed: a slice of the one decoded buffer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.unpacked.body()
    }

    /// The body, taking over the decoded buffer.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.unpacked.into_body()
    }

    /// Deserializes a JSON body; strings may borrow from it.
    ///
    /// # Errors
    /// [`OpenError::NotJson`] when the content type is another one; [`OpenError::Json`] when the body is no JSON of that
    /// shape. Python's `NaN` and `Infinity` are no JSON.
    pub fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, OpenError> {
        if self.content_type() != "application/json" {
            return Err(OpenError::NotJson {
                content_type: self.content_type().to_owned(),
            });
        }
        // The text of serde_json's error may quote the body, so only the place is kept.
        serde_json::from_slice(self.body()).map_err(|error| OpenError::Json {
            line: error.line(),
            column: error.column(),
        })
    }
}

/// A message that was refused, and why. Everything but [`OpenError::NotJson`] and [`OpenError::Json`] comes from
/// before the body was believed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The outer content type is not the sealed one: the message is not signed.
    #[error(
        "the message is not sealed: its content type is {content_type}, not {SEALED_CONTENT_TYPE:?}"
    )]
    NotSealed {
        /// The outer content type.
        content_type: Untrusted,
    },
    /// The wire form is longer than the policy allows.
    #[error("a message of {len} bytes is refused; the limit is {max} bytes")]
    TooLarge {
        /// Length of the wire form, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The wire form is no envelope of an accepted format.
    #[error("the message is malformed: {0}")]
    Malformed(EnvelopeError),
    /// No certificate of that id is in the store.
    #[error("the signer {signer_id} is unknown: the certificate store has no such certificate")]
    UnknownSigner {
        /// The signer id that the message names.
        signer_id: Untrusted,
    },
    /// The signer's certificate has expired.
    #[error(
        "the certificate of {signer_id:?} expired at {}; it is {}",
        rfc3339(*not_after), rfc3339(*at)
    )]
    Expired {
        /// Id of the certificate.
        signer_id: String,
        /// When it ended.
        not_after: SystemTime,
        /// The time of the check.
        at: SystemTime,
    },
    /// The signer's certificate is not valid yet.
    #[error(
        "the certificate of {signer_id:?} is not valid before {}; it is {}",
        rfc3339(*not_before), rfc3339(*at)
    )]
    NotYetValid {
        /// Id of the certificate.
        signer_id: String,
        /// When it begins.
        not_before: SystemTime,
        /// The time of the check.
        at: SystemTime,
    },
    /// The certificate's key usage does not allow signatures on messages.
    #[error(
        "the certificate of {signer_id:?} is not for signing messages: its key usage has neither \
         digitalSignature nor nonRepudiation"
    )]
    KeyUsage {
        /// Id of the certificate.
        signer_id: String,
    },
    /// The signer's key is outside of the sizes that the policy accepts.
    #[error("the certificate of {signer_id:?}: {source}")]
    Key {
        /// Id of the certificate.
        signer_id: String,
        /// What is wrong with the key.
        source: SchemeError,
    },
    /// The inner content type is not on the policy's list.
    #[error("the content type {content_type} is not accepted; accepted: {}", accepted.join(", "))]
    ContentType {
        /// The content type that the message names.
        content_type: Untrusted,
        /// What the policy accepts.
        accepted: Vec<String>,
    },
    /// The content encoding is not on the policy's list.
    #[error(
        "the content encoding {content_encoding} is not accepted; accepted: {}", accepted.join(", ")
    )]
    ContentEncoding {
        /// The content encoding that the message names.
        content_encoding: Untrusted,
        /// What the policy accepts.
        accepted: Vec<String>,
    },
    /// The signature does not verify: the body was changed, somebody else signed it, or the digest or salt is not what
    /// the policy says.
    #[error(
        "the signature of {signer_id:?} does not verify: the body or the signature was changed, or it was made with \
         another key, digest or salt length"
    )]
    BadSignature {
        /// Id of the certificate.
        signer_id: String,
    },
    /// A signed whole message was taken for the body of a task, or the other way round.
    #[error(
        "what was signed is for another scope: a whole message is no task body, and a task body no whole message"
    )]
    Scope,
    /// JSON was asked for, and the body is something else.
    #[error("the body is {content_type}, not application/json")]
    NotJson {
        /// The inner content type.
        content_type: String,
    },
    /// The body is no JSON of the wanted shape.
    #[error("the body is no JSON of the expected shape (line {line}, column {column})")]
    Json {
        /// Line of the body, from 1.
        line: usize,
        /// Column of that line, from 1; 0 when it is not known.
        column: usize,
    },
}

impl From<EnvelopeError> for OpenError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::SignatureLength { signer_id } => Self::UnknownSigner { signer_id },
            other => Self::Malformed(other),
        }
    }
}

impl OpenError {
    /// [`ErrorClass::Rejected`] for a refused message; [`ErrorClass::Permanent`] when a verified body is no JSON of the
    /// wanted shape.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::NotJson { .. } | Self::Json { .. } => ErrorClass::Permanent,
            _ => ErrorClass::Rejected,
        }
    }

    /// The reason in one stable lower-case word, for logs, metrics labels and `--json`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotSealed { .. } => "not-sealed",
            Self::TooLarge { .. } => "too-large",
            Self::Malformed(_) => "malformed",
            Self::UnknownSigner { .. } => "unknown-signer",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::KeyUsage { .. } => "key-usage",
            Self::Key { .. } => "key-size",
            Self::ContentType { .. } => "content-type",
            Self::ContentEncoding { .. } => "content-encoding",
            Self::BadSignature { .. } => "bad-signature",
            Self::Scope => "scope",
            Self::NotJson { .. } => "not-json",
            Self::Json { .. } => "json",
        }
    }
}
