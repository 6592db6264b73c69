//! [`Tally`]: few log lines about what happens very often.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors::configuration;

/// Counts what happens, by topic, and says when a line about it is due. Holds no lock while it gives up the GIL.
#[pyclass(module = "taskseal._native", frozen)]
pub(crate) struct Tally(taskseal::tally::Tally);

#[pymethods]
impl Tally {
    /// At most one summary in so many seconds.
    #[new]
    fn new(seconds: f64) -> PyResult<Self> {
        let every = Duration::try_from_secs_f64(seconds);
        let every = every.map_err(|error| configuration(format!("seconds={seconds}: {error}")))?;
        Ok(Self(taskseal::tally::Tally::new(every)))
    }

    /// Counts one more: whether it is worth a line of its own, and what was counted, if a line is due.
    #[pyo3(signature = (topic, name = None))]
    fn count(&self, topic: &str, name: Option<&str>) -> (bool, Option<String>) {
        let counted = self.0.count(topic, name, Instant::now());
        (counted.first, counted.summary)
    }

    /// What was counted and not said.
    fn rest(&self) -> Option<String> {
        self.0.rest(Instant::now())
    }
}
