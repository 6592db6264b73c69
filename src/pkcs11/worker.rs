//! [`Worker`]: a thread that makes the calls of one session, so that its caller can stop waiting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::module::lock;
use super::process::Deadline;

/// A thread that owns an `S` and runs one job on it at a time.
///
/// It ends, and drops its `S`, when the worker is dropped: at once if it is idle, else after the job.
pub(crate) struct Worker<S> {
    desk: Arc<Desk<S>>,
}

struct Desk<S> {
    stage: Mutex<Stage<S>>,
    job: Condvar,
    done: Condvar,
}

enum Stage<S> {
    Idle,
    Job(Job<S>),
    Running,
    Done,
    /// Nobody waits for the job any more; the function is called when the thread is through with it.
    WrittenOff(Box<dyn FnOnce() + Send>),
    Quit,
    Ended,
}

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Why a job has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The job was not begun in time, and will not be. The worker is well.
    NotBegun,
    /// The job was not done in time. The worker is written off.
    WrittenOff,
    /// The job panicked.
    Panicked,
}

impl<S: Default + Send + 'static> Worker<S> {
    /// How much later than the job itself its caller stops waiting, so that a job which ends itself in time is heard.
    const GRACE: Duration = Duration::from_millis(10);

    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's, when it gives no thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let desk = Arc::new(Desk {
            stage: Mutex::new(Stage::Idle),
            job: Condvar::new(),
            done: Condvar::new(),
        });
        let theirs = desk.clone();
        std::thread::Builder::new()
            .name("taskseal-pkcs11".to_owned())
            .spawn(move || {
                let mut state = S::default();
                while let Some(job) = theirs.next_job() {
                    // A panic (of a PIN callback) ends the job without an answer, not the thread.
                    if catch_unwind(AssertUnwindSafe(|| job(&mut state))).is_err() {
                        state = S::default();
                    }
                    if let Some(written_off) = theirs.finish() {
                        drop(state);
                        return written_off();
                    }
                }
                drop(state);
                *lock(&theirs.stage) = Stage::Ended;
                theirs.done.notify_all();
            })?;
        Ok(Self { desk })
    }

    /// Runs `job` and waits for its answer until shortly after the deadline. If it does not come, the job goes on
    /// alone, its answer is thrown away, and `written_off` is called before and after: with `true` when the caller
    /// stops waiting, with `false` when the thread has come back and dropped its state.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        written_off: impl Fn(bool) + Send + 'static,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let answer = Arc::new(Mutex::new(None));
        let place = answer.clone();
        let dispatch = tracing::dispatcher::get_default(tracing::Dispatch::clone);
        let span = tracing::Span::current();
        let job: Job<S> = Box::new(move |state| {
            tracing::dispatcher::with_default(&dispatch, || {
                let answer = span.in_scope(|| job(state));
                *lock(&place) = Some(answer);
            });
        });
        let until = deadline.at() + Self::GRACE;
        let mut stage = lock(&self.desk.stage);
        *stage = Stage::Job(job);
        self.desk.job.notify_one();
        loop {
            match &*stage {
                Stage::Done => {
                    *stage = Stage::Idle;
                    drop(stage);
                    return lock(&answer).take().ok_or(NoAnswer::Panicked);
                }
                Stage::Ended => return Err(NoAnswer::Panicked),
                _ => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if matches!(*stage, Stage::Job(_)) {
                    *stage = Stage::Idle;
                    return Err(NoAnswer::NotBegun);
                }
                written_off(true);
                *stage = Stage::WrittenOff(Box::new(move || written_off(false)));
                return Err(NoAnswer::WrittenOff);
            }
            stage = self
                .desk
                .done
                .wait_timeout(stage, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Tells the thread to end.
    pub(crate) fn quit(&self) {
        let mut stage = lock(&self.desk.stage);
        if matches!(*stage, Stage::Idle | Stage::Job(_) | Stage::Done) {
            *stage = Stage::Quit;
            self.desk.job.notify_one();
        }
    }

    /// Waits for the thread to end after [`quit`](Self::quit); whether it did in time.
    pub(crate) fn wait_for_end(&self, deadline: Deadline) -> bool {
        let mut stage = lock(&self.desk.stage);
        while matches!(*stage, Stage::Quit) {
            let left = deadline.left();
            if left.is_zero() {
                return false;
            }
            stage = self
                .desk
                .done
                .wait_timeout(stage, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        matches!(*stage, Stage::Ended)
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        let mut stage = lock(&self.desk.stage);
        if matches!(*stage, Stage::Idle | Stage::Job(_) | Stage::Done) {
            *stage = Stage::Quit;
            self.desk.job.notify_one();
        }
    }
}

impl<S> Desk<S> {
    fn next_job(&self) -> Option<Job<S>> {
        let mut stage = lock(&self.stage);
        loop {
            match std::mem::replace(&mut *stage, Stage::Running) {
                Stage::Job(job) => return Some(job),
                Stage::Quit => {
                    *stage = Stage::Quit;
                    return None;
                }
                other => *stage = other,
            }
            stage = self.job.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that the job is done; what to call when nobody waits for it.
    fn finish(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut stage = lock(&self.stage);
        match std::mem::replace(&mut *stage, Stage::Done) {
            Stage::WrittenOff(call) => {
                *stage = Stage::Ended;
                Some(call)
            }
            _ => {
                drop(stage);
                self.done.notify_one();
                None
            }
        }
    }
}
