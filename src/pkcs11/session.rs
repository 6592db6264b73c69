//! Logging in, and the pool of sessions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;
use super::module::{CallError, Module, ModuleSession, User, lock};
use super::pin::{Fingerprint, Pin, PinSource};
use super::rv::Rv;
use super::token::TokenInfo;

/// One token and the way into it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) module: Arc<dyn Module>,
    pub(crate) token: TokenInfo,
    pin: PinSource,
    login_on_final_try: bool,
    shared: Arc<TokenState>,
}

/// What everybody in the process who uses a token shares.
#[derive(Debug, Default)]
struct TokenState {
    /// Held while somebody logs in: one login at a time, so that however many threads hold the wrong PIN it costs one
    /// try.
    login: Mutex<RefusedPins>,
    /// Counts logins. Handles found before one are not used after it.
    generation: AtomicU64,
}

/// The PINs that the token refused since the last one that it took.
#[derive(Default)]
struct RefusedPins(Vec<(Fingerprint, Rv)>);

impl std::fmt::Debug for RefusedPins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} refused", self.0.len())
    }
}

static TOKENS: Mutex<BTreeMap<(PathBuf, String), Arc<TokenState>>> = Mutex::new(BTreeMap::new());

/// Forgets which PINs were refused, of every token in this process: for when a token's PIN was set to one that it had
/// refused before. Each wrong PIN may then cost one more try.
pub fn forget_refused_pins() {
    let tokens: Vec<_> = lock(&TOKENS).values().cloned().collect();
    for token in tokens {
        lock(&token.login).0.clear();
    }
}

impl Access {
    pub(crate) fn new(
        module: Arc<dyn Module>,
        token: TokenInfo,
        pin: PinSource,
        login_on_final_try: bool,
    ) -> Self {
        let name = (module.path().to_owned(), token.identity());
        let shared = lock(&TOKENS).entry(name).or_default().clone();
        Self {
            module,
            token,
            pin,
            login_on_final_try,
            shared,
        }
    }

