//! [`Extensions`]: what the extensions of a certificate say about the messages that its key signs.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{ID_KP_OCSP_SIGNING, ID_KP_TIME_STAMPING};
use const_oid::db::{rfc5280, rfc5912, rfc6960, rfc6962};

use super::asn1::{Element, Malformed, dotted, tag};
use super::error::CertificateError;

/// What an extension of some kind means for a signer whose certificate is trusted as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// It says what the key is for. That is checked.
    Checked,
    /// Whatever it says, it changes nothing here: it is about names, about paths below an authority, about revocation
    /// lists, which nobody reads here, or about other protocols.
    Nothing,
    /// It says that this is no certificate.
    Precertificate,
}

/// The extensions that are understood; docs/wire-format.md has the same table, with the reasons. One that is not here must
/// be refused where it is critical (RFC 5280, 4.2).
const UNDERSTOOD: [(ObjectIdentifier, Meaning); 26] = [
    (rfc5280::ID_CE_KEY_USAGE, Meaning::Checked),
    (rfc5280::ID_CE_EXT_KEY_USAGE, Meaning::Checked),
    (rfc5280::ID_CE_BASIC_CONSTRAINTS, Meaning::Nothing),
    (rfc5280::ID_CE_SUBJECT_ALT_NAME, Meaning::Nothing),
    (rfc5280::ID_CE_ISSUER_ALT_NAME, Meaning::Nothing),
    (
        rfc5280::ID_CE_SUBJECT_DIRECTORY_ATTRIBUTES,
        Meaning::Nothing,
    ),
    (rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER, Meaning::Nothing),
    (rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER, Meaning::Nothing),
    (rfc5280::ID_CE_CERTIFICATE_POLICIES, Meaning::Nothing),
    (rfc5280::ID_CE_POLICY_MAPPINGS, Meaning::Nothing),
    (rfc5280::ID_CE_POLICY_CONSTRAINTS, Meaning::Nothing),
    (rfc5280::ID_CE_INHIBIT_ANY_POLICY, Meaning::Nothing),
    (rfc5280::ID_CE_NAME_CONSTRAINTS, Meaning::Nothing),
    (rfc5280::ID_CE_CRL_DISTRIBUTION_POINTS, Meaning::Nothing),
    (rfc5280::ID_CE_FRESHEST_CRL, Meaning::Nothing),
    (rfc5280::ID_PE_AUTHORITY_INFO_ACCESS, Meaning::Nothing),
    (rfc5280::ID_PE_SUBJECT_INFO_ACCESS, Meaning::Nothing),
    (rfc5912::ID_CE_NO_REV_AVAIL, Meaning::Nothing),
    (rfc6960::ID_PKIX_OCSP_NOCHECK, Meaning::Nothing),
    (rfc6962::CT_PRECERT_SCTS, Meaning::Nothing),
    (rfc6962::CT_PRECERT_POISON, Meaning::Precertificate),
    (TLS_FEATURE, Meaning::Nothing),
    (LOGOTYPE, Meaning::Nothing),
    (NETSCAPE_CERTIFICATE_TYPE, Meaning::Nothing),
    (NETSCAPE_COMMENT, Meaning::Nothing),
    (MICROSOFT_TEMPLATE, Meaning::Nothing),
];

/// RFC 7633.
const TLS_FEATURE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.24");
/// RFC 9399.
const LOGOTYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.12");
const NETSCAPE_CERTIFICATE_TYPE: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("2.16.840.1.113730.1.1");
const NETSCAPE_COMMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113730.1.13");
/// How an authority of Windows was asked for the certificate.
const MICROSOFT_TEMPLATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.21.7");

/// Purposes of keys that must have no other one (RFC 3161, 2.3; RFC 6960, 4.2.2.2).
const DEDICATED: [ObjectIdentifier; 2] = [ID_KP_TIME_STAMPING, ID_KP_OCSP_SIGNING];

fn meaning(oid: &[u8]) -> Option<Meaning> {
    let found = UNDERSTOOD.iter().find(|(known, _)| known.as_bytes() == oid);
    found.map(|(_, meaning)| *meaning)
}

/// Why nobody may choose to ignore an extension where it is critical: `None` when that is possible.
pub(crate) fn why_not_ignorable(oid: &str) -> Option<&'static str> {
    let is_number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    if !oid.contains('.') || !oid.split('.').all(is_number) {
        return Some("it is no object identifier such as 1.3.6.1.4.1.99999.1");
    }
    let known = UNDERSTOOD
        .iter()
        .find(|(known, _)| known.to_string() == oid);
    known.map(|(_, meaning)| match meaning {
        Meaning::Checked => "it says what a key is for, and that is checked",
        Meaning::Nothing => "it is ignored anyway",
        Meaning::Precertificate => "a certificate that has it is none",
    })
}

/// Whether an extension says that its certificate is none (RFC 6962, 3.1).
pub(crate) fn is_of_precertificate(oid: &str) -> bool {
    oid == rfc6962::CT_PRECERT_POISON.to_string()
}

