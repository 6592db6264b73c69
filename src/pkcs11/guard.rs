//! [`Guard`]: the one owner of a module in a process. It starts it, starts it anew, and keeps its rules.
//!
//! * No call is in the module while it is finalised: what `C_Finalize` does to a call in progress is undefined
//!   (PKCS#11 v3.1, section 5.4.2). So there is no new start while a call that was written off is still inside.
//! * A session belongs to the *epoch* in which it was opened. After a new start it is neither used nor closed: its
//!   number may be somebody else's by then.
//! * In a forked child nothing is called on what the parent opened. The child has guards of its own.

mod calls;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::calls::GuardedSession;
use super::builder::Builder;
use super::error::Error;
use super::fork::{Call, watch};
use super::health::count_reload;
use super::module::{CallError, CryptokiModule, Module, ModuleSession, lock};
use super::process::{Deadline, PerProcess, TimedLock};
use super::rv::Rv;

/// A module of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Shared>);

struct Shared {
    module: Arc<dyn Module>,
    pid: u32,
    /// An ancestor of this process used modules, perhaps this one.
    forked: bool,
    /// Counts the starts.
    epoch: AtomicU64,
    /// No call may go in: the module is not initialised, or about to be finalised.
    closed: AtomicBool,
    /// How many calls are inside.
    inside: AtomicUsize,
    /// How many calls nobody waits for any more.
    stuck: AtomicUsize,
    /// Sessions are opened and closed one at a time: tpm2-pkcs11's session table takes no lock and crashed otherwise.
    sessions: TimedLock,
    state: Mutex<State>,
    changed: Condvar,
    reloads: AtomicU64,
}

#[derive(Default)]
struct State {
    running: bool,
    /// `C_Initialize` was ours, so `C_Finalize` may be.
    ours: bool,
    /// Somebody starts the module, and has until then.
    turn: Option<Instant>,
    /// When the last new start began.
    last: Option<Instant>,
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
            reload_interval: Builder::DEFAULT_RELOAD_INTERVAL,
            reinitialize_after_fork: false,
        }
    }
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

/// A shared library and its guard.
struct Loaded {
    library: Arc<CryptokiModule>,
    guard: Arc<Guard>,
}

struct Registry {
    forked: bool,
    loaded: Mutex<BTreeMap<PathBuf, Loaded>>,
    given: Mutex<Vec<Weak<Shared>>>,
}

fn registry() -> &'static Registry {
    static REGISTRY: PerProcess<Registry> = PerProcess::new();
    REGISTRY.get_or(|inherited| Registry {
        forked: inherited,
        loaded: Mutex::default(),
        given: Mutex::default(),
    })
}

/// The one owner of the module at `path` in this process: loads and initialises it on the first call and hands out the
/// same one from then on, also when it is named by another path to the same file. Sessions that it opens are closed when
/// they are dropped, unless the module was started anew since.
///
/// `C_Initialize` asks for the operating system's locks. If another part of the process has called it before, the module
/// is used as it is and never finalised. If another part calls it later, it is told that the module is initialised, and
/// must bear that a signature which fails on all sessions starts the module anew.
///
/// # Errors
/// [`Error::ModuleLoad`] when it is no module or does not start.
pub fn load(path: &Path) -> Result<Arc<dyn Module>, Error> {
    load_with(path, None)
}

/// As [`load`], with a text for `pReserved` of `C_Initialize`. A module that is loaded is handed out only to those who ask
/// for the text that it was initialised with, or for none.
///
/// # Errors
/// [`Error::ModuleLoad`] as for [`load`], and for another text.
pub fn load_with(path: &Path, reserved: Option<&str>) -> Result<Arc<dyn Module>, Error> {
    let guard = Guard::loaded(path, reserved)?;
    guard.start(
        &Rules::default(),
        Deadline::after(Builder::DEFAULT_DEADLINE),
    )?;
    Ok(guard)
}

