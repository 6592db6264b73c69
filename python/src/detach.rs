//! Work without the GIL, and forks that wait for it.
//!
//! A fork copies memory in whatever state it is. Whoever has released the GIL may hold a lock at that moment (a key of
//! `aws-lc` has one, and so has the memory allocator of another library); in the child it would be held for ever. So a fork
//! waits for the work in progress, and new work waits for the fork. Calls in a PKCS#11 module, which may take long, are
//! guarded by the library itself as well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use crate::logging;

/// Work in progress without the GIL.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Forks in progress.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// How long a fork waits: a token that hangs must not stop it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two looks.
const PAUSE: Duration = Duration::from_micros(50);

/// Runs `work` without the GIL, then logs what was said meanwhile.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    let done = py.detach(|| {
        let _inside = Inside::begin();
        work()
    });
    logging::flush(py);
    done
}

/// As [`detached`], for work whose refusals the caller logs with more than the library knows.
pub(crate) fn detached_quietly<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    detached(py, || logging::quietly(work))
}

/// Work that a fork waits for.
struct Inside;

impl Inside {
    fn begin() -> Self {
        loop {
            INSIDE.fetch_add(1, Ordering::SeqCst);
            // After the counting: a fork looks at the count after it has said that it comes.
            if FORKS.load(Ordering::SeqCst) == 0 {
                return Self;
            }
            INSIDE.fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes forks of this interpreter wait. Between these functions and the fork there is other Python code, and so the GIL
/// may go to other threads: what they begin then waits, and what they do with the GIL held is over when the fork has it.
pub(crate) fn watch_forks(py: Python<'_>) -> PyResult<()> {
    // Not on Windows, which has no fork.
    let Ok(register) = py.import("os")?.getattr("register_at_fork") else {
        return Ok(());
    };
    let hook = |run: fn()| PyCFunction::new_closure(py, None, None, move |_, _| run());
    let hooks = PyDict::new(py);
    hooks.set_item("before", hook(before)?)?;
    hooks.set_item("after_in_parent", hook(in_parent)?)?;
    hooks.set_item("after_in_child", hook(in_child)?)?;
    register.call((), Some(&hooks))?;
    Ok(())
}

fn before() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    let start = Instant::now();
    while INSIDE.load(Ordering::SeqCst) > 0 && start.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
    }
}

fn in_parent() {
    FORKS.fetch_sub(1, Ordering::SeqCst);
}

/// The threads that were inside, or waited, are not in the child.
fn in_child() {
    INSIDE.store(0, Ordering::SeqCst);
    FORKS.store(0, Ordering::SeqCst);
}
