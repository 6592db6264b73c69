//! [`MessageOpener`]: decrypt, verify, compare, and only then hand out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bound::{
    BOUND_CONTENT_ENCODING, BOUND_CONTENT_TYPE, BoundError, Header, MESSAGE, MessageId,
};
use super::destination::Destination;
use super::error::MessageError;
use super::kombu::KombuMessage;
use super::replay::{ReplayKey, ReplayMemory};
use super::{PAYLOAD_CONTEXT, check_purpose};
use crate::certificate::Certificate;
use crate::envelope::Format;
use crate::error::Untrusted;
use crate::fernet::{FernetError, MultiFernet};
use crate::open::{Opener, Policy, Scope};

/// Opens whole messages of one form, and payloads of the same.
///
/// The order is: size, decryption, signature, purpose, destination, age, replay. Nothing of a message is parsed before its
/// token and its signature were verified.
#[derive(Debug, Clone)]
pub struct MessageOpener {
    form: Form,
    max_len: usize,
    max_age: Duration,
    clock_skew: Duration,
    replay: Option<Arc<dyn ReplayMemory>>,
}

#[derive(Debug, Clone)]
enum Form {
    Signed(Opener),
    Encrypted(MultiFernet),
    SignedEncrypted(Opener, MultiFernet),
}

impl MessageOpener {
    /// How old a message may be unless [`with_max_age`](Self::with_max_age) says otherwise: one day.
    pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
    /// How far clocks may be apart unless [`with_clock_skew`](Self::with_clock_skew) or the policy says otherwise: 60 s.
    pub const CLOCK_SKEW: Duration = Policy::CLOCK_SKEW;

    /// Opens messages that are signed and not encrypted. The opener brings the certificates and its policy, of which the
    /// content types, encodings and formats do not matter here.
    #[must_use]
    pub fn signed(opener: Opener) -> Self {
        Self::new(Form::Signed(bound_opener(opener, Format::Celery)))
    }

    /// Opens messages that are encrypted and not signed.
    #[must_use]
    pub fn encrypted(fernet: impl Into<MultiFernet>) -> Self {
        Self::new(Form::Encrypted(fernet.into()))
    }

    /// Opens messages that are signed and then encrypted, and refuses those that are only one of it.
    #[must_use]
    pub fn signed_and_encrypted(opener: Opener, fernet: impl Into<MultiFernet>) -> Self {
        let opener = bound_opener(opener, Format::CeleryRaw);
        Self::new(Form::SignedEncrypted(opener, fernet.into()))
    }

    fn new(form: Form) -> Self {
        let (max_len, clock_skew) = match &form {
            Form::Signed(opener) | Form::SignedEncrypted(opener, _) => {
                let policy = opener.policy();
                (policy.longest_message(), policy.skew())
            }
            Form::Encrypted(_) => (Policy::MAX_MESSAGE_LEN, Self::CLOCK_SKEW),
        };
        Self {
            form,
            max_len,
            max_age: Self::MAX_AGE,
            clock_skew,
            replay: None,
        }
    }

