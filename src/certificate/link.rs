//! [`Link`]: how a certificate stands in a chain. Read of certificates that cannot be used here too: an authority's key may
//! be of any kind.

use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS, ID_CE_KEY_USAGE,
    ID_CE_SUBJECT_KEY_IDENTIFIER,
};

use super::asn1::{Element, Malformed, tag};
use super::error::CertificateError;
use super::extensions::{Extension, read_all, says_ca};
use super::fields::{Fields, begin, end};
use super::name::Name;
use crate::pss::Digest;

/// Subject and issuer of a certificate, their key identifiers, and whether it is an authority's.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) subject: NameHash,
    pub(crate) issuer: NameHash,
    pub(crate) subject_key: Option<Box<[u8]>>,
    pub(crate) authority_key: Option<Box<[u8]>>,
    /// It may issue certificates: `CA:TRUE`, and a key usage with `keyCertSign` or none at all.
    pub(crate) is_authority: bool,
}

/// Stands for a name. Names that differ in capitals, blanks or string types alone have the same one (RFC 5280, 7.1).
pub(crate) type NameHash = [u8; 32];

impl Link {
    /// Reads what the DER of any certificate says.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Self::read(der).map_err(|Malformed| CertificateError::Damaged { part: "structure" })
    }

    fn read(der: &[u8]) -> Result<Self, Malformed> {
        let (mut tbs, _serial) = begin(der)?;
        let issuer = tbs.any()?;
        let _validity = tbs.any()?;
        let subject = tbs.any()?;
        let _key = tbs.any()?;
        let extensions = end(tbs)?.map_or(Ok(Vec::new()), read_all)?;
        let value = |oid: &[u8]| {
            let mut all = extensions.iter();
            all.find(|one: &&Extension<'_>| one.oid == oid)
                .map(|one| one.value)
        };
        // What cannot be read is taken for an authority's: that makes nobody a signer.
        let is_ca = value(ID_CE_BASIC_CONSTRAINTS.as_bytes())
            .is_some_and(|constraints| says_ca(constraints).unwrap_or(true));
        let may_issue = value(ID_CE_KEY_USAGE.as_bytes())
            .is_none_or(|usage| has_key_cert_sign(usage).unwrap_or(true));
        Ok(Self {
            subject: name_hash(subject),
            issuer: name_hash(issuer),
            subject_key: value(ID_CE_SUBJECT_KEY_IDENTIFIER.as_bytes()).and_then(subject_key),
            authority_key: value(ID_CE_AUTHORITY_KEY_IDENTIFIER.as_bytes()).and_then(authority_key),
            is_authority: is_ca && may_issue,
        })
    }

    /// The subject (RFC 4514 text) of any certificate, for showing it.
    pub(crate) fn subject_of(der: &[u8]) -> Option<String> {
        let fields = Fields::read(der).ok()?;
        Some(fields.subject.to_string())
    }

    /// Whether subject and issuer are the same, as of what signed itself.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }
}

/// `KeyUsage` (RFC 5280, 4.2.1.3): keyCertSign is the sixth bit.
fn has_key_cert_sign(value: &[u8]) -> Result<bool, Malformed> {
    let bits = Element::only(value)?.bits()?;
    Ok(bits.first().is_some_and(|byte| byte & 0x04 != 0))
}

/// `SubjectKeyIdentifier` (RFC 5280, 4.2.1.2).
fn subject_key(value: &[u8]) -> Option<Box<[u8]>> {
    let id = Element::only(value).and_then(|id| id.tagged(tag::OCTET_STRING));
    id.ok().map(|id| id.value().into())
}

/// `AuthorityKeyIdentifier` (RFC 5280, 4.2.1.1): the key identifier is `[0]`, and may be left out.
fn authority_key(value: &[u8]) -> Option<Box<[u8]>> {
    let fields = Element::only(value).ok()?.tagged(tag::SEQUENCE).ok()?;
    let id = fields.inside().optional(0x80).ok()??;
    Some(id.value().into())
}

fn name_hash(name: Element<'_>) -> NameHash {
    // A name that nobody can read is equal to itself alone.
    let plain =
        Name::read(name).map_or_else(|Malformed| name.whole().to_vec(), |name| plain(&name));
    let mut hash = [0; 32];
    hash.copy_from_slice(Digest::Sha256.hash(&plain).as_bytes());
    hash
}

/// The attributes of a name: of each its RDN, its type, and its text in small letters with single blanks.
fn plain(name: &Name<'_>) -> Vec<u8> {
    let mut plain = Vec::new();
    for (rdn, oid, value) in name.attributes() {
        let text = String::from_utf8_lossy(value.value());
        let text = match value.tag() {
            tag::UTF8_STRING
            | tag::PRINTABLE_STRING
            | tag::IA5_STRING
            | tag::TELETEX_STRING
            | tag::VISIBLE_STRING => text.to_lowercase(),
            _ => text.into_owned(),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        for part in [&rdn.to_be_bytes()[..], oid, text.as_bytes()] {
            plain.extend(part.len().to_be_bytes());
            plain.extend(part);
        }
    }
    plain
}
