//! The certificates of a PEM text.

use super::asn1::{Element, Malformed, Reader, tag};
use super::error::{CertificateError, MAX_LEN};
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
    if len > MAX_LEN + MAX_TRUST_LEN {
        return Err(CertificateError::TooLarge { len });
    }
    let der = section.decode().map_err(CertificateError::Pem)?;
    Ok(der.to_vec())
}

/// Takes the certificate out of a `TRUSTED CERTIFICATE`. What OpenSSL trusts it for is not asked: that is about TLS and
/// mail. That somebody marked it as rejected for a purpose is not passed over.
fn without_trust(mut der: Vec<u8>) -> Result<Vec<u8>, CertificateError> {
    let damaged = |Malformed| CertificateError::Damaged { part: "structure" };
    let (len, rejected) = trust(&der).map_err(damaged)?;
    if rejected {
        return Err(CertificateError::Rejected);
    }
    der.truncate(len);
    Ok(der)
}

/// How long the certificate is, and whether what stands behind it rejects it for a purpose.
fn trust(der: &[u8]) -> Result<(usize, bool), Malformed> {
    let mut reader = Reader::new(der);
    let len = reader.any()?.whole().len();
    let settings = reader.optional(tag::SEQUENCE)?;
    reader.finish()?;
    Ok((len, settings.map_or(Ok(false), is_rejected)?))
}

/// `X509_CERT_AUX` of OpenSSL: a SEQUENCE with purposes, and under `[0]` those that it is rejected for.
fn is_rejected(settings: Element<'_>) -> Result<bool, Malformed> {
    let mut inside = settings.inside();
    while !inside.is_empty() {
        // [0], constructed.
        if inside.any()?.tag() == 0xa0 {
            return Ok(true);
        }
    }
    Ok(false)
}
