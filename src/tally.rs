//! [`Tally`]: few log lines about what happens very often, and nothing lost from the counts.
//!
//! Use this where each message of a flood would be a line: the first of each kind is worth one, the others are counted, and
//! what was counted is said in one line per interval.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use taskseal::tally::Tally;
//!
//! let tally = Tally::new(Duration::from_secs(10));
//! let start = Instant::now();
//! assert!(tally.count("bad-signature", Some("alice"), start).first);
//! for name in ["alice", "bob", "alice"] {
//!     assert!(!tally.count("bad-signature", Some(name), start).first);
//! }
//! let later = start + Duration::from_secs(10);
//! assert_eq!(tally.due(later).unwrap(), "bad-signature: 3 (alice: 2, bob: 1)");
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts what happens, by topic, and says when a line about it is due. It takes a bounded amount of memory, whatever is
/// counted.
#[derive(Debug)]
pub struct Tally {
    every: Duration,
    counts: Mutex<Counts>,
    /// Whether anything was counted and not said, so that asking costs no lock.
    waiting: AtomicBool,
}

/// What came of counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The first of its topic after a time without any: worth a line of its own. It is in no summary.
    pub first: bool,
    /// What was counted since the last line, if a line is due.
    pub summary: Option<String>,
}

#[derive(Debug, Default)]
struct Counts {
    topics: BTreeMap<String, Topic>,
    /// When the first was counted that was not said.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Topic {
    /// When a line was about it last.
    said: Instant,
    count: u64,
    names: BTreeMap<String, u64>,
}

impl Tally {
    /// How many topics are told apart. Further ones are counted together.
    pub const MAX_TOPICS: usize = 32;
    /// How many names of a topic a summary has. What has other names is counted in its topic.
    pub const MAX_NAMES: usize = 16;
    /// What further topics are called together.
    pub const OTHERS: &str = "others";

    /// At most one summary in so much time.
    #[must_use]
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            counts: Mutex::new(Counts {
                topics: BTreeMap::new(),
                since: None,
            }),
            waiting: AtomicBool::new(false),
        }
    }

    /// Counts one more. The name says whose it is, and is shown as it is: text of others is made safe and cut before
    /// ([`Untrusted`](crate::error::Untrusted)).
    pub fn count(&self, topic: &str, name: Option<&str>, now: Instant) -> Counted {
        let mut counts = self.counts();
        let first = counts.add(topic, name, now, self.every);
        let summary = self.take_due(&mut counts, now);
        Counted { first, summary }
    }

    /// What was counted and not said, if a line about it is due.
    pub fn due(&self, now: Instant) -> Option<String> {
        if !self.waiting.load(Ordering::Relaxed) {
            return None;
        }
        self.take_due(&mut self.counts(), now)
    }

    /// What was counted and not said, before the end.
    pub fn rest(&self, now: Instant) -> Option<String> {
        self.take(&mut self.counts(), now)
    }

    fn take_due(&self, counts: &mut Counts, now: Instant) -> Option<String> {
        let waited = counts
            .since
            .map(|since| now.saturating_duration_since(since));
        self.waiting.store(waited.is_some(), Ordering::Relaxed);
        waited.filter(|waited| *waited >= self.every)?;
        self.take(counts, now)
    }

    fn take(&self, counts: &mut Counts, now: Instant) -> Option<String> {
        counts.since.take()?;
        self.waiting.store(false, Ordering::Relaxed);
        let mut summary = String::new();
        for (name, topic) in counts
            .topics
            .iter_mut()
            .filter(|(_, topic)| topic.count > 0)
        {
            if !summary.is_empty() {
                summary.push_str("; ");
            }
            topic.say(name, &mut summary);
            topic.said = now;
        }
        Some(summary)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Whether it is the first.
    fn add(&mut self, topic: &str, name: Option<&str>, now: Instant, every: Duration) -> bool {
        let known = self.topics.contains_key(topic);
        let full = self.topics.len() >= Tally::MAX_TOPICS;
        let topic = if !known && full { Tally::OTHERS } else { topic };
        let Some(found) = self.topics.get_mut(topic) else {
            let new = Topic {
                said: now,
                count: 0,
                names: BTreeMap::new(),
            };
            self.topics.insert(topic.to_owned(), new);
            return true;
        };
        if found.count == 0 && now.saturating_duration_since(found.said) >= every {
            found.said = now;
            return true;
        }
        found.count += 1;
        if let Some(name) = name {
            let full = found.names.len() >= Tally::MAX_NAMES;
            match found.names.get_mut(name) {
                Some(count) => *count += 1,
                None if full => {}
                None => drop(found.names.insert(name.to_owned(), 1)),
            }
        }
        self.since.get_or_insert(now);
        false
    }
}

