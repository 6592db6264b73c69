//! Which files a store has, and what tells that one has changed.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::StoreError;

/// Where a store's files are.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A directory, or a file.
    Path(PathBuf),
    /// A pattern.
    Pattern(String),
}

impl Place {
    /// What somebody means by a path. It is decided once: a directory that is gone is not a pattern for its neighbours,
    /// whatever its name.
    pub(super) fn of(path: &Path) -> Self {
        let special = path.to_str().filter(|text| text.contains(['*', '?', '[']));
        let absent = || std::fs::symlink_metadata(path).is_err_and(|error| is_absent(&error));
        match special {
            Some(pattern) if absent() => Self::Pattern(pattern.to_owned()),
            _ => Self::Path(path.to_owned()),
        }
    }

    /// The files, in the order of their names.
    ///
    /// # Errors
    /// What is not there is [`StoreError::NotFound`]; what cannot be looked at now is [`StoreError::Read`].
    pub(super) fn list(&self) -> Result<Vec<PathBuf>, StoreError> {
        let path = match self {
            Self::Path(path) => path,
            Self::Pattern(pattern) => return list_pattern(pattern),
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => list_directory(path),
            Ok(_) => Ok(vec![path.clone()]),
            // A link that points nowhere is something that somebody believes to be there.
            Err(error) if is_absent(&error) => match std::fs::symlink_metadata(path) {
                Ok(_) => Ok(vec![path.clone()]),
                Err(_) => Err(StoreError::NotFound { path: path.clone() }),
            },
            Err(error) => Err(read_error(path, error)),
        }
    }
}

/// Whether there is nothing of that name, as opposed to something that cannot be looked at.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub(super) fn read_error(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Read {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

fn list_directory(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| read_error(path, error))? {
        let entry = entry.map_err(|error| read_error(path, error))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Symbolic links are followed: secrets mounted by an orchestrator are links.
        if !hidden && !entry.path().is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn list_pattern(pattern: &str) -> Result<Vec<PathBuf>, StoreError> {
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::default()
    };
    let paths = glob::glob_with(pattern, options).map_err(|error| StoreError::Pattern {
        path: pattern.into(),
        reason: error.msg.to_owned(),
    })?;
    let mut files = Vec::new();
    for found in paths {
        let found = found.map_err(|error| {
            let path = error.path().to_owned();
            read_error(&path, error.into())
        })?;
        if !found.is_dir() {
            files.push(found);
        }
    }
    Ok(files)
}

/// What is known of a file without reading it. While it stays the same, reading the file would give what it gave before.
///
/// Of a file that is written twice within the file system's resolution of time, with the same length, only the first change
/// is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    identity: Identity,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(&metadata),
        })
    }
}

/// Device, inode, and when the inode changed: also when a file is written with its old times.
#[cfg(unix)]
type Identity = (u64, u64, i64, i64);

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    (metadata.dev(), metadata.ino(), changed.0, changed.1)
}

#[cfg(not(unix))]
type Identity = ();

#[cfg(not(unix))]
fn identity(_metadata: &Metadata) -> Identity {}
