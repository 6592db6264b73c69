//! [`Certificate`]: an X.509 certificate with an RSA key, and Celery's name for it.

pub mod issue;
mod pem;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use const_oid::db::rfc5280::{ID_KP_OCSP_SIGNING, ID_KP_TIME_STAMPING};
use const_oid::{AssociatedOid as _, ObjectIdentifier};
use der::asn1::AnyRef;
use der::{Decode, Encode, SliceReader, Tag, Tagged};
use num_bigint::BigInt;
use x509_cert::certificate::{CertificateInner, Raw, TbsCertificateInner};
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
};
use x509_cert::name::Name;

pub(crate) use self::pem::entries;
use crate::error::{ErrorClass, Untrusted};
pub use crate::pem::PemError;
use crate::pss::{Digest, Scheme};
use crate::public_key::{PublicKey, PublicKeyError};

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
    not_before: SystemTime,
    not_after: SystemTime,
    may_sign: bool,
    public_key: PublicKey,
    thumbprint: [u8; 32],
}

impl Certificate {
    /// The largest certificate that is read, in bytes of DER.
    pub const MAX_LEN: usize = 64 * 1024;

    /// Reads one DER certificate; nothing may follow it.
    ///
    /// # Errors
    /// [`CertificateError`] when it is not one, when its key is not RSA, or when Celery could not make an id of it.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > Self::MAX_LEN {
            return Err(CertificateError::TooLarge { len: der.len() });
        }
        let parsed = CertificateInner::<Raw>::from_der(der).map_err(CertificateError::Der)?;
        let tbs = parsed.tbs_certificate();
        let key = tbs
            .subject_public_key_info()
            .to_der()
            .map_err(CertificateError::Der)?;
        let public_key = PublicKey::from_spki(&key)?;
        let raw = RawFields::read(der).map_err(CertificateError::Der)?;
        // The parser puts the attributes of an RDN into DER's order. Celery joins them as encoded; a name for which that
        // makes a difference is not DER, and Python's cryptography refuses it too.
        if tbs.issuer().to_der().map_err(CertificateError::Der)? != raw.issuer {
            return Err(CertificateError::IssuerNotDer);
        }
        let mut id = issuer_text(tbs.issuer())?;
        let issuer_len = id.len();
        id.push(' ');
        id.push_str(&BigInt::from_signed_bytes_be(raw.serial).to_string());
        let may_sign = may_sign(tbs)?;
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(Digest::Sha256.hash(der).as_bytes());
        Ok(Self(Arc::new(Inner {
            der: der.into(),
            id: id.into(),
            issuer_len,
            subject: tbs.subject().to_string().into(),
            issuer_name: tbs.issuer().to_string().into(),
            not_before: tbs.validity().not_before.to_system_time(),
            not_after: tbs.validity().not_after.to_system_time(),
            may_sign,
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

    /// The certificate as PEM text, with a final line feed.
    #[must_use]
    pub fn to_pem(&self) -> String {
        use der::pem::LineEnding;
        // Encoding to a String fails only for a bad label or a length over 4 GiB.
        der::pem::encode_string("CERTIFICATE", LineEnding::LF, &self.0.der).unwrap_or_default()
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

/// Bytes that are no certificate that can be used here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No `CERTIFICATE` section in the PEM text.
    #[error("there is no certificate in it (no \"-----BEGIN CERTIFICATE-----\")")]
    NoCertificate,
    /// The PEM text is damaged.
    #[error("the PEM text is damaged: {0}")]
    Pem(#[source] PemError),
    /// A PEM section that holds certificates, or whose label says so, is of a kind that is not read.
    #[error(
        "a PEM section {label} is not read; make it CERTIFICATE with `openssl x509` or `openssl pkcs7 -print_certs`"
    )]
    Label {
        /// Its label.
        label: Untrusted,
    },
    /// A `TRUSTED CERTIFICATE` of OpenSSL's that is marked as rejected for a purpose.
    #[error("the certificate is marked as rejected (openssl x509 -addreject)")]
    Rejected,
    /// The DER is damaged, or no certificate.
    #[error("the certificate is damaged: {0}")]
    Der(#[source] der::Error),
    /// More than [`Certificate::MAX_LEN`].
    #[error(
        "a certificate of {len} bytes is refused; {} are read",
        Certificate::MAX_LEN
    )]
    TooLarge {
        /// Its length, in bytes.
        len: usize,
    },
    /// The key cannot be used: not RSA, or absurd.
    #[error("the certificate's key cannot be used: {0}")]
    Key(#[from] PublicKeyError),
    /// An attribute of the issuer is no text, so Celery cannot make an id of it either.
    #[error("the issuer's attribute {attribute} is no text, so the certificate has no signer id")]
    IssuerAttribute {
        /// OID of the attribute.
        attribute: String,
    },
    /// A multi-valued RDN of the issuer is not in DER's order, so that its text would be ambiguous.
    #[error("the issuer's name is not encoded as DER asks for (the order within an RDN)")]
    IssuerNotDer,
    /// The extension for the key usage, or for the extended one, is damaged or present twice.
    #[error("the certificate's key usage extension is damaged")]
    KeyUsage,
    /// An extension is critical and not understood, so that the certificate must be refused (RFC 5280, 4.2).
    #[error("the certificate's extension {oid} is critical and not understood")]
    Critical {
        /// OID of the extension.
        oid: String,
    },
}

impl CertificateError {
    /// Always [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}

/// The fields of which the encoded form matters.
struct RawFields<'a> {
    /// Contents of the serial number's INTEGER: two's complement, big-endian.
    serial: &'a [u8],
    /// The issuer's Name, with tag and length.
    issuer: Vec<u8>,
}

impl<'a> RawFields<'a> {
    fn read(der: &'a [u8]) -> der::Result<Self> {
        let certificate = AnyRef::from_der(der)?;
        let mut reader = SliceReader::new(certificate.value())?;
        let tbs = AnyRef::decode(&mut reader)?;
        let mut reader = SliceReader::new(tbs.value())?;
        let mut serial = AnyRef::decode(&mut reader)?;
        if serial.tag() != Tag::Integer {
            // That was the version.
            serial = AnyRef::decode(&mut reader)?;
        }
        let _signature_algorithm = AnyRef::decode(&mut reader)?;
        let issuer = AnyRef::decode(&mut reader)?;
        Ok(Self {
            serial: serial.value(),
            issuer: issuer.to_der()?,
        })
    }
}

/// The extensions that may be critical. What they say about names, chains and authorities does not matter here, as a store
/// holds the signers' certificates themselves.
const UNDERSTOOD: [ObjectIdentifier; 4] = [
    KeyUsage::OID,
    ExtendedKeyUsage::OID,
    BasicConstraints::OID,
    SubjectAltName::OID,
];

/// Purposes of keys that must have no other one (RFC 3161, 2.3; RFC 6960, 4.2.2.2).
const DEDICATED: [ObjectIdentifier; 2] = [ID_KP_TIME_STAMPING, ID_KP_OCSP_SIGNING];

fn may_sign(tbs: &TbsCertificateInner<Raw>) -> Result<bool, CertificateError> {
    let mut extensions = tbs.extensions().into_iter().flatten();
    if let Some(unknown) = extensions.find(|one| one.critical && !UNDERSTOOD.contains(&one.extn_id))
    {
        return Err(CertificateError::Critical {
            oid: unknown.extn_id.to_string(),
        });
    }
    let usage = match tbs.get_extension::<KeyUsage>() {
        Ok(usage) => usage.is_none_or(|(_, KeyUsage(usage))| {
            usage.contains(KeyUsages::DigitalSignature) || usage.contains(KeyUsages::NonRepudiation)
        }),
        Err(_) => return Err(CertificateError::KeyUsage),
    };
    let purpose = match tbs.get_extension::<ExtendedKeyUsage>() {
        Ok(purposes) => purposes.is_none_or(|(_, ExtendedKeyUsage(purposes))| {
            !purposes.iter().all(|one| DEDICATED.contains(one))
        }),
        Err(_) => return Err(CertificateError::KeyUsage),
    };
    Ok(usage && purpose)
}

fn issuer_text(name: &Name) -> Result<String, CertificateError> {
    let mut text = String::new();
    for (at, attribute) in name.iter().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        let value = attribute.value.value();
        let decoded = match attribute.value.tag() {
            Tag::BmpString => decode_utf16(value),
            // The types that Python's cryptography reads, all of them as UTF-8, TeletexString too.
            Tag::Utf8String
            | Tag::PrintableString
            | Tag::Ia5String
            | Tag::TeletexString
            | Tag::NumericString
            | Tag::VisibleString
            | Tag::OctetString
            | Tag::UtcTime
            | Tag::GeneralizedTime => std::str::from_utf8(value).ok().map(str::to_owned),
            // A BIT STRING comes out of it as bytes, which Celery cannot join; other types do not come out at all.
            _ => None,
        };
        let decoded = decoded.ok_or_else(|| CertificateError::IssuerAttribute {
            attribute: attribute.oid.to_string(),
        })?;
        text.push_str(&decoded);
    }
    Ok(text)
}

fn decode_utf16(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)));
    rest.is_empty()
        .then(|| text.collect::<Result<_, _>>().ok())
        .flatten()
}

/// DER certificates start with a SEQUENCE of a long-form length; PEM is text.
pub(crate) fn looks_like_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x80..=0xff, ..])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A time as RFC 3339 text in UTC, to the second.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    der::DateTime::from_system_time(at).map_or_else(|_| format!("{at:?}"), |time| time.to_string())
}