impl Guard {
    /// The guard of the library at `path`, which is loaded, but perhaps not started. It is started with this text in
    /// `pReserved`.
    pub(crate) fn loaded(path: &Path, reserved: Option<&str>) -> Result<Arc<Self>, Error> {
        let path = path.canonicalize().map_err(|error| Error::ModuleLoad {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let registry = registry();
        let mut loaded = lock(&registry.loaded);
        if let Some(known) = loaded.get(&path) {
            let fits = known.library.check_reserved(reserved);
            // One that never started was perhaps given the wrong text, and is not what the process has.
            if known.guard.epoch() > 0 || known.library.has_reserved(reserved) {
                return fits.map(|()| known.guard.clone());
            }
        }
        let library = Arc::new(CryptokiModule::new(path.clone(), reserved)?);
        let guard = Arc::new(Self::new(library.clone(), registry.forked));
        tracing::info!(module = %path.display(), "PKCS#11 module loaded");
        let known = Loaded {
            library,
            guard: guard.clone(),
        };
        loaded.insert(path, known);
        Ok(guard)
    }

    /// The guard of an implementation, which perhaps is not started.
    pub(crate) fn given(module: &Arc<dyn Module>) -> Self {
        let registry = registry();
        let mut given = lock(&registry.given);
        given.retain(|guard| guard.strong_count() > 0);
        let known = given.iter().filter_map(Weak::upgrade);
        let same = |shared: &Arc<Shared>| {
            std::ptr::addr_eq(Arc::as_ptr(&shared.module), Arc::as_ptr(module))
        };
        if let Some(shared) = known.into_iter().find(same) {
            return Self(shared);
        }
        let guard = Self::new(module.clone(), registry.forked);
        given.push(Arc::downgrade(&guard.0));
        guard
    }

    fn new(module: Arc<dyn Module>, forked: bool) -> Self {
        watch();
        Self(Arc::new(Shared {
            module,
            pid: std::process::id(),
            forked,
            epoch: AtomicU64::new(0),
            closed: AtomicBool::new(true),
            inside: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            sessions: TimedLock::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            reloads: AtomicU64::new(0),
        }))
    }

    /// Counts the starts. Sessions and handles of another epoch are worth nothing.
    pub(crate) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::SeqCst)
    }

    /// The module's file, for errors and logs.
    pub(crate) fn name(&self) -> String {
        self.path().display().to_string()
    }

    /// How often the module was started anew.
    pub(crate) fn reloads(&self) -> u64 {
        self.0.reloads.load(Ordering::Relaxed)
    }

    /// How many calls nobody waits for any more.
    pub(crate) fn stuck(&self) -> usize {
        self.0.stuck.load(Ordering::SeqCst)
    }

