//! [`Access`]: a token as it was found, sessions with it, and logging in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::error::Error;
use super::guard::Guard;
use super::module::{CallError, Module as _, ModuleSession, User};
use super::pin::{Fingerprint, Pin, PinSource};
use super::process::{Deadline, PerProcess, TimedLock, lock};
use super::rv::Rv;
use super::slots::read_token;
use super::token::TokenInfo;

/// One token, as it was found in one epoch of its module, and the way into it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) module: Guard,
    pub(crate) token: TokenInfo,
    epoch: u64,
    pin: PinSource,
    login_on_final_try: bool,
    shared: Arc<TokenState>,
}

/// What a session and the handles found in it belong to. Of another stamp than the present one they are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    epoch: u64,
    generation: u64,
}

/// Whether to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    /// If the session says that nobody is logged in.
    IfNeeded,
    /// Whatever the session says, unless somebody has done so since that stamp.
    Again(Stamp),
}

/// What everybody in the process who uses a token shares.
#[derive(Debug, Default)]
struct TokenState {
    /// Held while somebody logs in: one login at a time, so that however many threads hold the wrong PIN it costs one
    /// try. Another one for each instance of the module: in one that was abandoned a login may hang for ever.
    login: Mutex<(u64, Arc<TimedLock>)>,
    refused: Mutex<RefusedPins>,
    /// Counts logins. Handles found before one are not used after it.
    generation: AtomicU64,
    /// It was said that the token does not show whether a try is left.
    unreadable: AtomicBool,
}

/// The PINs that the token refused; `None` stands for what was entered on a PIN pad. One that it took says nothing of them:
/// a process may have several sources, each of which is asked again with every login. Each of them has cost a try, so there
/// are few.
#[derive(Default)]
struct RefusedPins(Vec<(Option<Fingerprint>, Rv)>);

impl std::fmt::Debug for RefusedPins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} refused", self.0.len())
    }
}

type Tokens = Mutex<BTreeMap<(PathBuf, String), Arc<TokenState>>>;

fn tokens() -> &'static Tokens {
    // A child makes its own logins. What the parent knew of refused PINs lies behind the parent's locks.
    static TOKENS: PerProcess<Tokens> = PerProcess::new();
    TOKENS.get_or(|_| Tokens::default())
}

/// The state of this token. One that cannot be read is taken for the one that was read last in its slot, whose PINs may have
/// been refused.
fn shared_by(module: &Guard, token: &TokenInfo) -> Arc<TokenState> {
    let named = |identity: String| (module.path().to_owned(), identity);
    let mut tokens = lock(tokens());
    let shared = tokens.entry(named(token.identity())).or_default().clone();
    if token.unreadable.is_none() {
        let unread = TokenInfo {
            unreadable: Some(String::new()),
            ..TokenInfo::new(token.slot_id)
        };
        tokens.insert(named(unread.identity()), shared.clone());
    }
    shared
}

/// Forgets which PINs were refused, of every token in this process. Nothing else does: not that the token took another one.
///
/// It is for when a token's PIN was set to one that it had refused before, and after a mistake on a token's own PIN pad. Each
/// wrong PIN may then cost one more try.
pub fn forget_refused_pins() {
    let tokens: Vec<_> = lock(tokens()).values().cloned().collect();
    for token in tokens {
        lock(&token.refused).0.clear();
    }
}

impl Access {
    pub(crate) fn new(
        module: Guard,
        epoch: u64,
        token: TokenInfo,
        pin: PinSource,
        login_on_final_try: bool,
    ) -> Self {
        let shared = shared_by(&module, &token);
        Self {
            module,
            token,
            epoch,
            pin,
            login_on_final_try,
            shared,
        }
    }

    /// Opens a session, logged in if the token wants that. Returns with it the stamp of what is found in it.
    pub(crate) fn open(
        &self,
        writable: bool,
        login: Login,
        deadline: Deadline,
    ) -> Result<(Box<dyn ModuleSession>, Stamp), Error> {
        let session = self
            .module
            .open(self.token.slot_id, writable, deadline)
            .map_err(|call| self.failed(call))?;
        self.log_in(session.as_ref(), login, deadline)?;
        tracing::debug!(token = %self.token, writable, "session opened");
        Ok((session, self.stamp()))
    }

