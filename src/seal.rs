//! [`Sealer`]: serializes, signs and packs.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::envelope::{Envelope, EnvelopeError, Format, SEALED_CONTENT_TYPE};
use crate::error::ErrorClass;
use crate::message::bound::is_bound;
use crate::signer::{SignError, Signer};

/// Seals messages with one signer, in one format, with one inner content type.
///
/// ```
/// # use std::sync::Arc;
/// # use taskseal::pss::Scheme;
/// # use taskseal::{Certificate, SoftwareKey, SoftwareSigner};
/// use taskseal::{Format, Sealer, Signer};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let key = SoftwareKey::from_pem(include_bytes!("../docs/examples/worker.key"), None, Scheme::default())?;
/// # let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
/// let signer: Arc<dyn Signer> = Arc::new(SoftwareSigner::new(key, certificate)?);
/// let sealer = Sealer::new(signer);
/// let sealed = sealer.seal(&(["add", "these"], (), ()))?;
/// assert_eq!(sealed.content_type(), "application/data");
/// assert!(sealed.as_str().is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sealer {
    signer: Arc<dyn Signer>,
    format: Format,
    content_type: String,
    content_encoding: String,
}

impl Sealer {
    /// Seals JSON (`application/json`, `utf-8`) in the format [`Format::Celery`].
    #[must_use]
    pub fn new(signer: Arc<dyn Signer>) -> Self {
        Self {
            signer,
            format: Format::default(),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
        }
    }

    /// Packs in another format. Celery 5.4 and older may want a signer with the maximum salt
    /// ([`Format::default_salt`]).
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        if format.default_salt() > self.signer.scheme().salt {
            tracing::warn!(
                %format,
                scheme = %self.signer.scheme(),
                "readers of this format with an old Python cryptography accept the maximum salt alone"
            );
        }
        self.format = format;
        self
    }

    /// Says what the bodies are, for example `application/x-yaml` and `utf-8`, or `application/x-msgpack` and `binary`:
    /// 1 to 255 bytes of visible ASCII each. They are not covered by the signature.
    #[must_use]
    pub fn with_content(mut self, content_type: &str, content_encoding: &str) -> Self {
        content_type.clone_into(&mut self.content_type);
        content_encoding.clone_into(&mut self.content_encoding);
        self
    }

    /// The signer.
    #[must_use]
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Serializes `value` as JSON and seals it.
    ///
    /// # Errors
    /// [`SealError::NotJson`] when this sealer was told that its bodies are something else, [`SealError::Serialize`] when
    /// the value has no JSON form, else as for [`seal_bytes`](Self::seal_bytes).
    pub fn seal<T: Serialize + ?Sized>(&self, value: &T) -> Result<Sealed, SealError> {
        if self.content_type != "application/json" {
            return Err(SealError::NotJson {
                content_type: self.content_type.clone(),
            });
        }
        // The error's text may quote the value.
        let body = serde_json::to_vec(value).map_err(|_| SealError::Serialize)?;
        self.seal_bytes(&body)
    }

    /// Seals a body that is serialized already.
    ///
    /// # Errors
    /// [`SealError::Sign`] when no signature could be made, [`SealError::Pack`] when the content type, the encoding or
    /// the signer id cannot be said in the format, [`SealError::Reserved`] for bytes that begin like a signed whole
    /// message ([`message`](crate::message)).
    pub fn seal_bytes(&self, body: &[u8]) -> Result<Sealed, SealError> {
        if is_bound(body) {
            return Err(SealError::Reserved);
        }
        self.seal_any(body, SystemTime::now())
    }

    /// Seals a body, or bound content, as if it were `at`.
    pub(crate) fn seal_any(&self, body: &[u8], at: SystemTime) -> Result<Sealed, SealError> {
        let signature = self.signer.sign_at(body, at)?;
        let wire = self.format.pack(&Envelope {
            signer_id: signature.certificate().id(),
            signature: signature.as_bytes(),
            content_type: &self.content_type,
            content_encoding: &self.content_encoding,
            body,
        })?;
        Ok(Sealed {
            wire,
            format: self.format,
        })
    }
}

/// A sealed message, ready for the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    wire: Vec<u8>,
    format: Format,
}

impl Sealed {
    /// The wire form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.wire
    }

    /// The wire form of a text format; `None` for [`Format::CeleryRaw`].
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.wire)
            .ok()
            .filter(|_| self.format.is_text())
    }

    /// The wire form.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.wire
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The outer content type that the message travels under: `application/data`.
    #[must_use]
    pub const fn content_type(&self) -> &'static str {
        SEALED_CONTENT_TYPE
    }

    /// The outer content encoding: `utf-8`, or `binary` for [`Format::CeleryRaw`].
    #[must_use]
    pub const fn content_encoding(&self) -> &'static str {
        if self.format.is_text() {
            "utf-8"
        } else {
            "binary"
        }
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The body is readable in the wire form, so it stays out of logs.
        write!(f, "Sealed({}, {} bytes)", self.format, self.wire.len())
    }
}

/// A message that could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No signature was made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A part cannot be packed.
    #[error("the message cannot be packed: {0}")]
    Pack(#[from] EnvelopeError),
    /// A value was to be sealed as JSON by a sealer for something else.
    #[error("this sealer's content type is {content_type}: serialize the value and use seal_bytes")]
    NotJson {
        /// The sealer's content type.
        content_type: String,
    },
    /// The body begins as signed whole messages do, which are signed by
    /// [`MessageSealer`](crate::message::MessageSealer) alone.
    #[error(
        "the body begins like a signed whole message (c1 \"taskseal\" 00) and is not signed as a body"
    )]
    Reserved,
    /// The value has no JSON form.
    #[error("the value has no JSON form (a map key that is no text, or an error of its Serialize)")]
    Serialize,
}

impl SealError {
    /// What a caller may do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Sign(error) => error.class(),
            Self::Pack(_) | Self::NotJson { .. } | Self::Reserved | Self::Serialize => {
                ErrorClass::Permanent
            }
        }
    }
}
