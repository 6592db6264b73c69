//! [`FsCertStore`]: certificates from a directory, a file or a glob pattern.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use super::{CertSet, CertStore, StoreError};
use crate::certificate::{Certificate, CertificateError, entries, looks_like_der, rfc3339};

/// The largest file that is read, in bytes: room for a bundle of some 100,000 certificates.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// A [`CertStore`] read from the file system, as Celery's `security_cert_store`.
///
/// * A **directory**: every file in it but hidden ones. Sub-directories are not entered.
/// * A **file**: PEM with one or more certificates, or one certificate in DER.
/// * A **pattern** such as `/etc/taskseal/trusted/*.pem`.
///
/// [`reload`](Self::reload) reads it again. Lookups never wait for that.
#[derive(Debug)]
pub struct FsCertStore {
    path: PathBuf,
    options: Options,
    set: RwLock<Arc<CertSet>>,
    /// One reload at a time, so that an older reading never replaces a newer one.
    reloading: Mutex<()>,
}

/// What an [`FsCertStore`] does with an expired certificate at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ExpiredCertificates {
    /// Refuse to load, as Celery does.
    #[default]
    Refuse,
    /// Leave it out, with a warning in the log.
    Skip,
    /// Take it; messages signed under it are refused when they are opened.
    Keep,
}

/// How an [`FsCertStore`] is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    expired: ExpiredCertificates,
    allow_empty: bool,
}

impl Options {
    /// The defaults: expired certificates are refused, an empty store too.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to do with expired certificates.
    #[must_use]
    pub const fn expired(mut self, expired: ExpiredCertificates) -> Self {
        self.expired = expired;
        self
    }

    /// Takes a directory or pattern without any file. Such a store refuses every message until it is reloaded.
    #[must_use]
    pub const fn allow_empty(mut self) -> Self {
        self.allow_empty = true;
        self
    }

    /// Reads the store.
    ///
    /// # Errors
    /// [`StoreError`], which names the file. One bad file refuses the whole store.
    pub fn open(self, path: impl AsRef<Path>) -> Result<FsCertStore, StoreError> {
        self.open_at(path, SystemTime::now())
    }

    /// Like [`open`](Self::open), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_at(
        self,
        path: impl AsRef<Path>,
        at: SystemTime,
    ) -> Result<FsCertStore, StoreError> {
        let path = path.as_ref();
        let set = self.read(path, at)?;
        tracing::info!(store = %path.display(), certificates = set.len(), "certificate store read");
        Ok(FsCertStore {
            path: path.to_owned(),
            options: self,
            set: RwLock::new(Arc::new(set)),
            reloading: Mutex::new(()),
        })
    }

    fn read(self, path: &Path, at: SystemTime) -> Result<CertSet, StoreError> {
        let files = files_of(path)?;
        if files.is_empty() && !self.allow_empty {
            return Err(StoreError::Empty {
                path: path.to_owned(),
            });
        }
        let mut set = CertSet::default();
        for file in files {
            let origin: Arc<Path> = file.into();
            let each: Result<Vec<_>, _> = read_each(&origin)?.into_iter().collect();
            for certificate in each? {
                if self.takes(&certificate, &origin, at)? {
                    set.insert(certificate, Some(Arc::clone(&origin)))?;
                }
            }
        }
        Ok(set)
    }

    fn takes(
        self,
        certificate: &Certificate,
        path: &Path,
        at: SystemTime,
    ) -> Result<bool, StoreError> {
        if !certificate.has_expired(at) {
            return Ok(true);
        }
        match self.expired {
            ExpiredCertificates::Keep => Ok(true),
            ExpiredCertificates::Skip => {
                tracing::warn!(
                    file = %path.display(),
                    certificate = certificate.id(),
                    not_after = rfc3339(certificate.not_after()),
                    "expired certificate skipped"
                );
                Ok(false)
            }
            ExpiredCertificates::Refuse => Err(StoreError::Expired {
                path: path.to_owned(),
                id: certificate.id().to_owned(),
                not_after: certificate.not_after(),
            }),
        }
    }
}

/// What a reload changed. A certificate that was replaced under the same id is in both lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reload {
    /// Certificates that are new, ordered by id.
    pub added: Vec<Certificate>,
    /// Certificates that are gone, ordered by id.
    pub removed: Vec<Certificate>,
}

