//! [`Refusals`]: what an opener says in the log about messages that it refused.

use std::fmt;
use std::time::{Duration, Instant};

use crate::tally::Tally;

/// The refusals of one opener, counted by reason and signer, so that a flood of bad messages is no flood of lines.
#[derive(Debug)]
pub(crate) struct Refusals(Tally);

impl Default for Refusals {
    fn default() -> Self {
        Self(Tally::new(Duration::from_secs(10)))
    }
}

impl Refusals {
    /// One more was refused. `signer` is who the message says, or is known, to be from.
    pub(crate) fn refused(&self, reason: &str, signer: Option<&str>, error: &dyn fmt::Display) {
        let counted = self.0.count(reason, signer, Instant::now());
        if counted.first {
            tracing::warn!(reason, %error, "message refused");
        } else {
            tracing::debug!(reason, %error, "message refused");
        }
        say(counted.summary);
    }

    /// One was not refused.
    pub(crate) fn passed(&self) {
        say(self.0.due(Instant::now()));
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        say(self.0.rest(Instant::now()));
    }
}

fn say(summary: Option<String>) {
    if let Some(refused) = summary {
        tracing::warn!(%refused, "messages refused since the last line");
    }
}
