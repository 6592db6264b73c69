//! No fork while a call is in a module, and no end of the process.
//!
//! A fork copies memory in whatever state it is. If another thread is inside a module at that moment, a lock of the module
//! may be held in the child for ever: a child of a SoftHSM process that was signing hung in its first call. So a fork waits
//! for the calls in progress, and new ones wait for the fork.
//!
//! The end of a thread that made calls is one more call: libraries clean up after their threads, under locks of theirs.
//! On a busy machine one child in eighty hung in its first call when its parent had just dropped a key on SoftHSM: OpenSSL
//! keeps a list of threads.
//!
//! A process that ends calls the destructors of its libraries while other threads go on: one in forty Python programs with
//! threads that were signing on SoftHSM ended with a segmentation fault. So the end waits for the calls in progress as well,
//! and no new ones begin.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::process::Apart;

/// Calls in any module of this process.
static INSIDE: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));
/// Forks in progress.
static FORKS: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));

/// The key of [`Ending`], by one more than its number; 0 before [`watch`].
#[cfg(unix)]
static LAST: AtomicUsize = AtomicUsize::new(0);

/// How long a fork or the end waits: a call that hangs must not stop them.
const PATIENCE: Duration = Duration::from_secs(1);

/// A call that a fork waits for.
pub(crate) struct Call(());

impl Call {
    /// Waits for forks in progress.
    pub(crate) fn begin() -> Self {
        loop {
            INSIDE.0.fetch_add(1, Ordering::SeqCst);
            // After the counting: a fork looks at the count after it has said that it comes.
            if FORKS.0.load(Ordering::SeqCst) == 0 {
                return Self(());
            }
            INSIDE.0.fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        INSIDE.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The end of this thread is one more call, from now on.
pub(crate) fn watch_thread() {
    #[cfg(unix)]
    {
        thread_local!(static ENDING: Ending = const { Ending });
        ENDING.with(|_| ());
    }
}

/// Dropped before libraries are told that the thread ends, which POSIX does through destructors of thread-specific data,
/// in rounds, as long as one of them sets such data again.
#[cfg(unix)]
struct Ending;

#[cfg(unix)]
impl Ending {
    /// After so many rounds forks may go on. POSIX promises four.
    const ROUNDS: usize = 3;

    fn prepare() {
        let mut key = 0;
        // SAFETY: the destructor takes no lock, and is given what `next` set.
        #[allow(unsafe_code)]
        let failed = unsafe { libc::pthread_key_create(&mut key, Some(ending)) };
        match failed {
            0 => LAST.store(key as usize + 1, Ordering::SeqCst),
            error => tracing::warn!(error, "forks do not wait for threads that end"),
        }
    }

    /// Asks to be called in the next round; whether that will be.
    fn next(rounds: usize) -> bool {
        let Some(key) = LAST.load(Ordering::SeqCst).checked_sub(1) else {
            return false;
        };
        // SAFETY: the key was made by `watch` and is never deleted; the value is a number, and nothing follows it.
        #[allow(unsafe_code)]
        let failed =
            unsafe { libc::pthread_setspecific(key as libc::pthread_key_t, rounds as *const _) };
        failed == 0
    }
}

#[cfg(unix)]
impl Drop for Ending {
    fn drop(&mut self) {
        let call = Call::begin();
        if Self::next(Self::ROUNDS) {
            std::mem::forget(call);
        }
    }
}

#[cfg(unix)]
extern "C" fn ending(rounds: *mut libc::c_void) {
    let left = (rounds as usize).saturating_sub(1);
    if left == 0 || !Ending::next(left) {
        drop(Call(()));
    }
}

/// Makes forks wait, from the first call on.
pub(crate) fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::SeqCst) {
        return;
    }
    #[cfg(unix)]
    Ending::prepare();
    // SAFETY: the three functions take no lock and allocate nothing, so they may run around a fork, in whatever thread.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    #[cfg(unix)]
    if failed != 0 {
        tracing::warn!(error = failed, "forks do not wait for calls in a module");
    }
}

/// Makes the end of the process wait, before whatever libraries have registered for it until now.
pub(crate) fn watch_end() {
    // SAFETY: the function takes no lock and allocates nothing.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    let failed = unsafe { libc::atexit(before) };
    #[cfg(unix)]
    if failed != 0 {
        tracing::warn!("the end of the process does not wait for calls in a module");
    }
}

/// Before a fork, or before the end: then nothing undoes it, and calls that want to begin wait until all is over.
#[cfg(unix)]
extern "C" fn before() {
    FORKS.0.fetch_add(1, Ordering::SeqCst);
    let start = Instant::now();
    while INSIDE.0.load(Ordering::SeqCst) > 0 && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[cfg(unix)]
extern "C" fn in_parent() {
    FORKS.0.fetch_sub(1, Ordering::SeqCst);
}

/// The threads that were inside, or waited, are not in the child.
#[cfg(unix)]
extern "C" fn in_child() {
    INSIDE.0.store(0, Ordering::SeqCst);
    FORKS.0.store(0, Ordering::SeqCst);
}
