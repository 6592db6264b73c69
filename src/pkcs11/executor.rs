//! [`Executor`]: has the workers of a key do jobs, each with a deadline.
//!
//! It knows nothing of keys, logins or retries: what a job does on a session, and what is done when it fails, is its caller's.

use std::sync::Arc;

use super::error::Error;
use super::fork::watch_thread;
use super::guard::Guard;
use super::health::Record;
use super::limits::{Limits, Rules};
use super::place::Place;
use super::pool::{Line, NoWorker, Pool};
use super::process::{Apart, Deadline, block_sigpipe};
use super::whereabouts::Whereabouts;
use super::worker::{Bell, NoAnswer};

/// What came of a job.
enum Failed<E> {
    /// It is over.
    For(E),
    /// It hangs where nothing comes back.
    LeftBehind(Error),
}

/// Workers with sessions, and what is counted of their jobs.
pub(super) struct Executor<H: Send + 'static> {
    pub(super) guard: Guard,
    pub(super) rules: Rules,
    pub(super) limits: Limits,
    pub(super) record: Record,
    /// Used by callers; the rest by the threads that make calls.
    pool: Apart<Pool<H>>,
}

impl<H: Copy + Send + 'static> Executor<H> {
    /// Makes no call.
    pub(super) fn new(place: &Place, limits: Limits) -> Result<Self, Error> {
        Ok(Self {
            guard: place.guard()?,
            rules: place.rules,
            limits,
            record: Record::default(),
            pool: Apart(Pool::new(limits.max_sessions, limits.session_wait)),
        })
    }

    /// Runs a job on a worker and waits for it until the deadline, and does something else meanwhile. A job that does not come back
    /// is written off with its worker. `name` says in errors what it is for.
    pub(super) fn run<T, E>(
        &self,
        deadline: Deadline,
        name: &impl Fn() -> String,
        job: impl FnMut(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + 'static,
        beside: impl FnOnce(),
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.lend(deadline, name, |_| false, job, beside)
            .map_err(|failed| match failed {
                Failed::For(error) => error,
                Failed::LeftBehind(error) => error.into(),
            })
    }

    /// As [`run`](Self::run), for a job that may be begun again while it hangs: one whose call hangs in an instance that was
    /// left alone is run by another worker.
    pub(super) fn run_again<T, E>(
        &self,
        deadline: Deadline,
        name: &impl Fn() -> String,
        job: impl Fn(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let job = Arc::new(job);
        loop {
            let theirs = job.clone();
            let is_lost = |thread: &Whereabouts| self.guard.has_left(thread);
            let job = move |line: &mut Line<H>, bell: &dyn Bell| theirs(line, bell);
            match self.lend(deadline, name, is_lost, job, || ()) {
                Ok(answer) => return Ok(answer),
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::LeftBehind(error)) => self.record.tried(&error, None, name),
            }
        }
    }

    /// Has a worker do a job.
    fn lend<T, E>(
        &self,
        deadline: Deadline,
        name: &impl Fn() -> String,
        is_lost: impl Fn(&Whereabouts) -> bool,
        mut job: impl FnMut(&mut Line<H>, &dyn Bell) -> Result<T, E> + Send + 'static,
        beside: impl FnOnce(),
    ) -> Result<T, Failed<E>>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        if self.guard.is_clogged(self.limits.max_stuck, &self.rules) {
            return Err(Failed::For(self.stuck(name()).into()));
        }
        let no_worker = |reason| match reason {
            NoWorker::Busy => Error::Busy {
                on: name(),
                waited: deadline.waited(),
                sessions: self.pool.0.max(),
            },
            NoWorker::Closed => Error::Closed,
            NoWorker::Thread(error) => Error::Thread { reason: error },
        };
        let leased = self.pool.0.lease(deadline);
        let (lease, waited) = leased.map_err(|reason| Failed::For(no_worker(reason).into()))?;
        if waited {
            self.record.waited_for_session();
        }
        // Where the job begins. If it goes on to another instance and hangs there, that one is drained in vain.
        let instance = self.guard.instance();
        let written_off = move |written_off| instance.count_stuck(written_off);
        let job = move |line: &mut Line<H>, bell: &dyn Bell| {
            block_sigpipe();
            watch_thread();
            job(line, bell)
        };
        match lease.run(deadline, is_lost, written_off, job, beside) {
            Ok(answer) => answer.map_err(Failed::For),
            Err(NoAnswer::LeftBehind) => Err(Failed::LeftBehind(self.no_answer(
                NoAnswer::LeftBehind,
                deadline,
                name(),
            ))),
            Err(reason) => Err(Failed::For(self.no_answer(reason, deadline, name()).into())),
        }
    }

    fn no_answer(&self, reason: NoAnswer, deadline: Deadline, on: String) -> Error {
        let doing = match reason {
            NoAnswer::NotBegun => "waiting for a thread to run",
            NoAnswer::WrittenOff | NoAnswer::LeftBehind => "waiting for a call in the module",
            NoAnswer::Panicked => return Error::Panicked,
        };
        let error = Error::Timeout {
            on,
            doing,
            waited: deadline.waited(),
        };
        tracing::debug!(%error, stuck = self.guard.stuck(), "no answer");
        error
    }

    /// So many calls hang that no more are made.
    pub(super) fn stuck(&self, on: String) -> Error {
        Error::Stuck {
            on,
            stuck: self.guard.stuck(),
        }
    }

    /// Ends the workers; whether all sessions were closed in time.
    pub(super) fn close(&self, deadline: Deadline) -> bool {
        self.pool.0.close(deadline)
    }
}