    /// Counts a call that is written off, or one that has come back.
    pub(crate) fn count_stuck(&self, written_off: bool) {
        if written_off {
            self.0.stuck.fetch_add(1, Ordering::SeqCst);
        } else {
            self.0.stuck.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Initialises the module, unless that is done.
    pub(crate) fn start(&self, rules: &Rules, deadline: Deadline) -> Result<(), Error> {
        if self.0.pid != std::process::id() {
            return Err(self.load_error(&not_initialized("C_Initialize")));
        }
        // Not only a short cut: while somebody waits for the calls inside to end, the module counts as running.
        if !self.0.closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some(turn) = self.take_turn(deadline, |state| state.running)? else {
            return Ok(());
        };
        self.initialize_in(&turn, rules)
    }

    /// Starts the module anew, once for all who saw the epoch `seen` fail.
    pub(crate) fn reload(
        &self,
        seen: u64,
        rules: &Rules,
        deadline: Deadline,
    ) -> Result<Reload, Error> {
        let done = |state: &State| state.running && self.epoch() != seen;
        let Some(turn) = self.take_turn(deadline, done)? else {
            return Ok(Reload::Done);
        };
        let state = self.state();
        if !state.running {
            drop(state);
            return self.initialize_in(&turn, rules).map(|()| Reload::Done);
        }
        if !rules.reload || !state.ours {
            return Ok(Reload::NotAllowed);
        }
        let next = state.last.map(|last| last + rules.reload_interval);
        drop(state);
        if let Some(next) = next.filter(|next| *next > Instant::now()) {
            return Ok(Reload::NotBefore(next));
        }
        if !self.finalize_in(&turn, deadline) {
            return Ok(Reload::CallsInside);
        }
        self.initialize_in(&turn, rules)?;
        tracing::warn!(module = %self.path().display(), "the module was started anew");
        Ok(Reload::Done)
    }

    /// Opens a session in the current epoch; waits for its turn until the deadline.
    pub(crate) fn open(
        &self,
        slot: u64,
        writable: bool,
        deadline: Deadline,
    ) -> Result<Box<dyn ModuleSession>, CallError> {
        const NAME: &str = "C_OpenSession";
        let one_at_a_time = self.0.sessions.lock(deadline);
        if one_at_a_time.is_none() {
            return Err(CallError::new(NAME, Rv::FUNCTION_CANCELED));
        }
        let _inside = self.enter(NAME)?;
        // Cannot change while this call is inside.
        let epoch = self.epoch();
        let session = self.0.module.open_session(slot, writable)?;
        Ok(Box::new(GuardedSession {
            session: Some(session),
            guard: self.clone(),
            epoch,
        }))
    }

    fn initialize_in(&self, _turn: &Turn<'_>, rules: &Rules) -> Result<(), Error> {
        let _call = Call::begin();
        let module = self.0.module.as_ref();
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
        let mut state = self.state();
        state.running = true;
        state.ours = ours;
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        self.0.closed.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Waits for the calls inside to end and finalises the module; whether they did.
    fn finalize_in(&self, _turn: &Turn<'_>, deadline: Deadline) -> bool {
        /// How long all other calls are kept out, at most.
        const DRAIN: Duration = Duration::from_secs(2);
        let shared = &self.0;
        if self.stuck() > 0 {
            return false;
        }
        let deadline = deadline.within(DRAIN);
        shared.closed.store(true, Ordering::SeqCst);
        while shared.inside.load(Ordering::SeqCst) > 0 {
            if deadline.has_passed() || self.stuck() > 0 {
                shared.closed.store(false, Ordering::SeqCst);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut state = self.state();
        state.last = Some(Instant::now());
        state.running = false;
        drop(state);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        shared.reloads.fetch_add(1, Ordering::Relaxed);
        count_reload();
        let _call = Call::begin();
        if let Err(call) = shared.module.finalize() {
            tracing::debug!(error = %call, "the module could not be finalised");
        }
        true
    }

    /// Waits until nobody starts the module. `None` when it is `done` then.
    fn take_turn(
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

    fn load_error(&self, call: &CallError) -> Error {
        Error::ModuleStart {
            path: self.path().to_owned(),
            call: call.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Goes into the module, unless it is closed. Never waits.
    fn enter(&self, function: &'static str) -> Result<Inside<'_>, CallError> {
        if self.0.pid != std::process::id() {
            return Err(not_initialized(function));
        }
        self.0.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(&self.0.inside, Call::begin());
        // After the counting: whoever closes looks at the count after that.
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(not_initialized(function));
        }
        Ok(inside)
    }
}

const fn not_initialized(function: &'static str) -> CallError {
    CallError::new(function, Rv::CRYPTOKI_NOT_INITIALIZED)
}

/// A call in progress.
struct Inside<'a>(
    &'a AtomicUsize,
    #[allow(dead_code, reason = "ends when dropped")] Call,
);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The right to start or stop the module.
struct Turn<'a>(&'a Guard);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().turn = None;
        self.0.0.changed.notify_all();
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("module", &self.0.module)
            .field("pid", &self.0.pid)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}
