//! Certificates that are put on a token, and listed.

use super::builder::Builder;
use super::certificates::{TokenCertificate, read_certificates};
use super::error::Error;
use super::find::{KeyFilter, find_key};
use super::make::{keep_in_time, undo};
use super::module::{Attribute, AttributeKind as Kind, ModuleSession, ObjectClass, ObjectHandle};
use super::session::Access;
use crate::certificate::Certificate;

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
