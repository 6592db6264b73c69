//! [`Envelope`]: the parts of a sealed message, and the [`Format`]s in which they go over the wire.
//!
//! Unpacking believes nothing: every field has a limit that is checked before anything is allocated for it, base64 has to
//! be canonical, and an error names the field. It verifies nothing either; only an [`Opener`](crate::Opener) does.

pub mod celery;
mod error;
mod format;
mod parts;

use std::str::FromStr;

pub use self::error::{EnvelopeError, Field};
pub use self::format::Format;
pub use self::parts::{Envelope, Unpacked};

/// The outer content type of a sealed message, which Celery registers its `auth` serializer under.
pub const SEALED_CONTENT_TYPE: &str = "application/data";

impl FromStr for Format {
    type Err = EnvelopeError;

    fn from_str(text: &str) -> Result<Self, EnvelopeError> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| EnvelopeError::UnknownFormat(text.into()))
    }
}

impl Format {
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
