//! [`ClockWatch`]: whose clock is wrong when a good message comes at the wrong time, and what is to become of it.
//!
//! | the message is | while most signers are ahead of this host | else |
//! |---|---|---|
//! | in time | goes back to its queue | is taken |
//! | early by less than the skew again | goes back, until it is in time | the same |
//! | earlier | goes back | is put aside: its sender's clock is wrong |
//! | late | goes back | is put aside; goes back while this host's clock is in doubt |
//!
//! Nobody without a trusted key makes a message from the future, so those are proof that somebody's clock is wrong, and the
//! signers of the last minute vote whose. Old messages prove nothing: anybody may have kept them, and a queue that nobody
//! read for a while is full of them. So each counts once, one message in time outweighs them for a minute, and it takes
//! [`DOUBT`] in a row before they are no longer put aside but sent round, until a message in time is found among them.
//!
//! What goes back comes again when the rest of its queue was looked at. A pause is due then, and not after each of them: else
//! anybody who has many such messages, or copies of one, could hold up those that stand behind them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::opened::{Timing, UntimedMessage};
use super::replay::ReplayKey;
use crate::certificate::Certificate;

/// How long what a signer's clock said counts.
const WINDOW: Duration = Duration::from_secs(60);
/// So many late messages without one in time between them make this host's clock doubtful.
const DOUBT: usize = 100;
/// How long to wait when a queue was gone round: as long as it takes the last one to be in time, and no longer than this.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the same complaint is made.
const EVERY: Duration = Duration::from_secs(60);

/// Watches what the clocks of signers say about this host's. One per process; it needs the messages that are in time as well.
#[derive(Default)]
pub struct ClockWatch {
    signers: HashMap<[u8; 32], Seen>,
    /// When a message was last in time.
    in_time: Option<Duration>,
    /// The late ones since then, as far as they are counted.
    late: HashSet<ReplayKey>,
    complained: Option<Duration>,
}

struct Seen {
    at: Duration,
    early: Option<Duration>,
}

/// What one message says about clocks.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    signer: [u8; 32],
    key: ReplayKey,
    timing: Timing,
    skew: Duration,
}

impl Evidence {
    /// What a message says.
    #[must_use]
    pub fn of(message: &UntimedMessage) -> Self {
        let opened = message.whenever();
        Self {
            // Not of the key: one certificate for it may be valid and the next one not yet.
            signer: opened
                .signer()
                .map_or([0; 32], Certificate::thumbprint_sha256),
            key: opened.replay_key().unwrap_or_else(|| ReplayKey::of(&[])),
            timing: message.timing(),
            skew: message.clock_skew(),
        }
    }
}

/// What is to become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is handled.
    Take,
    /// It goes back to the end of its queue. Once everything that was in the queue went back, nothing is looked at for so long.
    GiveBack(Duration),
    /// It leaves its queue and is kept elsewhere.
    PutAside,
}

/// What is to become of a message, and what an operator has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What is to become of it.
    pub step: Step,
    /// An error to be logged; at most one a minute.
    pub complaint: Option<String>,
}

impl ClockWatch {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges a message. `now` is the time since any moment in the past by a clock that nobody sets.
    pub fn judge(&mut self, evidence: &Evidence, now: Duration) -> Judgement {
        let Evidence { timing, skew, .. } = *evidence;
        self.note(evidence, now);
        let (early, in_time) = self.votes(now);
        let behind = early.len() > in_time;
        let alone = self
            .in_time
            .is_none_or(|at| now.saturating_sub(at) > WINDOW);
        let doubtful = alone && self.late.len() >= DOUBT;
        let step = match timing {
            Timing::Early(by) if by <= skew => Step::GiveBack(by.min(PAUSE)),
            _ if behind => Step::GiveBack(PAUSE),
            Timing::InTime => Step::Take,
            Timing::Late if doubtful => Step::GiveBack(PAUSE),
            Timing::Early(_) | Timing::Late => Step::PutAside,
        };
        let complaint = if behind {
            let all = early.len() + in_time;
            let most = early.iter().max().copied().unwrap_or_default() + skew;
            Some(format!(
                "this host's clock is behind: {} of {all} signers seal their messages up to {} s ahead of it. No message is \
                 taken until it is set right",
                early.len(),
                most.as_secs()
            ))
        } else if timing == Timing::Late && alone {
            let (count, more) = (self.late.len(), if doubtful { " or more" } else { "" });
            let then = if doubtful {
                "go back to the end of their queue"
            } else {
                "are put aside"
            };
            Some(format!(
                "the last {count}{more} messages were all too old, or of certificates that have expired, and none was in \
                 time: unless they waited that long, this host's clock is ahead. They {then}"
            ))
        } else if let Timing::Early(by) = timing
            && by <= skew
        {
            Some(format!(
                "a message is {} s ahead of this host's clock, and waits: compare this clock and its sender's",
                by.saturating_add(skew).as_secs()
            ))
        } else {
            None
        };
        Judgement {
            step,
            complaint: complaint.filter(|_| self.may_complain(now)),
        }
    }

