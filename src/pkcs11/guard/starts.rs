//! Starting a module, and starting it anew: one caller at a time, when the rules allow it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::instance::Outcome;
use super::{Guard, State};
use crate::pkcs11::error::Error;
use crate::pkcs11::fork::{Call, watch_end};
use crate::pkcs11::health::count_reload;
use crate::pkcs11::limits::Rules;
use crate::pkcs11::module::{CallError, Module as _};
use crate::pkcs11::process::{Deadline, lock};
use crate::pkcs11::rv::Rv;

/// What a module shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Tokens, or nobody has looked: others may have sessions that a new start would end.
    Tokens,
    /// No token at all: there is nothing that a new start could end.
    Nothing,
}

/// What came of the wish for a new start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// The module was started anew, by this caller or another one.
    Done,
    /// Not before that moment.
    NotBefore(Instant),
    /// Calls are inside that do not return.
    CallsInside,
    /// It was chosen that there is none, or somebody else in the process initialised the module.
    NotAllowed,
}

/// Modules that take `C_Finalize` and `C_Initialize` in a forked child without harm to the parent, by what `C_GetInfo`
/// says. Measured: on each of them child and parent signed afterwards. On a TPM (tpm2-pkcs11) the child hangs, and the
/// parent's next calls count as wrong PINs until the whole TPM is locked.
const SAFE_AFTER_FORK: [(&str, &str); 3] = [
    // State in the process's memory and in files; 12 of 12 forks while threads of the parent were signing were fine.
    ("SoftHSM", "PKCS11"),
    // State in the process's memory and in SQLite.
    ("Kryoptic", ""),
    // The child must do it: otherwise it has the parent's random numbers and makes the same PSS signatures.
    ("Mozilla", "NSS"),
];

impl Guard {
    /// Initialises the module, unless that is done.
    pub(crate) fn start(&self, rules: &Rules, deadline: Deadline) -> Result<(), Error> {
        if !self.0.process.is_this() {
            return Err(self.load_error(&CallError::not_initialized("C_Initialize")));
        }
        // Not only a short cut: while somebody waits for the calls inside to end, the module counts as running.
        if !self.instance().is_closed() {
            return Ok(());
        }
        let Some(turn) = self.take_turn(deadline, |state| state.running)? else {
            return Ok(());
        };
        self.initialize_in(&turn, rules)
    }

    /// Starts the module anew, once for all who saw the epoch `seen` fail, and what it showed.
    pub(crate) fn reload(
        &self,
        seen: u64,
        sight: Sight,
        rules: &Rules,
        deadline: Deadline,
    ) -> Result<Reload, Error> {
        let done = |state: &State| state.running && self.epoch() != seen;
        let Some(turn) = self.take_turn(deadline, done)? else {
            return Ok(Reload::Done);
        };
        let state = self.state();
        if state.running && (!rules.reload || !state.ours) {
            return Ok(Reload::NotAllowed);
        }
        let next = match sight {
            Sight::Nothing => self.after_blind_start(&state, rules),
            Sight::Tokens if state.running => state.last.map(|last| last + rules.reload_interval),
            Sight::Tokens => None,
        };
        drop(state);
        if let Some(next) = next.filter(|next| *next > Instant::now()) {
            return Ok(Reload::NotBefore(next));
        }
        let outcome = self.reload_in(&turn, sight, rules, deadline);
        if sight == Sight::Nothing {
            self.0.blind_starts.fetch_add(1, Ordering::SeqCst);
        }
        self.state().ended = Some(Instant::now());
        outcome
    }

    fn reload_in(
        &self,
        turn: &Turn<'_>,
        sight: Sight,
        rules: &Rules,
        deadline: Deadline,
    ) -> Result<Reload, Error> {
        if !self.state().running {
            return self.initialize_in(turn, rules).map(|()| Reload::Done);
        }
        if !self.finalize_in(turn, sight, deadline) {
            let soon = lock(&self.0.others).may_be_spent(rules.reload_interval);
            if sight == Sight::Nothing && !soon {
                return Ok(Reload::CallsInside);
            }
            return self.replace_in(turn, deadline);
        }
        self.initialize_in(turn, rules)?;
        tracing::debug!(module = %self.path().display(), ?sight, "the module was started anew");
        Ok(Reload::Done)
    }

    /// When a module that shows no token may be started anew; `None` when it may not be.
    pub(crate) fn next_blind_start(&self, rules: &Rules) -> Option<Instant> {
        let state = self.state();
        if state.running && (!rules.reload || !state.ours) {
            return None;
        }
        Some(
            self.after_blind_start(&state, rules)
                .unwrap_or_else(Instant::now),
        )
    }

    /// The pauses double, so that a server which is away for long is not asked all the time; and they stay short, so that it
    /// is used soon after its return.
    fn after_blind_start(&self, state: &State, rules: &Rules) -> Option<Instant> {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_millis(500);
        let starts = self.0.blind_starts.load(Ordering::SeqCst);
        let pause = FIRST.saturating_mul(1 << starts.min(10)).min(LONGEST);
        let pause = pause.min(rules.reload_interval);
        state.ended.map(|ended| ended + pause)
    }

    /// The module shows a token.
    pub(crate) fn saw_token(&self) {
        // Mostly there is nothing to change, and others read it.
        if self.0.blind_starts.load(Ordering::SeqCst) != 0 {
            self.0.blind_starts.store(0, Ordering::SeqCst);
        }
    }

