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
}

/// Where a call is on the ladder, and where its next try is made. It knows errors alone: it makes no call and reads no clock.
#[derive(Debug)]
pub(super) struct Ladder {
    rung: Rung,
    failed_once: bool,
}

/// The next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) rung: Rung,
    /// What the failure said of the module.
    pub(super) sight: Sight,
    /// Without a pause: the first one after a failure.
    pub(super) at_once: bool,
}

impl Ladder {
    /// Before the first try, which is made on this rung.
    pub(super) const fn new(rung: Rung) -> Self {
        Self {
            rung,
            failed_once: false,
        }
    }

    /// Where the try is made.
    pub(super) const fn rung(&self) -> Rung {
        self.rung
    }

    /// Whether a try has failed.
    pub(super) const fn has_climbed(&self) -> bool {
        self.failed_once
    }

    /// Where the next try is made after this one failed; `None` when no other helps. `climbs` says whether such an error climbs.
    /// The module may have been started anew meanwhile, which makes the failure say nothing of the rung.
    pub(super) fn after(
        &mut self,
        error: &Error,
        climbs: bool,
        started_meanwhile: bool,
    ) -> Option<Next> {
        // The token is well and has other keys: this one will not come by itself.
        let is_gone = error.missing_key() == Some(true);
        if !climbs || (is_gone && self.rung == Rung::Reload && !started_meanwhile) {
            return None;
        }
        let sight = sight(error);
        self.rung = match (sight, self.rung) {
            _ if started_meanwhile => Rung::Session,
            // There is nothing to open or to log in to.
            (Sight::Nothing, _) => Rung::Reload,
            // Others hold what there is; to throw them out helps nobody.
            _ if error.class() == ErrorClass::Busy => Rung::Session,
            (_, Rung::Kept) => Rung::Session,
            (_, Rung::Session) => Rung::Login,
            (_, Rung::Login | Rung::Reload) => Rung::Reload,
        };
        let at_once = !self.failed_once;
        self.failed_once = true;
        Some(Next {
            rung: self.rung,
            sight,
            at_once,
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pkcs11::error::TokenWanted;
    use crate::pkcs11::module::CallError;

    fn call(function: &'static str, rv: Rv) -> Error {
        Error::call(CallError::new(function, rv), None)
    }

    fn lost() -> Error {
        call("C_Sign", Rv::SESSION_HANDLE_INVALID)
    }

    fn no_token(found: Vec<TokenInfo>) -> Error {
        let wanted = TokenWanted {
            module: "module.so".into(),
            attributes: "label \"a\"".to_owned(),
        };
        Error::TokenNotFound { wanted, found }
    }

    fn no_key(others: usize) -> Error {
        let key = |_| crate::pkcs11::info::KeyInfo {
            label: "other".to_owned(),
            id: vec![1],
            is_rsa: Some(true),
            public_key: None,
            modulus: None,
            sensitive: None,
            extractable: None,
            always_sensitive: None,
            never_extractable: None,
            always_authenticate: None,
            local: None,
            sign: None,
            certificates: 0,
        };
        Error::KeyNotFound {
            wanted: "label \"a\"".to_owned(),
            token: Box::new(TokenInfo::new(0)),
            found: (0..others).map(key).collect(),
        }
    }

    fn busy() -> Error {
        call("C_OpenSession", Rv::SESSION_COUNT)
    }

    fn unready() -> TokenInfo {
        TokenInfo {
            unreadable: Some("CKR_DEVICE_ERROR".to_owned()),
            ..TokenInfo::new(0)
        }
    }

    use Rung::{Kept, Login, Reload, Session};

    /// One line a way: the rung, the error, whether the module was started anew meanwhile, where it goes on.
    #[test]
    fn each_error_leads_to_its_rung() {
        type Case = (Rung, fn() -> Error, bool, Option<Rung>);
        let table: [Case; 19] = [
            (Kept, lost, false, Some(Session)),
            (Session, lost, false, Some(Login)),
            (Login, lost, false, Some(Reload)),
            (Reload, lost, false, Some(Reload)),
            (Kept, lost, true, Some(Session)),
            (Reload, lost, true, Some(Session)),
            (Kept, busy, false, Some(Session)),
            (Reload, busy, false, Some(Session)),
            (Kept, || no_token(vec![]), false, Some(Reload)),
            (Session, || no_token(vec![]), true, Some(Session)),
            (Session, || no_token(vec![unready()]), false, Some(Login)),
            (Login, || no_key(0), false, Some(Reload)),
            (Reload, || no_key(0), false, Some(Reload)),
            (Login, || no_key(1), false, Some(Reload)),
            (Reload, || no_key(1), false, None),
            (Reload, || no_key(1), true, Some(Session)),
            (Kept, || call("C_Sign", Rv::ARGUMENTS_BAD), false, None),
            (Login, || call("C_Login", Rv::PIN_LOCKED), false, None),
            (
                Kept,
                || call("C_GetSlotList", Rv::DEVICE_ERROR),
                false,
                Some(Reload),
            ),
        ];
        for (number, (rung, error, started, expected)) in table.into_iter().enumerate() {
            let error = error();
            let mut ladder = Ladder::new(rung);
            let next = ladder.after(&error, climbs(&error), started);
            assert_eq!(next.map(|next| next.rung), expected, "{number}: {error}");
            assert_eq!(ladder.rung(), expected.unwrap_or(rung), "{number}: {error}");
        }
    }

    #[test]
    fn one_try_follows_at_once_and_the_others_after_pauses() {
        let mut ladder = Ladder::new(Kept);
        assert!(!ladder.has_climbed());
        let pauses = [(); 4].map(|()| ladder.after(&lost(), true, false).map(|next| !next.at_once));
        assert_eq!(pauses, [Some(false), Some(true), Some(true), Some(true)]);
        assert!(ladder.has_climbed() && ladder.rung() == Reload);
    }
}
