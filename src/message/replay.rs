//! [`ReplayMemory`]: what has been handled already, so that a repeated message is not handled again.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

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
    /// Whether the key is remembered.
    ///
    /// # Errors
    /// [`ReplayError`] when it cannot be told.
    fn contains(&self, key: &ReplayKey, at: SystemTime) -> Result<bool, ReplayError>;

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

/// A [`ReplayMemory`] of one process, bounded. Another process, and this one after a restart, knows nothing of it.
///
/// When it is full of keys that still count, it refuses to remember more: forgetting one would let a message in again.
/// A key takes about 150 bytes.
pub struct MemoryReplay {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    until: HashMap<ReplayKey, SystemTime>,
    by_end: BTreeSet<(SystemTime, ReplayKey)>,
}

impl MemoryReplay {
    /// Remembers up to so many messages. Needed are those of one maximum age ([`MessageOpener::with_max_age`]).
    ///
    /// [`MessageOpener::with_max_age`]: super::MessageOpener::with_max_age
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
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

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held, and both collections would still be whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplayMemory for MemoryReplay {
    fn contains(&self, key: &ReplayKey, at: SystemTime) -> Result<bool, ReplayError> {
        Ok(self.kept().until.get(key).is_some_and(|until| at <= *until))
    }

    fn insert(
        &self,
        key: &ReplayKey,
        until: SystemTime,
        at: SystemTime,
    ) -> Result<bool, ReplayError> {
        let mut kept = self.kept();
        while let Some((end, ended)) = kept.by_end.first().copied().filter(|(end, _)| *end < at) {
            kept.by_end.remove(&(end, ended));
            kept.until.remove(&ended);
        }
        if kept.until.contains_key(key) {
            return Ok(false);
        }
        if kept.until.len() >= self.capacity {
            let full = format!(
                "{} messages are remembered and all still count",
                self.capacity
            );
            return Err(ReplayError::new(ErrorClass::Busy, full));
        }
        kept.until.insert(*key, until);
        kept.by_end.insert((until, *key));
        Ok(true)
    }
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
