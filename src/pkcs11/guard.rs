//! [`Guard`]: the one owner of a module in a process. It starts it, starts it anew, and keeps its rules.
//!
//! * No call is in the module while it is finalised: what `C_Finalize` does to a call in progress is undefined
//!   (PKCS#11 v3.1, section 5.4.2). Where calls do not come out, another [`Instance`] of the module is used from then on,
//!   if it has such; else there is no new start.
//! * A session belongs to the *epoch* in which it was opened. After a new start it is neither used nor closed: its
//!   number may be somebody else's by then.
//! * In a forked child nothing is called on what the parent opened. The child has guards of its own.

mod calls;
mod instance;
pub(crate) mod starts;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Instant;

use self::instance::{Instance, Others};
use super::error::Error;
use super::fork::watch;
use super::limits::{DEADLINE, Rules};
use super::module::library::CryptokiModule;
use super::module::{CallError, Module};
use super::process::{Apart, Deadline, PerProcess, ProcessId, lock};
use super::whereabouts::Whereabouts;

/// A module of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Shared>);

struct Shared {
    /// The first instance: what the module is known by.
    module: Arc<dyn Module>,
    process: ProcessId,
    /// An ancestor of this process used modules, perhaps this one.
    forked: bool,
    /// Counts the starts.
    epoch: AtomicU64,
    /// The instance in use.
    instance: Apart<RwLock<Arc<Instance>>>,
    /// How many calls nobody waits for any more, in all instances.
    stuck: Arc<AtomicUsize>,
    others: Mutex<Others>,
    state: Mutex<State>,
    changed: Condvar,
    reloads: AtomicU64,
    /// How many starts in a row after which the module showed no token.
    blind_starts: AtomicU32,
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
    /// When the last start was over, whatever came of it.
    ended: Option<Instant>,
}

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
    guard.start(&Rules::default(), Deadline::after(DEADLINE))?;
    Ok(guard)
}

/// The shared library at `path` without the guard that [`load`] puts before it, and not initialised: for tests that stand
/// between the two.
///
/// # Errors
/// [`Error::ModuleLoad`] when it is no module.
pub fn library(path: &Path) -> Result<Arc<dyn Module>, Error> {
    Ok(Arc::new(CryptokiModule::new(path.to_owned(), None)?))
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
                fits?;
                return Ok(known.guard.clone());
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
        let stuck = Arc::default();
        let instance = Instance::first(module.clone(), Arc::clone(&stuck));
        Self(Arc::new(Shared {
            instance: Apart(RwLock::new(Arc::new(instance))),
            stuck,
            module,
            process: ProcessId::this(),
            forked,
            epoch: AtomicU64::new(0),
            others: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            reloads: AtomicU64::new(0),
            blind_starts: AtomicU32::new(0),
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

    /// The instance in use. Not for a forked child, which has a guard of its own.
    pub(crate) fn instance(&self) -> Arc<Instance> {
        let instance = self.0.instance.0.read();
        instance.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many calls nobody waits for any more, in all instances.
    pub(crate) fn stuck(&self) -> usize {
        self.0.stuck.load(Ordering::SeqCst)
    }

    /// Whether another call would only be one more that hangs, because so many do. One caller per interval is told no,
    /// to put another instance in the place of this one, if that may help.
    pub(crate) fn is_clogged(&self, max_stuck: usize, rules: &Rules) -> bool {
        self.is_full(max_stuck) && !self.may_be_replaced(rules)
    }

    /// Whether so many calls hang in the instance in use that another one would only be one more.
    pub(crate) fn is_full(&self, max_stuck: usize) -> bool {
        self.stuck() >= max_stuck && self.instance().stuck() >= max_stuck
    }

    /// Whether calls that hang keep others from being made, and another instance may help. Says yes once per interval.
    pub(crate) fn is_blocked(&self, rules: &Rules) -> bool {
        self.stuck() > 0 && self.instance().is_blocked() && self.may_be_replaced(rules)
    }

    fn may_be_replaced(&self, rules: &Rules) -> bool {
        let mut others = lock(&self.0.others);
        rules.reload && others.may_have() && others.is_time(rules.reload_interval)
    }

    /// Whether the thread hangs in an instance that was left alone.
    pub(crate) fn has_left(&self, thread: &Whereabouts) -> bool {
        let number = self.instance().number();
        thread.instance().is_some_and(|place| place < number)
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

    /// Refuses calls of a forked child.
    fn check_process(&self, function: &'static str) -> Result<(), CallError> {
        if !self.0.process.is_this() {
            return Err(CallError::not_initialized(function));
        }
        Ok(())
    }

    /// The instance in use, for calls of this process.
    fn own(&self, function: &'static str) -> Result<Arc<Instance>, CallError> {
        // Before any lock: a child may have inherited it from a thread that held it.
        self.check_process(function)?;
        Ok(self.instance())
    }

    /// A call in the instance in use.
    fn call<T>(
        &self,
        function: &'static str,
        call: impl FnOnce(&dyn Module) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let instance = self.own(function)?;
        let _inside = instance.enter(function)?;
        call(instance.module.as_ref())
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("module", &self.0.module)
            .field("process", &self.0.process)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}
