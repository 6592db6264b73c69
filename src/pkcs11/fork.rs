//! No fork while a call is in a module.
//!
//! A fork copies memory in whatever state it is. If another thread is inside a module at that moment, a lock of the module
//! may be held in the child for ever: a child of a SoftHSM process that was signing hung in its first call. So a fork waits
//! for the calls in progress, and new ones wait for the fork.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Calls in any module of this process.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Forks in progress.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// How long a fork waits: a call that hangs must not stop it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A call that a fork waits for.
pub(crate) struct Call(());

impl Call {
    /// Waits for forks in progress.
    pub(crate) fn begin() -> Self {
        loop {
            INSIDE.fetch_add(1, Ordering::SeqCst);
            // After the counting: a fork looks at the count after it has said that it comes.
            if FORKS.load(Ordering::SeqCst) == 0 {
                return Self(());
            }
            INSIDE.fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes forks wait, from the first call on.
pub(crate) fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::SeqCst) {
        return;
    }
    // SAFETY: the three functions take no lock and allocate nothing, so they may run around a fork, in whatever thread.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    #[cfg(unix)]
    if failed != 0 {
        tracing::warn!(error = failed, "forks do not wait for calls in a module");
    }
}

#[cfg(unix)]
extern "C" fn before() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    let start = Instant::now();
    while INSIDE.load(Ordering::SeqCst) > 0 && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[cfg(unix)]
extern "C" fn in_parent() {
    FORKS.fetch_sub(1, Ordering::SeqCst);
}

/// The threads that were inside, or waited, are not in the child.
#[cfg(unix)]
extern "C" fn in_child() {
    INSIDE.store(0, Ordering::SeqCst);
    FORKS.store(0, Ordering::SeqCst);
}
