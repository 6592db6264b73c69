//! [`Pool`]: the workers of a key, each with its session.

use std::sync::Mutex;
use std::time::Duration;

use super::module::ModuleSession;
use super::process::{Deadline, Signal, lock};
use super::session::Stamp;
use super::whereabouts::Whereabouts;
use super::worker::{Bell, NoAnswer, Worker};

/// What a worker has: a session in which the keys were found, unless the last call in it failed. `H` are the handles.
pub(crate) struct Line<H> {
    pub(crate) ready: Option<Ready<H>>,
}

impl<H> Default for Line<H> {
    fn default() -> Self {
        Self { ready: None }
    }
}

/// A session and the handles of the keys in it.
pub(crate) struct Ready<H> {
    pub(crate) session: Box<dyn ModuleSession>,
    pub(crate) keys: H,
    pub(crate) stamp: Stamp,
}

/// Workers, at most so many, started when they are needed and kept.
pub(crate) struct Pool<H: Send + 'static> {
    state: Mutex<State<H>>,
    freed: Signal,
    max: usize,
    wait: Duration,
}

struct State<H> {
    idle: Vec<Worker<Line<H>>>,
    /// Idle and in use; those that were written off do not count.
    open: usize,
    closed: bool,
}

/// Why there is no worker.
#[derive(Debug)]
pub(crate) enum NoWorker {
    /// All are in use.
    Busy,
    /// The pool was closed.
    Closed,
    /// The operating system gives no thread.
    Thread(std::io::Error),
}

impl<H: Send + 'static> Pool<H> {
    /// An empty pool for `max` workers, for which a caller waits so long.
    pub(crate) fn new(max: usize, wait: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                idle: Vec::new(),
                open: 0,
                closed: false,
            }),
            freed: Signal::default(),
            max: max.max(1),
            wait,
        }
    }

    /// How many sessions there are at most.
    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    /// Takes a worker: an idle one, a new one, or the next that is given back in time; and whether it had to wait.
    pub(crate) fn lease(&self, deadline: Deadline) -> Result<(Lease<'_, H>, bool), NoWorker> {
        let mut within = None;
        let mut waited = false;
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return Err(NoWorker::Closed);
            }
            if let Some(worker) = state.idle.pop() {
                return Ok((self.lend(worker), waited));
            }
            if state.open < self.max {
                let worker = Worker::start().map_err(NoWorker::Thread)?;
                state.open += 1;
                return Ok((self.lend(worker), waited));
            }
            let deadline = *within.get_or_insert_with(|| deadline.within(self.wait));
            let left = deadline.left();
            if left.is_zero() {
                return Err(NoWorker::Busy);
            }
            waited = true;
            state = self.freed.wait_timeout(state, left);
        }
    }

    /// Ends the workers; waits until those in use are given back and all have closed their sessions. Whether they did in
    /// time. There are no leases after it.
    pub(crate) fn close(&self, deadline: Deadline) -> bool {
        let mut all = true;
        let mut state = lock(&self.state);
        state.closed = true;
        loop {
            let idle = std::mem::take(&mut state.idle);
            state.open = state.open.saturating_sub(idle.len());
            if idle.is_empty() {
                let left = deadline.left();
                if state.open == 0 || left.is_zero() {
                    return all && state.open == 0;
                }
                state = self.freed.wait_timeout(state, left);
                continue;
            }
            drop(state);
            idle.iter().for_each(Worker::quit);
            for worker in &idle {
                all &= worker.wait_for_end(deadline);
            }
            state = lock(&self.state);
        }
    }

    const fn lend(&self, worker: Worker<Line<H>>) -> Lease<'_, H> {
        Lease {
            pool: self,
            worker: Some(worker),
        }
    }
}

impl<H: Send + 'static> Drop for Pool<H> {
    /// Gives the sessions a moment to be closed, so that a program which ends next does not tear the module down under
    /// them; a module that hangs is left alone.
    fn drop(&mut self) {
        const MOMENT: Duration = Duration::from_millis(50);
        self.close(Deadline::after(MOMENT));
    }
}

/// A worker in use; goes back when dropped.
pub(crate) struct Lease<'a, H: Send + 'static> {
    pool: &'a Pool<H>,
    /// `None` when it was written off.
    worker: Option<Worker<Line<H>>>,
}

impl<H: Send + 'static> Lease<'_, H> {
    /// As [`Worker::run`].
    pub(crate) fn run<T: Send + 'static>(
        mut self,
        deadline: Deadline,
        is_lost: impl Fn(&Whereabouts) -> bool,
        written_off: impl Fn(bool) + Send + 'static,
        job: impl FnMut(&mut Line<H>, &dyn Bell) -> T + Send + 'static,
        beside: impl FnOnce(),
    ) -> Result<T, NoAnswer> {
        let Some(worker) = &self.worker else {
            return Err(NoAnswer::NotBegun);
        };
        let answer = worker.run(deadline, is_lost, written_off, job, beside);
        if matches!(answer, Err(NoAnswer::WrittenOff | NoAnswer::LeftBehind)) {
            self.worker = None;
        }
        answer
    }
}

impl<H: Send + 'static> Drop for Lease<'_, H> {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        match self.worker.take() {
            Some(worker) => {
                if state.closed {
                    worker.quit();
                }
                state.idle.push(worker);
            }
            None => state.open = state.open.saturating_sub(1),
        }
        let closed = state.closed;
        drop(state);
        if closed {
            self.pool.freed.notify_all();
        } else {
            self.pool.freed.notify_one();
        }
    }
}
