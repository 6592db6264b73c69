//! [`Absence`]: a key that is not on its token any more, although the token is well.
//!
//! A key that is not found may be a store that is away for a while, so the ladder is climbed for it. When it is not there
//! after that either, it was probably destroyed. Then each call would cost its deadline and new starts of the module. So
//! for some time calls fail at once, and one per second looks for the key.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::error::Error;
use super::info::{KeyInfo, SecretKeyInfo};
use super::process::lock;
use super::token::TokenInfo;

/// Whether a key was found to be gone.
#[derive(Default)]
pub(crate) struct Absence(Mutex<Option<Found>>);

/// What was found instead of the key.
struct Found {
    missing: Missing,
    next_look: Instant,
    next_start: Instant,
}

/// What a call may do.
pub(crate) enum Verdict {
    /// Nothing is known of an absence.
    Sign,
    /// Look for the key once; after a new start of the module, if so.
    Look {
        /// Whether to start it.
        start: bool,
    },
    /// Fail with this.
    Fail(Error),
}

impl Absence {
    /// From one look for the key to the next.
    const LOOK: Duration = Duration::from_secs(1);
    /// From one new start of the module for it to the next: SoftHSM stays without its keys until then when its files were
    /// away.
    const START: Duration = Duration::from_secs(30);

    /// What the next call may do.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut found = lock(&self.0);
        let Some(found) = &mut *found else {
            return Verdict::Sign;
        };
        let now = Instant::now();
        if now < found.next_look {
            return Verdict::Fail(found.missing.error());
        }
        found.next_look = now + Self::LOOK;
        let start = now >= found.next_start;
        if start {
            found.next_start = now + Self::START;
        }
        Verdict::Look { start }
    }

    /// Remembers that the key was not found although all was tried; the error for it. Other errors stay as they are.
    pub(crate) fn remember(&self, error: Error) -> Error {
        let missing = match Missing::try_from(error) {
            Ok(missing) => missing,
            Err(other) => return other,
        };
        let now = Instant::now();
        let mut known = lock(&self.0);
        let next_start = known.as_ref().map(|found| found.next_start);
        let found = Found {
            missing,
            next_look: now + Self::LOOK,
            next_start: next_start.unwrap_or(now + Self::START),
        };
        let error = found.missing.error();
        *known = Some(found);
        error
    }

    /// The key is there, or its token is not well either.
    pub(crate) fn forget(&self) {
        *lock(&self.0) = None;
    }
}

/// Which key is not there, and what is there instead. With other keys there, it is this one that is gone, and not what the
/// token holds.
enum Missing {
    /// With its token, in whose place there is another one.
    Token {
        was: Box<TokenInfo>,
        is: Box<TokenInfo>,
    },
    Private {
        wanted: String,
        token: Box<TokenInfo>,
        others: Vec<KeyInfo>,
    },
    Secret {
        what: &'static str,
        label: String,
        token: Box<TokenInfo>,
        others: Vec<SecretKeyInfo>,
    },
}

impl TryFrom<Error> for Missing {
    /// One that is about something else.
    type Error = Error;

    fn try_from(error: Error) -> Result<Self, Error> {
        match error {
            Error::OtherToken { was, is } => Ok(Self::Token { was, is }),
            Error::KeyNotFound {
                wanted,
                token,
                found: others,
            } => Ok(Self::Private {
                wanted,
                token,
                others,
            }),
            Error::SecretKeyNotFound {
                what,
                label,
                token,
                found: others,
            } => Ok(Self::Secret {
                what,
                label,
                token,
                others,
            }),
            other => Err(other),
        }
    }
}

impl Missing {
    /// While the token shows no key at all, what it holds may come back.
    fn error(&self) -> Error {
        match self {
            Self::Token { was, is } => Error::OtherToken {
                was: was.clone(),
                is: is.clone(),
            },
            Self::Private {
                wanted,
                token,
                others,
            } if others.is_empty() => Error::KeyNotFound {
                wanted: wanted.clone(),
                token: token.clone(),
                found: Vec::new(),
            },
            Self::Private {
                wanted,
                token,
                others,
            } => Error::KeyGone {
                wanted: wanted.clone(),
                token: token.clone(),
                found: others.clone(),
            },
            Self::Secret {
                what,
                label,
                token,
                others,
            } if others.is_empty() => Error::SecretKeyNotFound {
                what,
                label: label.clone(),
                token: token.clone(),
                found: Vec::new(),
            },
            Self::Secret {
                what, label, token, ..
            } => Error::FernetKeys {
                label: label.clone(),
                token: token.clone(),
                reason: format!("the {what} is not there any more"),
            },
        }
    }
}