    fn note(&mut self, evidence: &Evidence, now: Duration) {
        let early = match evidence.timing {
            Timing::InTime => {
                self.in_time = Some(now);
                self.late.clear();
                None
            }
            // It will be in time in a moment: no more wrong than right.
            Timing::Early(by) if by <= evidence.skew => return,
            Timing::Early(by) => Some(by),
            Timing::Late => {
                if self.late.len() < DOUBT {
                    self.late.insert(evidence.key);
                }
                return;
            }
        };
        // No more than there are certificates in the store, and those that still count.
        self.signers
            .retain(|_, seen| now.saturating_sub(seen.at) <= WINDOW);
        let seen = Seen { at: now, early };
        self.signers.insert(evidence.signer, seen);
    }

    /// How much too early the signers are that were, and how many were in time, each by its last message.
    fn votes(&self, now: Duration) -> (Vec<Duration>, usize) {
        let counted = || {
            self.signers
                .values()
                .filter(|seen| now.saturating_sub(seen.at) <= WINDOW)
        };
        let early: Vec<Duration> = counted().filter_map(|seen| seen.early).collect();
        let in_time = counted().count() - early.len();
        (early, in_time)
    }

    fn may_complain(&mut self, now: Duration) -> bool {
        let due = self
            .complained
            .is_none_or(|at| now.saturating_sub(at) >= EVERY);
        if due {
            self.complained = Some(now);
        }
        due
    }
}

