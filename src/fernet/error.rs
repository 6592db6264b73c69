//! [`FernetError`]: tokens that are refused, keys that cannot be used.

use crate::error::ErrorClass;

/// A token that was refused, or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FernetError {
    /// The token is malformed, was changed, was made with other keys, or is too old or too new. Which of it is not said.
    #[error(
        "the token is refused: it was not made with these keys, was changed, or is out of its time"
    )]
    Refused,
    /// The data does not fit into a token of [`Fernet::MAX_TOKEN_LEN`](crate::Fernet::MAX_TOKEN_LEN).
    #[error("{len} bytes are too many for one token")]
    TooLarge {
        /// Length of the data, in bytes.
        len: usize,
    },
    /// The random generator of the system failed.
    #[error("the operating system gives no randomness")]
    Random,
    /// The keys are not to be had, or do not work.
    #[error("the keys cannot be used: {source}")]
    Keys {
        /// What a caller may do about it.
        class: ErrorClass,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl FernetError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Refused => ErrorClass::Rejected,
            Self::TooLarge { .. } => ErrorClass::Permanent,
            Self::Random => ErrorClass::Transient,
            Self::Keys { class, .. } => *class,
        }
    }
}
