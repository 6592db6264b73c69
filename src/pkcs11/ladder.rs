//! What the ladder goes by: its rungs, which errors climb it, and the pauses in between.

use std::time::{Duration, Instant};

use super::error::Error;
use super::guard::starts::Sight;
use super::process::Deadline;
use super::rv::Rv;
use super::session::Login;
use super::token::TokenInfo;
use crate::error::ErrorClass;

/// How far a signature has climbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rung {
    Kept,
    Session,
    Login,
    Reload,
}

impl Rung {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept session",
            Self::Session => "new session",
            Self::Login => "new login",
            Self::Reload => "new start of the module",
        }
    }

    /// Where the next try is made after this one failed. A new start of the module meanwhile makes the failure say nothing of
    /// the rung.
    pub(super) fn after(self, error: &Error, started_meanwhile: bool) -> Self {
        match self {
            _ if started_meanwhile => Self::Session,
            // Others hold what there is; to throw them out helps nobody.
            _ if error.class() == ErrorClass::Busy => Self::Session,
            Self::Kept => Self::Session,
            Self::Session => Self::Login,
            Self::Login | Self::Reload => Self::Reload,
        }
    }
}

/// Where on the ladder a try is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(super) rung: Rung,
    pub(super) login: Login,
}

impl Step {
    /// With what is there.
    pub(super) const FIRST: Self = Self {
        rung: Rung::Kept,
        login: Login::IfNeeded,
    };
}

/// Whether another try may help.
pub(super) fn climbs(error: &Error) -> bool {
    match error {
        // The deadline has passed, or somebody hangs where this one would too.
        Error::Timeout { .. } | Error::Stuck { .. } => false,
        Error::Call { call, .. } if call.is(Rv::SLOT_ID_INVALID) => true,
        // A store that is away, seen on Kryoptic.
        Error::Call { call, .. } if call.is(Rv::TOKEN_NOT_INITIALIZED) => true,
        _ => error.class().is_retryable(),
    }
}

/// Whether another try may help while a key is opened. What is not there may never have been, so it is waited for only
/// where the module shows no token at all, as one does whose device or server is away.
pub(super) fn climbs_when_opening(error: &Error) -> bool {
    match error {
        _ if error.missing_key().is_some() => false,
        Error::TokenNotFound { found, .. } => found.iter().all(is_blank),
        _ => climbs(error),
    }
}

fn is_blank(token: &TokenInfo) -> bool {
    token.unreadable.is_none() && !token.flags.initialized
}

/// What this says of the module: whether anybody has something there that a new start would end.
pub(super) fn sight(error: &Error) -> Sight {
    let blind = match error {
        Error::TokenNotFound { found, .. } => found.iter().all(is_blank),
        // It does not run, or does not even say which slots there are: p11-kit-client, once its connection is dead. A door
        // that is shut for a new start says nothing.
        Error::ModuleStart { call, .. } => call.class().is_retryable(),
        Error::Call { call, .. } => {
            matches!(call.function, "C_GetSlotList" | "C_GetInfo")
                && call.class().is_retryable()
                && !call.is(Rv::CRYPTOKI_NOT_INITIALIZED)
        }
        _ => false,
    };
    if blind { Sight::Nothing } else { Sight::Tokens }
}

/// Sleeps for half of the time that is left at most. `false`, at once, when next to nothing is left.
fn sleep_within(pause: Duration, deadline: Deadline) -> bool {
    let most = deadline.left() / 2;
    if most < Pause::FIRST {
        return false;
    }
    std::thread::sleep(pause.min(most));
    true
}

/// Pauses that double, each shortened by chance so that threads which failed together do not come back together.
#[derive(Default)]
pub(super) struct Pause(u32);

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Sleeps, not beyond the moment from which the module may be started anew, and for half of the time that is left at
    /// most: a call that gives up with a long pause before it wastes what it has. `false`, at once, when next to nothing
    /// is left.
    pub(super) fn sleep(&mut self, next_start: Option<Instant>, deadline: Deadline) -> bool {
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
        sleep_within(pause, deadline)
    }

    /// The same until the module is to be started anew, however long that is.
    pub(super) fn sleep_until(next_start: Instant, deadline: Deadline) -> bool {
        /// Whoever comes to find that another one is at it looks again after that.
        const LEAST: Duration = Duration::from_millis(2);
        let pause = next_start.saturating_duration_since(Instant::now());
        sleep_within(pause.max(LEAST), deadline)
    }
}
