//! [`OpenedMessage`]: what an opener hands out; [`UntimedMessage`]: what it would hand out at another time.

use std::time::{Duration, SystemTime};

use super::bound::MessageId;
use super::destination::Destination;
use super::error::MessageError;
use super::kombu::KombuMessage;
use super::replay::ReplayKey;
use crate::certificate::Certificate;
use crate::open::OpenError;

/// A message or payload that was decrypted and verified, as its opener demands.
pub struct OpenedMessage {
    buffer: Vec<u8>,
    start: usize,
    signer: Option<Certificate>,
    issued_at: SystemTime,
    age_from: SystemTime,
    id: Option<MessageId>,
    pub(super) destination: Destination,
}

impl OpenedMessage {
    /// One that was sent to nowhere and is due at once.
    pub(super) fn new(
        buffer: Vec<u8>,
        start: usize,
        signer: Option<Certificate>,
        issued_at: SystemTime,
        id: Option<MessageId>,
    ) -> Self {
        Self {
            buffer,
            start,
            signer,
            issued_at,
            age_from: issued_at,
            id,
            destination: Destination::any(),
        }
    }

    /// It is due at a time, which counts as at most so long after it was sealed.
    pub(super) fn due(&mut self, eta: SystemTime, max_ahead: Duration) {
        let latest = self.issued_at.checked_add(max_ahead);
        self.age_from = eta.min(latest.unwrap_or(eta)).max(self.issued_at);
    }

    /// What was sealed, byte for byte: of a message its JSON.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.buffer.split_at(self.start).1
    }

    /// The payload, taking over its buffer.
    #[must_use]
    pub fn into_payload(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.buffer
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError::Message`] when the payload is none.
    pub fn message(&self) -> Result<KombuMessage, MessageError> {
        Ok(KombuMessage::from_json(self.payload())?)
    }

    /// The signer's certificate; `None` when it is encrypted alone.
    #[must_use]
    pub fn signer(&self) -> Option<&Certificate> {
        self.signer.as_ref()
    }

    /// When it was sealed, as the signature says; of a message that is encrypted alone, as its token says.
    #[must_use]
    pub fn issued_at(&self) -> SystemTime {
        self.issued_at
    }

    /// What its age counts from: when it was sealed, or the eta of its task if that is later.
    #[must_use]
    pub fn age_from(&self) -> SystemTime {
        self.age_from
    }

    /// Its id; `None` for messages that are encrypted alone.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.id
    }

    /// Where it was sent to, as far as its seal says.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What a repetition is recognised by; `None` for messages that are encrypted alone.
    #[must_use]
    pub fn replay_key(&self) -> Option<ReplayKey> {
        self.id.map(|id| ReplayKey::new(id, self.signer.as_ref()))
    }
}

impl std::fmt::Debug for OpenedMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedMessage")
            .field("payload", &format_args!("{} bytes", self.payload().len()))
            .field("signer", &self.signer.as_ref().map(Certificate::id))
            .field("issued_at", &self.issued_at)
            .field("id", &self.id)
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

/// A message that is good but for the time, perhaps: it was decrypted and verified, and sent to here.
#[derive(Debug)]
pub struct UntimedMessage {
    message: OpenedMessage,
    refusal: Option<MessageError>,
    clock_skew: Duration,
}

/// What the clock of this host says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// It is neither too old nor from the future, and its signer's certificate is valid.
    InTime,
    /// It was sealed in the future, or its signer's certificate is not valid yet: by so much more than the skew.
    Early(Duration),
    /// It is too old, or its signer's certificate has expired.
    Late,
}

impl UntimedMessage {
    pub(super) fn new(
        message: OpenedMessage,
        refusal: Option<MessageError>,
        clock_skew: Duration,
    ) -> Self {
        Self {
            message,
            refusal,
            clock_skew,
        }
    }

    /// What the clock of this host says of it.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let (from, at) = match &self.refusal {
            None => return Timing::InTime,
            Some(MessageError::FromTheFuture { issued_at, at }) => (*issued_at, *at),
            Some(MessageError::Open(OpenError::NotYetValid { not_before, at, .. })) => {
                (*not_before, *at)
            }
            Some(_) => return Timing::Late,
        };
        let ahead = from.duration_since(at).unwrap_or_default();
        Timing::Early(ahead.saturating_sub(self.clock_skew))
    }

    /// Why it is refused at this time.
    #[must_use]
    pub fn refusal(&self) -> Option<&MessageError> {
        self.refusal.as_ref()
    }

    /// The message, whatever the clock says. It is not to be handled unless [`timing`](Self::timing) is [`Timing::InTime`].
    #[must_use]
    pub fn whenever(&self) -> &OpenedMessage {
        &self.message
    }

    /// The message, when it is in time.
    ///
    /// # Errors
    /// What [`refusal`](Self::refusal) says.
    pub fn in_time(self) -> Result<OpenedMessage, MessageError> {
        match self.refusal {
            None => Ok(self.message),
            Some(refusal) => Err(refusal),
        }
    }

    /// How far clocks may be apart, as the opener was told.
    pub(super) fn clock_skew(&self) -> Duration {
        self.clock_skew
    }
}
