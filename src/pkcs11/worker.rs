//! [`Worker`]: a thread that makes the calls of one session, so that its caller can stop waiting.
//!
//! Caller and thread meet at a desk. What lies there has one of seven states; beside each arrow is who takes it.
//!
//! ```text
//!          caller: run          thread: next_job         thread: finish         caller: wait
//!   Idle ───────────────▶ Job ──────────────────▶ Running ─────────────▶ Done ───────────────▶ Idle
//!                          │                         │
//!                          │ caller: its time is up  │ caller: its time is up, or the thread is lost
//!                          ▼                         ▼
//!                         Idle                   WrittenOff ── thread: finish ──▶ the thread ends
//!
//!   Idle, Job, Done ── caller: quit, drop ──▶ Quit ── thread: next_job ──▶ Ended
//! ```
//!
//! One lock guards the state. Two counters are hints beside it, for a side that has not gone to sleep: they save it the lock, and
//! decide nothing.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::process::{Apart, Deadline, Signal, lock};
use super::whereabouts::Whereabouts;

/// A thread that owns an `S` and runs one job on it at a time.
///
/// It ends, and drops its `S`, when the worker is dropped: at once if it is idle, else after the job.
pub(crate) struct Worker<S> {
    desk: Arc<Desk<S>>,
    /// Where its thread is.
    whereabouts: Whereabouts,
    /// The last answer came so soon that it is not worth going to sleep for the next.
    quick: AtomicBool,
}

/// Where caller and thread meet.
///
/// A job of 30 µs is handed over in one, and most of that is cache lines that go from one processor to the other, at
/// 50 to 100 ns each. So what one side asks for again and again stands apart from what the other side writes.
struct Desk<S> {
    stage: Apart<Mutex<Stage<S>>>,
    job: Signal,
    done: Signal,
    /// How often there was something for the thread to look at. A hint for a thread that has not gone to sleep.
    posted: Apart<AtomicU64>,
    /// The same number, when there is an answer. A hint for a caller that has not gone to sleep, or that the bell has woken.
    answered: Apart<AtomicU64>,
}

/// How long a thread that expects news in a moment asks for it before it goes to sleep. To wake a thread on another
/// processor takes 30 to 100 µs on a virtual machine; the thread yields to others meanwhile.
const MOMENT: Duration = Duration::from_micros(100);

/// The same for a caller whose last answer came within that time.
const QUICK: Duration = Duration::from_micros(300);

enum Stage<S> {
    Idle,
    Job(Numbered<S>, Caller),
    Running(Caller),
    Done,
    /// Nobody waits for the job any more; the function is called when the thread is through with it.
    WrittenOff(Box<dyn FnOnce() + Send>),
    Quit,
    Ended,
}

/// A job, and how often there was something to do until then.
type Numbered<S> = (Arc<dyn Job<S>>, u64);

/// How its caller waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// It asks again and again, so that no bell need wake it.
    Awake,
    Asleep,
    /// The bell was rung for it.
    Rung,
}

/// What a thread does, once.
trait Job<S>: Send + Sync {
    fn run(&self, state: &mut S, bell: &dyn Bell);
}

/// A function and its answer. Shared by the caller and the thread, so that whatever the function holds goes back to the
/// caller with the answer: what one thread has made, another one is slower to give back.
struct Task<F, T> {
    sheet: Mutex<(F, Option<T>)>,
    /// Where the caller's log entries go.
    log: (tracing::Dispatch, tracing::Span),
}

impl<S, T: Send, F: FnMut(&mut S, &dyn Bell) -> T + Send> Job<S> for Task<F, T> {
    fn run(&self, state: &mut S, bell: &dyn Bell) {
        let mut sheet = lock(&self.sheet);
        let (function, answer) = &mut *sheet;
        let (log, span) = &self.log;
        tracing::dispatcher::with_default(log, || {
            *answer = Some(span.in_scope(|| function(state, bell)));
        });
    }
}

/// Wakes the caller while the job goes on.
pub(crate) trait Bell {
    /// Says that the answer is a moment away (some tens of microseconds), so that the time it takes to wake the caller
    /// passes beside what is left to do. Nothing depends on it.
    fn ring(&self);
}

