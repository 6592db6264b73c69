//! What the library says through `tracing`, handed to Python's `logging`.
//!
//! An event may be raised by any thread, under any lock of the library, with or without the GIL. Waiting for the GIL
//! there could wait for a thread that waits for that lock. So events are only put into a queue; whoever comes back from a
//! call of the library takes them out and logs them, with the GIL held and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Events that nobody has taken out beyond this number are dropped and counted.
const MAX_WAITING: usize = 1000;

static WAITING: Mutex<VecDeque<Line>> = Mutex::new(VecDeque::new());
/// The length of the queue, so that looking at it costs no lock.
static LEN: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);
/// Whether events below INFO are wanted: there are several of them per message.
static DEBUG: AtomicBool = AtomicBool::new(false);

struct Line {
    level: Level,
    target: &'static str,
    text: String,
}

/// Makes this the place where `tracing` events of the library go.
pub(crate) fn install() {
    // It fails in a second interpreter of this process: then the first one logs.
    if tracing::subscriber::set_global_default(Queue).is_ok() {
        watch_forks();
    }
}

/// Keeps the queue for the fork itself, and for no longer.
#[cfg(unix)]
fn watch_forks() {
    // SAFETY: the functions may run around a fork, in whatever thread: the lock that they take is held for moments only,
    // by threads that wait for nothing meanwhile.
    #[allow(unsafe_code)]
    let failed = unsafe { libc::pthread_atfork(Some(hold), Some(release), Some(release)) };
    if failed != 0 {
        tracing::warn!(
            error = failed,
            "a fork may leave the log of the child locked"
        );
    }
}

#[cfg(not(unix))]
const fn watch_forks() {}

/// Keeps the queue for a fork, so that the child does not find it locked by a thread that it does not have. The GIL must
/// not be given up before [`release`]: whoever got it would wait here for the queue, and nobody could end that.
#[cfg(unix)]
extern "C" fn hold() {
    // Where a thread ends there is nothing to keep it in.
    let _ = HELD.try_with(|held| *held.borrow_mut() = Some(waiting()));
}

/// Ends [`hold`], in parent and child.
#[cfg(unix)]
extern "C" fn release() {
    let _ = HELD.try_with(|held| *held.borrow_mut() = None);
}

/// Runs `work` and drops what this thread says meanwhile.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    QUIET.set(true);
    let done = work();
    QUIET.set(false);
    done
}

thread_local! {
    /// Whether what this thread says is dropped.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// The queue's lock while its thread forks.
    #[cfg(unix)]
    static HELD: RefCell<Option<MutexGuard<'static, VecDeque<Line>>>> = const { RefCell::new(None) };
}

fn waiting() -> MutexGuard<'static, VecDeque<Line>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs what is waiting. What goes wrong in a handler is the handler's matter, as everywhere in `logging`.
pub(crate) fn flush(py: Python<'_>) {
    if LEN.load(Ordering::Acquire) == 0 {
        return;
    }
    let lines = std::mem::take(&mut *waiting());
    LEN.store(0, Ordering::Release);
    for line in lines {
        if let Err(error) = log(py, &line) {
            error.write_unraisable(py, None);
        }
    }
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        let line = Line {
            level: Level::WARN,
            target: "taskseal",
            text: format!("{dropped} log lines were dropped"),
        };
        if let Err(error) = log(py, &line) {
            error.write_unraisable(py, None);
        }
    }
}

/// Asks `logging` whether events below INFO are wanted. Called when an object is made, not for each message.
pub(crate) fn refresh(py: Python<'_>) -> PyResult<()> {
    let wanted = logger(py, "taskseal")?.call_method1("isEnabledFor", (10,))?;
    DEBUG.store(wanted.extract()?, Ordering::Relaxed);
    Ok(())
}

fn logger<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "logging", "getLogger")?.call1((name,))
}

fn log(py: Python<'_>, line: &Line) -> PyResult<()> {
    let level = match line.level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        _ => 10,
    };
    let name = line.target.replace("::", ".");
    // The text goes as an argument, so that a percent sign in it is a percent sign.
    logger(py, &name)?.call_method1("log", (level, "%s", &line.text))?;
    Ok(())
}

/// The subscriber.
struct Queue;

impl Subscriber for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !QUIET.get()
            && metadata.is_event()
            && metadata.target().starts_with("taskseal")
            && (*metadata.level() <= Level::INFO || DEBUG.load(Ordering::Relaxed))
    }

    // Asked each time: the level may change.
    fn register_callsite(
        &self,
        _metadata: &'static Metadata<'static>,
    ) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let mut waiting = waiting();
        if waiting.len() >= MAX_WAITING {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(Line {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            text: text.message + &text.fields,
        });
        LEN.store(waiting.len(), Ordering::Release);
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// `message key=value key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            // Writing to a String does not fail.
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