    /// Opens a session, logged in if the token wants that. Returns with it the generation that handles found in it
    /// belong to.
    pub(crate) fn open(&self, writable: bool) -> Result<(Box<dyn ModuleSession>, u64), Error> {
        let session = self
            .module
            .open_session(self.token.slot_id, writable)
            .map_err(|call| self.failed(call))?;
        self.log_in(session.as_ref())?;
        tracing::debug!(token = %self.token, writable, "session opened");
        Ok((session, self.generation()))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// An error of a call on this token.
    pub(crate) fn failed(&self, call: CallError) -> Error {
        Error::call(call, Some(&self.token))
    }

    /// The login that a key with `CKA_ALWAYS_AUTHENTICATE` wants for each signature, after `C_SignInit`.
    pub(crate) fn log_in_for_operation(&self, session: &dyn ModuleSession) -> Result<(), Error> {
        let mut refused = lock(&self.shared.login);
        match self.present_pin(session, User::ContextSpecific, &mut refused) {
            // Modules that store the attribute and ignore it (NSS, openCryptoki) answer so.
            Err(Error::Call { call, .. }) if call.is(Rv::USER_TYPE_INVALID) => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// Logs in, unless the process is logged in: the state belongs to all its sessions with the token, and ends when the
    /// last of them is closed.
    fn log_in(&self, session: &dyn ModuleSession) -> Result<(), Error> {
        let needed = self.token.flags.login_required || self.token.unreadable.is_some();
        // A module that cannot say is asked to log in; it answers CKR_USER_ALREADY_LOGGED_IN if it is.
        if !needed || session.user_is_logged_in().unwrap_or(false) {
            return Ok(());
        }
        let mut refused = lock(&self.shared.login);
        if session.user_is_logged_in().unwrap_or(false) {
            return Ok(());
        }
        if self.present_pin(session, User::User, &mut refused)? {
            self.shared.generation.fetch_add(1, Ordering::AcqRel);
            tracing::info!(token = %self.token, "logged in");
        }
        Ok(())
    }

    /// `C_Login`; whether it changed anything.
    fn present_pin(
        &self,
        session: &dyn ModuleSession,
        user: User,
        refused: &mut RefusedPins,
    ) -> Result<bool, Error> {
        let token = || Box::new(self.token.clone());
        // Asked anew each time: others may have used up the tries.
        let now = TokenInfo::read(self.module.as_ref(), self.token.slot_id);
        if now.unreadable.is_some() {
            tracing::warn!(token = %now, "whether a PIN try is left cannot be seen; logging in all the same");
        }
        let flags = now.flags;
        if flags.user_pin_locked {
            return Err(Error::Locked { token: token() });
        }
        if flags.user_pin_final_try && !self.login_on_final_try {
            return Err(Error::FinalTry { token: token() });
        }
        let pin = match &self.pin {
            PinSource::None if flags.protected_authentication_path => None,
            source => Some(source.pin(&self.token).map_err(|source| Error::NoPin {
                token: token(),
                source,
            })?),
        };
        let fingerprint = pin.as_ref().map(Pin::fingerprint);
        if let Some((_, rv)) = refused
            .0
            .iter()
            .find(|(known, _)| Some(*known) == fingerprint)
        {
            return Err(Error::PinRefusedBefore {
                token: token(),
                origin: self.pin.to_string(),
                rv: *rv,
            });
        }
        match session.login(user, pin.as_ref()) {
            Ok(()) => {
                refused.0.clear();
                Ok(true)
            }
            Err(call) if call.is(Rv::USER_ALREADY_LOGGED_IN) => Ok(false),
            Err(call) => match call.rv() {
                Some(rv) if rv.refuses_pin() => {
                    refused
                        .0
                        .extend(fingerprint.map(|fingerprint| (fingerprint, rv)));
                    tracing::warn!(token = %self.token, %rv, origin = %self.pin, "the token refused the PIN");
                    Err(Error::PinRefused {
                        call,
                        token: token(),
                        origin: self.pin.to_string(),
                    })
                }
                _ => Err(self.failed(call)),
            },
        }
    }
}

/// Prepares a fresh session: finds what is used in it, so that no later call has to.
pub(crate) type Prepare<T> = dyn Fn(&dyn ModuleSession) -> Result<T, Error> + Send + Sync;

/// Sessions with one token, at most so many, opened when needed and kept for life. A session in which a call failed is
/// closed, never put back.
pub(crate) struct Pool<T> {
    access: Access,
    prepare: Box<Prepare<T>>,
    max: usize,
    wait: Duration,
    state: Mutex<State<T>>,
    freed: Condvar,
}

struct State<T> {
    idle: Vec<Ready<T>>,
    /// Idle, in use, and being opened.
    open: usize,
}

struct Ready<T> {
    session: Box<dyn ModuleSession>,
    found: T,
    generation: u64,
}

impl<T: Copy> Pool<T> {
    /// A pool that starts with one session, in which `found` was found.
    pub(crate) fn new(
        access: Access,
        (session, generation): (Box<dyn ModuleSession>, u64),
        found: T,
        max: usize,
        wait: Duration,
        prepare: Box<Prepare<T>>,
    ) -> Self {
        let idle = vec![Ready {
            session,
            found,
            generation,
        }];
        let state = Mutex::new(State { idle, open: 1 });
        Self {
            access,
            prepare,
            max: max.max(1),
            wait,
            state,
            freed: Condvar::new(),
        }
    }

    pub(crate) const fn access(&self) -> &Access {
        &self.access
    }

    /// Takes a session: an idle one, a new one, or the next that is given back within the waiting time.
    pub(crate) fn lease(&self) -> Result<Lease<'_, T>, Error> {
        let start = Instant::now();
        let mut state = lock(&self.state);
        loop {
            if let Some(ready) = state.idle.pop() {
                drop(state);
                let lease = Lease {
                    pool: self,
                    ready: Some(ready),
                };
                return if lease.is_current() {
                    Ok(lease)
                } else {
                    lease.renew()
                };
            }
            if state.open < self.max {
                state.open += 1;
                drop(state);
                // From here on the lease gives the place back, also when opening fails.
                return Lease {
                    pool: self,
                    ready: None,
                }
                .renew();
            }
            let Some(left) = self
                .wait
                .checked_sub(start.elapsed())
                .filter(|left| !left.is_zero())
            else {
                return Err(Error::Busy {
                    token: Box::new(self.access.token.clone()),
                    waited: self.wait,
                    sessions: self.max,
                });
            };
            state = self
                .freed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A session in use. Dropping it closes the session; [`give_back`](Lease::give_back) is for one that works.
pub(crate) struct Lease<'a, T> {
    pool: &'a Pool<T>,
    ready: Option<Ready<T>>,
}

impl<T: Copy> Lease<'_, T> {
    /// The session and what was found in it.
    pub(crate) fn parts(&self) -> Result<(&dyn ModuleSession, T), Error> {
        match &self.ready {
            Some(ready) => Ok((ready.session.as_ref(), ready.found)),
            // Only while it is made.
            None => Err(self
                .pool
                .access
                .failed(CallError::new("C_OpenSession", Rv::SESSION_HANDLE_INVALID))),
        }
    }

    /// Puts the session back: every call in it succeeded.
    pub(crate) fn give_back(mut self) {
        if let Some(ready) = self.ready.take() {
            lock(&self.pool.state).idle.push(ready);
            self.pool.freed.notify_one();
            std::mem::forget(self);
        }
    }

    fn is_current(&self) -> bool {
        let now = self.pool.access.generation();
        self.ready
            .as_ref()
            .is_some_and(|ready| ready.generation == now)
    }

    /// Closes the session it has, opens another one and finds what is needed in it.
    fn renew(mut self) -> Result<Self, Error> {
        drop(self.ready.take());
        let (session, generation) = self.pool.access.open(false)?;
        let found = (self.pool.prepare)(session.as_ref())?;
        self.ready = Some(Ready {
            session,
            found,
            generation,
        });
        Ok(self)
    }
}

impl<T> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        // Closed before the place is free, so that there are never more sessions than allowed.
        drop(self.ready.take());
        let mut state = lock(&self.pool.state);
        state.open = state.open.saturating_sub(1);
        drop(state);
        self.pool.freed.notify_one();
    }
}
