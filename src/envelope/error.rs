//! [`EnvelopeError`]: bytes that are not an envelope.

use std::fmt;

use super::format::Format;
use crate::error::{ErrorClass, Untrusted};

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
