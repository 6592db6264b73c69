//! What one file of a store holds.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::error::StoreError;
use super::files::read_error;
use super::role::{self, Role};
use crate::certificate::{Certificate, CertificateError, Link, entries, looks_like_der};
use crate::pss::Digest;

/// The largest file that is read, in bytes: room for a bundle of some 100,000 certificates.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// How many damaged sections of one file are told apart. It may consist of them.
const MAX_ERRORS: usize = 100;

/// What a file gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    /// Its certificates, each once.
    pub(super) found: Vec<Found>,
    /// What in it must have been meant as a certificate and is none.
    pub(super) errors: Vec<StoreError>,
}

/// A certificate in a file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: Arc<Path>,
    /// SHA-256 of its DER.
    pub(super) thumbprint: [u8; 32],
    pub(super) link: Link,
    /// What it counts as, as far as its file says.
    pub(super) role: Role,
    /// Of a certificate that cannot be used here, the reason. It matters if it is a signer.
    pub(super) certificate: Result<Certificate, StoreError>,
    /// Of such a one, its subject.
    pub(super) subject: Option<Box<str>>,
}

/// Reads a file.
///
/// # Errors
/// [`StoreError`] when it cannot be read. What is wrong with its parts is in its [`Contents`].
pub(super) fn read(path: &Path) -> Result<Contents, StoreError> {
    let bytes = read_file(path)?;
    let path: Arc<Path> = path.into();
    let mut contents = Contents::default();
    if looks_like_der(&bytes) {
        contents.add(&path, None, Ok(bytes));
    } else {
        for entry in entries(&bytes) {
            if contents.errors.len() == MAX_ERRORS {
                break;
            }
            contents.add(&path, Some(entry.line), entry.der);
        }
    }
    if contents.found.is_empty() && contents.errors.is_empty() {
        let none = error(&path, None, CertificateError::NoCertificate);
        contents.errors.push(none);
    }
    contents.assign_roles();
    Ok(contents)
}

impl Contents {
    fn add(
        &mut self,
        path: &Arc<Path>,
        line: Option<usize>,
        der: Result<Vec<u8>, CertificateError>,
    ) {
        let read = der.and_then(|der| {
            let certificate = Certificate::from_der(&der);
            match Link::from_der(&der) {
                Ok(link) => Ok((der, link, certificate)),
                Err(damage) => Err(certificate.err().unwrap_or(damage)),
            }
        });
        match read {
            Ok((der, link, certificate)) => self.found.push(Found {
                path: Arc::clone(path),
                thumbprint: thumbprint(&der),
                subject: match certificate {
                    Ok(_) => None,
                    Err(_) => Link::subject_of(&der).map(String::into_boxed_str),
                },
                link,
                role: Role::Signer,
                certificate: certificate.map_err(|source| error(path, line, source)),
            }),
            Err(source) => self.errors.push(error(path, line, source)),
        }
    }

    fn assign_roles(&mut self) {
        let mut seen = std::collections::HashSet::new();
        self.found.retain(|found| seen.insert(found.thumbprint));
        let links = self.found.iter().map(|found| &found.link);
        let roles = role::in_file(links, self.errors.is_empty());
        for (found, role) in self.found.iter_mut().zip(roles) {
            found.role = role;
        }
    }
}

fn error(path: &Path, line: Option<usize>, source: CertificateError) -> StoreError {
    StoreError::Certificate {
        path: path.to_owned(),
        line,
        source: Arc::new(source),
    }
}

fn thumbprint(der: &[u8]) -> [u8; 32] {
    let mut thumbprint = [0; 32];
    thumbprint.copy_from_slice(Digest::Sha256.hash(der).as_bytes());
    thumbprint
}

fn read_file(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    // Asked before it is opened: opening a named pipe waits until somebody writes to it.
    let regular = std::fs::metadata(path).and_then(|metadata| {
        let not_regular = || std::io::Error::other("it is not a regular file");
        metadata.is_file().then_some(()).ok_or_else(not_regular)
    });
    let file = regular.and_then(|()| File::open(path));
    match file.and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        Ok(len) if len as u64 > MAX_FILE => Err(StoreError::TooLarge {
            path: path.to_owned(),
            max: MAX_FILE,
        }),
        Ok(_) => Ok(bytes),
        Err(error) => Err(read_error(path, error)),
    }
}
