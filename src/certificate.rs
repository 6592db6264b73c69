//! [`Certificate`]: an X.509 certificate with an RSA key, and Celery's name for it.

mod asn1;
mod error;
pub(crate) mod extensions;
mod fields;
mod link;
pub(crate) mod name;
mod pem;
mod validity;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use num_bigint::BigInt;

pub use self::error::CertificateError;
use self::error::{MAX_LEN, MAX_SERIAL_LEN};
use self::fields::Fields;
pub(crate) use self::link::{Link, NameHash};
pub use self::name::rfc4514::NameError;
pub(crate) use self::pem::entries;
pub use self::validity::rfc3339;
use crate::error::ErrorClass;
use crate::hex::hex;
pub use crate::pem::PemError;
use crate::pss::{Digest, Scheme};
use crate::public_key::PublicKey;

/// An X.509 certificate (RFC 5280) with an RSA key.
///
/// Cheap to clone: clones share one parsed certificate. Equal when their DER is.
///
/// ```
/// # use taskseal::Certificate;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
/// assert_eq!(certificate.id(), "Example CA worker-7 7");
/// assert_eq!(certificate.public_key().bits(), 2048);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Certificate(Arc<Inner>);

struct Inner {
    der: Box<[u8]>,
    id: Box<str>,
    /// Length in bytes of the issuer's part of `id`.
    issuer_len: usize,
    subject: Box<str>,
    issuer_name: Box<str>,
    encoded: Encoded,
    not_before: SystemTime,
    not_after: SystemTime,
    may_sign: bool,
    is_ca: bool,
    refused_extensions: Box<[Box<str>]>,
    public_key: PublicKey,
    thumbprint: [u8; 32],
}

/// Where fields are in the DER, with tag and length.
struct Encoded {
    serial_number: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
}

impl Certificate {
    /// The largest certificate that is read, in bytes of DER.
    pub const MAX_LEN: usize = MAX_LEN;
    /// The longest serial number that is read, in bytes. RFC 5280 allows 20; stock Celery gives up at some 1,785.
    pub const MAX_SERIAL_LEN: usize = MAX_SERIAL_LEN;