impl fmt::Debug for ClockWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClockWatch")
            .field("signers", &self.signers.len())
            .field("late", &self.late.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const BACK: Step = Step::GiveBack(PAUSE);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn judge(
        watch: &mut ClockWatch,
        at: u64,
        signer: u8,
        number: u32,
        timing: Timing,
    ) -> Judgement {
        let evidence = Evidence {
            signer: [signer; 32],
            key: ReplayKey::of(&number.to_be_bytes()),
            timing,
            skew: SKEW,
        };
        watch.judge(&evidence, seconds(at))
    }

    /// Message `number` of a signer, at a second.
    fn decide(watch: &mut ClockWatch, at: u64, signer: u8, number: u32, timing: Timing) -> Step {
        judge(watch, at, signer, number, timing).step
    }

    fn complaint(watch: &mut ClockWatch, at: u64, timing: Timing) -> Option<String> {
        judge(watch, at, 1, 1, timing).complaint
    }

    #[test]
    fn what_becomes_of_a_message_follows_from_what_its_signers_said() {
        use Timing::{Early, InTime, Late};
        let far = Early(DAY);
        // Each line of a case: second, signer, number of the message, what the clock says, what becomes of it.
        type Line = (u64, u8, u32, Timing, Step);
        let cases: [(&str, &[Line]); 9] = [
            (
                "messages in time are taken",
                &[(0, 1, 1, InTime, Step::Take), (1, 2, 2, InTime, Step::Take)],
            ),
            (
                "a little early is waited for, no longer than needed, and says nothing of the clock",
                &[
                    (
                        0,
                        1,
                        1,
                        Early(Duration::from_millis(300)),
                        Step::GiveBack(Duration::from_millis(300)),
                    ),
                    (0, 1, 2, Early(SKEW), BACK),
                    (0, 2, 3, InTime, Step::Take),
                    (0, 1, 2, Early(SKEW), BACK),
                ],
            ),
            (
                "the only signer is far ahead: nothing is taken, and all is well once the clock is set",
                &[
                    (0, 1, 1, far, BACK),
                    (1, 1, 2, Late, BACK),
                    (2, 1, 1, far, BACK),
                    (3, 1, 1, InTime, Step::Take),
                    (3, 1, 2, InTime, Step::Take),
                ],
            ),
            (
                "one of three is far ahead: its clock is wrong",
                &[
                    (0, 1, 1, InTime, Step::Take),
                    (0, 2, 2, InTime, Step::Take),
                    (1, 3, 3, far, Step::PutAside),
                    (2, 1, 4, InTime, Step::Take),
                ],
            ),
            (
                "two of three are far ahead: the messages of the third wait as well",
                &[
                    (0, 1, 1, far, BACK),
                    (0, 2, 2, far, BACK),
                    (1, 3, 3, InTime, BACK),
                    (2, 1, 1, InTime, Step::Take),
                    (2, 3, 3, InTime, Step::Take),
                ],
            ),
            (
                "a signer that was in time counts for a minute",
                &[
                    (0, 1, 1, InTime, Step::Take),
                    (60, 2, 2, far, Step::PutAside),
                    (61, 2, 3, far, BACK),
                ],
            ),
            (
                "a signer's last message counts: one that was early once does not hold up the others",
                &[
                    (0, 1, 1, far, BACK),
                    (1, 1, 2, InTime, Step::Take),
                    (2, 2, 3, InTime, Step::Take),
                    (3, 1, 1, far, Step::PutAside),
                    (4, 2, 4, InTime, Step::Take),
                ],
            ),
            (
                "old messages alone are put aside and stop nothing",
                &[
                    (0, 1, 1, Late, Step::PutAside),
                    (0, 1, 1, Late, Step::PutAside),
                    (0, 2, 2, Late, Step::PutAside),
                    (0, 2, 3, InTime, Step::Take),
                ],
            ),
            (
                "a signer with a clock far behind is put aside",
                &[
                    (0, 1, 1, InTime, Step::Take),
                    (9, 2, 2, Late, Step::PutAside),
                ],
            ),
        ];
        for (case, lines) in cases {
            let mut watch = ClockWatch::new();
            for (at, signer, number, timing, expected) in lines {
                let step = decide(&mut watch, *at, *signer, *number, *timing);
                assert_eq!(step, *expected, "{case}: {at} s, message {number}");
            }
        }
    }

    #[test]
    fn many_different_old_messages_in_a_row_go_round_until_one_is_in_time() {
        let mut watch = ClockWatch::new();
        let late = |watch: &mut ClockWatch, at, number| decide(watch, at, 1, number, Timing::Late);
        for number in 1..100 {
            assert_eq!(late(&mut watch, 0, number), Step::PutAside);
        }
        assert_eq!(late(&mut watch, 0, 7), Step::PutAside, "a copy counts once");
        assert_eq!(late(&mut watch, 0, 100), BACK);
        assert_eq!(late(&mut watch, 500, 7), BACK);
        // One in time, and they are what they look like: old.
        assert_eq!(decide(&mut watch, 501, 2, 0, Timing::InTime), Step::Take);
        for number in 1..200 {
            assert_eq!(late(&mut watch, 561, number), Step::PutAside);
        }
        assert_eq!(late(&mut watch, 562, 1), BACK);
    }

    #[test]
    fn an_operator_is_told_once_a_minute_and_only_when_the_clock_is_suspect() {
        let mut watch = ClockWatch::new();
        assert_eq!(complaint(&mut watch, 0, Timing::InTime), None);
        assert_eq!(complaint(&mut watch, 1, Timing::Late), None);
        let text = complaint(&mut watch, 2, Timing::Early(seconds(1))).unwrap();
        assert!(text.contains("61 s ahead"), "{text}");
        assert_eq!(complaint(&mut watch, 61, Timing::Early(DAY)), None);
        let text = complaint(&mut watch, 62, Timing::Early(DAY)).unwrap();
        assert!(
            text.contains("behind: 1 of 1 signers") && text.contains("86460 s"),
            "{text}"
        );
        let text = complaint(&mut watch, 200, Timing::Late).unwrap();
        assert!(text.contains("ahead"), "{text}");
    }

    #[test]
    fn signers_that_are_gone_are_forgotten() {
        let mut watch = ClockWatch::new();
        for second in 0..1000_u64 {
            let signer = u8::try_from(second % 251).unwrap();
            decide(&mut watch, second, signer, 1, Timing::InTime);
        }
        assert!(watch.signers.len() <= 61 && watch.late.is_empty());
    }
}
