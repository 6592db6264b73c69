//! [`Connection`]: a key's workers in one process, and the ladder that a signature climbs when it fails.
//!
//! 1. The session is closed. Another one is opened and the key is found in it.
//! 2. The token is looked for anew and logged in to, whatever the session says of logins.
//! 3. The module is finalised and initialised, once for all who are at this rung. Then as at 2.
//!
//! The ladder goes by the [class](ErrorClass) of an error and by the step that failed, never by its text: seven modules
//! had six answers to the same lost login, and a dead backend looks like a missing token or an empty one. What is wrong
//! with a PIN, an argument or a policy does not climb. From the top rung a signature is tried until its deadline, with
//! growing pauses. `C_Logout` and `C_CloseAllSessions` are never called: they would end other people's work.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::error::Error;
use super::guard::{Guard, Reload, Rules};
use super::health::Record;
use super::module::{ModuleSession, lock};
use super::place::Place;
use super::pool::{Line, NoWorker, Pool, Ready};
use super::process::{Deadline, block_sigpipe};
use super::rv::Rv;
use super::session::{Access, Login};
use super::token::TokenInfo;
use super::worker::{Bell, NoAnswer};
use crate::error::ErrorClass;

/// How much a key may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_sessions: usize,
    pub(crate) session_wait: Duration,
    pub(crate) deadline: Duration,
    pub(crate) max_stuck: usize,
}

/// Finds a key, or several that are used together, in a session.
pub(crate) trait Find: Clone + Send + Sync + 'static {
    /// Their handles; good for the session's [`Stamp`](super::session::Stamp).
    type Handles: Copy + Send + 'static;

    /// The handles of what was there before.
    fn find_again(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
    ) -> Result<Self::Handles, Error>;
}

/// Which keys, where: what a session is prepared with.
#[derive(Clone)]
pub(crate) struct Target<F> {
    pub(crate) place: Place,
    /// The token as it was when the keys were opened.
    pub(crate) token: TokenInfo,
    pub(crate) filter: F,
}

/// A key's workers and counts in one process.
pub(crate) struct Connection<H: Send + 'static> {
    guard: Guard,
    rules: Rules,
    pool: Pool<H>,
    limits: Limits,
    /// The token as it was found last.
    access: Mutex<Option<Arc<Access>>>,
    record: Record,
}

