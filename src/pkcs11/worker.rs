//! [`Worker`]: a thread that makes the calls of one session, so that its caller can stop waiting.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::module::lock;
use super::process::{Deadline, Signal};

/// A thread that owns an `S` and runs one job on it at a time.
///
/// It ends, and drops its `S`, when the worker is dropped: at once if it is idle, else after the job.
pub(crate) struct Worker<S> {
    desk: Arc<Desk<S>>,
    /// The last answer came so soon that it is not worth going to sleep for the next.
    quick: AtomicBool,
}

struct Desk<S> {
    stage: Mutex<Stage<S>>,
    job: Signal,
    done: Signal,
    /// There is something for the thread to look at. A hint for a thread that has not gone to sleep.
    posted: AtomicBool,
    /// There is an answer. A hint for a caller that the bell has woken.
    answered: AtomicBool,
    /// The caller did not go to sleep, so that no bell need wake it. A hint as well.
    awake: AtomicBool,
}

/// How long a thread that expects news in a moment asks for it before it goes to sleep. To wake a thread on another
/// processor takes 30 to 100 µs on a virtual machine; the thread yields to others meanwhile.
const MOMENT: Duration = Duration::from_micros(100);

/// The same for a caller whose last answer came within that time.
const QUICK: Duration = Duration::from_micros(300);

enum Stage<S> {
    Idle,
    Job(Job<S>),
    Running,
    /// As `Running`, and the bell was rung.
    Nearly,
    Done,
    /// Nobody waits for the job any more; the function is called when the thread is through with it.
    WrittenOff(Box<dyn FnOnce() + Send>),
    Quit,
    Ended,
}

type Job<S> = Box<dyn FnOnce(&mut S, &dyn Bell) + Send>;

/// Wakes the caller while the job goes on.
pub(crate) trait Bell {
    /// Says that the answer is a moment away (some tens of microseconds), so that the time it takes to wake the caller
    /// passes beside what is left to do. Nothing depends on it.
    fn ring(&self);
}

