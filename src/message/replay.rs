//! [`ReplayMemory`]: what has been handled already, so that a repeated message is not handled again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::bound::MessageId;
use crate::certificate::Certificate;
use crate::error::ErrorClass;

/// What a repeated message is recognised by: SHA-256 of its id and its signer's key.
///
/// Not of the wire form, which can be changed without breaking the signature, nor of the certificate, which one key may
/// have several of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayKey([u8; 32]);

impl ReplayKey {
    pub(super) fn new(id: MessageId, signer: Option<&Certificate>) -> Self {
        let mut hash = Sha256::new().chain_update(id.0);
        if let Some(signer) = signer {
            hash.update(signer.public_key().modulus());
        }
        Self(hash.finalize().into())
    }

    /// The key of something that is told by other bytes, such as a key together with the name of a queue.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::certificate::hex(&self.0))
    }
}

impl fmt::Debug for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Remembers the keys of handled messages until these would be too old anyway.
///
/// Implementers owe: calls from many threads at once; [`insert`](Self::insert) as one step, so that of two callers one
/// alone is told that it was the first; an error, and never a guess, when the memory cannot be asked. An attacker must not
/// be able to write to it.
pub trait ReplayMemory: Send + Sync + fmt::Debug {
    /// What is known of the key. `until` is what [`insert`](Self::insert) would be, or was, given with it.
    ///
    /// # Errors
    /// [`ReplayError`] when it cannot be told.
    fn recall(
        &self,
        key: &ReplayKey,
        until: SystemTime,
        at: SystemTime,
    ) -> Result<Recall, ReplayError>;

    /// Remembers the key until then. Returns whether it was new.
    ///
    /// # Errors
    /// [`ReplayError`] when it was not remembered.
    fn insert(
        &self,
        key: &ReplayKey,
        until: SystemTime,
        at: SystemTime,
    ) -> Result<bool, ReplayError>;
}

/// What a memory knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// It was not handled.
    New,
    /// It was handled.
    Handled,
    /// It may have been handled: the memory had to forget keys that would end as early as this one.
    Forgotten,
}

/// A [`ReplayMemory`] of one process, bounded. Another process, and this one after a restart, knows nothing of it.
///
/// When it is full of keys that still count, it forgets the eighth of them that ends first, and says from then on of every
/// unknown key that ends as early that it may have been handled. So nothing is let in again, and new messages, which end
/// later, go on. A key takes about 50 bytes.
pub struct MemoryReplay {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By key, when each ends: milliseconds since 1970.
    until: HashMap<ReplayKey, u64>,
    /// Keys that end until then may have been forgotten.
    forgotten: Option<u64>,
}

impl MemoryReplay {
    /// Remembers up to so many messages, at least one. Needed are those of one maximum age ([`MessageOpener::with_max_age`]).
    ///
    /// [`MessageOpener::with_max_age`]: super::MessageOpener::with_max_age
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            kept: Mutex::default(),
        }
    }

    /// How many keys are remembered, those that no longer count included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept().until.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether keys that end then may have been forgotten.
    #[must_use]
    pub fn forgot(&self, until: SystemTime) -> bool {
        let forgotten = self.kept().forgotten;
        forgotten.is_some_and(|forgotten| millis(until) <= forgotten)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held, and the map would still be whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Makes room: of what no longer counts, or else of what ends first.
    fn make_room(&mut self, at: u64) {
        let before = self.until.len();
        self.until.retain(|_, until| *until >= at);
        // Looking at all of them must be worth it, or a memory that is always full would do nothing else.
        if self.until.len() <= before - before.div_ceil(8) {
            return;
        }
        let mut ends: Vec<u64> = self.until.values().copied().collect();
        let (_, end, _) = ends.select_nth_unstable(before / 8);
        let end = *end;
        self.until.retain(|_, until| *until > end);
        self.forgotten = self.forgotten.max(Some(end));
        tracing::warn!(
            forgotten = before - self.until.len(),
            remembered = self.until.len(),
            "the replay memory is full: messages as old as those that it forgot are refused; give it more room"
        );
    }
}

impl ReplayMemory for MemoryReplay {
    fn recall(
        &self,
        key: &ReplayKey,
        until: SystemTime,
        at: SystemTime,
    ) -> Result<Recall, ReplayError> {
        let kept = self.kept();
        let until = millis(until);
        Ok(match kept.until.get(key) {
            Some(until) if millis(at) <= *until => Recall::Handled,
            _ if kept.forgotten.is_some_and(|forgotten| until <= forgotten) => Recall::Forgotten,
            _ => Recall::New,
        })
    }

    fn insert(
        &self,
        key: &ReplayKey,
        until: SystemTime,
        at: SystemTime,
    ) -> Result<bool, ReplayError> {
        let mut kept = self.kept();
        let at = millis(at);
        if kept.until.get(key).is_some_and(|until| at <= *until) {
            return Ok(false);
        }
        if kept.until.len() >= self.capacity {
            kept.make_room(at);
        }
        kept.until.insert(*key, millis(until));
        Ok(true)
    }
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for MemoryReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryReplay({} of {})", self.len(), self.capacity)
    }
}

/// A [`ReplayMemory`] that could not answer.
#[derive(Debug, thiserror::Error)]
#[error("the replay memory cannot be used: {source}")]
pub struct ReplayError {
    class: ErrorClass,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl ReplayError {
    /// What happened, and what a caller may do about it.
    #[must_use]
    pub fn new(
        class: ErrorClass,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            class,
            source: source.into(),
        }
    }

    /// What a caller may do about it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        self.class
    }
}
