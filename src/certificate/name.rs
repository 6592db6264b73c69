//! [`Name`]: a distinguished name in a certificate, as Celery joins it and as RFC 4514 writes it.

mod attribute;
pub(crate) mod rfc4514;

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use self::attribute::Kind;
use super::asn1::{Element, Malformed, dotted, tag};
use super::error::CertificateError;

/// `Name` (RFC 5280, 4.1.2.4): attributes of any type, with values of any type.
#[derive(Debug)]
pub(super) struct Name<'a> {
    element: Element<'a>,
    attributes: Vec<Attribute<'a>>,
}

#[derive(Debug)]
struct Attribute<'a> {
    /// Which relative distinguished name it is part of, counted from 0.
    rdn: usize,
    oid: &'a [u8],
    value: Element<'a>,
    whole: &'a [u8],
}

impl<'a> Name<'a> {
    pub(super) fn read(element: Element<'a>) -> Result<Self, Malformed> {
        let mut rdns = element.tagged(tag::SEQUENCE)?.inside();
        let mut attributes = Vec::new();
        for rdn in 0.. {
            if rdns.is_empty() {
                break;
            }
            let mut set = rdns.expect(tag::SET)?.inside();
            while !set.is_empty() {
                let attribute = set.expect(tag::SEQUENCE)?;
                let mut parts = attribute.inside();
                let (oid, value) = (parts.any()?.oid()?, parts.any()?);
                parts.finish()?;
                attributes.push(Attribute {
                    rdn,
                    oid,
                    value,
                    whole: attribute.whole(),
                });
            }
        }
        Ok(Self {
            element,
            attributes,
        })
    }

    /// Its attributes: of each its relative distinguished name, counted from 0, its type and its value.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (usize, &'a [u8], Element<'a>)> {
        let attributes = self.attributes.iter();
        attributes.map(|one| (one.rdn, one.oid, one.value))
    }

    /// Where it is in the certificate.
    pub(super) const fn element(&self) -> Element<'a> {
        self.element
    }

    /// Celery's `get_issuer()`: the values in encoded order, joined by one space.
    pub(super) fn celery_text(&self) -> Result<String, CertificateError> {
        // Celery joins the attributes of an RDN as they are encoded. A name for which that makes a difference is not DER,
        // and Python's cryptography refuses it too.
        let mut pairs = self.attributes.iter().zip(self.attributes.iter().skip(1));
        if pairs.any(|(one, next)| one.rdn == next.rdn && one.whole > next.whole) {
            return Err(CertificateError::IssuerNotDer);
        }
        let mut text = String::new();
        for (at, attribute) in self.attributes.iter().enumerate() {
            if at > 0 {
                text.push(' ');
            }
            let value =
                text_of(attribute.value).ok_or_else(|| CertificateError::IssuerAttribute {
                    attribute: dotted(attribute.oid),
                })?;
            text.push_str(&value);
        }
        Ok(text)
    }
}

/// The text of a value, of the types that Python's `cryptography` reads, and as it reads them: all but the last two as
/// UTF-8, TeletexString too. A BIT STRING comes out of it as bytes, which Celery cannot join; others do not come out at all.
fn text_of(value: Element<'_>) -> Option<Cow<'_, str>> {
    let bytes = value.value();
    match value.tag() {
        tag::UTF8_STRING
        | tag::PRINTABLE_STRING
        | tag::IA5_STRING
        | tag::TELETEX_STRING
        | tag::NUMERIC_STRING
        | tag::VISIBLE_STRING
        | tag::OCTET_STRING
        | tag::UTC_TIME
        | tag::GENERALIZED_TIME => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        tag::BMP_STRING => utf16(bytes).map(Cow::Owned),
        tag::UNIVERSAL_STRING => utf32(bytes).map(Cow::Owned),
        _ => None,
    }
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)));
    rest.is_empty()
        .then(|| text.collect::<Result<_, _>>().ok())
        .flatten()
}

fn utf32(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<4>();
    let mut text = units
        .iter()
        .map(|unit| char::from_u32(u32::from_be_bytes(*unit)));
    rest.is_empty()
        .then(|| text.by_ref().collect::<Option<_>>())
        .flatten()
}

/// RFC 4514: the last RDN first. What it has no text for is written in hexadecimal, so that every name can be shown.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rdns = self.attributes.chunk_by(|one, next| one.rdn == next.rdn);
        let rdns: Vec<_> = rdns.collect();
        for (at, rdn) in rdns.into_iter().rev().enumerate() {
            for (at_within, attribute) in rdn.iter().enumerate() {
                match (at, at_within) {
                    (0, 0) => {}
                    (_, 0) => f.write_char(',')?,
                    _ => f.write_char('+')?,
                }
                attribute.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Attribute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.value.tag() {
            // These have no form in text (RFC 4517).
            tag::OCTET_STRING | tag::UTC_TIME | tag::GENERALIZED_TIME => None,
            _ => text_of(self.value),
        };
        match (Kind::of(self.oid), text) {
            (Some(kind), Some(text)) => {
                write!(f, "{}=", kind.name())?;
                rfc4514::write_escaped(f, &text)
            }
            // RFC 4514, 2.4: after a number, the value is its encoding.
            _ => {
                let hex = crate::hex::hex(self.value.whole());
                write!(f, "{}=#{hex}", dotted(self.oid))
            }
        }
    }
}
