//! Many tokens in one go: some milliseconds' worth of them in each hand-over to a session's thread.
//!
//! While the thread makes the calls for one batch, its caller writes out the batch before and prepares the next.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::cipher::{Handles, Work};
use super::keys::{Clock, Pkcs11FernetKeys};
use crate::fernet::{FernetError, Token};
use crate::pkcs11::error::Error;
use crate::pkcs11::module::ModuleSession;
use crate::pkcs11::process::lock;
use crate::pkcs11::session::Access;

/// What is done with the tokens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    Seal,
    Open,
}

/// A token in a batch. When a call fails, another session goes on where this one came to.
struct Item {
    /// Its bytes are in `work`.
    token: Token,
    work: Work,
    done: bool,
}

impl Item {
    fn new(mut token: Token) -> Self {
        let iv = token.iv();
        let bytes = std::mem::take(&mut token.signed);
        Self {
            token,
            work: Work::new(bytes, Token::HEADER, iv),
            done: false,
        }
    }

    fn run(
        &mut self,
        doing: Doing,
        access: &Access,
        session: &dyn ModuleSession,
        keys: Handles,
    ) -> Result<(), Error> {
        match doing {
            Doing::Seal => {
                self.token.tag = self.work.seal(access, session, keys)?;
                self.token.open = false;
            }
            Doing::Open => {
                self.token.open = self.work.open(access, session, keys, &self.token.tag)?;
            }
        }
        self.done = true;
        Ok(())
    }

    fn into_token(mut self) -> Token {
        self.token.signed = self.work.take();
        self.token
    }
}

impl Pkcs11FernetKeys {
    pub(super) fn in_batches(
        &self,
        doing: Doing,
        tokens: &mut dyn Iterator<Item = Token>,
        done: &mut dyn FnMut(Token),
    ) -> Result<(), FernetError> {
        let mut pace = Pace::default();
        let mut finished = Vec::new();
        let mut next = pace.next(tokens);
        while !next.is_empty() {
            let count = next.len();
            let batch = Mutex::new(std::mem::take(&mut next));
            let before = std::mem::take(&mut finished);
            let started = Instant::now();
            finished = self.ask_for(
                count as u64,
                move |access, session, keys, clock| {
                    let mut batch = lock(&batch);
                    run(&mut batch, doing, access, session, keys, clock)?;
                    Ok(std::mem::take(&mut *batch))
                },
                || {
                    before
                        .into_iter()
                        .map(Item::into_token)
                        .for_each(&mut *done);
                    next = pace.next(tokens);
                },
            )?;
            pace.took(count, started.elapsed());
        }
        finished.into_iter().map(Item::into_token).for_each(done);
        Ok(())
    }
}

/// Makes the calls for those that are not done yet.
fn run(
    batch: &mut [Item],
    doing: Doing,
    access: &Access,
    session: &dyn ModuleSession,
    keys: Handles,
    clock: &Clock<'_>,
) -> Result<(), Error> {
    let mut left = u32::try_from(batch.len()).unwrap_or(u32::MAX);
    let mut before = Instant::now();
    let mut rung = false;
    for item in batch {
        left = left.saturating_sub(1);
        if item.done {
            continue;
        }
        item.run(doing, access, session, keys)?;
        let now = Instant::now();
        let took = now - before;
        before = now;
        clock.took(took);
        // So early that the caller is there when the last one is done.
        if !rung && took.saturating_mul(left) < WAKING {
            rung = true;
            clock.almost_done();
        }
    }
    Ok(())
}

/// How long it takes to wake a thread.
const WAKING: Duration = Duration::from_micros(100);

/// How many tokens go into a batch: few at first, and then as many as take the time that is aimed at.
struct Pace {
    count: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { count: 1 }
    }
}

impl Pace {
    /// How long a batch is to take: long beside a hand-over (some microseconds, and a hundred where a thread must be
    /// woken), short beside any deadline.
    const AIM: Duration = Duration::from_millis(2);
    const MOST: usize = 1024;
    /// A batch ends with the token that reaches this, however small those before it were.
    const MOST_BYTES: usize = 1024 * 1024;

    fn next(&self, tokens: &mut dyn Iterator<Item = Token>) -> Vec<Item> {
        let mut items = Vec::new();
        let mut bytes = 0;
        while items.len() < self.count && bytes < Self::MOST_BYTES {
            let Some(token) = tokens.next() else { break };
            bytes += token.signed.len();
            items.push(Item::new(token));
        }
        items
    }

    fn took(&mut self, count: usize, time: Duration) {
        let each = time.as_secs_f64() / count as f64;
        let fits = Self::AIM.as_secs_f64() / each;
        self.count = (fits as usize).clamp(1, Self::MOST).min(count * 4);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Pace, Token};

    fn tokens(count: usize, len: usize) -> impl Iterator<Item = Token> {
        let data = vec![0; len];
        (0..count).map(move |_| Token::new(&data, SystemTime::now(), [0; 16]).unwrap())
    }

    #[test]
    fn batches_grow_to_the_time_aimed_at_and_shrink_with_a_slower_token() {
        let mut pace = Pace::default();
        let mut tokens = tokens(100_000, 100);
        let mut counts = Vec::new();
        for each in [20, 20, 20, 20, 20, 2000, 2000, 10_000] {
            let count = pace.next(&mut tokens).len();
            counts.push(count);
            pace.took(count, Duration::from_micros(each * count as u64));
        }
        assert_eq!(counts, [1, 4, 16, 64, 100, 100, 1, 1]);
        // Nor does a clock that stands still make them larger than they may be.
        for _ in 0..8 {
            let count = pace.next(&mut tokens).len();
            pace.took(count, Duration::ZERO);
        }
        assert_eq!(pace.next(&mut tokens).len(), Pace::MOST);
    }

    #[test]
    fn large_tokens_after_small_ones_do_not_come_all_at_once() {
        let pace = Pace { count: Pace::MOST };
        let mut tokens = tokens(1000, 1).chain(tokens(100, 300_000));
        let small = pace.next(&mut tokens);
        assert_eq!(small.len(), 1004);
        assert_eq!(pace.next(&mut tokens).len(), 4);
    }
}
