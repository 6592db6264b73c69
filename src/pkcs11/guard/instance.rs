//! [`Instance`]: one initialised state of a module, and the calls that are in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::pkcs11::fork::Call;
use crate::pkcs11::module::{CallError, Module};
use crate::pkcs11::process::{Apart, Deadline, TimedLock};
use crate::pkcs11::whereabouts::Stay;

/// A module has one, until calls that hang in it keep it from being started anew. Then it is abandoned for another one,
/// if the module has such: nothing is called in it any more, and it is not finalised under its calls.
pub(crate) struct Instance {
    pub(super) module: Arc<dyn Module>,
    /// Tells instances apart; later ones have larger numbers.
    number: u64,
    /// No call may go in: it is not initialised, about to be finalised, or abandoned.
    closed: AtomicBool,
    /// How many calls are inside.
    inside: Apart<AtomicUsize>,
    /// How many calls that began in it nobody waits for any more.
    stuck: AtomicUsize,
    /// The same of all instances together.
    stuck_anywhere: Arc<AtomicUsize>,
    /// One that hangs holds a lock that others need.
    blocked: AtomicBool,
    /// Sessions are opened and closed one at a time: tpm2-pkcs11's session table takes no lock and crashed otherwise.
    pub(super) sessions: TimedLock,
}

impl Instance {
    /// The first of a module; `stuck_anywhere` is at 0.
    pub(super) fn first(module: Arc<dyn Module>, stuck_anywhere: Arc<AtomicUsize>) -> Self {
        Self {
            module,
            number: 0,
            closed: AtomicBool::new(true),
            inside: Apart::default(),
            stuck: AtomicUsize::new(0),
            stuck_anywhere,
            blocked: AtomicBool::new(false),
            sessions: TimedLock::default(),
        }
    }

    /// One to come after this one.
    pub(super) fn next(&self, module: Arc<dyn Module>) -> Self {
        Self {
            number: self.number + 1,
            ..Self::first(module, self.stuck_anywhere.clone())
        }
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// How many calls that began in it nobody waits for any more.
    pub(crate) fn stuck(&self) -> usize {
        self.stuck.load(Ordering::SeqCst)
    }

    /// Counts a call that is written off, or one that has come back.
    pub(crate) fn count_stuck(&self, written_off: bool) {
        for count in [&self.stuck, &*self.stuck_anywhere] {
            if written_off {
                count.fetch_add(1, Ordering::SeqCst);
            } else {
                count.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Says that a lock did not become free in time.
    pub(crate) fn waited_in_vain(&self) {
        if self.stuck() > 0 {
            self.blocked.store(true, Ordering::SeqCst);
        }
    }

    /// Whether a call that hangs holds a lock that others need.
    pub(super) fn is_blocked(&self) -> bool {
        self.stuck() > 0 && self.blocked.load(Ordering::SeqCst)
    }

    /// Goes in, unless it is closed. Never waits, except for a fork.
    pub(super) fn enter(&self, function: &'static str) -> Result<Inside<'_>, CallError> {
        self.inside.0.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(&self.inside.0, Call::begin(), self.stay());
        // After the counting: whoever closes looks at the count after that.
        if self.closed.load(Ordering::SeqCst) {
            return Err(CallError::not_initialized(function));
        }
        Ok(inside)
    }

    /// Says that the thread makes a call here, or waits for somebody who does.
    pub(crate) fn stay(&self) -> Stay {
        Stay::begin(self.number)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inside.0.load(Ordering::SeqCst) == 0
    }

    /// Keeps new calls out and waits for those inside; whether they came out in time. It stays closed.
    pub(super) fn drain(&self, deadline: Deadline) -> bool {
        self.set_closed(true);
        while !self.is_empty() {
            // One that was written off is not waited for.
            if deadline.has_passed() || self.stuck() > 0 {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// A call in progress.
pub(super) struct Inside<'a>(
    &'a AtomicUsize,
    #[allow(dead_code, reason = "ends when dropped")] Call,
    #[allow(dead_code, reason = "ends when dropped")] Stay,
);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The instances besides the one in use.
#[derive(Default)]
pub(super) struct Others {
    /// Left alone with calls that hang inside.
    abandoned: Vec<Arc<Instance>>,
    /// Not initialised: the last try to do so failed.
    spare: Vec<Arc<dyn Module>>,
    /// How many are being initialised.
    starting: usize,
    /// The module has only one.
    single: bool,
    /// When the last was wanted for calls that had been written off.
    tried: Option<Instant>,
    /// When the last was left alone.
    last: Option<Instant>,
}

impl Others {
    /// How many instances there may be besides the one in use. Each holds its threads that hang, and what it opened.
    const MAX: usize = 16;

    /// Whether another instance may be had, as far as is known.
    pub(super) fn may_have(&self) -> bool {
        !self.single && (!self.spare.is_empty() || self.occupied() < Self::MAX)
    }

    fn occupied(&self) -> usize {
        let hanging = self.abandoned.iter().filter(|old| !old.is_empty());
        hanging.count() + self.starting
    }

    /// Whether another one may be left alone now. The last half of them is to last: one per interval.
    pub(super) fn may_be_spent(&self, interval: Duration) -> bool {
        self.occupied() < Self::MAX / 2 || self.last.is_none_or(|last| last.elapsed() >= interval)
    }

    /// Whether it is time to try; says yes once per interval.
    pub(super) fn is_time(&mut self, interval: Duration) -> bool {
        let now = Instant::now();
        let is_time = self.tried.is_none_or(|tried| now >= tried + interval);
        if is_time {
            self.tried = Some(now);
        }
        is_time
    }

    /// Room for another instance, and the one to put there if there is one that is not in use; [`started`](Self::started)
    /// comes after it.
    pub(super) fn reserve(&mut self) -> Option<Option<Arc<dyn Module>>> {
        if !self.may_have() {
            return None;
        }
        self.starting += 1;
        Some(self.spare.pop())
    }

    /// The abandoned ones out of which the last call has come: they may be finalised.
    pub(super) fn take_empty(&mut self) -> Vec<Arc<Instance>> {
        let all = std::mem::take(&mut self.abandoned);
        let (empty, hanging) = all.into_iter().partition(|old| old.is_empty());
        self.abandoned = hanging;
        empty
    }

    /// What became of what was reserved.
    pub(super) fn started(&mut self, outcome: Outcome) {
        self.starting = self.starting.saturating_sub(1);
        match outcome {
            Outcome::InUse => {}
            Outcome::Unused(module) => self.spare.push(module),
            Outcome::Single => self.single = true,
        }
    }

    pub(super) fn abandon(&mut self, old: Arc<Instance>) {
        self.abandoned.push(old);
        self.last = Some(Instant::now());
    }
}

/// What became of an instance that was to be started.
pub(super) enum Outcome {
    InUse,
    /// It is not initialised.
    Unused(Arc<dyn Module>),
    /// It is the one that there was before.
    Single,
}
