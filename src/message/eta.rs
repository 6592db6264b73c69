//! When a task is due: the `eta` of Celery's headers, which a countdown becomes too.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize as _, Deserializer};
use serde_json::value::RawValue;

/// The eta in the headers of a message of kombu's. `None` without one, and for everything that is none: the reader of the
/// message decides what becomes of that, and its age counts from when it was sealed.
///
/// Reads the text once and keeps nothing of it; what is nested is passed over without recursion.
pub(super) fn eta(json: &[u8]) -> Option<SystemTime> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let headers: &RawValue = Field("headers").deserialize(&mut deserializer).ok()??;
    let mut deserializer = serde_json::Deserializer::from_str(headers.get());
    let eta: &RawValue = Field("eta").deserialize(&mut deserializer).ok()??;
    parse(&String::deserialize(&mut serde_json::Deserializer::from_str(eta.get())).ok()?)
}

/// The value of one field of an object. An error when it is there twice: readers differ in which they take.
struct Field(&'static str);

impl<'de> DeserializeSeed<'de> for Field {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<&RawValue>()? {
            if name.get().trim_matches('"') != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom("it is there twice"));
            }
        }
        Ok(found)
    }
}

/// The longest text that is read: Python's, with a fraction and an offset of seconds, has 41 characters.
const MAX_LEN: usize = 64;

/// A time without an offset is the local one of a host that is not known: the latest that it can be on Earth.
const UNKNOWN_OFFSET: Duration = Duration::from_secs(12 * 3600);

/// ISO 8601 as Python's `isoformat` writes it: `2026-11-26T06:40:00.123456+01:00`, or with `Z`, a blank, less precise.
fn parse(text: &str) -> Option<SystemTime> {
    if text.len() > MAX_LEN {
        return None;
    }
    let mut reader = Reader(text.as_bytes());
    let year = reader.number(4)?;
    reader.skip(b"-")?;
    let month = reader.number(2)?;
    reader.skip(b"-")?;
    let day = reader.number(2)?;
    reader.skip(b"T ")?;
    let clock = reader.clock()?;
    let nanos = reader.fraction()?;
    let date = der::DateTime::new(
        u16::try_from(year).ok()?,
        u8::try_from(month).ok()?,
        u8::try_from(day).ok()?,
        0,
        0,
        0,
    );
    let local = date.ok()?.unix_duration() + clock + nanos;
    let since = match reader.offset()? {
        Offset::Unknown => local.checked_add(UNKNOWN_OFFSET),
        Offset::East(offset) => local.checked_sub(offset),
        Offset::West(offset) => local.checked_add(offset),
    };
    UNIX_EPOCH.checked_add(since?)
}

enum Offset {
    Unknown,
    East(Duration),
    West(Duration),
}

struct Reader<'t>(&'t [u8]);