impl<H: Copy + Send + 'static> Connection<H> {
    /// Makes no call.
    pub(crate) fn new(place: &Place, limits: Limits) -> Result<Self, Error> {
        Ok(Self {
            guard: place.guard()?,
            rules: place.rules,
            pool: Pool::new(limits.max_sessions, limits.session_wait),
            limits,
            access: Mutex::default(),
            record: Record::default(),
        })
    }

    pub(crate) const fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    /// Runs a job on a worker and waits for it until the deadline. A job that does not come back is written off with its
    /// worker.
    pub(crate) fn run<T, E>(
        &self,
        deadline: Deadline,
        job: impl FnOnce(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        if self.guard.is_clogged(self.limits.max_stuck, &self.rules) {
            return Err(self.stuck().into());
        }
        let (lease, waited) = self.pool.lease(deadline).map_err(|reason| match reason {
            NoWorker::Busy => Error::Busy {
                on: self.name(),
                waited: deadline.waited(),
                sessions: self.pool.max(),
            },
            NoWorker::Closed => Error::Closed,
            NoWorker::Thread(error) => Error::Thread { reason: error },
        })?;
        if waited {
            self.record.waited_for_session();
        }
        // Where the job begins. If it goes on to another instance and hangs there, that one is drained in vain.
        let instance = self.guard.instance();
        let written_off = move |written_off| instance.count_stuck(written_off);
        let job = move |line: &mut Line<H>, bell: &dyn Bell| {
            block_sigpipe();
            job(line, bell)
        };
        lease
            .run(deadline, written_off, job)
            .unwrap_or_else(|reason| {
                let doing = match reason {
                    NoAnswer::NotBegun => "waiting for a thread to run",
                    NoAnswer::WrittenOff => "waiting for a call in the module",
                    NoAnswer::Panicked => return Err(Error::Panicked.into()),
                };
                let error = Error::Timeout {
                    on: self.name(),
                    doing,
                    waited: deadline.waited(),
                };
                tracing::warn!(%error, stuck = self.guard.stuck(), "no answer in time");
                Err(error.into())
            })
    }

    /// The token where it is now. `anew` looks for it even if it was seen since the module was started.
    pub(crate) fn access(
        &self,
        place: &Place,
        known: Option<&TokenInfo>,
        anew: bool,
        deadline: Deadline,
    ) -> Result<Arc<Access>, Error> {
        if !anew {
            let found = lock(&self.access).clone();
            if let Some(access) = found.filter(|access| access.is_current()) {
                return Ok(access);
            }
        }
        let access = Arc::new(place.access(&self.guard, known, deadline)?);
        *lock(&self.access) = Some(access.clone());
        Ok(access)
    }

    /// Ends the workers; whether all sessions were closed in time.
    pub(crate) fn close(&self, deadline: Deadline) -> bool {
        self.pool.close(deadline)
    }

    /// One try, with the session that is there or a new one.
    pub(crate) fn try_once<T>(
        &self,
        line: &mut Line<H>,
        target: &Target<impl Find<Handles = H>>,
        deadline: Deadline,
        attempt: impl Fn(&Access, &dyn ModuleSession, H) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.step(
            line,
            target,
            Rung::Kept,
            Login::IfNeeded,
            deadline,
            &attempt,
        )
        .inspect_err(|_| line.ready = None)
    }

    /// Tries until it works, the error is none that passes, or the deadline.
    pub(crate) fn climb<T>(
        &self,
        line: &mut Line<H>,
        target: &Target<impl Find<Handles = H>>,
        deadline: Deadline,
        attempt: impl Fn(&Access, &dyn ModuleSession, H) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut rung = Rung::Kept;
        let mut login = Login::IfNeeded;
        let mut pause = Pause::default();
        let mut tries = 1;
        let mut last = None;
        let mut next_start = None;
        // Another call would only hang with the others; this one is to put another instance in their place.
        let clogged = self.guard.instance().stuck() >= self.limits.max_stuck;
        if clogged || self.guard.is_blocked(&self.rules) {
            let epoch = self.guard.epoch();
            let reload = self.guard.reload(epoch, &self.rules, deadline)?;
            if reload == Reload::Done {
                rung = Rung::Reload;
            } else if clogged {
                return Err(self.stuck());
            }
        }
        loop {
            let epoch = self.guard.epoch();
            let seen = lock(&self.access).as_ref().map(|access| access.stamp());
            let error = match self.step(line, target, rung, login, deadline, &attempt) {
                Ok(done) => {
                    if rung != Rung::Kept {
                        tracing::info!(rung = rung.as_str(), tries, token = %target.token, "recovered");
                    }
                    return Ok(done);
                }
                // What failed before the time was up says more than that it is.
                Err(Error::Timeout { .. }) if last.is_some() => {
                    line.ready = None;
                    return Err(last.unwrap_or(Error::Closed));
                }
                Err(error) => error,
            };
            // Whatever the session is good for, it is not put back.
            line.ready = None;
            tries += 1;
            if !climbs(&error) {
                return Err(error);
            }
            // What failed may have been another's new start of the module; then the rung proves nothing.
            let started_meanwhile = self.guard.epoch() != epoch;
            rung = match rung {
                _ if started_meanwhile => Rung::Session,
                // Others hold what there is; to throw them out helps nobody.
                _ if error.class() == ErrorClass::Busy => Rung::Session,
                Rung::Kept => Rung::Session,
                Rung::Session => Rung::Login,
                Rung::Login | Rung::Reload => Rung::Reload,
            };
            let first = tries == 2;
            if deadline.has_passed() || (!first && !pause.sleep(next_start, deadline)) {
                return Err(error);
            }
            tracing::warn!(%error, class = %error.class(), rung = rung.as_str(), tries, "a signature is tried again");
            login = match (rung, seen) {
                (Rung::Login | Rung::Reload, Some(seen)) => Login::Again(seen),
                _ => Login::IfNeeded,
            };
            next_start = None;
            if rung == Rung::Reload {
                next_start = match self.reload(epoch, target, deadline) {
                    Err(Error::Timeout { .. }) => return Err(error),
                    next => next?,
                };
            }
            self.record.tried(&error, next_start);
            last = Some(error);
        }
    }

    /// The third rung; when it may be climbed again, if that is not now.
    fn reload(
        &self,
        epoch: u64,
        target: &Target<impl Find<Handles = H>>,
        deadline: Deadline,
    ) -> Result<Option<Instant>, Error> {
        match self.guard.reload(epoch, &target.place.rules, deadline) {
            Ok(Reload::Done) => Ok(None),
            Ok(Reload::NotBefore(next)) => Ok(Some(next)),
            Ok(refused @ (Reload::CallsInside | Reload::NotAllowed)) => {
                tracing::warn!(?refused, module = ?self.guard, "the module is not started anew");
                Ok(None)
            }
            // Tried again by the next step, which starts the module if it is not running.
            Err(error) if climbs(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn step<T>(
        &self,
        line: &mut Line<H>,
        target: &Target<impl Find<Handles = H>>,
        rung: Rung,
        login: Login,
        deadline: Deadline,
        attempt: &impl Fn(&Access, &dyn ModuleSession, H) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let anew = rung != Rung::Kept;
        let access = self.access(&target.place, Some(&target.token), anew, deadline)?;
        if line
            .ready
            .as_ref()
            .is_none_or(|ready| ready.stamp != access.stamp())
        {
            // Closed before the next one is opened, so that there are never more sessions than allowed.
            line.ready = None;
            let (session, stamp) = access.open(false, login, deadline)?;
            let keys = target.filter.find_again(&access, session.as_ref())?;
            line.ready = Some(Ready {
                session,
                keys,
                stamp,
            });
        }
        let Some(ready) = &line.ready else {
            return Err(Error::Closed);
        };
        // Nobody waits for an answer that comes later, and nothing is asked for it.
        if deadline.has_passed() {
            return Err(Error::Timeout {
                on: access.token.to_string(),
                doing: "preparing a session",
                waited: deadline.waited(),
            });
        }
        attempt(&access, ready.session.as_ref(), ready.keys)
    }

    fn stuck(&self) -> Error {
        Error::Stuck {
            on: self.name(),
            stuck: self.guard.stuck(),
        }
    }

    fn name(&self) -> String {
        match &*lock(&self.access) {
            Some(access) => access.token.to_string(),
            None => format!("the module {}", self.guard.name()),
        }
    }
}

/// How far a signature has climbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    Kept,
    Session,
    Login,
    Reload,
}

impl Rung {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept session",
            Self::Session => "new session",
            Self::Login => "new login",
            Self::Reload => "new start of the module",
        }
    }
}

