//! How much a key may use, what may be done to a module, and what holds where nothing else was chosen.

use std::time::Duration;

/// How many sessions a key has at most.
pub(super) const MAX_SESSIONS: usize = 8;
/// How long a caller waits for a session.
pub(super) const SESSION_WAIT: Duration = Duration::from_secs(10);
/// How long a call may take, with all waiting and trying again.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// How long making, importing and listing may take.
pub(super) const PROVISION_DEADLINE: Duration = Duration::from_secs(120);
/// How many calls may hang in a module.
pub(super) const MAX_STUCK: usize = 8;
/// Time between two new starts of a module.
pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// How much a key may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_sessions: usize,
    pub(crate) session_wait: Duration,
    pub(crate) deadline: Duration,
    pub(crate) max_stuck: usize,
}

/// What may be done to a module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Whether it may be finalised and initialised again.
    pub(crate) reload: bool,
    /// Time from one new start to the next, at least.
    pub(crate) reload_interval: Duration,
    /// Whether a forked child may do so although the module is not known to bear it.
    pub(crate) reinitialize_after_fork: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            reload: true,
            reload_interval: RELOAD_INTERVAL,
            reinitialize_after_fork: false,
        }
    }
}
