//! [`Connection`]: a key in one process: its [`Executor`], its token, and the ladder that a call climbs when it fails.
//!
//! 1. The session is closed. Another one is opened and the key is found in it.
//! 2. The token is looked for anew and logged in to, whatever the session says of logins.
//! 3. The module is finalised and initialised, once for all who are at this rung. Then as at 2. Where it shows no token at
//!    all, this comes first, and soon again: nobody has a session that it would end.
//!
//! The ladder goes by the [class](crate::error::ErrorClass) of an error and by the step that failed, never by its text:
//! seven modules had six answers to the same lost login, and a dead backend looks like a missing token or an empty one.
//! What is wrong with a PIN, an argument or a policy does not climb. From the top rung a signature is tried until its
//! deadline, with growing pauses. `C_Logout` and `C_CloseAllSessions` are never called: they would end other people's work.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::absence::{Absence, Verdict};
use super::error::Error;
use super::executor::Executor;
use super::guard::Guard;
use super::guard::starts::{Reload, Sight};
use super::health::Record;
use super::ladder::{Ladder, Pause, Rung, Step, climbs, climbs_when_opening};
use super::limits::Limits;
use super::module::ModuleSession;
use super::place::Place;
use super::pool::{Line, Ready};
use super::process::{Deadline, lock};
use super::session::{Access, Login};
use super::token::TokenInfo;
use super::worker::Bell;

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
    executor: Executor<H>,
    /// The token as it was found last.
    access: Mutex<Option<Arc<Access>>>,
    absence: Absence,
}