impl FsCertStore {
    /// Reads a directory, a file or a pattern; expired certificates and an empty store are errors.
    ///
    /// # Errors
    /// [`StoreError`], which names the file. One bad file refuses the whole store.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Options::new().open(path)
    }

    /// The directory, file or pattern that it is read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything again and swaps the set at once; whoever opens a message meanwhile uses the old set or the new
    /// one, never a part of either. When anything is wrong, the old set stays.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn reload(&self) -> Result<Reload, StoreError> {
        self.reload_at(SystemTime::now())
    }

    /// Like [`reload`](Self::reload), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn reload_at(&self, at: SystemTime) -> Result<Reload, StoreError> {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new = self
            .options
            .read(&self.path, at)
            .map(Arc::new)
            .inspect_err(|error| {
                tracing::warn!(
                    store = %self.path.display(),
                    %error,
                    "certificate store not reloaded; the old set stays"
                );
            })?;
        let old = std::mem::replace(
            &mut *self.set.write().unwrap_or_else(PoisonError::into_inner),
            Arc::clone(&new),
        );
        let change = Reload {
            added: new.missing_from(&old),
            removed: old.missing_from(&new),
        };
        tracing::info!(
            store = %self.path.display(),
            certificates = new.len(),
            added = change.added.len(),
            removed = change.removed.len(),
            "certificate store reloaded"
        );
        Ok(change)
    }

    fn current(&self) -> Arc<CertSet> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl CertStore for FsCertStore {
    fn get(&self, id: &str) -> Option<Certificate> {
        self.current().get(id)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.current().certificates()
    }
}

/// Reads what is in a directory, a file or a pattern and refuses nothing, for looking at a store: one [`Surveyed`] per
/// certificate, and one per thing that is none. Expired certificates and several of one id are in it. An
/// [`FsCertStore`] of the same path may refuse to load.
///
/// # Errors
/// [`StoreError`] when there is nothing to look at: the path or pattern is bad, or a directory cannot be read.
pub fn survey(path: impl AsRef<Path>) -> Result<Vec<Surveyed>, StoreError> {
    let mut all = Vec::new();
    for file in files_of(path.as_ref())? {
        let surveyed = |result| Surveyed {
            path: file.clone(),
            result,
        };
        match read_each(&file) {
            Ok(each) => all.extend(each.into_iter().map(surveyed)),
            Err(error) => all.push(surveyed(Err(error))),
        }
    }
    Ok(all)
}

/// One thing that [`survey`] came upon.
#[derive(Debug)]
pub struct Surveyed {
    /// The file.
    pub path: PathBuf,
    /// The certificate, or why it cannot be read.
    pub result: Result<Certificate, StoreError>,
}

/// What is known of the files of a store without reading them: their names, lengths, times and, on Unix, inodes. While
/// it stays the same, reading the store again would find what it found before.
///
/// Of a file that is written twice within the file system's resolution of time, with the same length, only the first
/// change is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, u64, Option<SystemTime>, u64)>);

impl Stamp {
    /// Looks at a directory, a file or a pattern. A file that vanishes meanwhile is left out.
    ///
    /// # Errors
    /// [`StoreError`] when there is nothing to look at: the path or pattern is bad, or a directory cannot be read.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let files = files_of(path.as_ref())?.into_iter();
        Ok(Self(
            files
                .filter_map(|file| {
                    let metadata = std::fs::metadata(&file).ok()?;
                    let inode = inode(&metadata);
                    Some((file, metadata.len(), metadata.modified().ok(), inode))
                })
                .collect(),
        ))
    }
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &std::fs::Metadata) -> u64 {
    0
}

/// The files of a store, in the order of their names.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read_error = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(read_error)? {
            let entry = entry.map_err(read_error)?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            // Symbolic links are followed: secrets mounted by an orchestrator are links.
            if !hidden && !entry.path().is_dir() {
                files.push(entry.path());
            }
        }
        files.sort();
        return Ok(files);
    }
    if path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let text = path.to_str().filter(|text| text.contains(['*', '?', '[']));
    let Some(pattern) = text else {
        return Err(StoreError::NotFound {
            path: path.to_owned(),
        });
    };
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::default()
    };
    let paths = glob::glob_with(pattern, options).map_err(|error| StoreError::Pattern {
        path: path.to_owned(),
        reason: error.msg.to_owned(),
    })?;
    let mut files = Vec::new();
    for found in paths {
        let found = found.map_err(|error| StoreError::Read {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if !found.is_dir() {
            files.push(found);
        }
    }
    Ok(files)
}

/// Every certificate of a file, good or bad, at least one of either.
fn read_each(path: &Path) -> Result<Vec<Result<Certificate, StoreError>>, StoreError> {
    let bytes = read_file(path)?;
    let named = |line: Option<usize>| {
        move |source| StoreError::Certificate {
            path: path.to_owned(),
            line,
            source,
        }
    };
    if looks_like_der(&bytes) {
        return Ok(vec![Certificate::from_der(&bytes).map_err(named(None))]);
    }
    let mut each: Vec<_> = entries(&bytes)
        .map(|entry| {
            let read = entry.der.and_then(|der| Certificate::from_der(&der));
            read.map_err(named(Some(entry.line)))
        })
        .collect();
    if each.is_empty() {
        each.push(Err(named(None)(CertificateError::NoCertificate)));
    }
    Ok(each)
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
        Err(source) => Err(StoreError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}
