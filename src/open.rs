//! [`Opener`] and [`Policy`]: unpack, find the signer, check, verify, and only then hand out.

mod error;
mod policy;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

pub use self::error::OpenError;
pub use self::policy::{NotIgnorable, Policy};
use crate::certificate::Certificate;
use crate::envelope::{EnvelopeError, Format, SEALED_CONTENT_TYPE, Unpacked, celery};
use crate::error::ErrorClass;
use crate::message::bound::is_bound;
use crate::pss::Scheme;
use crate::refusals::Refusals;
use crate::store::{CertStore, Lookup};

/// Opens sealed messages: nothing comes out that was not verified.
///
/// ```
/// # use std::sync::Arc;
/// # use taskseal::pss::Scheme;
/// # use taskseal::{Certificate, MemoryCertStore, Sealer, SoftwareKey, SoftwareSigner};
/// use taskseal::Opener;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let key = SoftwareKey::from_pem(include_bytes!("../docs/examples/worker.key"), None, Scheme::default())?;
/// # let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
/// # let store = MemoryCertStore::new();
/// # store.add(certificate.clone())?;
/// # let sealed = Sealer::new(Arc::new(SoftwareSigner::new(key, certificate)?)).seal(&[1, 2])?;
/// # let (content_type, wire) = ("application/data", sealed.as_bytes());
/// let opener = Opener::new(store);
/// let opened = opener.open_message(content_type, wire)?;
/// println!("signed by {}", opened.signer().id());
/// let numbers: Vec<u32> = opened.json()?;
/// # assert_eq!(numbers, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Opener {
    store: Arc<dyn CertStore>,
    policy: Policy,
    refusals: Arc<Refusals>,
}

impl Opener {
    /// Opens with the default [`Policy`] what the certificates of `store` signed.
    #[must_use]
    pub fn new(store: impl CertStore + 'static) -> Self {
        Self {
            store: Arc::new(store),
            policy: Policy::default(),
            refusals: Arc::default(),
        }
    }

    /// Opens under another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The counterpart of Celery's `setup_security`: opens a message as it came from the broker, with its outer content
    /// type. Anything but `application/data` is refused before a byte of it is looked at, so no unsigned message gets in.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open_message<'w>(
        &self,
        content_type: &str,
        wire: &'w [u8],
    ) -> Result<Opened<'w>, OpenError> {
        self.open_message_at(content_type, wire, SystemTime::now())
    }

    /// Like [`open_message`](Self::open_message), as if it were `at`.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open_message_at<'w>(
        &self,
        content_type: &str,
        wire: &'w [u8],
        at: SystemTime,
    ) -> Result<Opened<'w>, OpenError> {
        if content_type != SEALED_CONTENT_TYPE {
            let error = OpenError::NotSealed {
                content_type: content_type.into(),
            };
            return Err(self.refused(error));
        }
        self.open_at(wire, at)
    }

    /// Opens a wire form that is known to have come as `application/data`.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open<'w>(&self, wire: &'w [u8]) -> Result<Opened<'w>, OpenError> {
        self.open_at(wire, SystemTime::now())
    }

    /// Like [`open`](Self::open), as if it were `at`.
    ///
    /// # Errors
    /// [`OpenError`], which names the reason.
    pub fn open_at<'w>(&self, wire: &'w [u8], at: SystemTime) -> Result<Opened<'w>, OpenError> {
        self.open_scope(wire, at, Scope::Body)
    }

    /// Opens what was signed for one scope; what was signed for the other is refused.
    pub(crate) fn open_scope<'w>(
        &self,
        wire: &'w [u8],
        at: SystemTime,
        scope: Scope,
    ) -> Result<Opened<'w>, OpenError> {
        let (opened, validity) = self.open_scope_untimed(wire, at, scope)?;
        match validity {
            None => {
                self.refusals.passed();
                Ok(opened)
            }
            Some(error) => Err(self.refused(error)),
        }
    }

    /// The same, with what is wrong with the dates of the certificate beside it: that says as much about this host's clock.
    pub(crate) fn open_scope_untimed<'w>(
        &self,
        wire: &'w [u8],
        at: SystemTime,
        scope: Scope,
    ) -> Result<(Opened<'w>, Option<OpenError>), OpenError> {
        let opened = self
            .verify(wire, at, scope)
            .map_err(|error| self.refused(error))?;
        let validity = self.policy.check_validity(opened.signer(), at).err();
        tracing::debug!(
            signer = opened.signer().id(),
            format = %opened.format(),
            content_type = opened.content_type(),
            bytes = opened.body().len(),
            valid = validity.is_none(),
            "message opened"
        );
        Ok((opened, validity))
    }

    /// What is said of messages that are refused.
    pub(crate) fn refusals(&self) -> Arc<Refusals> {
        self.refusals.clone()
    }

    /// Logs a refusal and hands it on.
    fn refused(&self, error: OpenError) -> OpenError {
        self.log(&error);
        error
    }

    pub(crate) fn log(&self, error: &OpenError) {
        // What is wrong with the store is in the log already, and the message is not refused.
        if error.class() == ErrorClass::Transient {
            tracing::debug!(%error, "message not opened");
            return;
        }
        let signer = error.signer();
        self.refusals
            .refused(error.reason(), signer.as_deref(), error);
    }

    /// Everything but the validity of the certificate, which is looked at last: nobody without a key of a trusted
    /// certificate makes a message that is refused for that alone.
    fn verify<'w>(
        &self,
        wire: &'w [u8],
        at: SystemTime,
        scope: Scope,
    ) -> Result<Opened<'w>, OpenError> {
        let policy = &self.policy;
        if wire.len() > policy.max_message_len {
            return Err(OpenError::TooLarge {
                len: wire.len(),
                max: policy.max_message_len,
            });
        }
        // Of formats that need the signer's key to be taken apart: why that signer was not found.
        let not_found = RefCell::new(None);
        let signature_len = |id: &str| match self.signer(id) {
            Ok(found) => Some(found.public_key().signature_len()),
            Err(error) => {
                not_found.replace(Some(error));
                None
            }
        };
        let unpacked = celery::unpack(&policy.formats, wire, &signature_len).map_err(|error| {
            let not_found = not_found.take();
            match (error, not_found) {
                (EnvelopeError::SignatureLength { .. }, Some(not_found)) => not_found,
                (error, _) => error.into(),
            }
        })?;
        let certificate = self.signer(unpacked.signer_id())?;
        policy.check_fitness(&certificate, at)?;
        policy.check_content(unpacked.envelope())?;
        if is_bound(unpacked.body()) != (scope == Scope::Bound) {
            return Err(OpenError::Scope);
        }
        let salt = certificate
            .public_key()
            .verifies_any(
                unpacked.body(),
                unpacked.signature(),
                policy.digest,
                &policy.salts,
            )
            .ok_or_else(|| OpenError::BadSignature {
                signer_id: certificate.id().to_owned(),
            })?;
        Ok(Opened {
            unpacked,
            certificate,
            scheme: Scheme::new(policy.digest, salt),
        })
    }
}