impl Reader<'_> {
    fn next_is(&self, any: &[u8]) -> bool {
        self.0.first().is_some_and(|byte| any.contains(byte))
    }

    /// Passes over one of these characters.
    fn skip(&mut self, any: &[u8]) -> Option<u8> {
        let (first, rest) = self
            .0
            .split_first()
            .filter(|(byte, _)| any.contains(byte))?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self, digits: usize) -> Option<u64> {
        let (taken, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        taken.iter().try_fold(0, |number, byte| {
            byte.is_ascii_digit()
                .then(|| number * 10 + u64::from(byte - b'0'))
        })
    }

    /// `hours:minutes` or `hours:minutes:seconds`.
    fn clock(&mut self) -> Option<Duration> {
        let hours = self.number(2).filter(|hours| *hours < 24)?;
        self.skip(b":")?;
        let minutes = self.number(2).filter(|minutes| *minutes < 60)?;
        let mut seconds = 0;
        if self.skip(b":").is_some() {
            seconds = self.number(2).filter(|seconds| *seconds < 60)?;
        }
        Some(Duration::from_secs(hours * 3600 + minutes * 60 + seconds))
    }

    fn fraction(&mut self) -> Option<Duration> {
        let (mut nanos, mut unit) = (0, 100_000_000);
        if self.skip(b".,").is_some() {
            self.next_is(b"0123456789").then_some(())?;
            while self.next_is(b"0123456789") {
                nanos += self.number(1)? * unit;
                unit /= 10;
            }
        }
        Some(Duration::from_nanos(nanos))
    }

    /// What is left: nothing, or the offset from UTC.
    fn offset(&mut self) -> Option<Offset> {
        let offset = match self.skip(b"Z+-") {
            None => Offset::Unknown,
            Some(b'Z') => Offset::East(Duration::ZERO),
            Some(sign) => {
                let offset = self.clock()?;
                let offset = offset.checked_add(self.fraction()?)?;
                match sign {
                    b'+' => Offset::East(offset),
                    _ => Offset::West(offset),
                }
            }
        };
        self.0.is_empty().then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(json: &str) -> Option<f64> {
        let time = eta(json.as_bytes())?;
        Some(time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64())
    }

    #[test]
    fn the_eta_of_a_task_is_read() {
        for (text, expected) in [
            ("2026-11-26T06:40:00+00:00", 1_795_675_200.0),
            ("2026-11-26T06:40:00Z", 1_795_675_200.0),
            ("2026-11-26 06:40:00Z", 1_795_675_200.0),
            ("2026-11-26T06:40:00.250000+00:00", 1_795_675_200.25),
            ("2026-11-26T07:40:00.250000+01:00", 1_795_675_200.25),
            ("2026-11-25T20:10:30-10:30:30", 1_795_675_260.0),
            ("2026-11-26T06:40Z", 1_795_675_200.0),
            // Anywhere on Earth.
            ("2026-11-26T06:40:00", 1_795_675_200.0 + 12.0 * 3600.0),
        ] {
            let json = format!(r#"{{"body": "eta", "headers": {{"id": "x", "eta": "{text}"}}}}"#);
            assert_eq!(seconds(&json), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_eta_counts_for_nothing() {
        for text in [
            "",
            "now",
            "2026-11-26",
            "2026-13-26T06:40:00Z",
            "2026-11-31T06:40:00Z",
            "2026-11-26T24:40:00Z",
            "2026-11-26T06:60:00Z",
            "2026-11-26T06:40:00.Z",
            "2026-11-26T06:40:00Zulu",
            "2026-11-26T06:40:00+1",
            "1969-01-01T00:00:00Z",
            "1970-01-01T00:00:00+01:00",
            "+026-11-26T06:40:00Z",
            "２026-11-26T06:40:00Z",
            &format!("2026-11-26T06:40:00.{}Z", "0".repeat(100)),
        ] {
            let json = format!(r#"{{"headers": {{"eta": "{text}"}}}}"#);
            assert_eq!(seconds(&json), None, "{text}");
        }
        let good = r#""2026-11-26T06:40:00Z""#;
        for json in [
            r#"{"headers": {"eta": null}}"#.to_owned(),
            r#"{"headers": {"eta": 1795675200}}"#.to_owned(),
            format!(r#"{{"headers": {{"eta": [{good}]}}}}"#),
            format!(r#"{{"headers": [{good}]}}"#),
            format!(r#"{{"eta": {good}}}"#),
            format!(r#"[{{"headers": {{"eta": {good}}}}}]"#),
            format!(r#"{{"headers": {{"eta": {good}, "eta": {good}}}}}"#),
            format!(r#"{{"headers": {{"eta": {good}}}"#),
            format!(
                r#"{{"body": {}, "headers": {{"eta": {good}}}}}"#,
                "[".repeat(1_000_000)
            ),
            String::new(),
        ] {
            assert_eq!(seconds(&json), None);
        }
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let json = format!(r#"{{"body": {deep}, "headers": {{"eta": {good}}}}}"#);
        assert!(
            seconds(&json).is_some(),
            "nothing is nested too deep to pass over"
        );
    }
}