impl<S> Bell for Desk<S> {
    fn ring(&self) {
        let mut stage = lock(&self.stage.0);
        if matches!(*stage, Stage::Running(Caller::Asleep)) {
            *stage = Stage::Running(Caller::Rung);
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
    /// The same before its time was up: its caller has reason to think that it will never be done.
    LeftBehind,
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
            stage: Apart(Mutex::new(Stage::Idle)),
            job: Signal::default(),
            done: Signal::default(),
            posted: Apart::default(),
            answered: Apart::default(),
        });
        let theirs = desk.clone();
        let whereabouts = Whereabouts::default();
        let followed = whereabouts.clone();
        std::thread::Builder::new()
            .name("taskseal-pkcs11".to_owned())
            .spawn(move || {
                followed.follow();
                let mut state = S::default();
                let mut last = 0;
                while let Some((job, number)) = theirs.next_job(last) {
                    last = number;
                    // A panic (of a PIN callback) ends the job without an answer, not the thread.
                    if catch_unwind(AssertUnwindSafe(|| job.run(&mut state, &*theirs))).is_err() {
                        state = S::default();
                    }
                    drop(job);
                    if let Some(written_off) = theirs.finish(number) {
                        drop(state);
                        return written_off();
                    }
                }
                drop(state);
                *lock(&theirs.stage.0) = Stage::Ended;
                theirs.done.notify_all();
            })?;
        Ok(Self {
            desk,
            whereabouts,
            quick: AtomicBool::new(false),
        })
    }

    /// Runs `job` and waits for its answer until shortly after the deadline. If it does not come, the job goes on
    /// alone, its answer is thrown away, and `written_off` is called before and after: with `true` when the caller
    /// stops waiting, with `false` when the thread has come back and dropped its state.
    ///
    /// The same happens as soon as the thread is where it will not come back from, `is_lost`, about which it is asked now
    /// and then. `beside` is run meanwhile, by the caller. Should it panic, so does the caller, after the job.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        is_lost: impl Fn(&Whereabouts) -> bool,
        written_off: impl Fn(bool) + Send + 'static,
        job: impl FnMut(&mut S, &dyn Bell) -> T + Send + 'static,
        beside: impl FnOnce(),
    ) -> Result<T, NoAnswer> {
        let task = Arc::new(Task {
            sheet: Mutex::new((job, None)),
            log: (
                tracing::dispatcher::get_default(tracing::Dispatch::clone),
                tracing::Span::current(),
            ),
        });
        let until = deadline.at() + Self::GRACE;
        let quick = self.quick.load(Ordering::Relaxed);
        let awake = if quick { Awake::new() } else { None };
        let caller = awake.as_ref().map_or(Caller::Asleep, |_| Caller::Awake);
        let posted = Instant::now();
        // Nobody else posts meanwhile: a worker has one caller at a time.
        let number = self.desk.posted.0.load(Ordering::Relaxed) + 1;
        let job = Stage::Job((task.clone(), number), caller);
        self.desk.post(lock(&self.desk.stage.0), job);
        let beside = catch_unwind(AssertUnwindSafe(beside));
        let is_lost = || is_lost(&self.whereabouts);
        let answer = self.wait(&task, number, until, posted, awake, is_lost, written_off);
        if let Err(panic) = beside {
            resume_unwind(panic);
        }
        answer
    }

    /// Waits for the answer to the job with this number.
    #[allow(clippy::too_many_arguments, reason = "one caller, above")]
    fn wait<F, T>(
        &self,
        task: &Task<F, T>,
        number: u64,
        until: Instant,
        posted: Instant,
        awake: Option<Awake>,
        is_lost: impl Fn() -> bool,
        written_off: impl Fn(bool) + Send + 'static,
    ) -> Result<T, NoAnswer> {
        /// From one question whether the thread is lost to the next.
        const LOOK: Duration = Duration::from_millis(50);
        let answered = || self.desk.answered.0.load(Ordering::Relaxed) == number;
        if awake.is_some() {
            ask_for(QUICK, posted, answered);
            drop(awake);
        }
        let mut stage = lock(&self.desk.stage.0);
        loop {
            match &mut *stage {
                Stage::Job(_, caller) | Stage::Running(caller) if *caller == Caller::Awake => {
                    *caller = Caller::Asleep;
                }
                Stage::Running(caller) if *caller == Caller::Rung => {
                    *caller = Caller::Asleep;
                    drop(stage);
                    ask_for(MOMENT, Instant::now(), answered);
                    stage = lock(&self.desk.stage.0);
                    continue;
                }
                Stage::Done => {
                    *stage = Stage::Idle;
                    drop(stage);
                    let quick = posted.elapsed() < QUICK;
                    self.quick.store(quick, Ordering::Relaxed);
                    return lock(&task.sheet).1.take().ok_or(NoAnswer::Panicked);
                }
                Stage::Ended => return Err(NoAnswer::Panicked),
                _ => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && matches!(*stage, Stage::Job(..)) {
                *stage = Stage::Idle;
                return Err(NoAnswer::NotBegun);
            }
            if left.is_zero() || (posted.elapsed() >= LOOK && is_lost()) {
                written_off(true);
                *stage = Stage::WrittenOff(Box::new(move || written_off(false)));
                return Err(if left.is_zero() {
                    NoAnswer::WrittenOff
                } else {
                    NoAnswer::LeftBehind
                });
            }
            stage = self.desk.done.wait_timeout(stage, left.min(LOOK));
        }
    }

    /// Tells the thread to end.
    pub(crate) fn quit(&self) {
        let stage = lock(&self.desk.stage.0);
        if matches!(*stage, Stage::Idle | Stage::Job(..) | Stage::Done) {
            self.desk.post(stage, Stage::Quit);
        }
    }

    /// Waits for the thread to end after [`quit`](Self::quit); whether it did in time.
    pub(crate) fn wait_for_end(&self, deadline: Deadline) -> bool {
        let mut stage = lock(&self.desk.stage.0);
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
        let stage = lock(&self.desk.stage.0);
        if matches!(*stage, Stage::Idle | Stage::Job(..) | Stage::Done) {
            self.desk.post(stage, Stage::Quit);
        }
    }
}

