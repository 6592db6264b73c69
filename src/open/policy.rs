//! [`Policy`]: what is accepted.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::error::OpenError;
use crate::certificate::Certificate;
use crate::certificate::extensions::why_not_ignorable;
use crate::envelope::{Envelope, Format};
use crate::error::{ErrorClass, Untrusted};
use crate::pss::{Digest, KeySizes, Salt};

/// What an [`Opener`](super::Opener) accepts. Closed by default; every method opens it a little.
///
/// | | default |
/// |---|---|
/// | inner content types | `application/json` |
/// | content encodings | `utf-8`, `binary` |
/// | formats | [`Format::Celery`] |
/// | digest | SHA-256 |
/// | salts | digest length and maximum |
/// | RSA key | 2048 to 8192 bits |
/// | wire form | 64 MiB |
/// | clock skew | 60 s |
/// | critical extensions of certificates | those that are understood |
#[derive(Debug, Clone)]
pub struct Policy {
    content_types: BTreeSet<String>,
    content_encodings: BTreeSet<String>,
    pub(super) formats: Vec<Format>,
    pub(super) digest: Digest,
    pub(super) salts: Vec<Salt>,
    key_sizes: KeySizes,
    pub(super) max_message_len: usize,
    clock_skew: Duration,
    check_key_usage: bool,
    ignored_extensions: BTreeSet<String>,
}

/// One thing that is checked of a signer's certificate.
type Check = fn(&Policy, &Certificate, SystemTime) -> Result<(), OpenError>;

impl Default for Policy {
    fn default() -> Self {
        Self {
            content_types: BTreeSet::from(["application/json".to_owned()]),
            content_encodings: BTreeSet::from(["utf-8".to_owned(), "binary".to_owned()]),
            formats: vec![Format::Celery],
            digest: Digest::Sha256,
            salts: Salt::ALL.to_vec(),
            key_sizes: KeySizes::default(),
            max_message_len: Self::MAX_MESSAGE_LEN,
            clock_skew: Self::CLOCK_SKEW,
            check_key_usage: true,
            ignored_extensions: BTreeSet::new(),
        }
    }
}

impl Policy {
    /// The default limit of a wire form: 64 MiB, in bytes.
    pub const MAX_MESSAGE_LEN: usize = 64 * 1024 * 1024;

    /// How far clocks may be apart unless [`clock_skew`](Self::clock_skew) says otherwise: 60 s.
    pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

    /// The default policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts one more inner content type, compared byte by byte. The signature does not cover the content type, so
    /// list only what the application would take from this signer under *any* listed type. Stock Celery loads whatever
    /// the message says.
    #[must_use]
    pub fn accept_content_type(mut self, content_type: &str) -> Self {
        self.content_types.insert(content_type.to_owned());
        self
    }

