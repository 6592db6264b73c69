//! [`Connections`]: the connection that each process has to the same keys.

use std::sync::Arc;

use super::error::Error;
use super::health::{Health, Record, Statistics};
use super::limits::Limits;
use super::place::Place;
use super::process::{Deadline, PerProcess};
use super::recovery::Connection;
use super::token::TokenInfo;

/// What opened keys are used through. Nothing of it outlives a fork.
pub(crate) struct Connections<H: Send + 'static> {
    limits: Limits,
    own: PerProcess<Arc<Connection<H>>>,
}

impl<H: Copy + Send + 'static> Connections<H> {
    /// Goes on with the connection that the keys were opened through.
    pub(crate) fn new(opened: Arc<Connection<H>>, limits: Limits) -> Self {
        let own = PerProcess::new();
        own.get_or(|_| opened);
        Self { limits, own }
    }

    /// This process's, made if there is none, and the deadline of a call that begins now.
    pub(crate) fn begin(&self, place: &Place) -> Result<(&Arc<Connection<H>>, Deadline), Error> {
        let deadline = Deadline::after(self.limits.deadline);
        let connection = self
            .own
            .get_or_try(|_| Connection::new(place, self.limits).map(Arc::new))?;
        Ok((connection, deadline))
    }

    /// How the keys are in this process. Makes no call.
    pub(crate) fn health(&self) -> Health {
        match self.own.get() {
            Some(connection) => connection.record().health(),
            None => Health::Usable,
        }
    }

    /// What they did so far in this process.
    pub(crate) fn statistics(&self) -> Statistics {
        match self.own.get() {
            Some(connection) => {
                let guard = connection.guard();
                connection
                    .record()
                    .statistics(guard.reloads(), guard.stuck())
            }
            None => Record::default().statistics(0, 0),
        }
    }

    /// Waits for the calls in progress, closes all sessions and ends their threads.
    pub(crate) fn close(&self, token: &TokenInfo) -> Result<(), Error> {
        let Some(connection) = self.own.get() else {
            return Ok(());
        };
        let deadline = Deadline::after(self.limits.deadline);
        if connection.close(deadline) {
            return Ok(());
        }
        Err(Error::Timeout {
            on: token.to_string(),
            doing: "closing the sessions",
            waited: deadline.waited(),
        })
    }
}
