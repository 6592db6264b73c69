//! X.509 certificates on a token, beside their keys.

use super::error::Error;
use super::info::{KeyInfo, object_name};
use super::module::{Attribute, AttributeKind as Kind, ModuleSession, ObjectClass};
use super::session::Access;
use crate::certificate::Certificate;

/// An X.509 certificate on a token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenCertificate {
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_ID`; by convention that of its key.
    pub id: Vec<u8>,
    /// The certificate.
    pub certificate: Certificate,
}

/// The one certificate on the token that has the key's public half; of several, the one with the key's id. Where the token
/// tells nothing of the public half, the id alone says it.
pub(super) fn certificate_of(
    access: &Access,
    session: &dyn ModuleSession,
    key: &KeyInfo,
) -> Result<Certificate, Error> {
    let mut all = read_certificates(access, session)?;
    let has_id = |found: &TokenCertificate| !key.id.is_empty() && found.id == key.id;
    all.retain(|found| {
        let half = key.is_half_of(found.certificate.public_key());
        half.unwrap_or_else(|| has_id(found))
    });
    if all.len() > 1 && all.iter().any(|found| found.id == key.id) {
        all.retain(|found| found.id == key.id);
    }
    let token = || Box::new(access.token.clone());
    match (all.pop(), all.is_empty()) {
        (Some(found), true) => Ok(found.certificate),
        (Some(found), false) => {
            all.push(found);
            let found = all
                .iter()
                .map(|found| found.certificate.id().to_owned())
                .collect();
            Err(Error::SeveralCertificates {
                key: key.name(),
                token: token(),
                found,
            })
        }
        (None, _) => Err(Error::CertificateNotFound {
            key: key.name(),
            token: token(),
        }),
    }
}

pub(super) fn read_certificates(
    access: &Access,
    session: &dyn ModuleSession,
) -> Result<Vec<TokenCertificate>, Error> {
    let template = [
        Attribute::class(ObjectClass::Certificate),
        Attribute::x509(),
    ];
    let handles = session
        .find(&template)
        .map_err(|call| access.failed(call))?;
    let mut found = Vec::new();
    for handle in handles {
        let attributes = session
            .attributes(handle, &[Kind::Label, Kind::Id, Kind::Value])
            .map_err(|call| access.failed(call))?;
        let label = attributes.text(Kind::Label).unwrap_or_default();
        let id = attributes.bytes(Kind::Id).unwrap_or_default().to_vec();
        // Anybody with write access to the token can have put it there, so it is read like any stranger's.
        match Certificate::from_der(attributes.bytes(Kind::Value).unwrap_or_default()) {
            Ok(certificate) => found.push(TokenCertificate {
                label,
                id,
                certificate,
            }),
            Err(error) => {
                tracing::warn!(object = %object_name(&label, &id), %error, "a certificate on the token is not usable");
            }
        }
    }
    Ok(found)
}
