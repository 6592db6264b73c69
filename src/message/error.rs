//! What can go wrong with whole messages.

use std::time::{Duration, SystemTime};

use super::bound::BoundError;
use super::destination::Destination;
use super::kombu::KombuError;
use super::replay::ReplayError;
use crate::certificate::rfc3339;
use crate::error::{ErrorClass, Untrusted};
use crate::fernet::FernetError;
use crate::open::OpenError;
use crate::seal::SealError;

/// A message that could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageSealError {
    /// It was not signed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It was not encrypted.
    #[error("the message was not encrypted: {0}")]
    Fernet(#[from] FernetError),
    /// It is no message.
    #[error("the message cannot be sealed: {0}")]
    Message(#[from] KombuError),
    /// Its purpose, context or destination cannot be said.
    #[error("the message cannot be bound: {0}")]
    Bound(#[from] BoundError),
    /// The random generator of the system failed.
    #[error("the operating system gives no randomness")]
    Random,
}

impl MessageSealError {
    /// What a caller may do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Seal(error) => error.class(),
            Self::Fernet(error) => error.class(),
            Self::Message(_) | Self::Bound(_) => ErrorClass::Permanent,
            Self::Random => ErrorClass::Transient,
        }
    }
}

/// A message that was refused, and why; or keys and memories that could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The wire form is longer than is allowed here.
    #[error("a message of {len} bytes is refused; the limit is {max} bytes")]
    TooLarge {
        /// Length of the wire form, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The Fernet token is none, was changed, or was made with other keys. Which of it is not said.
    #[error("the message is no token of these keys: {0}")]
    Token(FernetError),
    /// The keys to decrypt with cannot be used. Nothing is known about the message.
    #[error(transparent)]
    Keys(FernetError),
    /// Its envelope or its signature was refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What was signed or encrypted is no bound content.
    #[error("the message is malformed: {0}")]
    Bound(BoundError),
    /// It was sealed for another purpose.
    #[error("the message was sealed for the purpose {found}, not for {expected:?}")]
    Purpose {
        /// Its purpose.
        found: Untrusted,
        /// The purpose that it was opened for.
        expected: String,
    },
    /// It was sealed for another context.
    #[error("the payload was sealed for the context {found}")]
    Context {
        /// Its context.
        found: Untrusted,
    },
    /// It was sealed for another domain, or for one where none is expected, or the other way round.
    #[error(
        "the message was sealed for {}, and this is {}",
        domain(found),
        domain(expected)
    )]
    Domain {
        /// Its domain.
        found: Option<Untrusted>,
        /// The opener's domain.
        expected: Option<Untrusted>,
    },
    /// It was sent to another destination, or it does not say where to.
    #[error("the message was sent to {}, which is not expected here", shown(found))]
    Destination {
        /// Where it was sent to.
        found: Box<Destination>,
    },
    /// It is too old.
    #[error(
        "the age of the message counts from {}, when it was sealed or due, and is more than {} s; it is {}",
        rfc3339(*age_from), max_age.as_secs(), rfc3339(*at)
    )]
    TooOld {
        /// What its age counts from: when it was sealed, or its eta if that is later.
        age_from: SystemTime,
        /// How old it may be, without the clock skew.
        max_age: Duration,
        /// The time of the check.
        at: SystemTime,
    },
    /// It was sealed in the future.
    #[error(
        "the message was sealed at {}, which is in the future; it is {}: compare the clocks",
        rfc3339(*issued_at), rfc3339(*at)
    )]
    FromTheFuture {
        /// When it was sealed.
        issued_at: SystemTime,
        /// The time of the check.
        at: SystemTime,
    },
    /// It was handled already.
    #[error("the message has been handled before")]
    Replayed,
    /// It is older than what the replay memory had room for: it may have been handled already.
    #[error(
        "the message may have been handled before: the replay memory had no room to remember messages of its age"
    )]
    Forgotten,
    /// Whether it was handled already cannot be told.
    #[error(transparent)]
    ReplayMemory(#[from] ReplayError),
    /// It was verified, and is no message of kombu's.
    #[error("what was sealed is no message: {0}")]
    Message(#[from] KombuError),
}

impl MessageError {
    /// [`ErrorClass::Rejected`] for a refused message, [`ErrorClass::Permanent`] for one that was verified and is no
    /// message of kombu's, else what the keys or the memory say.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Keys(error) => error.class(),
            Self::Open(error) => error.class(),
            Self::ReplayMemory(error) => error.class(),
            Self::Message(error) => error.class(),
            // The opener was asked for something that nobody can have sealed.
            Self::Bound(BoundError::Purpose | BoundError::Name) => ErrorClass::Permanent,
            _ => ErrorClass::Rejected,
        }
    }

    /// The reason in one stable lower-case word, for logs, metrics labels and `--json`. What a signature was refused for
    /// has the words of [`OpenError::reason`].
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::Token(_) => "token",
            Self::Keys(_) => "keys",
            Self::Open(error) => error.reason(),
            Self::Bound(_) => "malformed",
            Self::Purpose { .. } => "purpose",
            Self::Context { .. } => "context",
            Self::Domain { .. } => "domain",
            Self::Destination { .. } => "destination",
            Self::TooOld { .. } => "too-old",
            Self::FromTheFuture { .. } => "from-the-future",
            Self::Replayed => "replayed",
            Self::Forgotten => "forgotten",
            Self::ReplayMemory(_) => "replay-memory",
            Self::Message(_) => "not-a-message",
        }
    }
}

impl MessageError {
    /// As [`OpenError::signer`].
    #[must_use]
    pub fn signer(&self) -> Option<String> {
        match self {
            Self::Open(error) => error.signer(),
            _ => None,
        }
    }
}

fn domain(domain: &Option<Untrusted>) -> String {
    match domain {
        Some(domain) => format!("the domain {domain}"),
        None => "no domain".to_owned(),
    }
}

fn shown(destination: &Destination) -> String {
    let parts = [
        ("exchange", destination.exchange()),
        ("queue", destination.queue()),
        ("routing key", destination.routing_key()),
    ];
    let shown: Vec<String> = parts
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", Untrusted::new(value?))))
        .collect();
    match shown.is_empty() {
        true => "a destination that it does not name".to_owned(),
        false => shown.join(", "),
    }
}