impl<H: Copy + Send + 'static> Connection<H> {
    /// Makes no call.
    pub(crate) fn new(place: &Place, limits: Limits) -> Result<Self, Error> {
        Ok(Self {
            executor: Executor::new(place, limits)?,
            access: Mutex::default(),
            absence: Absence::default(),
        })
    }

    pub(crate) const fn guard(&self) -> &Guard {
        &self.executor.guard
    }

    pub(crate) const fn record(&self) -> &Record {
        &self.executor.record
    }

    /// So many signatures were handed out.
    pub(crate) fn signed(&self, count: u64) {
        self.executor.record.signed(count, &|| self.name());
    }

    /// A call failed for good.
    pub(crate) fn failed(&self, error: &Error) {
        self.executor.record.failed(error, &|| self.name());
    }

    fn tried(&self, error: &Error, next_start: Option<Instant>) {
        self.executor
            .record
            .tried(error, next_start, &|| self.name());
    }

    /// Runs a job on a worker and waits for it until the deadline. A job that does not come back is written off with its
    /// worker.
    pub(crate) fn run<T, E>(
        &self,
        deadline: Deadline,
        job: impl FnMut(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.run_beside(deadline, job, || ())
    }

    /// The same, and does something else meanwhile.
    pub(crate) fn run_beside<T, E>(
        &self,
        deadline: Deadline,
        job: impl FnMut(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + 'static,
        beside: impl FnOnce(),
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.executor.run(deadline, &|| self.name(), job, beside)
    }

    /// As [`run`](Self::run), for a job that may be begun again while it hangs: one whose call hangs in an instance that was
    /// left alone is run by another worker.
    pub(crate) fn run_again<T, E>(
        &self,
        deadline: Deadline,
        job: impl Fn(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.executor.run_again(deadline, &|| self.name(), job)
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
        let access = Arc::new(place.access(&self.executor.guard, known, deadline)?);
        *lock(&self.access) = Some(access.clone());
        Ok(access)
    }

    /// Ends the workers; whether all sessions were closed in time.
    pub(crate) fn close(&self, deadline: Deadline) -> bool {
        self.executor.close(deadline)
    }

    /// Tries until it works, the error is none that passes, or the deadline.
    pub(crate) fn climb<T>(
        &self,
        line: &mut Line<H>,
        target: &Target<impl Find<Handles = H>>,
        deadline: Deadline,
        attempt: impl Fn(&Access, &dyn ModuleSession, H) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.absence.verdict() {
            Verdict::Sign => {}
            Verdict::Fail(error) => return Err(error),
            Verdict::Look { start } => {
                if start {
                    self.reload(self.executor.guard.epoch(), Sight::Tokens, deadline)?;
                }
                let step = Step {
                    rung: Rung::Session,
                    ..Step::FIRST
                };
                line.ready = None;
                match self.attempt(line, target, step, deadline, &attempt) {
                    Ok(done) => {
                        self.absence.forget();
                        tracing::info!(token = %target.token, "the key is there again");
                        return Ok(done);
                    }
                    Err(error) if error.missing_key().is_some() => {
                        return Err(self.absence.remember(error));
                    }
                    Err(error) if !climbs(&error) => return Err(error),
                    // The token is not well, so that this says nothing of the key any more.
                    Err(_) => self.absence.forget(),
                }
            }
        }
        self.climb_by(deadline, climbs, |step| {
            self.attempt(line, target, step, deadline, &attempt)
        })
        .map_err(|(rung, error)| match rung {
            Rung::Reload => self.absence.remember(error),
            _ => error,
        })
    }

    /// Opens what is needed for the first time: as [`climb`](Self::climb), from the first session on.
    pub(crate) fn climb_to_open<T>(
        &self,
        deadline: Deadline,
        open: impl FnMut(Step) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.climb_by(deadline, climbs_when_opening, open)
            .map_err(|(_, error)| error)
    }

    /// Where calls hang, another one would only hang with them: this one is to put another instance of the module in their
    /// place. Whether it did.
    pub(crate) fn unclog(&self, deadline: Deadline) -> Result<bool, Error> {
        let clogged = self.executor.guard.is_full(self.executor.limits.max_stuck);
        if !clogged && !self.executor.guard.is_blocked(&self.executor.rules) {
            return Ok(false);
        }
        let epoch = self.executor.guard.epoch();
        match self
            .executor
            .guard
            .reload(epoch, Sight::Tokens, &self.executor.rules, deadline)?
        {
            Reload::Done => Ok(true),
            _ if clogged => Err(self.executor.stuck(self.name())),
            _ => Ok(false),
        }
    }

    /// Climbs with one step after the other; the error with the rung where it ended.
    fn climb_by<T>(
        &self,
        deadline: Deadline,
        climbs: impl Fn(&Error) -> bool,
        mut attempt: impl FnMut(Step) -> Result<T, Error>,
    ) -> Result<T, (Rung, Error)> {
        let mut ladder = match self.unclog(deadline) {
            Ok(true) => Ladder::new(Rung::Reload),
            Ok(false) => Ladder::new(Rung::Kept),
            Err(error) => return Err((Rung::Kept, error)),
        };
        let mut login = Login::IfNeeded;
        let mut pause = Pause::default();
        let mut last = None;
        let mut next_start = None;
        loop {
            let rung = ladder.rung();
            let epoch = self.executor.guard.epoch();
            let seen = lock(&self.access).as_ref().map(|access| access.stamp());
            let error = match (attempt(Step { rung, login }), last.take()) {
                (Ok(done), _) => {
                    if ladder.has_climbed() {
                        tracing::debug!(rung = rung.as_str(), on = self.name(), "recovered");
                        self.executor.record.well(&|| self.name());
                    }
                    return Ok(done);
                }
                // What failed before the time was up says more than that it is.
                (Err(Error::Timeout { .. }), Some(last)) => return Err(last),
                (Err(error), _) => error,
            };
            // What failed may have been another's new start of the module; then the rung proves nothing.
            let started_meanwhile = self.executor.guard.epoch() != epoch;
            let Some(next) = ladder.after(&error, climbs(&error), started_meanwhile) else {
                return Err((rung, error));
            };
            let blind_start = match next.sight {
                Sight::Nothing => self.executor.guard.next_blind_start(&self.executor.rules),
                Sight::Tokens => None,
            };
            let goes_on = match blind_start {
                Some(start) => Pause::sleep_until(start, deadline),
                None => next.at_once || pause.sleep(next_start, deadline),
            };
            if deadline.has_passed() || !goes_on {
                return Err((rung, error));
            }
            tracing::debug!(%error, class = %error.class(), rung = next.rung.as_str(), "tried again");
            login = match (next.rung, seen) {
                (Rung::Login | Rung::Reload, Some(seen)) => Login::Again(seen),
                _ => Login::IfNeeded,
            };
            next_start = None;
            if next.rung == Rung::Reload {
                next_start = match self.reload(epoch, next.sight, deadline) {
                    Err(Error::Timeout { .. }) => return Err((rung, error)),
                    Err(error) => return Err((next.rung, error)),
                    Ok(next) => next,
                };
            }
            self.tried(&error, next_start);
            last = Some((rung, error));
        }
    }

    /// The third rung; when it may be climbed again, if that is not now.
    fn reload(
        &self,
        epoch: u64,
        sight: Sight,
        deadline: Deadline,
    ) -> Result<Option<Instant>, Error> {
        match self
            .executor
            .guard
            .reload(epoch, sight, &self.executor.rules, deadline)
        {
            Ok(Reload::Done) => Ok(None),
            Ok(Reload::NotBefore(next)) => Ok(Some(next)),
            Ok(refused @ (Reload::CallsInside | Reload::NotAllowed)) => {
                tracing::debug!(?refused, module = ?self.executor.guard, "the module is not started anew");
                Ok(None)
            }
            // Tried again by the next step, which starts the module if it is not running.
            Err(error) if climbs(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One try, with the session that is there or a new one. Whatever the session of one that failed is good for, it is
    /// not put back.
    pub(crate) fn attempt<T>(
        &self,
        line: &mut Line<H>,
        target: &Target<impl Find<Handles = H>>,
        step: Step,
        deadline: Deadline,
        attempt: &impl Fn(&Access, &dyn ModuleSession, H) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.attempt_in(line, target, step, deadline, attempt)
            .inspect_err(|_| line.ready = None)
    }

    fn attempt_in<T>(
        &self,
        line: &mut Line<H>,
        target: &Target<impl Find<Handles = H>>,
        Step { rung, login }: Step,
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
            let keys = target.filter.find_again(&access, session.as_ref());
            let keys = keys.map_err(|error| of_other_token(error, &target.token, &access.token))?;
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

    fn name(&self) -> String {
        match &*lock(&self.access) {
            Some(access) => access.token.to_string(),
            None => format!("the module {}", self.executor.guard.name()),
        }
    }
}

/// An error about keys says nothing of those that were opened when another token answers in the place of theirs, which may
/// come back.
fn of_other_token(error: Error, was: &TokenInfo, is: &TokenInfo) -> Error {
    let about_keys = error.missing_key().is_some() || matches!(error, Error::FernetKeys { .. });
    let readable = was.unreadable.is_none() && is.unreadable.is_none();
    if about_keys && readable && was.identity() != is.identity() {
        return Error::OtherToken {
            was: Box::new(was.clone()),
            is: Box::new(is.clone()),
        };
    }
    error
}
