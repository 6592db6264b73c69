//! Digest, salt, format and durations as they are written in Python.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::PyResult;
use taskseal::Format;
use taskseal::pss::{Digest, Salt, Scheme};

use crate::errors::configuration;

/// `sha256`, `sha384` or `sha512`, in either case.
pub(crate) fn digest(name: &str) -> PyResult<Digest> {
    Digest::ALL
        .into_iter()
        .find(|digest| digest.as_str().eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            let known = Digest::ALL.map(Digest::as_str).join(", ");
            configuration(format!(
                "the digest {name:?} is not supported; use one of {known}"
            ))
        })
}

/// `digest` (as many bytes as the digest has) or `max` (as many as fit).
pub(crate) fn salt(name: &str) -> PyResult<Salt> {
    Salt::ALL
        .into_iter()
        .find(|salt| salt.as_str() == name)
        .ok_or_else(|| {
            let known = Salt::ALL.map(Salt::as_str).join(", ");
            configuration(format!(
                "the salt length {name:?} is not known; use one of {known}"
            ))
        })
}

pub(crate) fn scheme(digest_name: &str, salt_name: &str) -> PyResult<Scheme> {
    Ok(Scheme::new(digest(digest_name)?, salt(salt_name)?))
}

pub(crate) fn format(name: &str) -> PyResult<Format> {
    Format::from_str(name).map_err(|error| configuration(error.to_string()))
}

/// A number of seconds that is not negative, and not so large that adding it to a time overflows.
pub(crate) fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| SystemTime::now().checked_add(*duration).is_some())
        .ok_or_else(|| configuration(format!("{name}={value} is no possible number of seconds")))
}

/// A time in seconds since 1970, or now.
pub(crate) fn time(at: Option<f64>) -> PyResult<SystemTime> {
    let Some(at) = at else {
        return Ok(SystemTime::now());
    };
    let distance = Duration::try_from_secs_f64(at.abs()).ok();
    let time = distance.and_then(|distance| {
        if at < 0.0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        }
    });
    time.ok_or_else(|| configuration(format!("at={at} is no possible time")))
}
