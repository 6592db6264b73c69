//! [`MessageSealer`]: makes sealed messages and payloads.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;

use super::bound::{
    BOUND_CONTENT_ENCODING, BOUND_CONTENT_TYPE, BoundError, Context, Header, MESSAGE, MessageId,
    check_purpose, domain_of, payload_context, with_domain,
};
use super::destination::Destination;
use super::error::MessageSealError;
use super::kombu::KombuMessage;
use crate::envelope::Format;
use crate::fernet::MultiFernet;
use crate::seal::Sealer;
use crate::signer::Signer;

/// Seals whole messages in one form.
#[derive(Debug, Clone)]
pub struct MessageSealer {
    form: Form,
    domain: Option<String>,
}

#[derive(Debug, Clone)]
enum Form {
    Signed(Sealer),
    Encrypted(MultiFernet),
    SignedEncrypted(Sealer, MultiFernet),
}

impl MessageSealer {
    /// Signs and does not encrypt: everything stays readable.
    #[must_use]
    pub fn signed(signer: Arc<dyn Signer>) -> Self {
        Self::new(Form::Signed(bound_sealer(signer, Format::Celery)))
    }

    /// Encrypts and does not sign. Whoever has the key can make such messages, and who it was cannot be told; neither is
    /// such a message bound to its destination, nor does it have an id that a repetition could be told by.
    #[must_use]
    pub fn encrypted(fernet: impl Into<MultiFernet>) -> Self {
        Self::new(Form::Encrypted(fernet.into()))
    }

    /// Signs, and encrypts the message with its signature.
    #[must_use]
    pub fn signed_and_encrypted(signer: Arc<dyn Signer>, fernet: impl Into<MultiFernet>) -> Self {
        // The token is text already, so no base64 inside of it.
        let sealer = bound_sealer(signer, Format::CeleryRaw);
        Self::new(Form::SignedEncrypted(sealer, fernet.into()))
    }

    fn new(form: Form) -> Self {
        Self { form, domain: None }
    }

    /// Seals for a domain, any text of at most 4096 bytes: an opener of another domain, or of none, refuses it. The empty
    /// text is no domain, as without a call.
    #[must_use]
    pub fn with_domain(mut self, domain: &str) -> Self {
        self.domain = domain_of(domain);
        self
    }

    /// Seals a message for a destination. Returns the ASCII text that goes to the broker in place of the JSON.
    ///
    /// The signed forms carry as much of the destination as is given; the form that is encrypted alone has no place for it.
    ///
    /// # Errors
    /// [`MessageSealError`].
    pub fn seal(
        &self,
        message: &KombuMessage,
        to: &Destination,
    ) -> Result<String, MessageSealError> {
        self.seal_at(message, to, SystemTime::now())
    }

    /// Like [`seal`](Self::seal), as if it were `at`.
    ///
    /// # Errors
    /// As for [`seal`](Self::seal).
    pub fn seal_at(
        &self,
        message: &KombuMessage,
        to: &Destination,
        at: SystemTime,
    ) -> Result<String, MessageSealError> {
        self.seal_checked(&message.to_json()?, to, at)
    }

    /// Seals a message that is JSON already, byte for byte, once it was seen to be a message.
    ///
    /// # Errors
    /// [`MessageSealError::Message`] when it is none, else as for [`seal`](Self::seal).
    pub fn seal_json(&self, json: &[u8], to: &Destination) -> Result<String, MessageSealError> {
        self.seal_json_at(json, to, SystemTime::now())
    }

    /// Like [`seal_json`](Self::seal_json), as if it were `at`.
    ///
    /// # Errors
    /// As for [`seal_json`](Self::seal_json).
    pub fn seal_json_at(
        &self,
        json: &[u8],
        to: &Destination,
        at: SystemTime,
    ) -> Result<String, MessageSealError> {
        KombuMessage::from_json(json)?;
        self.seal_checked(json, to, at)
    }

    /// Seals any bytes for a purpose and a context, which an opener has to name again. In every form, the one that is
    /// encrypted alone too, the payload is bound to both.
    ///
    /// The purpose is 1 to 64 characters of visible ASCII, the application's word for what the payload is (`result`), and
    /// never `message`. The context is any text of at most 4096 bytes, for example a task's id.
    ///
    /// # Errors
    /// [`MessageSealError::Bound`] for a purpose or context that cannot be said, else as for [`seal`](Self::seal).
    pub fn seal_payload(
        &self,
        purpose: &str,
        context: &str,
        payload: &[u8],
    ) -> Result<String, MessageSealError> {
        self.seal_payload_at(purpose, context, payload, SystemTime::now())
    }

    /// Like [`seal_payload`](Self::seal_payload), as if it were `at`.
    ///
    /// # Errors
    /// As for [`seal_payload`](Self::seal_payload).
    pub fn seal_payload_at(
        &self,
        purpose: &str,
        context: &str,
        payload: &[u8],
        at: SystemTime,
    ) -> Result<String, MessageSealError> {
        check_purpose(purpose)?;
        self.seal_bound(purpose, payload_context(context), payload, at)
    }

    fn seal_checked(
        &self,
        json: &[u8],
        to: &Destination,
        at: SystemTime,
    ) -> Result<String, MessageSealError> {
        match &self.form {
            Form::Encrypted(_) if self.domain.is_some() => Err(BoundError::NoDomain.into()),
            Form::Encrypted(fernet) => Ok(fernet.encrypt_at(json, at)?),
            _ => self.seal_bound(MESSAGE, to.context(), json, at),
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "an empty text would be published as a message"
    )]
    fn seal_bound(
        &self,
        purpose: &str,
        context: Context,
        payload: &[u8],
        at: SystemTime,
    ) -> Result<String, MessageSealError> {
        let mut id = MessageId([0; 16]);
        rand::fill(&mut id.0).map_err(|_| MessageSealError::Random)?;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = Header {
            purpose: purpose.to_owned(),
            issued_at: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            id,
            context: with_domain(context, self.domain.as_deref()),
        };
        let bound = header.bind(payload)?;
        Ok(match &self.form {
            Form::Signed(sealer) => {
                let wire = sealer.seal_any(&bound, at)?.into_bytes();
                String::from_utf8(wire).expect("base64 is ASCII")
            }
            Form::Encrypted(fernet) => fernet.encrypt_at(&bound, at)?,
            Form::SignedEncrypted(sealer, fernet) => {
                fernet.encrypt_at(sealer.seal_any(&bound, at)?.as_bytes(), at)?
            }
        })
    }
}

fn bound_sealer(signer: Arc<dyn Signer>, format: Format) -> Sealer {
    Sealer::new(signer)
        .with_format(format)
        .with_content(BOUND_CONTENT_TYPE, BOUND_CONTENT_ENCODING)
}