/// What the extensions of one certificate say.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// Whether they allow signatures on messages.
    pub(super) may_sign: bool,
    /// Whether it is an authority's.
    pub(super) is_ca: bool,
    /// OIDs of those for which it must be refused: critical and not understood, or a precertificate's.
    pub(super) refused: Box<[Box<str>]>,
}

impl Extensions {
    /// Reads the list, if there is one.
    pub(super) fn read(list: Option<Element<'_>>) -> Result<Self, CertificateError> {
        let damaged = |Malformed| CertificateError::Damaged { part: "extensions" };
        let all = list.map_or(Ok(Vec::new()), read_all).map_err(damaged)?;
        let refused = all.iter().filter(|one| one.is_refused());
        Ok(Self {
            may_sign: may_sign(&all).map_err(|Malformed| CertificateError::KeyUsage)?,
            is_ca: is_ca(&all),
            refused: refused.map(|one| dotted(one.oid).into()).collect(),
        })
    }
}

/// `Extension` (RFC 5280, 4.1).
pub(super) struct Extension<'a> {
    pub(super) oid: &'a [u8],
    critical: bool,
    pub(super) value: &'a [u8],
}

pub(super) fn read_all(list: Element<'_>) -> Result<Vec<Extension<'_>>, Malformed> {
    let mut list = list.tagged(tag::SEQUENCE)?.inside();
    let mut all = Vec::new();
    while !list.is_empty() {
        let mut extension = list.expect(tag::SEQUENCE)?.inside();
        let oid = extension.any()?.oid()?;
        let critical = match extension.optional(tag::BOOLEAN)? {
            // DER leaves out what is the default. Authorities have written it all the same.
            Some(critical) => critical.boolean()?,
            None => false,
        };
        let value = extension.expect(tag::OCTET_STRING)?.value();
        extension.finish()?;
        all.push(Extension {
            oid,
            critical,
            value,
        });
    }
    Ok(all)
}

impl Extension<'_> {
    fn is_refused(&self) -> bool {
        match meaning(self.oid) {
            None => self.critical,
            Some(Meaning::Precertificate) => true,
            Some(Meaning::Checked | Meaning::Nothing) => false,
        }
    }
}

/// The one extension of that kind; several of one kind are not allowed (RFC 5280, 4.2).
fn only<'a>(
    all: &[Extension<'a>],
    oid: ObjectIdentifier,
) -> Result<Option<Element<'a>>, Malformed> {
    let mut found = all.iter().filter(|one| one.oid == oid.as_bytes());
    match (found.next(), found.next()) {
        (Some(one), None) => Element::only(one.value).map(Some),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Malformed),
    }
}

fn may_sign(all: &[Extension<'_>]) -> Result<bool, Malformed> {
    let usage = match only(all, rfc5280::ID_CE_KEY_USAGE)? {
        // digitalSignature is the first bit, nonRepudiation the second one; any number may follow.
        Some(usage) => usage.bits()?.first().is_some_and(|first| first & 0xc0 != 0),
        None => true,
    };
    let purpose = match only(all, rfc5280::ID_CE_EXT_KEY_USAGE)? {
        Some(purposes) => has_other_purpose(purposes)?,
        None => true,
    };
    Ok(usage && purpose)
}

/// Whether there is a purpose that does not exclude all others.
fn has_other_purpose(purposes: Element<'_>) -> Result<bool, Malformed> {
    let mut purposes = purposes.tagged(tag::SEQUENCE)?.inside();
    let mut other = false;
    while !purposes.is_empty() {
        let purpose = purposes.any()?.oid()?;
        other |= !DEDICATED.iter().any(|one| one.as_bytes() == purpose);
    }
    Ok(other)
}

/// Whether the basic constraints say so. Those that cannot be read may.
fn is_ca(all: &[Extension<'_>]) -> bool {
    let oid = rfc5280::ID_CE_BASIC_CONSTRAINTS;
    let constraints = all.iter().find(|one| one.oid == oid.as_bytes());
    constraints.is_some_and(|one| says_ca(one.value).unwrap_or(true))
}

/// `BasicConstraints` (RFC 5280, 4.2.1.9).
pub(super) fn says_ca(value: &[u8]) -> Result<bool, Malformed> {
    let mut fields = Element::only(value)?.tagged(tag::SEQUENCE)?.inside();
    let ca = fields.optional(tag::BOOLEAN)?;
    Ok(ca.is_some_and(|ca| ca.value() != [0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_understood_can_be_ignored() {
        for oid in [
            "1.3.6.1.4.1.99999.1",
            "2.25.340282366920938463463374607431768211455",
        ] {
            assert_eq!(why_not_ignorable(oid), None);
        }
        for (oid, reason) in [
            ("", "no object identifier"),
            ("keyUsage", "no object identifier"),
            ("1.3.6.1.4.1.99999.01", "no object identifier"),
            ("1.3.6.1.4.1..1", "no object identifier"),
            ("13", "no object identifier"),
            ("2.5.29.15", "that is checked"),
            ("2.5.29.32", "ignored anyway"),
            ("1.3.6.1.4.1.11129.2.4.3", "is none"),
        ] {
            let why = why_not_ignorable(oid).unwrap_or_default();
            assert!(why.contains(reason), "{oid}: {why}");
        }
    }
}