impl Topic {
    /// Writes what was counted, and begins anew.
    fn say(&mut self, name: &str, to: &mut String) {
        let count = std::mem::take(&mut self.count);
        let names = std::mem::take(&mut self.names);
        // Writing to a String does not fail.
        let _ = write!(to, "{name}: {count}");
        if names.is_empty() {
            return;
        }
        let mut more = count;
        to.push_str(" (");
        for (place, (name, count)) in names.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            let _ = write!(to, "{comma}{name}: {count}");
            more = more.saturating_sub(*count);
        }
        if more > 0 {
            let _ = write!(to, ", and {more} more");
        }
        to.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Counts, and returns how many lines were worth saying and what the summaries were.
    fn flood(
        tally: &Tally,
        start: Instant,
        events: impl Iterator<Item = (u64, &'static str, String)>,
    ) -> (usize, Vec<String>) {
        let mut firsts = 0;
        let mut summaries = Vec::new();
        for (millis, topic, name) in events {
            let now = start + Duration::from_millis(millis);
            let counted = tally.count(topic, Some(&name), now);
            firsts += usize::from(counted.first);
            summaries.extend(counted.summary);
        }
        (firsts, summaries)
    }

    #[test]
    fn a_flood_is_a_line_and_then_one_per_interval_and_a_rare_topic_is_in_one_of_them() {
        let tally = Tally::new(10 * SECOND);
        let start = Instant::now();
        // 20,000 in 40 seconds, and a rare one among them, three times.
        let events = (0..20_000_u64).map(|number| match number {
            500 | 9_000 | 9_001 => (number * 2, "expired", "carol".to_owned()),
            _ => (number * 2, "malformed", "mallory".to_owned()),
        });
        let (firsts, mut summaries) = flood(&tally, start, events);
        summaries.extend(tally.rest(start + 40 * SECOND));
        assert_eq!(firsts, 3, "malformed once, expired twice");
        assert!(summaries.len() <= 5, "{summaries:#?}");
        let total: u64 = summaries
            .iter()
            .flat_map(|summary| summary.split("; "))
            .map(|part| {
                part.split([':', ' '])
                    .nth(2)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum();
        assert_eq!(total + firsts as u64, 20_000);
        let rare = summaries
            .iter()
            .filter(|line| line.contains("expired: 1 (carol: 1)"));
        assert_eq!(rare.count(), 1, "{summaries:#?}");
        assert_eq!(tally.rest(start + 50 * SECOND), None);
    }

    #[test]
    fn what_is_rare_is_said_each_time() {
        let tally = Tally::new(10 * SECOND);
        let start = Instant::now();
        let events = (0..5).map(|number| (number * 10_000, "expired", "carol".to_owned()));
        assert_eq!(flood(&tally, start, events), (5, Vec::new()));
    }

    #[test]
    fn what_was_counted_is_due_although_nothing_comes_any_more() {
        let tally = Tally::new(10 * SECOND);
        let start = Instant::now();
        for _ in 0..3 {
            tally.count("scope", None, start);
        }
        assert_eq!(tally.due(start + 9 * SECOND), None);
        assert_eq!(tally.due(start + 10 * SECOND).unwrap(), "scope: 2");
        assert_eq!(tally.due(start + 30 * SECOND), None);
    }

    #[test]
    fn topics_and_names_of_an_attackers_choice_take_no_memory_and_hide_no_topic() {
        let tally = Tally::new(10 * SECOND);
        let start = Instant::now();
        for number in 0..10_000 {
            tally.count("unknown-signer", Some(&format!("n{number}")), start);
            tally.count("expired", Some("carol"), start);
        }
        let line = tally.rest(start).unwrap();
        assert!(line.contains("expired: 9999 (carol: 9999)"), "{line}");
        assert!(line.contains("and 9983 more)"), "{line}");
        assert!(line.len() < 1000, "{line}");
        let others = Tally::new(10 * SECOND);
        for number in 0..1000 {
            others.count(&format!("topic {number}"), None, start);
        }
        assert_eq!(others.rest(start).unwrap(), "others: 967");
    }
}
