//! [`CertStore`]: hands out the certificates that messages are verified with.

pub mod fs;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::certificate::{Certificate, CertificateError, rfc3339};
use crate::error::ErrorClass;

/// Looks a signer id up. A certificate in a store is trusted as it is; whether it is valid *now* is checked by whoever
/// opens a message, on every message.
///
/// Implementers owe: `get` takes the same time whatever the store holds, and what it returns has exactly that id.
pub trait CertStore: Send + Sync + fmt::Debug {
    /// The certificate of that id ([`Certificate::id`]), if the store has it.
    fn get(&self, id: &str) -> Option<Certificate>;

    /// All certificates at this moment, ordered by id.
    fn certificates(&self) -> Vec<Certificate>;
}

impl<S: CertStore + ?Sized> CertStore for Arc<S> {
    fn get(&self, id: &str) -> Option<Certificate> {
        (**self).get(id)
    }

    fn certificates(&self) -> Vec<Certificate> {
        (**self).certificates()
    }
}

/// A [`CertStore`] in memory, filled by the program itself.
///
/// ```
/// use taskseal::{Certificate, CertStore, MemoryCertStore};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryCertStore::new();
/// store.add(Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?)?;
/// assert!(store.get("Example CA worker-7 7").is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemoryCertStore {
    set: RwLock<CertSet>,
}

impl MemoryCertStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a certificate, valid or not.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when the store holds one of that id, even the same one.
    pub fn add(&self, certificate: Certificate) -> Result<(), StoreError> {
        self.set
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(certificate, None)
    }

    /// Takes the certificate of that id out.
    pub fn remove(&self, id: &str) -> Option<Certificate> {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        set.by_id.remove(id).map(|entry| entry.certificate)
    }
}

impl CertStore for MemoryCertStore {
    fn get(&self, id: &str) -> Option<Certificate> {
        self.set
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.set
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .certificates()
    }
}

/// Certificates by id, with the files they came from.
#[derive(Debug, Default)]
pub(crate) struct CertSet {
    by_id: HashMap<Box<str>, CertEntry>,
}

#[derive(Debug)]
struct CertEntry {
    certificate: Certificate,
    origin: Option<Arc<Path>>,
}

impl CertSet {
    pub(crate) fn insert(
        &mut self,
        certificate: Certificate,
        origin: Option<Arc<Path>>,
    ) -> Result<(), StoreError> {
        match self.by_id.entry(certificate.id().into()) {
            Entry::Vacant(place) => {
                place.insert(CertEntry {
                    certificate,
                    origin,
                });
                Ok(())
            }
            Entry::Occupied(held) => Err(StoreError::Duplicate {
                id: certificate.id().to_owned(),
                first: Box::new(Described::new(
                    &held.get().certificate,
                    held.get().origin.clone(),
                )),
                second: Box::new(Described::new(&certificate, origin)),
            }),
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Certificate> {
        self.by_id.get(id).map(|entry| entry.certificate.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn certificates(&self) -> Vec<Certificate> {
        let mut all: Vec<_> = self
            .by_id
            .values()
            .map(|entry| entry.certificate.clone())
            .collect();
        all.sort_by(|a, b| a.id().cmp(b.id()));
        all
    }

    /// The certificates of `self` that `other` does not hold, ordered by id.
    pub(crate) fn missing_from(&self, other: &Self) -> Vec<Certificate> {
        let mut all = self.certificates();
        all.retain(|certificate| other.get(certificate.id()).as_ref() != Some(certificate));
        all
    }
}

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
    fn new(certificate: &Certificate, origin: Option<Arc<Path>>) -> Self {
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

/// A store that cannot be filled.
#[derive(Debug, thiserror::Error)]
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
        source: std::io::Error,
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
        source: CertificateError,
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
