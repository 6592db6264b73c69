//! [`Format`]: the ways in which an envelope goes over the wire.

use std::fmt;

use crate::pss::Salt;

/// How an [`Envelope`](super::Envelope) becomes bytes. `docs/wire-format.md` shows every byte.
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
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