impl<S> Bell for Desk<S> {
    fn ring(&self) {
        if self.awake.load(Ordering::Relaxed) {
            return;
        }
        let mut stage = lock(&self.stage);
        if matches!(*stage, Stage::Running) {
            *stage = Stage::Nearly;
            drop(stage);
            self.done.notify_one();
        }
    }
}

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
            job: Signal::default(),
            done: Signal::default(),
            posted: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            awake: AtomicBool::new(false),
        });
        let theirs = desk.clone();
        std::thread::Builder::new()
            .name("taskseal-pkcs11".to_owned())
            .spawn(move || {
                let mut state = S::default();
                // Whoever signs once often signs again.
                let mut expected = false;
                while let Some(job) = theirs.next_job(expected) {
                    expected = true;
                    // A panic (of a PIN callback) ends the job without an answer, not the thread.
                    if catch_unwind(AssertUnwindSafe(|| job(&mut state, &*theirs))).is_err() {
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
        Ok(Self {
            desk,
            quick: AtomicBool::new(false),
        })
    }

    /// Runs `job` and waits for its answer until shortly after the deadline. If it does not come, the job goes on
    /// alone, its answer is thrown away, and `written_off` is called before and after: with `true` when the caller
    /// stops waiting, with `false` when the thread has come back and dropped its state.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        written_off: impl Fn(bool) + Send + 'static,
        job: impl FnOnce(&mut S, &dyn Bell) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let answer = Arc::new(Mutex::new(None));
        let place = answer.clone();
        let dispatch = tracing::dispatcher::get_default(tracing::Dispatch::clone);
        let span = tracing::Span::current();
        let job: Job<S> = Box::new(move |state, bell| {
            tracing::dispatcher::with_default(&dispatch, || {
                let answer = span.in_scope(|| job(state, bell));
                *lock(&place) = Some(answer);
            });
        });
        let until = deadline.at() + Self::GRACE;
        let quick = self.quick.load(Ordering::Relaxed);
        let awake = if quick { Awake::new() } else { None };
        self.desk.answered.store(false, Ordering::Relaxed);
        self.desk.awake.store(awake.is_some(), Ordering::Relaxed);
        let posted = Instant::now();
        self.desk.post(lock(&self.desk.stage), Stage::Job(job));
        if awake.is_some() {
            ask_for(QUICK, &self.desk.answered);
            self.desk.awake.store(false, Ordering::Relaxed);
            drop(awake);
        }
        let mut stage = lock(&self.desk.stage);
        let mut rung = false;
        loop {
            match &*stage {
                Stage::Nearly if !rung => {
                    rung = true;
                    drop(stage);
                    ask_for(MOMENT, &self.desk.answered);
                    stage = lock(&self.desk.stage);
                    continue;
                }
                Stage::Done => {
                    *stage = Stage::Idle;
                    drop(stage);
                    let quick = posted.elapsed() < QUICK;
                    self.quick.store(quick, Ordering::Relaxed);
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
            stage = self.desk.done.wait_timeout(stage, left);
        }
    }

    /// Tells the thread to end.
    pub(crate) fn quit(&self) {
        let stage = lock(&self.desk.stage);
        if matches!(*stage, Stage::Idle | Stage::Job(_) | Stage::Done) {
            self.desk.post(stage, Stage::Quit);
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
            stage = self.desk.done.wait_timeout(stage, left);
        }
        matches!(*stage, Stage::Ended)
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        let stage = lock(&self.desk.stage);
        if matches!(*stage, Stage::Idle | Stage::Job(_) | Stage::Done) {
            self.desk.post(stage, Stage::Quit);
        }
    }
}

impl<S> Desk<S> {
    /// Gives the thread something to do.
    fn post(&self, mut stage: MutexGuard<'_, Stage<S>>, next: Stage<S>) {
        *stage = next;
        // A thread that is awake takes the lock in the next instant, and would go to sleep over it.
        drop(stage);
        self.posted.store(true, Ordering::Relaxed);
        self.job.notify_one();
    }

    fn next_job(&self, expected: bool) -> Option<Job<S>> {
        if expected {
            ask_for(MOMENT, &self.posted);
        }
        let mut stage = lock(&self.stage);
        loop {
            self.posted.store(false, Ordering::Relaxed);
            match std::mem::replace(&mut *stage, Stage::Running) {
                Stage::Job(job) => return Some(job),
                Stage::Quit => {
                    *stage = Stage::Quit;
                    return None;
                }
                other => *stage = other,
            }
            stage = self.job.wait(stage);
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
                // The lock is free when a caller that is awake takes it.
                self.answered.store(true, Ordering::Relaxed);
                self.done.notify_one();
                None
            }
        }
    }
}

/// A caller that stays awake. There are half as many at a time as there are processors, one at least: however many wait,
/// most of the machine is left to those who work.
struct Awake(());

impl Awake {
    fn new() -> Option<Self> {
        let others = AWAKE.fetch_add(1, Ordering::Relaxed);
        let awake = Self(());
        (others < Self::most()).then_some(awake)
    }

    fn most() -> usize {
        // No lock, which a child could inherit while it is held.
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let known = MOST.load(Ordering::Relaxed);
        if known > 0 {
            return known;
        }
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let most = processors.div_ceil(2);
        MOST.store(most, Ordering::Relaxed);
        most
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        AWAKE.fetch_sub(1, Ordering::Relaxed);
    }
}

static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// Waits for `news`, awake, for so long at most.
fn ask_for(time: Duration, news: &AtomicBool) {
    let start = Instant::now();
    let mut asked = 0_u32;
    while !news.load(Ordering::Relaxed) && start.elapsed() < time {
        asked += 1;
        // To yield is a system call, and longer than the news takes when it is there soon.
        if asked < 100 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}
