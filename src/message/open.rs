//! [`MessageOpener`]: decrypt, verify, compare, and only then hand out.
//!
//! What time says comes after everything else, because it says as much about the clock of this host: a message that is
//! refused for it alone need not be lost. [`open_untimed`](MessageOpener::open_untimed) is for whoever can keep it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bound::{
    BOUND_CONTENT_ENCODING, BOUND_CONTENT_TYPE, BoundError, Header, MESSAGE, PAYLOAD_CONTEXT,
    check_purpose, domain_of, take_domain,
};
use super::destination::Destination;
use super::error::MessageError;
use super::eta::eta;
use super::opened::{OpenedMessage, UntimedMessage};
use super::replay::{Recall, ReplayMemory};
use crate::certificate::Certificate;
use crate::envelope::Format;
use crate::error::Untrusted;
use crate::fernet::{FernetError, MultiFernet};
use crate::open::{OpenError, Opener, Policy, Scope};
use crate::refusals::Refusals;

/// Opens whole messages of one form, and payloads of the same.
///
/// The order is: size, decryption, signature, purpose, domain, destination, validity of the certificate, age, replay. Nothing
/// of a message is parsed before its token and its signature were verified.
#[derive(Debug, Clone)]
pub struct MessageOpener {
    form: Form,
    max_len: usize,
    max_age: Duration,
    clock_skew: Duration,
    domain: Option<String>,
    replay: Option<Arc<dyn ReplayMemory>>,
    refusals: Arc<Refusals>,
}

