//! [`Health`] and [`Statistics`] of a key.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::error::Error;
use super::process::{Apart, lock};
use super::trouble::{Counts, Event, Line, Trouble, Troubles};
use crate::error::ErrorClass;

/// How a key is, as its last signatures showed. Asking makes no call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// The last signature was made, or none was asked for yet.
    Usable,
    /// Something failed that may pass by itself; signing goes on trying.
    Degraded {
        /// What failed last, as text for people.
        why: String,
        /// When it began.
        since: SystemTime,
        /// When the module may be started anew next, if that is what is waited for.
        next_try: Option<SystemTime>,
    },
    /// Something failed that somebody has to put right: a PIN, a key, the configuration.
    Failed {
        /// What failed last, as text for people.
        why: String,
        /// When it began.
        since: SystemTime,
    },
}

impl Health {
    /// Whether it is [`Usable`](Self::Usable).
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        matches!(self, Self::Usable)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::Degraded { why, .. } => write!(f, "degraded: {why}"),
            Self::Failed { why, .. } => write!(f, "failed: {why}"),
        }
    }
}

/// What a key did so far in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Signatures that were handed out.
    pub signatures: u64,
    /// How often the module was started anew; counts for all keys of the module.
    pub reloads: u64,
    /// How often a caller had to wait for a session.
    pub session_waits: u64,
    /// Calls that nobody waits for any more and that have not come back; of all keys of the module.
    pub stuck_calls: usize,
    /// How often a signature had to be tried again.
    pub retries: u64,
    /// Time of the calls that made a signature, in the token and its module.
    pub token_time: Histogram,
    failures: [u64; CLASSES.len()],
}

impl Statistics {
    /// How many calls failed in the end, by class.
    #[must_use]
    pub fn failures(&self, class: ErrorClass) -> u64 {
        CLASSES
            .iter()
            .zip(self.failures)
            .find(|(known, _)| **known == class)
            .map_or(0, |(_, count)| count)
    }
}

/// How many durations fell between which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Histogram {
    /// Counts of the durations up to each of [`Histogram::BOUNDS`], and of the longer ones.
    pub counts: [u64; Histogram::BOUNDS.len() + 1],
    /// Sum of all.
    pub sum: Duration,
}

