//! Certificates and certificate requests signed with a [`SigningKey`], wherever the key is.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use der::asn1::{BitString, OctetString, SetOfVec};
use der::pem::LineEnding;
use der::{Decode as _, Encode as _, EncodePem as _, Sequence};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::certificate::name::rfc4514;
use crate::certificate::{Certificate, CertificateError, NameError};
use crate::error::ErrorClass;
use crate::pss::Digest;
use crate::public_key::{PssParameters, PublicKey};
use crate::signer::{SignError, SigningKey};

/// How long before now a certificate should begin: so far may the clocks of those who read it be behind.
pub const HEAD_START: Duration = Duration::from_secs(5 * 60);

/// Makes an X.509 certificate for `key` that is signed by `key`: version 3, a random serial number of 127 bits, not a CA,
/// key usage `digitalSignature`, signature algorithm `id-RSASSA-PSS` with the key's scheme (RFC 4055).
///
/// `subject` is an RFC 4514 name such as `CN=worker-7,O=Example`. RFC 4514 writes the last part of a name first, so the
/// signer id of this one is `Example worker-7 <serial>`. Let it begin [`HEAD_START`] before now.
///
/// # Errors
/// [`IssueError`] when the subject or the dates cannot be encoded, or when the key does not sign.
pub fn self_sign(
    key: &dyn SigningKey,
    subject: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<Certificate, IssueError> {
    let name = parse_name(subject)?;
    let algorithm = algorithm(key)?;
    let tbs = Tbs {
        version: 2,
        serial_number: random_serial()?,
        signature: algorithm.clone(),
        issuer: name.clone(),
        validity: Validity::new(time(not_before)?, time(not_after)?),
        subject: name,
        subject_public_key_info: spki(key.public_key())?,
        extensions: extensions(key.public_key())?,
    };
    let signature = key.sign_message(&tbs.to_der()?)?;
    let certificate = Signed {
        to_be_signed: tbs,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&signature)?,
    };
    Ok(Certificate::from_der(&certificate.to_der()?)?)
}

/// Makes a PKCS#10 certificate request (RFC 2986) for `key`, signed by it, as PEM text. `subject` as in [`self_sign`].
///
/// # Errors
/// [`IssueError`] when the subject cannot be encoded, or when the key does not sign.
pub fn request(key: &dyn SigningKey, subject: &str) -> Result<String, IssueError> {
    let info = CertReqInfo {
        version: x509_cert::request::Version::V1,
        subject: parse_name(subject)?,
        public_key: spki(key.public_key())?,
        attributes: SetOfVec::default(),
    };
    let signature = key.sign_message(&info.to_der()?)?;
    let request = CertReq {
        info,
        algorithm: algorithm(key)?,
        signature: BitString::from_bytes(&signature)?,
    };
    Ok(request.to_pem(LineEnding::LF)?)
}

/// Says whether a certificate can be made for that subject, before a key is opened for it.
///
/// # Errors
/// [`IssueError::Subject`], which names the character that is wrong.
pub fn check_subject(subject: &str) -> Result<(), IssueError> {
    parse_name(subject).map(drop)
}

/// A certificate or request that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The subject is no distinguished name, or not one that a certificate may have.
    #[error(
        "the subject {subject:?} is no distinguished name such as \"CN=worker-7,O=Example\" (RFC 4514): {source}"
    )]
    Subject {
        /// What was given.
        subject: String,
        /// What is wrong with it, and where.
        source: NameError,
    },
    /// A date before 1970 or after 9999, or an end before the beginning.
    #[error("the validity cannot be encoded: years 1970 to 9999, and the end after the beginning")]
    Validity,
    /// The random generator of the system failed.
    #[error("no random serial number could be made")]
    Random,
    /// The structure could not be encoded.
    #[error("the certificate could not be encoded: {0}")]
    Encode(#[from] der::Error),
    /// The key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What was made could not be read back.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl IssueError {
    /// What a caller may do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Sign(error) => error.class(),
            Self::Random => ErrorClass::Transient,
            _ => ErrorClass::Permanent,
        }
    }
}

/// `TBSCertificate` (RFC 5280, 4.1).
#[derive(Sequence)]
struct Tbs {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial_number: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Name,
    validity: Validity,
    subject: Name,
    subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

/// `Certificate` (RFC 5280, 4.1).
#[derive(Sequence)]
struct Signed {
    to_be_signed: Tbs,
    signature_algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

fn parse_name(subject: &str) -> Result<Name, IssueError> {
    let der = rfc4514::parse(subject).map_err(|source| IssueError::Subject {
        subject: subject.to_owned(),
        source,
    })?;
    Ok(Name::from_der(&der)?)
}

fn algorithm(key: &dyn SigningKey) -> Result<AlgorithmIdentifierOwned, IssueError> {
    PssParameters::algorithm(key.scheme(), key.public_key().bits())
        .map_err(|error| SignError::from(error).into())
}

fn spki(key: &PublicKey) -> Result<SubjectPublicKeyInfoOwned, IssueError> {
    Ok(SubjectPublicKeyInfoOwned::from_der(key.spki())?)
}

fn time(at: SystemTime) -> Result<Time, IssueError> {
    Time::try_from(at).map_err(|_| IssueError::Validity)
}

/// Positive and not zero, as RFC 5280, 4.1.2.2 asks for.
fn random_serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| IssueError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::new(&bytes)?)
}

fn extensions(key: &PublicKey) -> Result<Extensions, IssueError> {
    // RFC 7093, section 2, method 4 (a hash of the SubjectPublicKeyInfo), cut to the usual 160 bits.
    let hash = Digest::Sha256.hash(key.spki());
    let key_id = OctetString::new(hash.as_bytes().split_at(20).0)?;
    Ok(vec![
        extension(
            true,
            &BasicConstraints {
                ca: false,
                path_len_constraint: None,
            },
        )?,
        extension(true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
        extension(false, &SubjectKeyIdentifier(key_id.clone()))?,
        extension(
            false,
            &AuthorityKeyIdentifier {
                key_identifier: Some(key_id),
                ..Default::default()
            },
        )?,
    ])
}

fn extension<E: der::Encode + const_oid::AssociatedOid>(
    critical: bool,
    value: &E,
) -> Result<Extension, IssueError> {
    Ok(Extension {
        extn_id: E::OID,
        critical,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}