/// Who signed the message, once that is known: for the log, whatever it is refused for then.
type Signer = Option<Certificate>;

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
    /// How long after it was sealed a message may be due. An eta beyond that counts as this one: ten years.
    pub const MAX_AHEAD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

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
        // What is refused for its envelope is said together with the rest.
        let refusals = match &form {
            Form::Signed(opener) | Form::SignedEncrypted(opener, _) => opener.refusals(),
            Form::Encrypted(_) => Arc::default(),
        };
        Self {
            form,
            refusals,
            max_len,
            max_age: Self::MAX_AGE,
            clock_skew,
            domain: None,
            replay: None,
        }
    }

    /// The longest wire form, in bytes. Without it: what the opener's policy says, or 64 MiB.
    #[must_use]
    pub const fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// How old a message may be. The age counts from when it was sealed, and of a task with an eta or countdown from then:
    /// so long it waits in queues and workers by right.
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

    /// Takes what was sealed for this domain alone ([`MessageSealer::with_domain`]). The empty text is no domain, as without a
    /// call: then what was sealed for any is refused. Messages that are encrypted alone say none.
    ///
    /// [`MessageSealer::with_domain`]: super::MessageSealer::with_domain
    #[must_use]
    pub fn with_domain(mut self, domain: &str) -> Self {
        self.domain = domain_of(domain);
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
        let mut signer = None;
        self.message(wire, expected, at, &mut signer)
            .and_then(|message| self.in_time_and_new(message, at))
            .map(|message| self.opened(message))
            .map_err(|error| self.refused(error, signer.as_ref()))
    }

    /// Opens a message and leaves to the caller what is to become of one that time alone speaks against, or that was
    /// handled before: neither is refused. For a queue, which can keep it; [`ClockWatch`](super::ClockWatch) tells what to do.
    ///
    /// # Errors
    /// [`MessageError`], which names the reason: never what [`UntimedMessage::timing`] says, nor `replayed`.
    pub fn open_untimed(
        &self,
        wire: &[u8],
        expected: &[Destination],
    ) -> Result<UntimedMessage, MessageError> {
        self.open_untimed_at(wire, expected, SystemTime::now())
    }

    /// Like [`open_untimed`](Self::open_untimed), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open_untimed`](Self::open_untimed).
    pub fn open_untimed_at(
        &self,
        wire: &[u8],
        expected: &[Destination],
        at: SystemTime,
    ) -> Result<UntimedMessage, MessageError> {
        let mut signer = None;
        let message = self.message(wire, expected, at, &mut signer);
        self.refusals.passed();
        message.map_err(|error| self.refused(error, signer.as_ref()))
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
        let mut signer = None;
        self.payload(wire, purpose, context, at, &mut signer)
            .map(|message| self.opened(message))
            .map_err(|error| self.refused(error, signer.as_ref()))
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
        let mut signer = None;
        self.payload_of(wire, purpose, SystemTime::now(), &mut signer)
            .map(|(context, message)| (context, self.opened(message)))
            .map_err(|error| self.refused(error, signer.as_ref()))
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
        match memory.insert(&key, self.remember_until(message), at)? {
            true => Ok(()),
            false => Err(self.refused(MessageError::Replayed, message.signer())),
        }
    }

    /// Until when a message has to be remembered, by any clock that is no further off than the skew.
    ///
    /// It is forgotten when the forgetter's clock passes this; the clock of another opener, which may be behind that one by the
    /// skew, then shows at least `this - skew`. The other takes messages until `age_from + max_age + skew`. So `this` is no
    /// less than `age_from + max_age + 2 * skew`.
    #[must_use]
    pub fn remember_until(&self, message: &OpenedMessage) -> SystemTime {
        let lifetime = self
            .max_age
            .saturating_add(self.clock_skew)
            .saturating_add(self.clock_skew);
        let from = message.age_from();
        // A time that the clock cannot say is far enough away.
        let far = Duration::from_secs(1000 * 365 * 24 * 3600);
        from.checked_add(lifetime)
            .or_else(|| from.checked_add(far))
            .unwrap_or(from)
    }

    fn message(
        &self,
        wire: &[u8],
        expected: &[Destination],
        at: SystemTime,
        signer: &mut Signer,
    ) -> Result<UntimedMessage, MessageError> {
        let mut verified = self.verify(wire, at, signer)?;
        let validity = verified.validity.take();
        let mut opened = match &self.form {
            // The plain scheme: a JSON object, and neither an envelope nor bound content.
            Form::Encrypted(_) if verified.buffer.trim_ascii_start().first() != Some(&b'{') => {
                return Err(MessageError::Bound(BoundError::Malformed));
            }
            Form::Encrypted(_) => {
                self.check_domain(None)?;
                verified.encrypted(at)
            }
            _ => {
                let (mut opened, mut header) = verified.unbind(MESSAGE)?;
                self.check_domain(take_domain(&mut header.context))?;
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
        if let Some(eta) = eta(opened.payload()) {
            opened.due(eta, Self::MAX_AHEAD);
        }
        Ok(self.timed(opened, validity, at))
    }

    fn payload(
        &self,
        wire: &[u8],
        purpose: &str,
        context: &str,
        at: SystemTime,
        signer: &mut Signer,
    ) -> Result<OpenedMessage, MessageError> {
        let (found, opened) = self.payload_of(wire, purpose, at, signer)?;
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
        signer: &mut Signer,
    ) -> Result<(String, OpenedMessage), MessageError> {
        check_purpose(purpose).map_err(MessageError::Bound)?;
        let mut verified = self.verify(wire, at, signer)?;
        let validity = verified.validity.take();
        let (opened, mut header) = verified.unbind(purpose)?;
        self.check_domain(take_domain(&mut header.context))?;
        let [(name, context)] = <[_; 1]>::try_from(header.context)
            .map_err(|_| MessageError::Bound(BoundError::Malformed))?;
        if name != PAYLOAD_CONTEXT {
            return Err(MessageError::Bound(BoundError::Malformed));
        }
        let opened = self.in_time_and_new(self.timed(opened, validity, at), at)?;
        Ok((context, opened))
    }

    /// Decrypts and verifies, as the form says.
    fn verify(
        &self,
        wire: &[u8],
        at: SystemTime,
        signer: &mut Signer,
    ) -> Result<Verified, MessageError> {
        let verified = self.verify_form(wire, at)?;
        signer.clone_from(&verified.signer);
        Ok(verified)
    }

    fn verify_form(&self, wire: &[u8], at: SystemTime) -> Result<Verified, MessageError> {
        if wire.len() > self.max_len {
            return Err(MessageError::TooLarge {
                len: wire.len(),
                max: self.max_len,
            });
        }
        match &self.form {
            Form::Signed(opener) => {
                let (opened, validity) = opener.open_scope_untimed(wire, at, Scope::Bound)?;
                Ok(Verified {
                    signer: Some(opened.signer().clone()),
                    start: 0,
                    buffer: opened.into_body(),
                    encrypted_at: None,
                    validity,
                })
            }
            Form::Encrypted(fernet) => {
                let (buffer, time) = decrypt(fernet, wire)?;
                Ok(Verified {
                    buffer,
                    start: 0,
                    signer: None,
                    encrypted_at: Some(time),
                    validity: None,
                })
            }
            Form::SignedEncrypted(opener, fernet) => {
                let (buffer, _) = decrypt(fernet, wire)?;
                let (opened, validity) = opener.open_scope_untimed(&buffer, at, Scope::Bound)?;
                let signer = Some(opened.signer().clone());
                // The body is the end of the raw envelope.
                let start = buffer.len() - opened.body().len();
                Ok(Verified {
                    signer,
                    start,
                    buffer,
                    encrypted_at: None,
                    validity,
                })
            }
        }
    }

    fn check_domain(&self, found: Option<String>) -> Result<(), MessageError> {
        if found == self.domain {
            return Ok(());
        }
        let quoted = |domain: &str| Untrusted::new(domain);
        Err(MessageError::Domain {
            found: found.as_deref().map(quoted),
            expected: self.domain.as_deref().map(quoted),
        })
    }

    /// What time has against it: its certificate's validity, then its age.
    fn timed(
        &self,
        message: OpenedMessage,
        validity: Option<OpenError>,
        at: SystemTime,
    ) -> UntimedMessage {
        let refusal = validity
            .map(MessageError::Open)
            .or_else(|| self.check_age(&message, at).err());
        UntimedMessage::new(message, refusal, self.clock_skew)
    }

    fn check_age(&self, opened: &OpenedMessage, at: SystemTime) -> Result<(), MessageError> {
        let issued_at = opened.issued_at();
        let ahead = issued_at.duration_since(at).unwrap_or_default();
        if ahead > self.clock_skew {
            return Err(MessageError::FromTheFuture { issued_at, at });
        }
        let age_from = opened.age_from();
        let age = at.duration_since(age_from).unwrap_or_default();
        if age > self.max_age.saturating_add(self.clock_skew) {
            return Err(MessageError::TooOld {
                age_from,
                max_age: self.max_age,
                at,
            });
        }
        Ok(())
    }

    /// Logs that one was opened.
    fn opened(&self, message: OpenedMessage) -> OpenedMessage {
        self.refusals.passed();
        tracing::debug!(
            signer = message.signer().map(Certificate::id),
            id = message.id().map(tracing::field::display),
            bytes = message.payload().len(),
            "whole message opened"
        );
        message
    }

    /// Logs a refusal and hands it on. What the envelope was refused for is logged already.
    fn refused(&self, error: MessageError, signer: Option<&Certificate>) -> MessageError {
        if !matches!(error, MessageError::Open(_)) {
            let signer = signer.map(|signer| Untrusted::new(signer.id()).to_string());
            self.refusals
                .refused(error.reason(), signer.as_deref(), &error);
        }
        error
    }

    /// What an envelope is refused for is logged where it is opened; the dates of its certificate are looked at here.
    fn log_validity(&self, error: &MessageError) {
        if let (
            Form::Signed(opener) | Form::SignedEncrypted(opener, _),
            MessageError::Open(error),
        ) = (&self.form, error)
        {
            opener.log(error);
        }
    }

    fn in_time_and_new(
        &self,
        message: UntimedMessage,
        at: SystemTime,
    ) -> Result<OpenedMessage, MessageError> {
        let opened = message
            .in_time()
            .inspect_err(|error| self.log_validity(error))?;
        if let (Some(memory), Some(key)) = (&self.replay, opened.replay_key()) {
            match memory.recall(&key, self.remember_until(&opened), at)? {
                Recall::New => {}
                Recall::Handled => return Err(MessageError::Replayed),
                Recall::Forgotten => return Err(MessageError::Forgotten),
            }
        }
        Ok(opened)
    }
}

/// What came out of the token and the signature, not parsed yet.
struct Verified {
    buffer: Vec<u8>,
    start: usize,
    signer: Option<Certificate>,
    encrypted_at: Option<SystemTime>,
    /// What is wrong with the dates of the signer's certificate.
    validity: Option<OpenError>,
}

impl Verified {
    /// The plain scheme: nobody signed it.
    fn encrypted(self, at: SystemTime) -> OpenedMessage {
        let issued_at = self.encrypted_at.unwrap_or(at);
        OpenedMessage::new(self.buffer, 0, None, issued_at, None)
    }

    /// Parses bound content of that purpose.
    fn unbind(self, purpose: &str) -> Result<(OpenedMessage, Header), MessageError> {
        let (_, content) = self.buffer.split_at(self.start);
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
        let opened =
            OpenedMessage::new(self.buffer, start, self.signer, issued_at, Some(header.id));
        Ok((opened, header))
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
