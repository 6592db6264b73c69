//! X.509 certificates on a token, beside their keys.

use super::Builder;
use super::error::{Error, object_name};
use super::find::{KeyFilter, find_key};
use super::module::{Attribute, AttributeKind as Kind, ModuleSession, ObjectClass, ObjectHandle};
use super::provision::{KeyInfo, keep_in_time, undo};
use super::session::Access;
use crate::certificate::Certificate;
use crate::error::ErrorClass;

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

/// Lists the X.509 certificates of the token that can be read; others are logged and left out.
///
/// # Errors
/// [`Error`]: module, token, PIN, or a call.
pub fn find_certificates(builder: &Builder) -> Result<Vec<TokenCertificate>, Error> {
    builder.in_session(false, |access, session, _| {
        read_certificates(access, session)
    })
}

/// Puts a certificate beside its private key (`C_CreateObject`), with the key's id, and its label unless another is
/// given.
///
/// # Errors
/// [`Error::KeyNotFound`] when the token has no private key for it; [`Error::Exists`] when it is there already;
/// [`Error::Timeout`] when the [`provision_deadline`](Builder::provision_deadline) passes, after which it is not kept.
pub fn import_certificate(
    builder: &Builder,
    certificate: &Certificate,
    label: Option<&str>,
) -> Result<TokenCertificate, Error> {
    let filter = KeyFilter {
        public_key: Some(certificate.public_key().clone()),
        ..builder.key_filter()?
    };
    let (certificate, label) = (certificate.clone(), label.map(str::to_owned));
    builder.in_session(true, move |access, session, deadline| {
        let key = find_key(access, session, &filter)?;
        let imported = TokenCertificate {
            label: label.unwrap_or(key.info.label),
            id: key.info.id,
            certificate,
        };
        let object = imported.write(access, session)?;
        keep_in_time(access, deadline).inspect_err(|_| undo(session, &[object]))?;
        tracing::info!(certificate = imported.certificate.id(), token = %access.token, "certificate imported");
        Ok(imported)
    })
}

impl TokenCertificate {
    fn write(&self, access: &Access, session: &dyn ModuleSession) -> Result<ObjectHandle, Error> {
        let certificate = &self.certificate;
        let is_same = |found: &Self| found.certificate == *certificate;
        if read_certificates(access, session)?.iter().any(is_same) {
            return Err(Error::Exists {
                what: format!("the certificate {:?}", certificate.id()),
                on: access.token.to_string(),
            });
        }
        let template = [
            Attribute::class(ObjectClass::Certificate),
            Attribute::x509(),
            Attribute::flag(Kind::Token, true),
            Attribute::flag(Kind::Private, false),
            Attribute::bytes(Kind::Label, self.label.as_bytes()),
            Attribute::bytes(Kind::Id, &self.id),
            Attribute::bytes(Kind::Subject, certificate.subject_der()),
            Attribute::bytes(Kind::Issuer, certificate.issuer_der()),
            Attribute::bytes(Kind::SerialNumber, certificate.serial_number_der()),
            Attribute::bytes(Kind::Value, certificate.der()),
        ];
        session
            .create(&template)
            .map_err(|call| access.failed(call))
    }
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
                debug_assert_eq!(error.class(), ErrorClass::Permanent);
                tracing::warn!(object = %object_name(&label, &id), %error, "a certificate on the token is not usable");
            }
        }
    }
    Ok(found)
}