impl Opener {
    fn signer(&self, id: &str) -> Result<Certificate, OpenError> {
        match self.store.lookup(id) {
            Lookup::Found(certificate) => Ok(certificate),
            Lookup::Unknown => Err(OpenError::UnknownSigner {
                signer_id: id.into(),
            }),
            Lookup::Unsettled(reason) => Err(OpenError::Store {
                signer_id: id.into(),
                reason: (*reason).into(),
            }),
        }
    }
}

/// What a signature was made for. The same keys sign both, so each opener takes one of them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The body of a task: any bytes, without the prefix of the other.
    Body,
    /// Bound content: a whole message, or a payload with a context.
    Bound,
}

/// A message whose signature was verified.
///
/// Content type and encoding are on the policy's list, but not covered by the signature in any of Celery's formats.
#[derive(Debug)]
pub struct Opened<'w> {
    unpacked: Unpacked<'w>,
    certificate: Certificate,
    scheme: Scheme,
}

impl Opened<'_> {
    /// The certificate of the signer.
    #[must_use]
    pub fn signer(&self) -> &Certificate {
        &self.certificate
    }

    /// The scheme under which the signature verified.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The format that the message came in.
    #[must_use]
    pub fn format(&self) -> Format {
        self.unpacked.format()
    }

    /// The inner content type.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.unpacked.content_type()
    }

    /// The inner content encoding.
    #[must_use]
    pub fn content_encoding(&self) -> &str {
        self.unpacked.content_encoding()
    }

    /// The body, as it was signed: a slice of the one decoded buffer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.unpacked.body()
    }

    /// The body, taking over the decoded buffer.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.unpacked.into_body()
    }

    /// Deserializes a JSON body; strings may borrow from it.
    ///
    /// # Errors
    /// [`OpenError::NotJson`] when the content type is another one; [`OpenError::Json`] when the body is no JSON of that
    /// shape. Python's `NaN` and `Infinity` are no JSON.
    pub fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, OpenError> {
        if self.content_type() != "application/json" {
            return Err(OpenError::NotJson {
                content_type: self.content_type().to_owned(),
            });
        }
        // The text of serde_json's error may quote the body, so only the place is kept.
        serde_json::from_slice(self.body()).map_err(|error| OpenError::Json {
            line: error.line(),
            column: error.column(),
        })
    }
}
