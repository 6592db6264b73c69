//! [`Fields`]: where everything is in a certificate. Its structure is read here and nowhere else.

use super::asn1::{Element, Malformed, Reader, tag};
use super::error::CertificateError;
use super::extensions::Extensions;
use super::name::Name;
use super::validity::Validity;

/// `TBSCertificate` (RFC 5280, 4.1), as far as it matters here.
pub(super) struct Fields<'a> {
    /// An INTEGER of any length and sign.
    pub(super) serial: Element<'a>,
    pub(super) issuer: Name<'a>,
    pub(super) validity: Validity,
    pub(super) subject: Name<'a>,
    /// The `SubjectPublicKeyInfo`.
    pub(super) key: Element<'a>,
    pub(super) extensions: Extensions,
}

impl<'a> Fields<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Self, CertificateError> {
        let (mut tbs, serial) = begin(der).map_err(damaged("structure"))?;
        let issuer = tbs.any().and_then(Name::read).map_err(damaged("issuer"))?;
        let validity = tbs.any().and_then(Validity::read);
        let validity = validity.map_err(damaged("validity"))?;
        let subject = tbs.any().and_then(Name::read);
        let subject = subject.map_err(damaged("subject"))?;
        let key = tbs.expect(tag::SEQUENCE).map_err(damaged("public key"))?;
        let extensions = Extensions::read(end(tbs).map_err(damaged("extensions"))?)?;
        Ok(Self {
            serial,
            issuer,
            validity,
            subject,
            key,
            extensions,
        })
    }
}

fn damaged(part: &'static str) -> impl FnOnce(Malformed) -> CertificateError {
    move |Malformed| CertificateError::Damaged { part }
}

/// Everything up to the serial number, the outermost structure, and the signature's algorithm after the serial number.
pub(super) fn begin(der: &[u8]) -> Result<(Reader<'_>, Element<'_>), Malformed> {
    let mut certificate = Element::only(der)?.tagged(tag::SEQUENCE)?.inside();
    let mut tbs = certificate.expect(tag::SEQUENCE)?.inside();
    certificate.expect(tag::SEQUENCE)?;
    certificate.expect(tag::BIT_STRING)?.bits()?;
    certificate.finish()?;
    if let Some(version) = tbs.optional(0xa0)? {
        let [0..=2] = version.wrapped()?.integer()? else {
            return Err(Malformed);
        };
    }
    let serial = tbs.any()?;
    serial.integer()?;
    tbs.expect(tag::SEQUENCE)?;
    Ok((tbs, serial))
}

/// The unique identifiers, which nobody uses, and the list of extensions.
pub(super) fn end(mut tbs: Reader<'_>) -> Result<Option<Element<'_>>, Malformed> {
    for unique_id in [0x81, 0x82] {
        tbs.optional(unique_id)?;
    }
    let extensions = tbs.optional(0xa3)?.map(Element::wrapped).transpose()?;
    tbs.finish()?;
    Ok(extensions)
}