    /// The stamp of a session that is opened now.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            epoch: self.epoch,
            generation: self.shared.generation.load(Ordering::Acquire),
        }
    }

    /// Whether the token was found in the module's present epoch.
    pub(crate) fn is_current(&self) -> bool {
        self.epoch == self.module.epoch()
    }

    /// An error of a call on this token.
    pub(crate) fn failed(&self, call: CallError) -> Error {
        Error::call(call, Some(&self.token))
    }

    /// The lock of logins in the instance of the module that is in use.
    fn login_lock(&self) -> Arc<TimedLock> {
        let instance = self.module.instance().number();
        let mut login = lock(&self.shared.login);
        if login.0 < instance {
            *login = (instance, Arc::default());
        }
        login.1.clone()
    }

    /// The login that a key with `CKA_ALWAYS_AUTHENTICATE` wants for each signature, after `C_SignInit`.
    pub(crate) fn log_in_for_operation(
        &self,
        session: &dyn ModuleSession,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let _here = self.module.instance().stay();
        let login = self.login_lock();
        let Some(_one_at_a_time) = login.lock(deadline) else {
            return Err(self.login_timeout(deadline));
        };
        match self.present_pin(session, User::ContextSpecific) {
            // Modules that store the attribute and ignore it (NSS, openCryptoki) answer so.
            Err(Error::Call { call, .. }) if call.is(Rv::USER_TYPE_INVALID) => Ok(()),
            done => done.map(|_| ()),
        }
    }

    /// Logs in, unless the process is logged in: the state belongs to all its sessions with the token, and ends when the
    /// last of them is closed.
    fn log_in(
        &self,
        session: &dyn ModuleSession,
        login: Login,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let needed = self.token.flags.login_required || self.token.unreadable.is_some();
        // A module that cannot say is asked to log in; it answers CKR_USER_ALREADY_LOGGED_IN if it is.
        let is_done = || match login {
            Login::Again(seen) if seen == self.stamp() => false,
            _ => session.user_is_logged_in().unwrap_or(false),
        };
        if !needed || is_done() {
            return Ok(());
        }
        let _here = self.module.instance().stay();
        let login_lock = self.login_lock();
        let Some(_one_at_a_time) = login_lock.lock(deadline) else {
            return Err(self.login_timeout(deadline));
        };
        // Nobody waits for a login that comes later, so no PIN is shown for it.
        if deadline.has_passed() {
            return Err(self.login_timeout(deadline));
        }
        if is_done() {
            return Ok(());
        }
        let changed = self.present_pin(session, User::User)?;
        if changed || login != Login::IfNeeded {
            self.shared.generation.fetch_add(1, Ordering::AcqRel);
        }
        if changed {
            tracing::info!(token = %self.token, "logged in");
        }
        Ok(())
    }

    fn login_timeout(&self, deadline: Deadline) -> Error {
        self.module.instance().waited_in_vain();
        Error::Timeout {
            on: self.token.to_string(),
            doing: "waiting to log in",
            waited: deadline.waited(),
        }
    }

    /// `C_Login`; whether it changed anything. Only for the holder of the login's lock.
    fn present_pin(&self, session: &dyn ModuleSession, user: User) -> Result<bool, Error> {
        let token = || Box::new(self.token.clone());
        // Asked anew each time: others may have used up the tries.
        let now = read_token(&self.module, self.token.slot_id);
        if now.unreadable.is_some() && !self.shared.unreadable.swap(true, Ordering::Relaxed) {
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
        let refused = lock(&self.shared.refused);
        let known = refused.0.iter().find(|(known, _)| *known == fingerprint);
        if let Some((_, rv)) = known {
            return Err(Error::PinRefusedBefore {
                token: token(),
                origin: self.pin.to_string(),
                rv: *rv,
            });
        }
        drop(refused);
        match session.login(user, pin.as_ref()) {
            Ok(()) => Ok(true),
            Err(call) if call.is(Rv::USER_ALREADY_LOGGED_IN) => Ok(false),
            Err(call) => match call.rv() {
                Some(rv) if rv.refuses_pin() => {
                    lock(&self.shared.refused).0.push((fingerprint, rv));
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
