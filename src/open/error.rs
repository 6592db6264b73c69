//! [`OpenError`]: what is refused, and why.

use std::time::SystemTime;

use crate::certificate::extensions::is_of_precertificate;
use crate::certificate::rfc3339;
use crate::envelope::{EnvelopeError, SEALED_CONTENT_TYPE};
use crate::error::{ErrorClass, Untrusted};
use crate::pss::SchemeError;

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
    /// No certificate of that id is in the store now, and a part of the store cannot be read. Nothing is known about the
    /// message: it is not to be lost.
    #[error("whether the signer {signer_id} is known cannot be told: {reason}")]
    Store {
        /// The signer id that the message names.
        signer_id: Untrusted,
        /// What is wrong with the store.
        reason: String,
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
        "the certificate of {signer_id:?} is not for signing messages: its key usage has neither digitalSignature nor \
         nonRepudiation, or its extended key usage is for time stamps or OCSP alone"
    )]
    KeyUsage {
        /// Id of the certificate.
        signer_id: String,
    },
    /// The certificate has an extension for which it must be refused.
    #[error("the certificate of {signer_id:?} {}", refusal_of(oid))]
    CriticalExtension {
        /// Id of the certificate.
        signer_id: String,
        /// OID of the extension.
        oid: String,
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

fn refusal_of(oid: &str) -> String {
    if is_of_precertificate(oid) {
        return "is a precertificate (RFC 6962), which is no certificate".to_owned();
    }
    format!(
        "has the extension {oid}, which is critical and not understood; if you know that it changes nothing, have it \
         ignored (dangerous_ignore_critical)"
    )
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
    /// [`ErrorClass::Rejected`] for a refused message, [`ErrorClass::Transient`] for [`OpenError::Store`]; [`ErrorClass::Permanent`] when a verified body is no JSON of the
    /// wanted shape.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::NotJson { .. } | Self::Json { .. } => ErrorClass::Permanent,
            Self::Store { .. } => ErrorClass::Transient,
            _ => ErrorClass::Rejected,
        }
    }

    /// Who the message says, or is known, to be from, quoted and cut so that it is safe to log; `None` where that is not known.
    #[must_use]
    pub fn signer(&self) -> Option<String> {
        match self {
            Self::UnknownSigner { signer_id } | Self::Store { signer_id, .. } => {
                Some(signer_id.to_string())
            }
            Self::Expired { signer_id, .. }
            | Self::NotYetValid { signer_id, .. }
            | Self::KeyUsage { signer_id }
            | Self::Key { signer_id, .. }
            | Self::BadSignature { signer_id } => Some(Untrusted::new(signer_id).to_string()),
            _ => None,
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
            Self::Store { .. } => "store",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::KeyUsage { .. } => "key-usage",
            Self::CriticalExtension { .. } => "critical-extension",
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
