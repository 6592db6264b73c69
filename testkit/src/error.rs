//! [`Error`]: why there is no token for a test.

use std::io;
use std::path::PathBuf;

/// Why there is no token for a test.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SoftHSM's module is in none of the usual places.
    #[error(
        "SoftHSM is not installed: install the package softhsm2, or name its module in SOFTHSM2_MODULE"
    )]
    NotInstalled,
    /// The module is not a SoftHSM whose configuration the kit can place.
    #[error(
        "{} does not read its configuration where SoftHSM 2 does, so it cannot get one of its own; set SOFTHSM2_MODULE to \
         the module of a SoftHSM 2",
        .0.display()
    )]
    UnknownModule(PathBuf),
    /// No temporary directory has a path short enough for the place that the module has for it.
    #[error(
        "no temporary directory has a path of at most {at_most} bytes, which is the room that SoftHSM's module has for it; \
         /tmp would do if it could be written to"
    )]
    PathTooLong {
        /// How many bytes the path of the configuration may have.
        at_most: usize,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The token did not do what was asked of it.
    #[error("the token of the test: {0}")]
    Token(#[from] taskseal::pkcs11::Error),
    /// The PIN is none that a token could have.
    #[error("the PIN of the test: {0}")]
    Pin(#[from] taskseal::pkcs11::PinError),
    /// The certificate was not made.
    #[error("the certificate of the test: {0}")]
    Certificate(#[from] taskseal::issue::IssueError),
    /// The signer was not opened.
    #[error("the signer of the test: {0}")]
    Signer(#[from] taskseal::SignError),
}

impl Error {
    /// For a closure after a call on this file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