impl Histogram {
    /// Upper bounds, the smallest first.
    pub const BOUNDS: [Duration; 12] = [
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_micros(2500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(5),
    ];

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

const CLASSES: [ErrorClass; 7] = [
    ErrorClass::Transient,
    ErrorClass::SessionLost,
    ErrorClass::Busy,
    ErrorClass::Timeout,
    ErrorClass::Credential,
    ErrorClass::Permanent,
    ErrorClass::Rejected,
];

/// Where a key counts. Nothing here is waited for by a signature that works.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// For callers; the times are counted by the thread that makes the calls.
    callers: Apart<Signed>,
    session_waits: AtomicU64,
    retries: AtomicU64,
    failures: [AtomicU64; CLASSES.len()],
    times: [AtomicU64; Histogram::BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
    troubles: Mutex<Troubles>,
}

#[derive(Debug, Default)]
struct Signed {
    signatures: AtomicU64,
    /// Whether there is trouble to forget with the next one.
    troubled: AtomicBool,
}

impl Record {
    /// So many signatures were handed out.
    pub(crate) fn signed(&self, count: u64, on: &dyn Fn() -> String) {
        let Signed {
            signatures,
            troubled,
        } = &self.callers.0;
        signatures.fetch_add(count, Ordering::Relaxed);
        emit::signed(count);
        if troubled.load(Ordering::Relaxed) {
            self.well(on);
        }
    }

    /// What was in trouble works.
    pub(crate) fn well(&self, on: &dyn Fn() -> String) {
        self.callers.0.troubled.store(false, Ordering::Relaxed);
        let line = lock(&self.troubles).well(Instant::now());
        say(line, on, "");
    }

    /// A call failed for good.
    pub(crate) fn failed(&self, error: &Error, on: &dyn Fn() -> String) {
        let class = error.class();
        let counts = CLASSES.iter().zip(&self.failures);
        for (_, count) in counts.filter(|(known, _)| **known == class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        emit::failed(class);
        let lasting = !class.is_retryable();
        self.note(error, Event::Failed { lasting }, None, on);
    }

    /// A try failed; there is another one.
    pub(crate) fn tried(&self, error: &Error, next: Option<Instant>, on: &dyn Fn() -> String) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        emit::retried();
        self.note(error, Event::Tried, next, on);
    }

    pub(crate) fn waited_for_session(&self) {
        self.session_waits.fetch_add(1, Ordering::Relaxed);
        emit::waited();
    }

    /// The token took so long for a signature.
    pub(crate) fn token_took(&self, time: Duration) {
        let place = Histogram::BOUNDS
            .iter()
            .take_while(|bound| **bound < time)
            .count();
        if let Some(count) = self.times.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        emit::token_took(time);
    }

    pub(crate) fn health(&self) -> Health {
        let Some(trouble) = lock(&self.troubles).now().cloned() else {
            return Health::Usable;
        };
        let Trouble {
            why,
            since,
            next,
            lasting,
            ..
        } = trouble;
        if lasting {
            return Health::Failed { why, since };
        }
        let next_try = next.and_then(|next| next.checked_duration_since(Instant::now()));
        Health::Degraded {
            why,
            since,
            next_try: next_try.map(|left| SystemTime::now() + left),
        }
    }

    pub(crate) fn statistics(&self, reloads: u64, stuck_calls: usize) -> Statistics {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Statistics {
            signatures: load(&self.callers.0.signatures),
            reloads,
            session_waits: load(&self.session_waits),
            stuck_calls,
            retries: load(&self.retries),
            token_time: Histogram {
                counts: self.times.each_ref().map(load),
                sum: Duration::from_nanos(load(&self.nanoseconds)),
            },
            failures: self.failures.each_ref().map(load),
        }
    }

    fn note(&self, error: &Error, event: Event, next: Option<Instant>, on: &dyn Fn() -> String) {
        let why = error.to_string();
        let line = lock(&self.troubles).note(event, why.clone(), next, Instant::now());
        self.callers.0.troubled.store(true, Ordering::Relaxed);
        say(line, on, &why);
    }
}

/// Says in the log how a key is. Whoever has seen that it fails should see that it is well again, so both are warnings.
fn say(line: Option<Line>, on: &dyn Fn() -> String, why: &str) {
    let Some(line) = line else { return };
    let on = on();
    match line {
        // What shorter troubles cost, of which there was no line.
        Line::Begins {
            lasting,
            unsaid:
                Counts {
                    failed: unsaid_failed,
                    tried: unsaid_tried,
                },
        } => {
            if lasting {
                tracing::warn!(
                    on,
                    why,
                    unsaid_failed,
                    unsaid_tried,
                    "a key fails until somebody puts it right"
                );
            } else {
                tracing::warn!(
                    on,
                    why,
                    unsaid_failed,
                    unsaid_tried,
                    "a key fails; it is tried again"
                );
            }
        }
        Line::Lasts {
            after,
            counts: Counts { failed, tried },
        } => {
            tracing::warn!(on, why, ?after, failed, tried, "a key still fails");
        }
        Line::Over {
            after,
            counts: Counts { failed, tried },
        } => {
            tracing::warn!(on, ?after, failed, tried, "a key works again");
        }
    }
}

/// The same numbers through the facade `metrics`.
#[cfg(feature = "metrics")]
mod emit {
    use std::time::Duration;

    use crate::error::ErrorClass;

    pub(super) fn signed(count: u64) {
        metrics::counter!("taskseal_pkcs11_signatures_total").increment(count);
    }

    pub(super) fn failed(class: ErrorClass) {
        metrics::counter!("taskseal_pkcs11_failures_total", "class" => class.as_str()).increment(1);
    }

    pub(super) fn retried() {
        metrics::counter!("taskseal_pkcs11_retries_total").increment(1);
    }

    pub(super) fn waited() {
        metrics::counter!("taskseal_pkcs11_session_waits_total").increment(1);
    }

    pub(super) fn reloaded() {
        metrics::counter!("taskseal_pkcs11_reloads_total").increment(1);
    }

    pub(super) fn token_took(time: Duration) {
        metrics::histogram!("taskseal_pkcs11_token_seconds").record(time.as_secs_f64());
    }
}

#[cfg(not(feature = "metrics"))]
mod emit {
    use std::time::Duration;

    use crate::error::ErrorClass;

    pub(super) const fn signed(_: u64) {}
    pub(super) const fn failed(_: ErrorClass) {}
    pub(super) const fn retried() {}
    pub(super) const fn waited() {}
    pub(super) const fn reloaded() {}
    pub(super) const fn token_took(_: Duration) {}
}

/// The module was started anew.
pub(crate) fn count_reload() {
    emit::reloaded();
}