    /// The longest wire form, in bytes. Without it: what the opener's policy says, or 64 MiB.
    #[must_use]
    pub const fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// How old a message may be. Messages wait in queues, and tasks with an `eta` or countdown wait longer.
    #[must_use]
    pub const fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// How far the clocks of sender and opener may be apart, in both directions. It counts for the dates of certificates
    /// too, in place of what the opener's policy says.
    #[must_use]
    pub fn with_clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        match &mut self.form {
            Form::Signed(opener) | Form::SignedEncrypted(opener, _) => {
                let policy = opener.policy().clone().clock_skew(skew);
                *opener = opener.clone().with_policy(policy);
            }
            Form::Encrypted(_) => {}
        }
        self
    }

    /// Refuses what [`remember`](Self::remember) was called for already.
    #[must_use]
    pub fn with_replay_memory(mut self, memory: Arc<dyn ReplayMemory>) -> Self {
        self.replay = Some(memory);
        self
    }

    /// Opens a message that was sent to one of these destinations. Without any, every message is refused;
    /// [`Destination::any`] takes it from everywhere. Messages that are encrypted alone carry no destination, so there
    /// only that one fits.
    ///
    /// # Errors
    /// [`MessageError`], which names the reason.
    pub fn open(
        &self,
        wire: &[u8],
        expected: &[Destination],
    ) -> Result<OpenedMessage, MessageError> {
        self.open_at(wire, expected, SystemTime::now())
    }

    /// Like [`open`](Self::open), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_at(
        &self,
        wire: &[u8],
        expected: &[Destination],
        at: SystemTime,
    ) -> Result<OpenedMessage, MessageError> {
        self.message(wire, expected, at)
            .map(opened)
            .map_err(refused)
    }

    /// Opens a payload that was sealed for this purpose and this context.
    ///
    /// # Errors
    /// [`MessageError`], which names the reason.
    pub fn open_payload(
        &self,
        wire: &[u8],
        purpose: &str,
        context: &str,
    ) -> Result<OpenedMessage, MessageError> {
        self.open_payload_at(wire, purpose, context, SystemTime::now())
    }

    /// Like [`open_payload`](Self::open_payload), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open_payload`](Self::open_payload).
    pub fn open_payload_at(
        &self,
        wire: &[u8],
        purpose: &str,
        context: &str,
        at: SystemTime,
    ) -> Result<OpenedMessage, MessageError> {
        self.payload(wire, purpose, context, at)
            .map(opened)
            .map_err(refused)
    }

    /// Opens a payload that was sealed for this purpose, and says for which context: for one that arrives under a name which
    /// has still to be compared.
    ///
    /// # Errors
    /// [`MessageError`], which names the reason.
    pub fn open_payload_of(
        &self,
        wire: &[u8],
        purpose: &str,
    ) -> Result<(String, OpenedMessage), MessageError> {
        self.payload_of(wire, purpose, SystemTime::now())
            .map(|(context, message)| (context, opened(message)))
            .map_err(refused)
    }

    /// Tells the replay memory that a message was handled: from now on it is refused. Call it before a message is handled
    /// so that it is handled at most once, or after it was acknowledged so that the broker may deliver it again until then.
    /// Does nothing without a memory, and for messages that are encrypted alone, which have no id.
    ///
    /// # Errors
    /// [`MessageError::Replayed`] when somebody else was faster, [`MessageError::ReplayMemory`] when it was not remembered.
    pub fn remember(&self, message: &OpenedMessage) -> Result<(), MessageError> {
        self.remember_at(message, SystemTime::now())
    }

    /// Like [`remember`](Self::remember), as if it were `at`.
    ///
    /// # Errors
    /// As for [`remember`](Self::remember).
    pub fn remember_at(&self, message: &OpenedMessage, at: SystemTime) -> Result<(), MessageError> {
        let (Some(memory), Some(key)) = (&self.replay, message.replay_key()) else {
            return Ok(());
        };
        match memory.insert(&key, self.remembered_until(message.issued_at, at), at)? {
            true => Ok(()),
            false => Err(refused(MessageError::Replayed)),
        }
    }

    /// When a message of that time is too old by itself. A time that the clock cannot say is far enough away.
    fn remembered_until(&self, issued_at: SystemTime, at: SystemTime) -> SystemTime {
        let far = Duration::from_secs(100 * 365 * 24 * 3600);
        self.max_age
            .checked_add(self.clock_skew)
            .and_then(|lifetime| issued_at.checked_add(lifetime))
            .or_else(|| at.checked_add(far))
            .unwrap_or(at)
    }

    fn message(
        &self,
        wire: &[u8],
        expected: &[Destination],
        at: SystemTime,
    ) -> Result<OpenedMessage, MessageError> {
        let verified = self.verify(wire, at)?;
        let opened = match &self.form {
            // The plain scheme: a JSON object, and neither an envelope nor bound content.
            Form::Encrypted(_) if verified.buffer.trim_ascii_start().first() != Some(&b'{') => {
                return Err(MessageError::Bound(BoundError::Malformed));
            }
            Form::Encrypted(_) => OpenedMessage {
                buffer: verified.buffer,
                start: 0,
                signer: None,
                issued_at: verified.encrypted_at.unwrap_or(at),
                id: None,
                destination: Destination::any(),
            },
            _ => {
                let (mut opened, header) = verified.unbind(MESSAGE)?;
                opened.destination =
                    Destination::from_context(header.context).map_err(MessageError::Bound)?;
                opened
            }
        };
        if !expected.iter().any(|one| one.allows(&opened.destination)) {
            return Err(MessageError::Destination {
                found: Box::new(opened.destination),
            });
        }
        self.check_time(&opened, at)?;
        Ok(opened)
    }

    fn payload(
        &self,
        wire: &[u8],
        purpose: &str,
        context: &str,
        at: SystemTime,
    ) -> Result<OpenedMessage, MessageError> {
        let (found, opened) = self.payload_of(wire, purpose, at)?;
        if found != context {
            return Err(MessageError::Context {
                found: Untrusted::new(&found),
            });
        }
        Ok(opened)
    }

    fn payload_of(
        &self,
        wire: &[u8],
        purpose: &str,
        at: SystemTime,
    ) -> Result<(String, OpenedMessage), MessageError> {
        check_purpose(purpose).map_err(MessageError::Bound)?;
        let (opened, header) = self.verify(wire, at)?.unbind(purpose)?;
        let [(name, context)] = <[_; 1]>::try_from(header.context)
            .map_err(|_| MessageError::Bound(BoundError::Malformed))?;
        if name != PAYLOAD_CONTEXT {
            return Err(MessageError::Bound(BoundError::Malformed));
        }
        self.check_time(&opened, at)?;
        Ok((context, opened))
    }

    /// Decrypts and verifies, as the form says.
    fn verify(&self, wire: &[u8], at: SystemTime) -> Result<Verified, MessageError> {
        if wire.len() > self.max_len {
            return Err(MessageError::TooLarge {
                len: wire.len(),
                max: self.max_len,
            });
        }
        match &self.form {
            Form::Signed(opener) => {
                let opened = opener.open_scope(wire, at, Scope::Bound)?;
                Ok(Verified {
                    signer: Some(opened.signer().clone()),
                    start: 0,
                    buffer: opened.into_body(),
                    encrypted_at: None,
                })
            }
            Form::Encrypted(fernet) => {
                let (buffer, time) = decrypt(fernet, wire)?;
                Ok(Verified {
                    buffer,
                    start: 0,
                    signer: None,
                    encrypted_at: Some(time),
                })
            }
            Form::SignedEncrypted(opener, fernet) => {
                let (buffer, _) = decrypt(fernet, wire)?;
                let opened = opener.open_scope(&buffer, at, Scope::Bound)?;
                let signer = Some(opened.signer().clone());
                // The body is the end of the raw envelope.
                let start = buffer.len() - opened.body().len();
                Ok(Verified {
                    signer,
                    start,
                    buffer,
                    encrypted_at: None,
                })
            }
        }
    }

    fn check_time(&self, opened: &OpenedMessage, at: SystemTime) -> Result<(), MessageError> {
        let issued_at = opened.issued_at;
        let ahead = issued_at.duration_since(at).unwrap_or_default();
        if ahead > self.clock_skew {
            return Err(MessageError::FromTheFuture { issued_at, at });
        }
        let age = at.duration_since(issued_at).unwrap_or_default();
        if age > self.max_age.saturating_add(self.clock_skew) {
            return Err(MessageError::TooOld {
                issued_at,
                max_age: self.max_age,
                at,
            });
        }
        if let (Some(memory), Some(key)) = (&self.replay, opened.replay_key())
            && memory.contains(&key, at)?
        {
            return Err(MessageError::Replayed);
        }
        Ok(())
    }
}

