//! State that belongs to one process, and deadlines.

mod id;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::id::ProcessId;

/// A lock whose holder panicked guards nothing that could be half done here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value of which each process has its own.
///
/// After a `fork` the child finds memory of its parent in which any lock may be held by a thread that the child does not
/// have, and behind which there are sessions that are the parent's. So the child makes a new value with its first use
/// and never looks at the inherited one again: it is neither locked nor dropped, but leaked.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Stamped<T>>,
    owns: PhantomData<T>,
}

struct Stamped<T> {
    process: ProcessId,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    /// No process has a value yet.
    pub(crate) const fn new() -> Self {
        Self {
            current: AtomicPtr::new(std::ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// This process's value.
    pub(crate) fn get(&self) -> Option<&T> {
        let stamped = self.current()?;
        stamped.process.is_this().then_some(&stamped.value)
    }

    /// This process's value, made if there is none. `make` is told whether an ancestor had one.
    ///
    /// Takes no lock: of two threads that make one at once, one throws its own away.
    pub(crate) fn get_or_try<E>(&self, make: impl FnOnce(bool) -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let old = self.current.load(Ordering::Acquire);
        let made = Box::into_raw(Box::new(Stamped {
            process: ProcessId::this(),
            value: make(!old.is_null())?,
        }));
        let swapped = self
            .current
            .compare_exchange(old, made, Ordering::AcqRel, Ordering::Acquire);
        #[allow(unsafe_code)]
        let stamped = match swapped {
            // SAFETY: `made` came from a box, and boxes that were put into the cell are freed by `drop` alone, which
            // nobody can call while `self` is borrowed. What was there before is an ancestor's and stays as it is.
            Ok(_) => unsafe { &*made },
            Err(others) => {
                // SAFETY: nobody else has seen `made`.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: as above; another thread of this process put it there.
                unsafe { &*others }
            }
        };
        Ok(&stamped.value)
    }

    /// As [`get_or_try`](Self::get_or_try), for what cannot fail.
    pub(crate) fn get_or(&self, make: impl FnOnce(bool) -> T) -> &T {
        match self.get_or_try(|inherited| Ok::<_, std::convert::Infallible>(make(inherited))) {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }
}

impl<T> PerProcess<T> {
    fn current(&self) -> Option<&Stamped<T>> {
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: null, or from a box that is freed by `drop` alone.
        #[allow(unsafe_code)]
        unsafe {
            current.as_ref()
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let own = self
            .current()
            .is_some_and(|stamped| stamped.process.is_this());
        if own {
            // SAFETY: it came from a box, and `self` is not borrowed any more.
            #[allow(unsafe_code)]
            drop(unsafe { Box::from_raw(*self.current.get_mut()) });
        }
    }
}

/// A value in a cache line of its own, since one thread changes it and another one reads what is beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

/// The moment by which an answer is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    start: Instant,
    at: Instant,
}

impl Deadline {
    /// Longer than this is for ever.
    const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// So much time from now.
    pub(crate) fn after(time: Duration) -> Self {
        let start = Instant::now();
        Self {
            start,
            at: start + time.min(Self::MAX),
        }
    }

    /// The moment.
    pub(crate) const fn at(self) -> Instant {
        self.at
    }

    /// How much time is left; none when it has passed.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(crate) fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// How much time has gone by since it was set.
    pub(crate) fn waited(self) -> Duration {
        self.start.elapsed()
    }

    /// The same start, but not more than `time` from now.
    pub(crate) fn within(self, time: Duration) -> Self {
        Self {
            start: self.start,
            at: self.at.min(Instant::now() + time.min(Self::MAX)),
        }
    }
}

/// Keeps SIGPIPE from this thread, which makes calls in modules: some write to a socket whose other end may be gone
/// (p11-kit-client), and by default that signal ends the process. It goes to the thread that writes, so the rest of the
/// process is as it was.
pub(crate) fn block_sigpipe() {
    #[cfg(unix)]
    {
        thread_local!(static BLOCKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
        if BLOCKED.replace(true) {
            return;
        }
        // SAFETY: the set is initialised by sigemptyset before it is used, and lives until the last call returns.
        #[allow(unsafe_code)]
        unsafe {
            let mut signals = std::mem::zeroed();
            libc::sigemptyset(&mut signals);
            libc::sigaddset(&mut signals, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        }
    }
}

/// A condition variable whose notifications cost nothing while nobody waits. Each belongs to one mutex, which is held when
/// the state that is waited for is changed.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    condvar: Condvar,
    /// Changed by holders of the mutex alone, so whoever changed the state under it sees everybody who waits.
    asleep: AtomicUsize,
}

impl Signal {
    /// As [`Condvar::wait`].
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        let guard = self
            .condvar
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// As [`Condvar::wait_timeout`].
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        left: Duration,
    ) -> MutexGuard<'a, T> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        let (guard, _) = self
            .condvar
            .wait_timeout(guard, left)
            .unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// As [`Condvar::notify_one`].
    pub(crate) fn notify_one(&self) {
        if self.asleep.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_one();
        }
    }

    /// As [`Condvar::notify_all`].
    pub(crate) fn notify_all(&self) {
        if self.asleep.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}

/// A lock that is waited for only so long: its holder may hang in a module.
#[derive(Debug, Default)]
pub(crate) struct TimedLock {
    held: Mutex<bool>,
    freed: Condvar,
}

/// Frees the lock when dropped.
pub(crate) struct Held<'a>(&'a TimedLock);

impl TimedLock {
    /// Takes the lock; `None` when it does not become free in time.
    pub(crate) fn lock(&self, deadline: Deadline) -> Option<Held<'_>> {
        let mut held = lock(&self.held);
        while *held {
            let left = deadline.left();
            if left.is_zero() {
                return None;
            }
            held = self
                .freed
                .wait_timeout(held, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *held = true;
        Some(Held(self))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *lock(&self.0.held) = false;
        self.0.freed.notify_one();
    }
}