impl<S> Desk<S> {
    /// Gives the thread something to do, or tells it to quit.
    fn post(&self, mut stage: MutexGuard<'_, Stage<S>>, next: Stage<S>) {
        *stage = next;
        // A thread that is awake takes the lock in the next instant, and would go to sleep over it.
        drop(stage);
        self.posted.0.fetch_add(1, Ordering::Relaxed);
        self.job.notify_one();
    }

    /// The next job after the one with this number.
    fn next_job(&self, last: u64) -> Option<Numbered<S>> {
        // Whoever signs once often signs again.
        if last > 0 {
            let posted = || self.posted.0.load(Ordering::Relaxed) > last;
            ask_for(MOMENT, Instant::now(), posted);
        }
        let mut stage = lock(&self.stage.0);
        loop {
            match std::mem::replace(&mut *stage, Stage::Idle) {
                Stage::Job(job, caller) => {
                    *stage = Stage::Running(caller);
                    return Some(job);
                }
                Stage::Quit => {
                    *stage = Stage::Quit;
                    return None;
                }
                other => *stage = other,
            }
            stage = self.job.wait(stage);
        }
    }

    /// Says that the job with this number is done; what to call when nobody waits for it.
    fn finish(&self, number: u64) -> Option<Box<dyn FnOnce() + Send>> {
        let mut stage = lock(&self.stage.0);
        match std::mem::replace(&mut *stage, Stage::Done) {
            Stage::WrittenOff(call) => {
                *stage = Stage::Ended;
                Some(call)
            }
            _ => {
                drop(stage);
                // The lock is free when a caller that is awake takes it.
                self.answered.0.store(number, Ordering::Relaxed);
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
        let others = AWAKE.0.fetch_add(1, Ordering::Relaxed);
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
        AWAKE.0.fetch_sub(1, Ordering::Relaxed);
    }
}

static AWAKE: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));

/// Waits for news, awake, for so long at most after `start`.
fn ask_for(time: Duration, start: Instant, news: impl Fn() -> bool) {
    let mut asked = 0_u32;
    while !news() {
        asked += 1;
        // To look at the clock takes as long as some questions, and to yield (a system call) much longer than the news
        // when it is there soon.
        if asked.is_multiple_of(16) {
            if start.elapsed() >= time {
                return;
            }
            if asked > 100 {
                std::thread::yield_now();
            }
        }
        std::hint::spin_loop();
    }
}