/// What came out of the token and the signature, not parsed yet.
struct Verified {
    buffer: Vec<u8>,
    start: usize,
    signer: Option<Certificate>,
    encrypted_at: Option<SystemTime>,
}

impl Verified {
    /// Parses bound content of that purpose.
    fn unbind(self, purpose: &str) -> Result<(OpenedMessage, Header), MessageError> {
        let content = self.buffer.get(self.start..).unwrap_or_default();
        let (header, payload) = Header::parse(content).map_err(MessageError::Bound)?;
        if header.purpose != purpose {
            return Err(MessageError::Purpose {
                found: Untrusted::new(&header.purpose),
                expected: purpose.to_owned(),
            });
        }
        let start = self.buffer.len() - payload.len();
        let issued_at = header
            .time()
            .ok_or(MessageError::Bound(BoundError::Malformed))?;
        let opened = OpenedMessage {
            buffer: self.buffer,
            start,
            signer: self.signer,
            issued_at,
            id: Some(header.id),
            destination: Destination::any(),
        };
        Ok((opened, header))
    }
}

/// A message or payload that was decrypted and verified, as its opener demands.
pub struct OpenedMessage {
    buffer: Vec<u8>,
    start: usize,
    signer: Option<Certificate>,
    issued_at: SystemTime,
    id: Option<MessageId>,
    destination: Destination,
}

impl OpenedMessage {
    /// What was sealed, byte for byte: of a message its JSON.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
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

fn bound_opener(opener: Opener, format: Format) -> Opener {
    let policy = opener
        .policy()
        .clone()
        .content_types([BOUND_CONTENT_TYPE])
        .content_encodings([BOUND_CONTENT_ENCODING])
        .formats([format]);
    opener.with_policy(policy)
}

fn decrypt(fernet: &MultiFernet, wire: &[u8]) -> Result<(Vec<u8>, SystemTime), MessageError> {
    fernet.decrypt_with_time(wire).map_err(|error| match error {
        FernetError::Refused => MessageError::Token(error),
        other => MessageError::Keys(other),
    })
}

fn opened(message: OpenedMessage) -> OpenedMessage {
    tracing::debug!(
        signer = message.signer().map(Certificate::id),
        id = message.id().map(tracing::field::display),
        bytes = message.payload().len(),
        "whole message opened"
    );
    message
}

/// Logs a refusal and hands it on. What the envelope was refused for is logged already.
fn refused(error: MessageError) -> MessageError {
    if !matches!(error, MessageError::Open(_)) {
        tracing::warn!(reason = error.reason(), %error, "whole message refused");
    }
    error
}
