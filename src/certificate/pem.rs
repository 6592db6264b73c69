//! The certificates of a PEM text.

use der::{Decode as _, Header, Reader as _, SliceReader, Tag};

use super::{Certificate, CertificateError};
use crate::pem::{Section, Sections};

/// The longest settings of trust that are read behind a certificate, in bytes.
const MAX_TRUST_LEN: usize = 4096;

/// One certificate of a PEM text, or what must have been meant as one.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The line that it begins in, counted from 1.
    pub(crate) line: usize,
    /// Its DER.
    pub(crate) der: Result<Vec<u8>, CertificateError>,
}

/// Everything in a PEM text that is a certificate or looks like one, in its order. Keys, requests and text are skipped.
pub(crate) fn entries(pem: &[u8]) -> impl Iterator<Item = Entry> {
    Sections::new(pem).filter_map(|section| {
        let der = match Kind::of(&section) {
            Kind::Other => return None,
            Kind::Unknown => Err(CertificateError::Label {
                label: section.label.into(),
            }),
            Kind::Certificate => decode(&section),
            Kind::Trusted => decode(&section).and_then(without_trust),
        };
        Some(Entry {
            line: section.line,
            der,
        })
    })
}

enum Kind {
    Certificate,
    /// OpenSSL's, with settings of trust behind the certificate.
    Trusted,
    /// It has certificates in it, or its label says so.
    Unknown,
    /// No certificate.
    Other,
}

impl Kind {
    fn of(section: &Section<'_>) -> Self {
        match section.label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::Certificate,
            "TRUSTED CERTIFICATE" => Self::Trusted,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" if section.other_label.is_none() => {
                Self::Other
            }
            "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => Self::Unknown,
            _ if section.other_label.is_some() && section.mentions("CERTIFICATE") => {
                Self::Certificate
            }
            _ if section.mentions("CERTIFICATE") => Self::Unknown,
            _ => Self::Other,
        }
    }
}

fn decode(section: &Section<'_>) -> Result<Vec<u8>, CertificateError> {
    // Before it is decoded: a section may be as long as its file.
    let len = section.max_len();
    if len > Certificate::MAX_LEN + MAX_TRUST_LEN {
        return Err(CertificateError::TooLarge { len });
    }
    let der = section.decode().map_err(CertificateError::Pem)?;
    Ok(der.to_vec())
}

/// Takes the certificate out of a `TRUSTED CERTIFICATE`. What OpenSSL trusts it for is not asked: that is about TLS and
/// mail. That somebody marked it as rejected for a purpose is not passed over.
fn without_trust(mut der: Vec<u8>) -> Result<Vec<u8>, CertificateError> {
    let (certificate, settings) = split_first(&der).map_err(CertificateError::Der)?;
    if is_rejected(settings).map_err(CertificateError::Der)? {
        return Err(CertificateError::Rejected);
    }
    let len = certificate.len();
    der.truncate(len);
    Ok(der)
}

fn split_first(der: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(der)?;
    reader.tlv_bytes()?;
    Ok(der.split_at(usize::try_from(reader.position())?))
}

/// `X509_CERT_AUX` of OpenSSL: a SEQUENCE with purposes, and under `[0]` those that it is rejected for.
fn is_rejected(settings: &[u8]) -> der::Result<bool> {
    if settings.is_empty() {
        return Ok(false);
    }
    let mut outer = SliceReader::new(settings)?;
    Header::decode(&mut outer)?.tag().assert_eq(Tag::Sequence)?;
    while !outer.is_finished() {
        // [0], constructed.
        if outer.tlv_bytes()?.first() == Some(&0xa0) {
            return Ok(true);
        }
    }
    Ok(false)
}
