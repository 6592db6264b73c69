//! [`StoreError`]: why a store cannot be filled.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::certificate::{Certificate, CertificateError, rfc3339};
use crate::error::ErrorClass;

/// Which certificate an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its subject (RFC 4514 text).
    pub subject: String,
    /// Its issuer (RFC 4514 text).
    pub issuer: String,
    /// SHA-256 of its DER, in hexadecimal.
    pub thumbprint: String,
    /// The file it is in, if it came from one.
    pub file: Option<PathBuf>,
}

impl Described {
    pub(super) fn new(certificate: &Certificate, origin: Option<Arc<Path>>) -> Self {
        Self {
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer_name().to_owned(),
            thumbprint: certificate.thumbprint_hex(),
            file: origin.map(|path| path.to_path_buf()),
        }
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "subject {:?}, issuer {:?}, SHA-256 ",
            self.subject, self.issuer
        )?;
        write!(f, "{}…", self.thumbprint.get(..16).unwrap_or_default())?;
        match &self.file {
            Some(file) => write!(f, ", in {}", file.display()),
            None => f.write_str(", added by the program"),
        }
    }
}

/// A store that cannot be filled, or what in it cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Two certificates have one id, so a signer id would not say whose key to verify with.
    #[error(
        "two certificates have the id {id:?}: ({first}) and ({second}); remove one or issue it anew"
    )]
    Duplicate {
        /// The id.
        id: String,
        /// The one that was there.
        first: Box<Described>,
        /// The one that was to be added.
        second: Box<Described>,
    },
    /// No such file or directory, and no pattern.
    #[error("the certificate store {} does not exist", path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// No file in the directory or under the pattern. Such a store would refuse every message.
    #[error("the certificate store {} holds no certificate files", path.display())]
    Empty {
        /// What was asked for.
        path: PathBuf,
    },
    /// Every certificate is an authority's or another part of a chain. Such a store would refuse every message.
    #[error(
        "the certificate store {} holds no signer's certificate: authorities that issued others are not signers",
        path.display()
    )]
    NoSigner {
        /// What was asked for.
        path: PathBuf,
    },
    /// The pattern is malformed.
    #[error("the pattern {} is malformed: {reason}", path.display())]
    Pattern {
        /// The pattern.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A file is larger than any bundle of certificates.
    #[error("{} is larger than {max} bytes and is not read as certificates", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        max: u64,
    },
    /// A file holds something that is no usable certificate.
    #[error("{}: {source}", place(path, *line))]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The line of a PEM file in which it begins, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        source: Arc<CertificateError>,
    },
    /// A certificate has expired.
    #[error(
        "{}: the certificate {id:?} expired at {}; remove it, or have expired certificates skipped",
        path.display(), rfc3339(*not_after)
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// Id of the certificate.
        id: String,
        /// When it ended.
        not_after: std::time::SystemTime,
    },
}

impl StoreError {
    /// [`ErrorClass::Transient`] when a file could not be read, else [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Read { .. } => ErrorClass::Transient,
            _ => ErrorClass::Permanent,
        }
    }
}

fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}, line {line}", path.display()),
        None => path.display().to_string(),
    }
}