    /// Accepts these inner content types and no others.
    #[must_use]
    pub fn content_types<'a>(mut self, content_types: impl IntoIterator<Item = &'a str>) -> Self {
        self.content_types = content_types.into_iter().map(str::to_owned).collect();
        self
    }

    /// Accepts one more content encoding, compared byte by byte.
    #[must_use]
    pub fn accept_content_encoding(mut self, content_encoding: &str) -> Self {
        self.content_encodings.insert(content_encoding.to_owned());
        self
    }

    /// Accepts these content encodings and no others.
    #[must_use]
    pub fn content_encodings<'a>(mut self, encodings: impl IntoIterator<Item = &'a str>) -> Self {
        self.content_encodings = encodings.into_iter().map(str::to_owned).collect();
        self
    }

    /// Accepts messages in any of these formats; each tells which it is.
    #[must_use]
    pub fn formats(mut self, formats: impl IntoIterator<Item = Format>) -> Self {
        self.formats = formats.into_iter().collect();
        self
    }

    /// The digest that signers use; the envelope does not name it. Celery's `security_digest`.
    #[must_use]
    pub const fn digest(mut self, digest: Digest) -> Self {
        self.digest = digest;
        self
    }

    /// Accepts signatures with these salt lengths alone.
    #[must_use]
    pub fn salts(mut self, salts: impl IntoIterator<Item = Salt>) -> Self {
        self.salts = salts.into_iter().collect();
        self
    }

    /// The RSA key sizes that are accepted.
    #[must_use]
    pub const fn key_sizes(mut self, key_sizes: KeySizes) -> Self {
        self.key_sizes = key_sizes;
        self
    }

    /// The longest wire form, in bytes.
    #[must_use]
    pub const fn max_message_len(mut self, bytes: usize) -> Self {
        self.max_message_len = bytes;
        self
    }

    /// How far this host's clock and that of whoever issues certificates may be apart: a certificate counts as valid for that
    /// much longer at both ends.
    #[must_use]
    pub const fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// Accepts certificates whose key usage does not allow signatures on messages, as stock Celery does: for one that was
    /// issued as a CA and is used as a signer.
    #[must_use]
    pub const fn dangerous_ignore_key_usage(mut self) -> Self {
        self.check_key_usage = false;
        self
    }

    /// Accepts certificates with these critical extensions, by OID, although nobody here understands them. Whoever issued
    /// the certificate asked that it be refused then (RFC 5280, 4.2), so know what they say before you name them.
    ///
    /// # Errors
    /// [`NotIgnorable`] for what is no OID, and for extensions that are understood.
    pub fn dangerous_ignore_critical<'a>(
        mut self,
        oids: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, NotIgnorable> {
        for oid in oids {
            if let Some(reason) = why_not_ignorable(oid) {
                let oid = oid.into();
                return Err(NotIgnorable { oid, reason });
            }
            self.ignored_extensions.insert(oid.to_owned());
        }
        Ok(self)
    }

    pub(crate) const fn longest_message(&self) -> usize {
        self.max_message_len
    }

    pub(crate) const fn skew(&self) -> Duration {
        self.clock_skew
    }

    /// Judges the certificate of a signer, as opening a message does.
    ///
    /// # Errors
    /// [`OpenError`]: the first of the [`refusals`](Self::refusals).
    pub fn check_certificate(
        &self,
        certificate: &Certificate,
        at: SystemTime,
    ) -> Result<(), OpenError> {
        self.refusals(certificate, at).next().map_or(Ok(()), Err)
    }

    /// All reasons for which the messages of that certificate's key would be refused: [`KeyUsage`](OpenError::KeyUsage),
    /// [`CriticalExtension`](OpenError::CriticalExtension), [`Key`](OpenError::Key), [`Expired`](OpenError::Expired),
    /// [`NotYetValid`](OpenError::NotYetValid).
    pub fn refusals<'a>(
        &'a self,
        certificate: &'a Certificate,
        at: SystemTime,
    ) -> impl Iterator<Item = OpenError> + 'a {
        Self::FITNESS
            .into_iter()
            .chain(Self::VALIDITY)
            .filter_map(move |check| check(self, certificate, at).err())
    }

    /// Whether it is a signer's at any time.
    const FITNESS: [Check; 3] = [Self::check_usage, Self::check_extensions, Self::check_size];
    /// Whether it is valid at a time.
    const VALIDITY: [Check; 2] = [Self::check_end, Self::check_beginning];

    pub(super) fn check_fitness(
        &self,
        certificate: &Certificate,
        at: SystemTime,
    ) -> Result<(), OpenError> {
        let mut checks = Self::FITNESS.into_iter();
        checks.try_for_each(|check| check(self, certificate, at))
    }

    pub(super) fn check_validity(
        &self,
        certificate: &Certificate,
        at: SystemTime,
    ) -> Result<(), OpenError> {
        let mut checks = Self::VALIDITY.into_iter();
        checks.try_for_each(|check| check(self, certificate, at))
    }

    fn check_end(&self, certificate: &Certificate, at: SystemTime) -> Result<(), OpenError> {
        // A clock so close to either end of time that the skew leaves its range is read as it is.
        let earliest = at.checked_sub(self.clock_skew).unwrap_or(at);
        if !certificate.has_expired(earliest) {
            return Ok(());
        }
        Err(OpenError::Expired {
            signer_id: certificate.id().to_owned(),
            not_after: certificate.not_after(),
            at,
        })
    }

    fn check_beginning(&self, certificate: &Certificate, at: SystemTime) -> Result<(), OpenError> {
        let latest = at.checked_add(self.clock_skew).unwrap_or(at);
        if !certificate.is_not_yet_valid(latest) {
            return Ok(());
        }
        Err(OpenError::NotYetValid {
            signer_id: certificate.id().to_owned(),
            not_before: certificate.not_before(),
            at,
        })
    }

    fn check_usage(&self, certificate: &Certificate, _: SystemTime) -> Result<(), OpenError> {
        if !self.check_key_usage || certificate.allows_signatures() {
            return Ok(());
        }
        Err(OpenError::KeyUsage {
            signer_id: certificate.id().to_owned(),
        })
    }

    fn check_extensions(&self, certificate: &Certificate, _: SystemTime) -> Result<(), OpenError> {
        let mut refused = certificate.refused_extensions().iter();
        match refused.find(|oid| !self.ignored_extensions.contains(&***oid)) {
            None => Ok(()),
            Some(oid) => Err(OpenError::CriticalExtension {
                signer_id: certificate.id().to_owned(),
                oid: oid.to_string(),
            }),
        }
    }

    fn check_size(&self, certificate: &Certificate, _: SystemTime) -> Result<(), OpenError> {
        let checked = self.key_sizes.check(certificate.public_key().bits());
        checked.map_err(|source| OpenError::Key {
            signer_id: certificate.id().to_owned(),
            source,
        })
    }

    pub(super) fn check_content(&self, envelope: Envelope<'_>) -> Result<(), OpenError> {
        if !self.content_types.contains(envelope.content_type) {
            return Err(OpenError::ContentType {
                content_type: envelope.content_type.into(),
                accepted: self.content_types.iter().cloned().collect(),
            });
        }
        if !self.content_encodings.contains(envelope.content_encoding) {
            return Err(OpenError::ContentEncoding {
                content_encoding: envelope.content_encoding.into(),
                accepted: self.content_encodings.iter().cloned().collect(),
            });
        }
        Ok(())
    }
}

/// An extension that nobody can choose to ignore.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the extension {oid} cannot be ignored where it is critical: {reason}")]
pub struct NotIgnorable {
    /// What was named.
    pub oid: Untrusted,
    /// Why it cannot be.
    pub reason: &'static str,
}

impl NotIgnorable {
    /// Always [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}
