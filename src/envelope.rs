//! [`Envelope`]: the parts of a sealed message, and the [`Format`]s in which they go over the wire.
//!
//! Unpacking believes nothing: every field has a limit that is checked before anything is allocated for it, base64 has to
//! be canonical, and an error names the field. It verifies nothing either; only an [`Opener`](crate::Opener) does.

pub mod celery;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::error::{ErrorClass, Untrusted};
use crate::pss::Salt;

/// The outer content type of a sealed message, which Celery registers its `auth` serializer under.
pub const SEALED_CONTENT_TYPE: &str = "application/data";

/// The parts of a sealed message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Celery's id of the signer's certificate: [`Certificate::id`](crate::Certificate::id).
    pub signer_id: &'a str,
    /// The RSA-PSS signature of the body, as long as the signer's modulus.
    pub signature: &'a [u8],
    /// What the body is, for example `application/json`. Not covered by the signature.
    pub content_type: &'a str,
    /// How its characters are encoded, for example `utf-8`; `binary` for none. Not covered by the signature.
    pub content_encoding: &'a str,
    /// The serialized value: what is signed.
    pub body: &'a [u8],
}

impl fmt::Debug for Envelope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("signer_id", &Untrusted::new(self.signer_id))
            .field("signature", &format_args!("{} bytes", self.signature.len()))
            .field("content_type", &Untrusted::new(self.content_type))
            .field("content_encoding", &Untrusted::new(self.content_encoding))
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// How an [`Envelope`] becomes bytes. `docs/wire-format.md` shows every byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Format {
    /// Celery 5.5 and newer: base64 of [`Format::CeleryRaw`].
    #[default]
    Celery,
    /// The same without the outer base64, for transports that carry bytes. Stock Celery does not read it.
    CeleryRaw,
    /// Celery 5.4 and older: base64, with signer id and signature raw inside. Newer ones do not read it.
    Celery54,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Celery, Self::CeleryRaw, Self::Celery54];

    /// Its name: `celery`, `celery-raw` or `celery-5.4`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Celery => "celery",
            Self::CeleryRaw => "celery-raw",
            Self::Celery54 => "celery-5.4",
        }
    }

    /// Whether the wire form is ASCII text (base64), or else any bytes.
    #[must_use]
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::CeleryRaw)
    }

    /// The salt that every reader of this format accepts: for [`Format::Celery54`] the maximum, since its readers use a
    /// `cryptography` that may insist on it, else the digest's length.
    #[must_use]
    pub const fn default_salt(self) -> Salt {
        match self {
            Self::Celery | Self::CeleryRaw => Salt::DigestLength,
            Self::Celery54 => Salt::Maximum,
        }
    }

    /// Packs an envelope.
    ///
    /// # Errors
    /// [`EnvelopeError`] when a part cannot be said in this format, so that a reader would refuse it or read another one.
    pub fn pack(self, envelope: &Envelope<'_>) -> Result<Vec<u8>, EnvelopeError> {
        celery::pack(self, envelope)
    }

    /// Unpacks the wire form of this format. Nothing is verified.
    ///
    /// [`Format::Celery54`] does not say how long the signature is; `signature_len` looks it up by signer id (bytes, the
    /// length of the signer's modulus).
    ///
    /// # Errors
    /// [`EnvelopeError`], which names the field.
    pub fn unpack<'w>(
        self,
        wire: &'w [u8],
        signature_len: impl Fn(&str) -> Option<usize>,
    ) -> Result<Unpacked<'w>, EnvelopeError> {
        celery::unpack(&[self], wire, &signature_len)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = EnvelopeError;

    fn from_str(text: &str) -> Result<Self, EnvelopeError> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| EnvelopeError::UnknownFormat(text.into()))
    }
}

/// Unpacks a wire form **without verifying anything**, for looking at it. Without a `format` it is told from the bytes.
///
/// The length of the signature in [`Format::Celery54`] is guessed: the shortest usual RSA size after which the rest reads
/// as an envelope.
///
/// # Errors
/// [`EnvelopeError`], which names the field.
pub fn dangerous_inspect_unverified(
    wire: &[u8],
    format: Option<Format>,
) -> Result<Unpacked<'_>, EnvelopeError> {
    let formats = format.map_or(Format::ALL.to_vec(), |format| vec![format]);
    let mut last = None;
    for bits in [1024, 2048, 3072, 4096, 5120, 6144, 7168, 8192] {
        match celery::unpack(&formats, wire, &|_| Some(bits / 8)) {
            Ok(unpacked) => return Ok(unpacked),
            Err(
                error @ EnvelopeError::MissingSeparator {
                    after: Field::Signature,
                },
            ) => {
                last = Some(error);
            }
            Err(error) => return Err(last.unwrap_or(error)),
        }
    }
    Err(last.unwrap_or(EnvelopeError::MissingSeparator {
        after: Field::Signature,
    }))
}

