//! [`Troubles`]: what is wrong with a key, and what the log says about it.
//!
//! Every thread that uses a key sees its token fail, and each tries again many times. The log has one line when it begins,
//! one when it is over, and few in between.

use std::time::{Duration, Instant, SystemTime};

/// Something that is wrong with a key now.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) why: String,
    pub(super) since: SystemTime,
    /// When the module may be started anew.
    pub(super) next: Option<Instant>,
    /// Somebody has to put it right.
    pub(super) lasting: bool,
    began: Instant,
    /// The log has a line about it.
    said: bool,
    counts: Counts,
}

/// What troubles cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls that failed for good.
    pub(super) failed: u64,
    /// Tries that failed and were followed by another.
    pub(super) tried: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A try failed; there is another one.
    Tried,
    /// A call failed for good.
    Failed {
        /// Somebody has to put it right.
        lasting: bool,
    },
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It began. With what shorter troubles cost about which there was no line.
    Begins { lasting: bool, unsaid: Counts },
    /// It goes on.
    Lasts { after: Duration, counts: Counts },
    /// It is over.
    Over { after: Duration, counts: Counts },
}

/// The present trouble of a key, and when the log was told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    now: Option<Trouble>,
    /// When there was a line about one.
    said: Option<Instant>,
    /// Lines since this trouble or this series of short ones began: the more, the longer the next pause.
    lines: u32,
    unsaid: Counts,
}

impl Troubles {
    /// Pauses between lines, and troubles shorter than which are a series. Pauses double, up to the longest.
    const PAUSE: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    pub(super) const fn now(&self) -> Option<&Trouble> {
        self.now.as_ref()
    }

    /// Something failed, for a reason that is made a text of by `why`.
    pub(super) fn note(
        &mut self,
        event: Event,
        why: String,
        next: Option<Instant>,
        at: Instant,
    ) -> Option<Line> {
        let lasting = event == Event::Failed { lasting: true };
        let trouble = self.now.get_or_insert_with(|| Trouble {
            why: String::new(),
            since: SystemTime::now(),
            next: None,
            lasting,
            began: at,
            said: false,
            counts: Counts::default(),
        });
        if lasting && !trouble.lasting {
            // Other news than that it fails.
            trouble.said = false;
        }
        trouble.why = why;
        trouble.lasting = lasting;
        trouble.next = next.or(trouble.next);
        match event {
            Event::Tried => trouble.counts.tried += 1,
            Event::Failed { .. } => trouble.counts.failed += 1,
        }
        let (said, counts) = (trouble.said, trouble.counts);
        let after = at.saturating_duration_since(trouble.began);
        let quiet = self.said.map(|said| at.saturating_duration_since(said));
        let is_due = match quiet {
            None => true,
            Some(quiet) if said => quiet >= self.pause(),
            // One that is no short one of a series is said soon.
            Some(quiet) => quiet >= self.pause() || (after.min(quiet) >= Self::PAUSE),
        };
        if !is_due {
            return None;
        }
        if !said && quiet.is_none_or(|quiet| quiet >= 2 * self.pause()) {
            self.lines = 0;
        }
        self.said = Some(at);
        self.lines += 1;
        if said {
            return Some(Line::Lasts { after, counts });
        }
        if let Some(trouble) = &mut self.now {
            trouble.said = true;
        }
        Some(Line::Begins {
            lasting,
            unsaid: std::mem::take(&mut self.unsaid),
        })
    }

    /// It works.
    pub(super) fn well(&mut self, at: Instant) -> Option<Line> {
        let trouble = self.now.take()?;
        let (after, counts) = (at.saturating_duration_since(trouble.began), trouble.counts);
        if !trouble.said {
            self.unsaid.failed += counts.failed;
            self.unsaid.tried += counts.tried;
            return None;
        }
        if after >= Self::PAUSE {
            // None of a series: the next one is news.
            self.lines = 0;
        }
        self.said = Some(at);
        Some(Line::Over { after, counts })
    }

    fn pause(&self) -> Duration {
        let doubled = self.lines.saturating_sub(1).min(10);
        Self::PAUSE.saturating_mul(1 << doubled).min(Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn note(troubles: &mut Troubles, event: Event, at: Instant) -> Option<Line> {
        troubles.note(event, "gone".to_owned(), None, at)
    }

    #[test]
    fn an_outage_is_a_line_when_it_begins_one_when_it_is_over_and_few_in_between() {
        let mut troubles = Troubles::default();
        let start = Instant::now();
        // Eight threads try again every 10 ms for two minutes.
        let mut lines = Vec::new();
        for step in 0..12_000_u32 {
            let at = start + step * Duration::from_millis(10);
            lines.extend((0..8).filter_map(|_| note(&mut troubles, Event::Tried, at)));
        }
        note(
            &mut troubles,
            Event::Failed { lasting: false },
            start + 120 * SECOND,
        );
        let first = Line::Begins {
            lasting: false,
            unsaid: Counts::default(),
        };
        assert_eq!(lines[0], first);
        // After 1, 2, 4, … and then 60 seconds.
        assert_eq!(lines.len(), 1 + 6, "{lines:#?}");
        let after = 120 * SECOND;
        let counts = Counts {
            failed: 1,
            tried: 96_000,
        };
        assert_eq!(
            troubles.well(start + after),
            Some(Line::Over { after, counts })
        );
        // The next one is news again, a second later.
        assert!(note(&mut troubles, Event::Tried, start + after + SECOND).is_some());
    }

    #[test]
    fn a_key_that_fails_and_works_in_turn_is_no_flood_and_nothing_is_lost_from_the_counts() {
        let mut troubles = Troubles::default();
        let start = Instant::now();
        let (mut lines, mut tried) = (0, 0);
        for step in 0..60_000_u32 {
            let at = start + step * Duration::from_millis(1);
            for line in [note(&mut troubles, Event::Tried, at), troubles.well(at)] {
                match line {
                    Some(Line::Begins { unsaid, .. }) => tried += unsaid.tried,
                    Some(Line::Over { counts, .. }) => tried += counts.tried,
                    Some(Line::Lasts { .. }) => panic!("none lasts"),
                    None => continue,
                }
                lines += 1;
            }
        }
        assert!((10..20).contains(&lines), "{lines} lines in a minute");
        assert_eq!(tried + troubles.unsaid.tried, 60_000);
    }

    #[test]
    fn what_somebody_must_put_right_is_said_although_it_was_failing_before() {
        let mut troubles = Troubles::default();
        let start = Instant::now();
        note(&mut troubles, Event::Tried, start).unwrap();
        let lasting = Event::Failed { lasting: true };
        let line = note(&mut troubles, lasting, start + SECOND);
        assert!(
            matches!(line, Some(Line::Begins { lasting: true, .. })),
            "{line:?}"
        );
        assert!(troubles.now().unwrap().lasting);
    }

    #[test]
    fn an_outage_after_short_troubles_is_said_within_a_second() {
        let mut troubles = Troubles::default();
        let start = Instant::now();
        for step in 0..30_000_u32 {
            let at = start + step * Duration::from_millis(1);
            note(&mut troubles, Event::Tried, at);
            troubles.well(at);
        }
        let start = start + 30 * SECOND;
        let lines: Vec<_> = (0..=1000)
            .filter_map(|step| {
                note(
                    &mut troubles,
                    Event::Tried,
                    start + step * Duration::from_millis(1),
                )
            })
            .collect();
        assert!(matches!(lines[..], [Line::Begins { .. }]), "{lines:?}");
    }
}
