//! [`Validity`]: from when until when, for every year that a certificate can name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::asn1::{Element, Malformed, tag};

/// `Validity` (RFC 5280, 4.1.2.5).
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

const DAY: i64 = 24 * 60 * 60;

impl Validity {
    pub(super) fn read(element: Element<'_>) -> Result<Self, Malformed> {
        let mut times = element.tagged(tag::SEQUENCE)?.inside();
        let not_before = time(times.any()?)?;
        let not_after = time(times.any()?)?;
        times.finish()?;
        Ok(Self {
            not_before,
            not_after,
        })
    }
}

/// `Time`, in UTC and with seconds, as RFC 5280 asks for. Which of the two forms it has does not matter.
fn time(element: Element<'_>) -> Result<SystemTime, Malformed> {
    let digits = element.value().strip_suffix(b"Z").ok_or(Malformed)?;
    let (year, rest) = match (element.tag(), digits.len()) {
        (tag::UTC_TIME, 12) => {
            let (year, rest) = number(digits, 2)?;
            // RFC 5280, 4.1.2.5.1.
            (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
        }
        (tag::GENERALIZED_TIME, 14) => number(digits, 4)?,
        _ => return Err(Malformed),
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, _) = number(rest, 2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(Malformed);
    }
    let days = days_to(year, month, day).ok_or(Malformed)?;
    at(days * DAY + hour * 3600 + minute * 60 + second).ok_or(Malformed)
}

fn number(digits: &[u8], len: usize) -> Result<(i64, &[u8]), Malformed> {
    let (number, rest) = digits.split_at_checked(len).ok_or(Malformed)?;
    let mut value = 0;
    for digit in number {
        if !digit.is_ascii_digit() {
            return Err(Malformed);
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Ok((value, rest))
}

fn at(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

/// Days from 1970 to a date of the Gregorian calendar; `None` when there is no such date.
fn days_to(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    // Years that begin in March have the leap day at their end (Howard Hinnant's days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// A time as RFC 3339 text in UTC, to the second: as errors, logs and the command show it.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).ok(),
        // The second that it is in began before it.
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).ok();
            whole.map(|whole| -whole - i64::from(before.subsec_nanos() > 0))
        }
    };
    let Some(seconds) = seconds else {
        return format!("{time:?}");
    };
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = date_of(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The inverse of [`days_to`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tag: u8, text: &str) -> Result<String, Malformed> {
        let len = u8::try_from(text.len()).unwrap();
        let der = [&[tag, len], text.as_bytes()].concat();
        time(Element::only(&der)?).map(rfc3339)
    }

    #[test]
    fn every_year_reads_and_shows_the_same() {
        for year in 0..=9999 {
            for (month, day) in [(1, 1), (2, 28), (3, 1), (12, 31)] {
                let text = format!("{year:04}{month:02}{day:02}235958Z");
                let shown = format!("{year:04}-{month:02}-{day:02}T23:59:58Z");
                assert_eq!(read(tag::GENERALIZED_TIME, &text), Ok(shown));
            }
        }
        assert_eq!(days_to(1970, 1, 1), Some(0));
        assert_eq!(days_to(1969, 12, 31), Some(-1));
        assert_eq!(days_to(2000, 3, 1), Some(11_017));
        assert_eq!(
            read(tag::UTC_TIME, "500101000000Z").unwrap(),
            "1950-01-01T00:00:00Z"
        );
        assert_eq!(
            read(tag::UTC_TIME, "491231235959Z").unwrap(),
            "2049-12-31T23:59:59Z"
        );
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "000230000000Z",
            "010229000000Z",
            "001301000000Z",
            "000001000000Z",
            "000100000000Z",
            "000101240000Z",
            "000101006000Z",
            "000101000060Z",
            "0001010000Z",
            "000101000000",
            "000101000000+0100",
            "-00101000000Z",
            "20000101000000Z",
        ] {
            assert_eq!(read(tag::UTC_TIME, text), Err(Malformed), "{text}");
        }
        for text in ["000101000000Z", "20000101000000.5Z", "2000010100000Z"] {
            assert_eq!(read(tag::GENERALIZED_TIME, text), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn times_between_seconds_show_the_second_they_are_in() {
        let half = Duration::from_millis(500);
        assert_eq!(rfc3339(UNIX_EPOCH + half), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(UNIX_EPOCH - half), "1969-12-31T23:59:59Z");
    }
}