/// Whether another try may help.
fn climbs(error: &Error) -> bool {
    match error {
        // The deadline has passed, or somebody hangs where this one would too.
        Error::Timeout { .. } | Error::Stuck { .. } => false,
        Error::Call { call, .. } if call.is(Rv::SLOT_ID_INVALID) => true,
        // A store that is away, seen on Kryoptic.
        Error::Call { call, .. } if call.is(Rv::TOKEN_NOT_INITIALIZED) => true,
        _ => error.class().is_retryable(),
    }
}

/// Pauses that double, each shortened by chance so that threads which failed together do not come back together.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Sleeps, not beyond the moment from which the module may be started anew; `false`, at once, when the deadline
    /// would pass meanwhile.
    fn sleep(&mut self, next_start: Option<Instant>, deadline: Deadline) -> bool {
        let whole = Self::FIRST
            .saturating_mul(1 << self.0.min(10))
            .min(Self::LONGEST);
        self.0 += 1;
        let mut chance = [0];
        // Without randomness the pause is whole.
        let _ = aws_lc_rs::rand::fill(&mut chance);
        let [chance] = chance;
        let pause = whole.mul_f64(1.0 - f64::from(chance) / 512.0);
        let pause = next_start.map_or(pause, |next| {
            pause.min(next.saturating_duration_since(Instant::now()))
        });
        if pause >= deadline.left() {
            return false;
        }
        std::thread::sleep(pause);
        true
    }
}