    fn initialize_in(&self, _turn: &Turn<'_>, rules: &Rules) -> Result<(), Error> {
        let _call = Call::begin();
        let instance = self.instance();
        let module = instance.module.as_ref();
        let ours = match module.initialize() {
            Ok(()) => true,
            Err(call) if call.is(Rv::CRYPTOKI_ALREADY_INITIALIZED) && self.0.forked => {
                // The parent's state, in a copy of its memory.
                let library = module.library().unwrap_or_default();
                let known = SAFE_AFTER_FORK.iter().any(|(manufacturer, description)| {
                    library.manufacturer.contains(manufacturer)
                        && library.description.contains(description)
                });
                if !known && !rules.reinitialize_after_fork {
                    return Err(Error::Forked {
                        path: self.path().to_owned(),
                        library: format!("{:?} by {:?}", library.description, library.manufacturer),
                    });
                }
                if let Err(call) = module.finalize() {
                    tracing::debug!(error = %call, "the inherited module could not be finalised");
                }
                module.initialize().map_err(|call| self.load_error(&call))?;
                tracing::info!(module = %self.path().display(), "the module was initialised again after a fork");
                true
            }
            Err(call) if call.is(Rv::CRYPTOKI_ALREADY_INITIALIZED) => {
                // Not by somebody else if it was ours before and C_Finalize failed.
                let ours = self.state().ours;
                tracing::debug!(module = %self.path().display(), ours, "the module was initialised before");
                ours
            }
            Err(call) => return Err(self.load_error(&call)),
        };
        if self.epoch() == 0 {
            // Only now: libraries register for the end when they are loaded, or with their first call.
            watch_end();
        }
        let mut state = self.state();
        state.running = true;
        state.ours = ours;
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        instance.set_closed(false);
        Ok(())
    }

    /// Waits for the calls inside to end and finalises the module; whether they did.
    pub(super) fn finalize_in(&self, _turn: &Turn<'_>, sight: Sight, deadline: Deadline) -> bool {
        /// How long all other calls are kept out, at most.
        const DRAIN: Duration = Duration::from_secs(2);
        /// The same where there is no token: a call fails soon then, or hangs.
        const BLIND_DRAIN: Duration = Duration::from_millis(200);
        let drain = match sight {
            Sight::Tokens => DRAIN,
            Sight::Nothing => BLIND_DRAIN,
        };
        let shared = &self.0;
        let instance = self.instance();
        if instance.stuck() > 0 {
            return false;
        }
        if !instance.drain(deadline.within(drain)) {
            instance.set_closed(false);
            return false;
        }
        let mut state = self.state();
        state.last = Some(Instant::now());
        state.running = false;
        drop(state);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        shared.reloads.fetch_add(1, Ordering::Relaxed);
        count_reload();
        let _call = Call::begin();
        if let Err(call) = instance.module.finalize() {
            tracing::debug!(error = %call, "the module could not be finalised");
        }
        true
    }

    /// Puts another instance in the place of one in which calls hang. That one is left alone with them.
    fn replace_in(&self, _turn: &Turn<'_>, deadline: Deadline) -> Result<Reload, Error> {
        let others = || lock(&self.0.others);
        let Some(spare) = others().reserve() else {
            return Ok(Reload::CallsInside);
        };
        let _call = Call::begin();
        for past in others().take_empty() {
            if let Err(call) = past.module.finalize() {
                tracing::debug!(error = %call, "an abandoned instance could not be finalised");
            }
        }
        let Some(module) = spare.or_else(|| self.0.module.another()) else {
            others().started(Outcome::Single);
            return Ok(Reload::CallsInside);
        };
        match module.initialize() {
            Ok(()) => {}
            Err(call) if call.is(Rv::CRYPTOKI_ALREADY_INITIALIZED) => {
                others().started(Outcome::Single);
                return Ok(Reload::CallsInside);
            }
            Err(call) => {
                others().started(Outcome::Unused(module));
                return Err(self.load_error(&call));
            }
        }
        // Whoever is late has lost the turn.
        if deadline.has_passed() {
            let _ = module.finalize();
            others().started(Outcome::Unused(module));
            return Ok(Reload::CallsInside);
        }
        let old = self.instance();
        let next = Arc::new(old.next(module));
        next.set_closed(false);
        old.set_closed(true);
        tracing::warn!(module = %self.path().display(), stuck = old.stuck(), "calls do not come back from the module; they and their threads are left alone, and another instance of the module is used from now on");
        let mut state = self.state();
        state.last = Some(Instant::now());
        let mut instance = self
            .0
            .instance
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *instance = next;
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        drop(instance);
        drop(state);
        let mut others = others();
        others.started(Outcome::InUse);
        others.abandon(old);
        self.0.reloads.fetch_add(1, Ordering::Relaxed);
        count_reload();
        Ok(Reload::Done)
    }

    /// Waits until nobody starts the module. `None` when it is `done` then.
    pub(super) fn take_turn(
        &self,
        deadline: Deadline,
        done: impl Fn(&State) -> bool,
    ) -> Result<Option<Turn<'_>>, Error> {
        let mut state = self.state();
        loop {
            let Some(until) = state.turn else {
                if done(&state) {
                    return Ok(None);
                }
                state.turn = Some(deadline.at());
                return Ok(Some(Turn(self)));
            };
            // Somebody who is late hangs in the module; nobody waits for that.
            let left = deadline
                .left()
                .min(until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::Timeout {
                    on: format!("the module {}", self.name()),
                    doing: "waiting for it to be started anew",
                    waited: deadline.waited(),
                });
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The right to start or stop the module.
pub(super) struct Turn<'a>(&'a Guard);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().turn = None;
        self.0.0.changed.notify_all();
    }
}