    /// Reads one DER certificate; nothing may follow it.
    ///
    /// # Errors
    /// [`CertificateError`] when it is not one, when its key is not RSA, or when Celery could not make an id of it.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > Self::MAX_LEN {
            return Err(CertificateError::TooLarge { len: der.len() });
        }
        let fields = Fields::read(der)?;
        let serial = fields.serial.value();
        if serial.len() > Self::MAX_SERIAL_LEN {
            return Err(CertificateError::SerialNumber { len: serial.len() });
        }
        let public_key = PublicKey::from_spki(fields.key.whole())?;
        let mut id = fields.issuer.celery_text()?;
        let issuer_len = id.len();
        id.push(' ');
        id.push_str(&BigInt::from_signed_bytes_be(serial).to_string());
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(Digest::Sha256.hash(der).as_bytes());
        Ok(Self(Arc::new(Inner {
            der: der.into(),
            id: id.into(),
            issuer_len,
            subject: fields.subject.to_string().into(),
            issuer_name: fields.issuer.to_string().into(),
            encoded: Encoded {
                serial_number: fields.serial.range(),
                issuer: fields.issuer.element().range(),
                subject: fields.subject.element().range(),
            },
            not_before: fields.validity.not_before,
            not_after: fields.validity.not_after,
            may_sign: fields.extensions.may_sign,
            is_ca: fields.extensions.is_ca,
            refused_extensions: fields.extensions.refused,
            public_key,
            thumbprint,
        })))
    }

    /// Reads the first certificate of a PEM text, as Celery does; other PEM sections and text around them are skipped. A
    /// first one that is damaged is an error, and the next one is not taken in its place.
    ///
    /// Everything is read that OpenSSL or Python's `cryptography` reads: the labels `CERTIFICATE`, `X509 CERTIFICATE` and
    /// `TRUSTED CERTIFICATE`, any line ends and lengths, indentation, a byte order mark, and a section that begins behind
    /// the end of another one.
    ///
    /// # Errors
    /// [`CertificateError::NoCertificate`] when there is none, [`CertificateError::Pem`] and [`CertificateError::Label`]
    /// for what looks like one, else as for [`from_der`](Self::from_der).
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let first = entries(pem).next();
        let first = first.ok_or(CertificateError::NoCertificate)?;
        Self::from_der(&first.der?)
    }

    /// Reads every certificate of a PEM text, at least one.
    ///
    /// # Errors
    /// As for [`from_pem`](Self::from_pem), for the first one that is bad.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let all: Vec<_> = entries(pem)
            .map(|entry| Self::from_der(&entry.der?))
            .collect::<Result<_, _>>()?;
        match all.is_empty() {
            true => Err(CertificateError::NoCertificate),
            false => Ok(all),
        }
    }

    /// Reads one certificate, PEM or DER, whichever it is.
    ///
    /// # Errors
    /// As for [`from_der`](Self::from_der) and [`from_pem`](Self::from_pem).
    pub fn from_pem_or_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if looks_like_der(bytes) {
            Self::from_der(bytes)
        } else {
            Self::from_pem(bytes)
        }
    }

    /// Celery's `get_id()`: the issuer's attribute values in encoded order, joined by one space, then a space and the
    /// serial number in decimal. The signer id of an envelope.
    ///
    /// It is not always unique: `O=A, CN=B` and `CN=A B` read the same. Stores refuse to hold two certificates with one
    /// id. An empty issuer leaves a leading space.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Celery's `get_issuer()`: the issuer's attribute values, joined by one space.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.0.id.split_at(self.0.issuer_len).0
    }

    /// The serial number in decimal. It may be larger than any integer type, or negative.
    #[must_use]
    pub fn serial_number(&self) -> &str {
        self.0.id.get(self.0.issuer_len + 1..).unwrap_or_default()
    }

    /// The subject's distinguished name (RFC 4514 text).
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The issuer's distinguished name (RFC 4514 text).
    #[must_use]
    pub fn issuer_name(&self) -> &str {
        &self.0.issuer_name
    }

    /// The first second at which it is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    /// The second at which it ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Whether it has expired `at` that time: from `not_after` on, as in Celery (`now >= not_valid_after`).
    #[must_use]
    pub fn has_expired(&self, at: SystemTime) -> bool {
        at >= self.0.not_after
    }

    /// Whether it is not valid yet `at` that time.
    #[must_use]
    pub fn is_not_yet_valid(&self, at: SystemTime) -> bool {
        at < self.0.not_before
    }

    /// Whether its key usage (RFC 5280, 4.2.1.3) allows signatures on messages: `digitalSignature` or `nonRepudiation`
    /// is set, or the extension is absent; and its extended key usage (4.2.1.12) is not for time stamps or OCSP responses
    /// alone, whose keys are for nothing else.
    #[must_use]
    pub fn allows_signatures(&self) -> bool {
        self.0.may_sign
    }

    /// Whether it is an authority's: its basic constraints (4.2.1.9) say so, or cannot be read.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.0.is_ca
    }

    /// The OIDs of the extensions for which it must be refused: critical and not understood here (RFC 5280, 4.2), or those of
    /// a precertificate (RFC 6962, 3.1), which is no certificate. An [`Opener`](crate::Opener) refuses what its key signed,
    /// unless the [`Policy`](crate::Policy) names the OID.
    #[must_use]
    pub fn refused_extensions(&self) -> &[Box<str>] {
        &self.0.refused_extensions
    }

    /// The RSA public key, parsed once.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// SHA-256 of the DER, the thumbprint of RFC 9360 (`x5t`).
    #[must_use]
    pub fn thumbprint_sha256(&self) -> [u8; 32] {
        self.0.thumbprint
    }

    /// The thumbprint in lower-case hexadecimal.
    #[must_use]
    pub fn thumbprint_hex(&self) -> String {
        hex(&self.0.thumbprint)
    }

    /// The DER, as read.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The DER of the serial number, an INTEGER.
    #[must_use]
    pub fn serial_number_der(&self) -> &[u8] {
        self.part(&self.0.encoded.serial_number)
    }

    /// The DER of the issuer, a Name.
    #[must_use]
    pub fn issuer_der(&self) -> &[u8] {
        self.part(&self.0.encoded.issuer)
    }

    /// The DER of the subject, a Name.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        self.part(&self.0.encoded.subject)
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        // The ranges are those of elements that were read in this DER.
        self.0.der.get(range.clone()).unwrap_or_default()
    }

    /// The certificate as PEM text, with a final line feed.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "an empty text would be taken for a certificate"
    )]
    pub fn to_pem(&self) -> String {
        use der::pem::LineEnding;
        let pem = der::pem::encode_string("CERTIFICATE", LineEnding::LF, &self.0.der);
        pem.expect("the label is a good one, and the length below 4 GiB")
    }

    /// Verifies an RSA-PSS signature of `message` under exactly this scheme. Looks at the key alone: validity, key size
    /// and usage are the [`Opener`](crate::Opener)'s policy.
    ///
    /// # Errors
    /// [`BadSignature`] when it is not this key's signature of that message.
    pub fn verify(
        &self,
        message: &[u8],
        signature: &[u8],
        scheme: Scheme,
    ) -> Result<(), BadSignature> {
        if self.0.public_key.verifies(message, signature, scheme) {
            Ok(())
        } else {
            Err(BadSignature)
        }
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("id", &self.id())
            .field("public_key", self.public_key())
            .field("thumbprint_sha256", &self.thumbprint_hex())
            .finish_non_exhaustive()
    }
}

/// The signature is not this key's signature of that message under that scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl BadSignature {
    /// Always [`ErrorClass::Rejected`].
    #[must_use]
    pub const fn class(self) -> ErrorClass {
        ErrorClass::Rejected
    }
}

/// DER certificates start with a SEQUENCE of a long-form length; PEM is text.
pub(crate) fn looks_like_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x80..=0xff, ..])
}
