//! Errands: what is done once with a module or token, on a thread of its own, and not tried again.
//!
//! Nothing stops a call in a C library, so its caller waits until a deadline and no longer; see [`Connection::run`].

use std::sync::Arc;
use std::time::Duration;

use super::builder::Builder;
use super::error::Error;
use super::guard::Guard;
use super::module::ModuleSession;
use super::process::Deadline;
use super::recovery::Connection;
use super::session::{Access, Login};

impl Builder {
    /// Starts the module and works with it for so long at most.
    pub(super) fn on_module<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Guard) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let rules = self.place.rules;
        self.errand(within, move |guard, deadline| {
            guard.start(&rules, deadline)?;
            work(guard)
        })
    }

    /// Finds the token and works on it.
    pub(super) fn on_token<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Access, Deadline) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.place.clone();
        self.errand(within, move |guard, deadline| {
            work(&place.access(guard, None, deadline)?, deadline)
        })
    }

    /// Works in a session with the token, until the [`provision_deadline`](Self::provision_deadline).
    pub(super) fn in_session<T: Send + 'static>(
        &self,
        writable: bool,
        work: impl FnOnce(&Access, &dyn ModuleSession, Deadline) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.on_token(self.provision_deadline, move |access, deadline| {
            let (session, _) = access.open(writable, Login::IfNeeded, deadline)?;
            work(access, session.as_ref(), deadline)
        })
    }

    fn errand<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Guard, Deadline) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let deadline = Deadline::after(within);
        let connection = Arc::new(Connection::<()>::new(&self.place, self.options.limits)?);
        let (theirs, mut work) = (connection.clone(), Some(work));
        connection.run(deadline, move |_, _| {
            theirs.unclog(deadline)?;
            let work = work.take().ok_or(Error::Panicked)?;
            work(theirs.guard(), deadline)
        })
    }
}