/// An unpacked message that owns, or borrows from the wire, the one buffer that its parts lie in.
pub struct Unpacked<'w> {
    format: Format,
    signer_id: String,
    signature: Vec<u8>,
    /// What was inside the outer encoding. The parts below are ranges of it.
    buffer: Cow<'w, [u8]>,
    content_type: Range<usize>,
    content_encoding: Range<usize>,
    body_start: usize,
}

impl Unpacked<'_> {
    /// The format that the message is in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The signer id.
    #[must_use]
    pub fn signer_id(&self) -> &str {
        &self.signer_id
    }

    /// The signature, 1 to 1024 bytes.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The content type: visible ASCII.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.text(&self.content_type)
    }

    /// The content encoding: visible ASCII.
    #[must_use]
    pub fn content_encoding(&self) -> &str {
        self.text(&self.content_encoding)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.buffer.get(self.body_start..).unwrap_or_default()
    }

    /// The body, without a second buffer unless it was borrowed.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        let start = self.body_start;
        match self.buffer {
            Cow::Owned(mut buffer) => {
                buffer.drain(..start.min(buffer.len()));
                buffer
            }
            Cow::Borrowed(wire) => wire.get(start..).unwrap_or_default().to_vec(),
        }
    }

    /// The parts.
    #[must_use]
    pub fn envelope(&self) -> Envelope<'_> {
        Envelope {
            signer_id: self.signer_id(),
            signature: self.signature(),
            content_type: self.content_type(),
            content_encoding: self.content_encoding(),
            body: self.body(),
        }
    }

    fn text(&self, range: &Range<usize>) -> &str {
        // Checked to be ASCII when the range was made.
        self.buffer
            .get(range.clone())
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Unpacked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacked")
            .field("format", &self.format)
            .field("envelope", &self.envelope())
            .finish_non_exhaustive()
    }
}

/// A part of an envelope, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The whole of it: the outer base64.
    Envelope,
    /// The signer id.
    SignerId,
    /// The signature.
    Signature,
    /// The content type.
    ContentType,
    /// The content encoding.
    ContentEncoding,
    /// The body.
    Body,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Envelope => "envelope",
            Self::SignerId => "signer id",
            Self::Signature => "signature",
            Self::ContentType => "content type",
            Self::ContentEncoding => "content encoding",
            Self::Body => "body",
        })
    }
}

/// Bytes that are no envelope, or parts that cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not canonical base64: a foreign character, a line break, bad or missing padding, or bits after the end.
    #[error("the {field} is not canonical base64 (standard alphabet, padded, no line breaks)")]
    Base64 {
        /// The field.
        field: Field,
    },
    /// Fewer fields than an envelope has.
    #[error("there is no separator (00 01) after the {after}")]
    MissingSeparator {
        /// The last field that was there.
        after: Field,
    },
    /// A field is empty that must not be.
    #[error("the {field} is empty")]
    Empty {
        /// The field.
        field: Field,
    },
    /// A field is longer than it can honestly be.
    #[error("the {field} is longer than {max} bytes")]
    TooLong {
        /// The field.
        field: Field,
        /// The limit, in bytes.
        max: usize,
    },
    /// A field holds something that it must not.
    #[error("the {field} is not {wanted}")]
    NotText {
        /// The field.
        field: Field,
        /// What it has to be.
        wanted: &'static str,
    },
    /// The length of a `celery-5.4` signature is that of the signer's key, and the signer is not known.
    #[error("the signer {signer_id} is not known, so the end of its signature cannot be found")]
    SignatureLength {
        /// The signer id.
        signer_id: Untrusted,
    },
    /// A part holds the separator, which this format cannot express.
    #[error("the {field} contains the separator 00 01 and cannot be packed as {format}")]
    Separator {
        /// The field.
        field: Field,
        /// The format.
        format: Format,
    },
    /// The wire form is of none of the formats that are accepted here.
    #[error("the message is in the format {found}, which is not accepted here")]
    Format {
        /// What it is.
        found: Format,
    },
    /// No format of that name.
    #[error("format {0} is not known; use celery, celery-raw or celery-5.4")]
    UnknownFormat(Untrusted),
}

impl EnvelopeError {
    /// [`ErrorClass::Rejected`] for a message that came in; [`ErrorClass::Permanent`] for a name or a part that cannot be
    /// packed.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::UnknownFormat(_) | Self::Separator { .. } => ErrorClass::Permanent,
            _ => ErrorClass::Rejected,
        }
    }
}
