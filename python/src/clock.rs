//! `taskseal.ClockWatch` and `MemoryReplay`: what a queue's reader keeps in mind. Both are locked with the GIL held, and for a
//! moment only, so a fork never leaves a child with a lock that somebody else had.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use pyo3::prelude::*;
use taskseal::message::{Recall, ReplayError, ReplayKey, ReplayMemory as _, Step};

use crate::choices;
use crate::errors::configuration;
use crate::message::OpenedPayload;

/// Watches what the clocks of signers say about this host's.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct ClockWatch {
    start: Instant,
    watch: Mutex<taskseal::message::ClockWatch>,
}

#[pymethods]
impl ClockWatch {
    #[new]
    fn new() -> Self {
        Self {
            start: Instant::now(),
            watch: Mutex::default(),
        }
    }

    /// What is to become of a message (`take`, `give-back` or `put-aside`), how many seconds to pause then, and what an
    /// operator has to be told, or None.
    fn judge(&self, opened: &OpenedPayload) -> PyResult<(&'static str, f64, Option<String>)> {
        let Some(evidence) = &opened.evidence else {
            return Err(configuration(
                "only what an untimed opener returned can be judged",
            ));
        };
        let now = self.start.elapsed();
        // Nothing panics while it is held, and what it saw would still be true.
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let judgement = watch.judge(evidence, now);
        let (step, pause) = match judgement.step {
            Step::Take => ("take", 0.0),
            Step::GiveBack(pause) => ("give-back", pause.as_secs_f64()),
            Step::PutAside => ("put-aside", 0.0),
        };
        Ok((step, pause, judgement.complaint))
    }
}

/// Remembers in this process, up to a number of keys.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct MemoryReplay(taskseal::message::MemoryReplay);

#[pymethods]
impl MemoryReplay {
    #[new]
    fn new(capacity: usize) -> Self {
        Self(taskseal::message::MemoryReplay::new(capacity))
    }

    /// Whether a key is remembered at a time.
    fn contains(&self, key: &[u8], now: f64) -> PyResult<bool> {
        let (key, now) = (ReplayKey::of(key), choices::time(Some(now))?);
        let recall = self.0.recall(&key, SystemTime::UNIX_EPOCH, now);
        Ok(recall.map_err(unusable)? == Recall::Handled)
    }

    /// Whether keys that end then, and begin with the same eight bytes, may have been forgotten.
    fn forgot(&self, key: &[u8], until: f64) -> PyResult<bool> {
        let until = choices::time(Some(until))?;
        Ok(self.0.forgot(&ReplayKey::of(key), until))
    }

    /// Remembers a key until then. Whether it was new.
    fn remember(&self, key: &[u8], until: f64, now: f64) -> PyResult<bool> {
        let (until, now) = (choices::time(Some(until))?, choices::time(Some(now))?);
        self.0
            .insert(&ReplayKey::of(key), until, now)
            .map_err(unusable)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

fn unusable(error: ReplayError) -> PyErr {
    configuration(error.to_string())
}
