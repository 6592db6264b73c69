//! [`ReplayMemory`]: what has been handled already, so that a repeated message is not handled again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::bound::MessageId;
use crate::certificate::Certificate;
use crate::error::ErrorClass;

type Owner = [u8; 8];

/// What a repeated message is recognised by: eight bytes of SHA-256 of its signer's key, then 24 of its id and that key.
///
/// Not of the wire form, which can be changed without breaking the signature, nor of the certificate, which one key may
/// have several of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayKey([u8; 32]);

impl ReplayKey {
    pub(super) fn new(id: MessageId, signer: Option<&Certificate>) -> Self {
        let signer = signer.map_or(&[][..], |signer| signer.public_key().modulus());
        let id = Sha256::new().chain_update(id.0).chain_update(signer);
        let owner = Sha256::digest(signer).into();
        Self::joined(Self(owner).owner(), &id.finalize().into())
    }

    /// The key of something that is told by other bytes, such as a key together with the name of a queue. Its first eight
    /// bytes are those of what is given, and so say whose it is.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes).into();
        let owner = bytes.first_chunk().copied();
        Self::joined(owner.unwrap_or_else(|| Self(digest).owner()), &digest)
    }

    fn joined(owner: Owner, digest: &[u8; 32]) -> Self {
        let mut key = *digest;
        for (byte, of_owner) in key.iter_mut().zip(owner) {
            *byte = of_owner;
        }
        Self(key)
    }

    /// What all keys of one signer begin with.
    fn owner(&self) -> Owner {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::hex(&self.0))
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
/// When it is full of keys that still count, it forgets an eighth of them: of the signers with the most, so that these have
/// as many each, those that end first. From then on it says of every unknown key of theirs that ends as early that it may
/// have been handled. So nothing is let in again, and new messages, which end later, go on. A signer that fills the memory
/// with keys that end in years is refused itself, and nobody else is. A key takes about 50 bytes.
pub struct MemoryReplay {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By key, when each ends: milliseconds since 1970.
    until: HashMap<ReplayKey, u64>,
    /// By signer: keys that end until then may have been forgotten.
    forgotten: HashMap<Owner, u64>,
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

    /// Whether keys of the same signer that end then may have been forgotten.
    #[must_use]
    pub fn forgot(&self, key: &ReplayKey, until: SystemTime) -> bool {
        self.kept().forgot(key, millis(until))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held, and the map would still be whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forgot(&self, key: &ReplayKey, until: u64) -> bool {
        let forgotten = self.forgotten.get(&key.owner());
        forgotten.is_some_and(|forgotten| until <= *forgotten)
    }

    /// Makes room: of what no longer counts, or else of what ends first of the signers that have the most.
    fn make_room(&mut self, at: u64) {
        let before = self.until.len();
        // Looking at all of them must be worth it, or a memory that is always full would do nothing else.
        let wanted = before - before.div_ceil(8);
        self.until.retain(|_, until| *until >= at);
        self.forgotten.retain(|_, until| *until >= at);
        if self.until.len() <= wanted {
            return;
        }
        let mut ends: HashMap<Owner, Vec<u64>> = HashMap::new();
        for (key, until) in &self.until {
            ends.entry(key.owner()).or_default().push(*until);
        }
        let share = share(ends.values().map(Vec::len).collect(), wanted);
        ends.retain(|_, ends| ends.len() > share);
        let ended: HashMap<Owner, u64> = ends
            .into_iter()
            .map(|(owner, mut ends)| {
                let last = ends.len() - share - 1;
                (owner, *ends.select_nth_unstable(last).1)
            })
            .collect();
        self.until
            .retain(|key, until| ended.get(&key.owner()).is_none_or(|end| *until > *end));
        tracing::warn!(
            forgotten = before - self.until.len(),
            remembered = self.until.len(),
            signers = ended.len(),
            "the replay memory is full: messages as old as those that it forgot, of the same signers, are refused; give it \
             more room"
        );
        for (owner, end) in ended {
            let forgotten = self.forgotten.entry(owner).or_default();
            *forgotten = end.max(*forgotten);
        }
    }
}

/// How many each may have, so that all together have no more than `wanted`, and those with fewer keep what they have.
fn share(mut counts: Vec<usize>, wanted: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut others) = (wanted, counts.len());
    for count in counts {
        let each = left / others;
        if count > each {
            return each;
        }
        left -= count;
        others -= 1;
    }
    usize::MAX
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
            _ if kept.forgot(key, until) => Recall::Forgotten,
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
