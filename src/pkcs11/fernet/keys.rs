//! [`Pkcs11FernetKeys`]: opening the two keys, and asking the token.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cipher::Handles;
use super::find::{Pair, PairFilter};
use crate::fernet::FernetError;
use crate::pkcs11::builder::Builder;
use crate::pkcs11::connections::Connections;
use crate::pkcs11::error::Error;
use crate::pkcs11::health::{Health, Record, Statistics};
use crate::pkcs11::module::ModuleSession;
use crate::pkcs11::place::Place;
use crate::pkcs11::pool::{Line, Ready};
use crate::pkcs11::recovery::{Connection, Target};
use crate::pkcs11::session::Access;
use crate::pkcs11::token::TokenInfo;
use crate::pkcs11::uri::Uri;
use crate::pkcs11::worker::Bell;

/// Fernet's two keys on a token: they encrypt and decrypt as keys in memory do, and never leave it.
///
/// May be used from many threads at once, and in a process that was forked after they were opened. Sessions, deadlines
/// and recovery are those of [`Pkcs11Signer`](crate::pkcs11::Pkcs11Signer); data in memory is at most three times the token's size,
/// or with many at once, that of what the token does in some milliseconds. To ask for their [`health`](Self::health) while a
/// [`Fernet`](crate::fernet::Fernet) has them, share them with it ([`Fernet::shared`](crate::fernet::Fernet::shared)).
///
/// ```no_run
/// use taskseal::fernet::Fernet;
/// use taskseal::pkcs11::{Pkcs11FernetKeys, Uri};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let uri: Uri = "pkcs11:token=payments;object=queue?module-name=softhsm2&pin-source=file:/run/secrets/pin".parse()?;
/// let fernet = Fernet::new(Pkcs11FernetKeys::open(&uri)?);
/// let token = fernet.encrypt(b"a secret")?;
/// # let _ = token;
/// # Ok(())
/// # }
/// ```
pub struct Pkcs11FernetKeys {
    core: Arc<Core>,
    connections: Connections<Handles>,
}

/// What is needed on whatever thread the calls are made.
#[repr(align(128))] // Its owners are counted in another cache line than it is read from.
struct Core {
    target: Target<Pair>,
}

impl Pkcs11FernetKeys {
    /// Opens the keys whose label the URI names (`object`), with the default choices of the [`Builder`].
    ///
    /// # Errors
    /// As for [`Builder::open_fernet_keys`].
    pub fn open(uri: &Uri) -> Result<Self, Error> {
        Builder::new().uri(uri).open_fernet_keys()
    }

    /// The label of the two keys.
    #[must_use]
    pub fn label(&self) -> &str {
        self.core.target.filter.label()
    }

    /// The token as it was when the keys were opened.
    #[must_use]
    pub fn token(&self) -> &TokenInfo {
        &self.core.target.token
    }

    /// How the keys are, as their last use in this process showed. Makes no call.
    #[must_use]
    pub fn health(&self) -> Health {
        self.connections.health()
    }

    /// What the keys did so far in this process. `signatures` counts what was encrypted and decrypted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.connections.statistics()
    }

    /// As [`Pkcs11Key::close`](crate::pkcs11::Pkcs11Key::close).
    ///
    /// # Errors
    /// [`Error::Timeout`] when that took longer than the deadline; the rest is left to itself.
    pub fn close(&self) -> Result<(), Error> {
        self.connections.close(self.token())
    }

    /// Asks the token, on a thread of its own, up the whole ladder, until the deadline.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Access, &dyn ModuleSession, Handles) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, FernetError> {
        let question =
            move |access: &Access, session: &dyn ModuleSession, keys, clock: &Clock<'_>| {
                let start = Instant::now();
                let answer = question(access, session, keys)?;
                clock.almost_done();
                clock.took(start.elapsed());
                Ok(answer)
            };
        self.ask_for(1, question, || ())
    }

    /// The same for `count` messages at once, while the caller does something else.
    pub(super) fn ask_for<T: Send + 'static>(
        &self,
        count: u64,
        question: impl Fn(&Access, &dyn ModuleSession, Handles, &Clock<'_>) -> Result<T, Error>
        + Send
        + 'static,
        beside: impl FnOnce(),
    ) -> Result<T, FernetError> {
        let (connection, deadline) = self
            .connections
            .begin(&self.core.target.place)
            .map_err(refused)?;
        let (core, theirs) = (self.core.clone(), connection.clone());
        let job = move |line: &mut Line<Handles>, bell: &dyn Bell| {
            let clock = Clock {
                bell,
                record: theirs.record(),
            };
            theirs.climb(line, &core.target, deadline, |access, session, keys| {
                question(access, session, keys, &clock)
            })
        };
        match connection.run_beside(deadline, job, beside) {
            Ok(answer) => {
                connection.signed(count);
                Ok(answer)
            }
            Err(error) => {
                connection.failed(&error);
                Err(refused(error))
            }
        }
    }
}

/// What is said of the calls while they go on.
pub(super) struct Clock<'a> {
    bell: &'a dyn Bell,
    record: &'a Record,
}

impl Clock<'_> {
    /// The answer is a moment away.
    pub(super) fn almost_done(&self) {
        self.bell.ring();
    }

    /// One message took so long.
    pub(super) fn took(&self, time: Duration) {
        self.record.token_took(time);
    }
}

impl Builder {
    /// Opens the two keys of Fernet that have the chosen label.
    ///
    /// # Errors
    /// [`Error`]: module, token or PIN; [`Error::SecretKeyNotFound`]; [`Error::Extractable`] when one of them can be read
    /// or taken out; [`Error::FernetKeys`] when they are no pair that encrypts.
    pub fn open_fernet_keys(&self) -> Result<Pkcs11FernetKeys, Error> {
        let filter = PairFilter::new(self.fernet_label()?, self.options.allow_extractable);
        let limits = self.options.limits;
        let deadline = self.deadline_from_now();
        let connection = Arc::new(Connection::new(&self.place, limits)?);
        let (place, theirs): (Place, _) = (self.place.clone(), connection.clone());
        let (token, pair) = connection.run(deadline, move |line, _| {
            theirs.climb_to_open(deadline, |step| {
                let access = theirs.access(&place, None, true, deadline)?;
                let (session, stamp) = access.open(false, step.login, deadline)?;
                let (keys, pair) = filter.clone().check(&access, session.as_ref())?;
                line.ready = Some(Ready {
                    session,
                    keys,
                    stamp,
                });
                Ok((access.token.clone(), pair))
            })
        })?;
        tracing::info!(keys = pair.label(), token = %token, "Fernet keys opened: they are on a token");
        Ok(Pkcs11FernetKeys {
            core: Arc::new(Core {
                target: Target {
                    place: self.place.clone(),
                    token,
                    filter: pair,
                },
            }),
            connections: Connections::new(connection, limits),
        })
    }
}

impl fmt::Debug for Pkcs11FernetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11FernetKeys")
            .field("label", &self.label())
            .field("token", &self.token().to_string())
            .finish_non_exhaustive()
    }
}

fn refused(error: Error) -> FernetError {
    FernetError::Keys {
        class: error.class(),
        source: Box::new(error),
    }
}
