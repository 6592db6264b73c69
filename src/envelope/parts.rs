//! [`Envelope`]: the parts of a sealed message.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::format::Format;
use crate::error::Untrusted;

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

/// An unpacked message that owns, or borrows from the wire, the one buffer that its parts lie in.
pub struct Unpacked<'w> {
    pub(super) format: Format,
    pub(super) signer_id: String,
    pub(super) signature: Vec<u8>,
    /// What was inside the outer encoding. The parts below are ranges of it.
    pub(super) buffer: Cow<'w, [u8]>,
    pub(super) content_type: Range<usize>,
    pub(super) content_encoding: Range<usize>,
    pub(super) body_start: usize,
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
    #[expect(clippy::expect_used, reason = "an empty body would be another message")]
    pub fn body(&self) -> &[u8] {
        let body = self.buffer.get(self.body_start..);
        body.expect("the body was found in the buffer")
    }

    /// The body, without a second buffer unless it was borrowed.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        let start = self.body_start;
        match self.buffer {
            Cow::Owned(mut buffer) => {
                buffer.drain(..start);
                buffer
            }
            Cow::Borrowed(wire) => wire.split_at(start).1.to_vec(),
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

    #[expect(clippy::expect_used, reason = "an empty type would be another one")]
    fn text(&self, range: &Range<usize>) -> &str {
        let text = self.buffer.get(range.clone());
        let text = text.and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.expect("it was found in the buffer, and is ASCII")
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
