//! Making tokens and keys, listing what is there, and putting certificates beside their keys.

use std::fmt;
use std::path::Path;

use der::{Decode as _, Encode as _};

use super::Builder;
use super::error::{Error, object_name};
use super::find::{KEY_GENERATION, KeyFilter, read_keys};
use super::module::{
    Attribute, AttributeKind as Kind, Module, ModuleSession, ObjectClass, User, load,
};
use super::pin::Pin;
use super::rv::Rv;
use super::session::Access;
use super::token::{TokenInfo, tokens};
use crate::certificate::{Certificate, hex};
use crate::error::ErrorClass;
use crate::public_key::PublicKey;

/// A private key on a token. What the token does not tell is `None`, which is not the same as `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// Whether it is an RSA key.
    pub is_rsa: Option<bool>,
    /// The public half, if it can be read and is supported.
    pub public_key: Option<PublicKey>,
    /// `CKA_SENSITIVE`: its value cannot be read.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`: it can be wrapped and taken out.
    pub extractable: Option<bool>,
    /// `CKA_ALWAYS_SENSITIVE`. Some tokens report it wrongly.
    pub always_sensitive: Option<bool>,
    /// `CKA_NEVER_EXTRACTABLE`. Some tokens report it wrongly.
    pub never_extractable: Option<bool>,
    /// `CKA_ALWAYS_AUTHENTICATE`: it wants a login for each signature.
    pub always_authenticate: Option<bool>,
    /// `CKA_LOCAL`: it was generated on the token. Some tokens report it wrongly.
    pub local: Option<bool>,
    /// `CKA_SIGN`.
    pub sign: Option<bool>,
    /// How many X.509 certificates on the token have its public half. Only [`list_keys`] counts them.
    pub certificates: usize,
}

impl KeyInfo {
    /// Size of the modulus in bits, if it is known.
    #[must_use]
    pub fn bits(&self) -> Option<usize> {
        self.public_key.as_ref().map(PublicKey::bits)
    }

    /// The id in lower-case hexadecimal.
    #[must_use]
    pub fn id_hex(&self) -> String {
        hex(&self.id)
    }
}

impl fmt::Display for KeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&object_name(&self.label, &self.id))?;
        match (self.is_rsa, self.bits()) {
            (Some(false), _) => f.write_str(", not RSA"),
            (_, Some(bits)) => write!(f, ", RSA {bits}"),
            (_, None) => Ok(()),
        }
    }
}

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

/// What a new key shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Size of the modulus, in bits: 2048 to 8192, a multiple of 64.
    pub bits: usize,
    /// `CKA_LABEL` of both halves.
    pub label: String,
    /// `CKA_ID` of both halves; 16 random bytes when there is none.
    pub id: Option<Vec<u8>>,
}

/// Lists the tokens of a module, uninitialised ones too. A token that cannot be read is listed with the reason.
///
/// # Errors
/// [`Error::ModuleLoad`], or [`Error::Call`] when the module does not list its slots.
pub fn list_tokens(module_path: &Path) -> Result<Vec<TokenInfo>, Error> {
    tokens(load(module_path)?.as_ref()).map_err(|call| Error::call(call, None))
}

/// Initialises the first blank token of a module (`C_InitToken`, `C_InitPIN`) and returns it; its slot may have got
/// another number.
///
/// # Errors
/// [`Error::Exists`] when a token of that label is there; [`Error::NoBlankToken`]; [`Error::Argument`] for a label that
/// is empty or longer than 32 bytes; [`Error::Call`] when a call fails, after which the token may be half initialised.
pub fn init_token(
    module_path: &Path,
    label: &str,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<TokenInfo, Error> {
    // CK_TOKEN_INFO pads labels with blanks, so those at the end would be lost.
    if label.is_empty() || label.len() > 32 || label.trim_end() != label || label.contains('\0') {
        return Err(Error::Argument(format!(
            "the token label {label:?} is not possible; it has 1 to 32 bytes and does not end with a blank"
        )));
    }
    let module = load(module_path)?;
    let module = module.as_ref();
    let listed = || tokens(module).map_err(|call| Error::call(call, None));
    let before = listed()?;
    if let Some(token) = before.iter().find(|token| token.label == label) {
        return Err(Error::Exists {
            what: token.to_string(),
            on: module.path().display().to_string(),
        });
    }
    let blank = before
        .iter()
        .find(|token| !token.flags.initialized && token.unreadable.is_none());
    let Some(blank) = blank else {
        return Err(Error::NoBlankToken {
            module: module.path().to_owned(),
            found: before.clone(),
        });
    };
    module
        .init_token(blank.slot_id, so_pin, label)
        .map_err(|call| Error::call(call, Some(blank)))?;
    let token = listed()?
        .into_iter()
        .find(|token| token.label == label && token.flags.initialized)
        .ok_or_else(|| {
            Error::Argument(format!("the module does not show the new token {label:?}"))
        })?;
    set_user_pin(module, &token, so_pin, user_pin)?;
    tracing::info!(%token, "token initialised");
    Ok(TokenInfo::read(module, token.slot_id))
}

/// The security officer's session ends with this function, and with it the login.
fn set_user_pin(
    module: &dyn Module,
    token: &TokenInfo,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<(), Error> {
    let failed = |call| Error::call(call, Some(token));
    let session = module.open_session(token.slot_id, true).map_err(failed)?;
    session
        .login(User::SecurityOfficer, Some(so_pin))
        .map_err(failed)?;
    session.init_pin(user_pin).map_err(failed)
}

/// Lists the private keys of the token.
///
/// # Errors
/// [`Error`]: module, token, PIN, or a call.
pub fn list_keys(builder: &Builder) -> Result<Vec<KeyInfo>, Error> {
    let (access, session) = builder.session(false)?;
    let session = session.as_ref();
    let keys = read_keys(
        &access,
        session,
        &[Attribute::class(ObjectClass::PrivateKey)],
    )?;
    let certificates = read_certificates(&access, session)?;
    Ok(keys
        .into_iter()
        .map(|key| {
            let belongs = |found: &&TokenCertificate| {
                key.info.public_key.as_ref() == Some(found.certificate.public_key())
            };
            let certificates = certificates.iter().filter(belongs).count();
            KeyInfo {
                certificates,
                ..key.info
            }
        })
        .collect())
}

/// Generates an RSA key pair on the token: not extractable, sensitive, for signing only, with the exponent 65537.
///
/// # Errors
/// [`Error::Exists`] when an object with that label or id is there (NSS would silently overwrite a key with the same
/// id); [`Error::Argument`] for a size or id that is not possible; [`Error::Extractable`] when the token made a key that
/// can be read, which is then destroyed again.
pub fn generate_key(builder: &Builder, key: &NewKey) -> Result<KeyInfo, Error> {
    builder.options.sizes.check(key.bits)?;
    if !key.bits.is_multiple_of(64) {
        return Err(Error::Argument(format!(
            "{} bits are not possible; use 2048, 3072 or 4096",
            key.bits
        )));
    }
    if key.label.is_empty() || key.label.len() > super::Uri::MAX_TEXT_LEN {
        return Err(Error::Argument(
            "a key needs a label of 1 to 255 bytes".to_owned(),
        ));
    }
    let id = match &key.id {
        Some(id) if id.is_empty() || id.len() > super::Uri::MAX_TEXT_LEN => {
            return Err(Error::Argument(
                "the id of a key has 1 to 255 bytes".to_owned(),
            ));
        }
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let access = builder.access()?;
    let offered = access
        .module
        .mechanism(access.token.slot_id, KEY_GENERATION);
    match offered.map_err(|call| access.failed(call))? {
        Some(info) if info.generate_key_pair => {}
        _ => {
            return Err(Error::Argument(format!(
                "{} does not offer {KEY_GENERATION}",
                access.token
            )));
        }
    }
    let (access, session) = builder.session(true)?;
    let session = session.as_ref();
    refuse_existing(
        &access,
        session,
        &[Attribute::bytes(Kind::Id, &id)],
        &format!("an object with id {}", hex(&id)),
    )?;
    let label = Attribute::bytes(Kind::Label, key.label.as_bytes());
    refuse_existing(
        &access,
        session,
        &[label],
        &format!("an object with label {:?}", key.label),
    )?;
    make_pair(&access, session, key, &id)?;
    let filter = KeyFilter {
        label: Some(key.label.clone()),
        id: Some(id),
        public_key: None,
    };
    let made = filter.find(&access, session)?;
    let made =
        made.ok_or_else(|| Error::Argument("the token does not show the new key".to_owned()))?;
    if made.info.sensitive != Some(true) || made.info.extractable != Some(false) {
        let _ = session.destroy(made.handle);
        return Err(Error::Extractable {
            key: made.info.name(),
            token: Box::new(access.token.clone()),
            reason: "the token did not keep CKA_SENSITIVE and CKA_EXTRACTABLE as asked; the new key was destroyed",
        });
    }
    tracing::info!(key = %made.info, token = %access.token, "key generated");
    Ok(made.info)
}

fn make_pair(
    access: &Access,
    session: &dyn ModuleSession,
    key: &NewKey,
    id: &[u8],
) -> Result<(), Error> {
    let named = [
        Attribute::bytes(Kind::Label, key.label.as_bytes()),
        Attribute::bytes(Kind::Id, id),
    ];
    let mut public = vec![
        Attribute::flag(Kind::Token, true),
        Attribute::flag(Kind::Private, false),
        Attribute::flag(Kind::Verify, true),
        Attribute::number(Kind::ModulusBits, key.bits as u64),
        Attribute::bytes(Kind::PublicExponent, &[1, 0, 1]),
    ];
    public.extend(named.clone());
    let mut private = vec![
        Attribute::flag(Kind::Token, true),
        Attribute::flag(Kind::Private, true),
        Attribute::flag(Kind::Sensitive, true),
        Attribute::flag(Kind::Extractable, false),
        Attribute::flag(Kind::Sign, true),
    ];
    private.extend(named);
    // For signing only. What is not said is up to the token, and some say yes.
    let no = |kinds: &[Kind]| {
        kinds
            .iter()
            .map(|kind| Attribute::flag(*kind, false))
            .collect::<Vec<_>>()
    };
    let strict_public = [public.clone(), no(&[Kind::Encrypt, Kind::Wrap])].concat();
    let strict_private = [private.clone(), no(&[Kind::Decrypt, Kind::Unwrap])].concat();
    let made = match session.generate_rsa(&strict_public, &strict_private) {
        Err(call) if call.rv().is_some_and(is_template_error) => {
            // A call that says so may have made the pair all the same, and a second one is not to be had by accident.
            let found = session.find(&[Attribute::bytes(Kind::Id, id)]);
            if !found.is_ok_and(|found| found.is_empty()) {
                return Err(access.failed(call));
            }
            tracing::warn!(%call, "the token does not take a key for signing only; asking again without");
            session.generate_rsa(&public, &private)
        }
        made => made,
    };
    made.map(|_| ()).map_err(|call| access.failed(call))
}

const fn is_template_error(rv: Rv) -> bool {
    matches!(
        rv,
        Rv::ATTRIBUTE_READ_ONLY
            | Rv::ATTRIBUTE_TYPE_INVALID
            | Rv::ATTRIBUTE_VALUE_INVALID
            | Rv::TEMPLATE_INCONSISTENT
            // tpm2-pkcs11's word for it.
            | Rv::GENERAL_ERROR
    )
}

pub(super) fn random_id() -> Result<Vec<u8>, Error> {
    let mut id = vec![0; 16];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_| Error::Argument("the operating system gives no randomness".to_owned()))?;
    Ok(id)
}

pub(super) fn refuse_existing(
    access: &Access,
    session: &dyn ModuleSession,
    template: &[Attribute],
    what: &str,
) -> Result<(), Error> {
    let found = session.find(template).map_err(|call| access.failed(call))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Exists {
        what: what.to_owned(),
        on: access.token.to_string(),
    })
}

/// Lists the X.509 certificates of the token that can be read; others are logged and left out.
///
/// # Errors
/// [`Error`]: module, token, PIN, or a call.
pub fn find_certificates(builder: &Builder) -> Result<Vec<TokenCertificate>, Error> {
    let (access, session) = builder.session(false)?;
    read_certificates(&access, session.as_ref())
}

/// Puts a certificate beside its private key (`C_CreateObject`), with the key's id, and its label unless another is
/// given.
///
/// # Errors
/// [`Error::KeyNotFound`] when the token has no private key for it; [`Error::Exists`] when it is there already.
pub fn import_certificate(
    builder: &Builder,
    certificate: &Certificate,
    label: Option<&str>,
) -> Result<TokenCertificate, Error> {
    let (access, session) = builder.session(true)?;
    let session = session.as_ref();
    let filter = KeyFilter {
        public_key: Some(certificate.public_key().clone()),
        ..builder.key_filter()?
    };
    let key = filter
        .find(&access, session)?
        .ok_or_else(|| Error::KeyNotFound {
            wanted: filter.to_string(),
            token: Box::new(access.token.clone()),
            found: Vec::new(),
        })?;
    if read_certificates(&access, session)?
        .iter()
        .any(|found| found.certificate == *certificate)
    {
        let what = format!("the certificate {:?}", certificate.id());
        return Err(Error::Exists {
            what,
            on: access.token.to_string(),
        });
    }
    let parsed = x509_cert::Certificate::from_der(certificate.der())
        .map_err(crate::certificate::CertificateError::Der)?;
    let tbs = parsed.tbs_certificate();
    let der =
        |encoded: der::Result<Vec<u8>>| encoded.map_err(crate::certificate::CertificateError::Der);
    let label = label.unwrap_or(&key.info.label);
    let template = [
        Attribute::class(ObjectClass::Certificate),
        Attribute::x509(),
        Attribute::flag(Kind::Token, true),
        Attribute::flag(Kind::Private, false),
        Attribute::bytes(Kind::Label, label.as_bytes()),
        Attribute::bytes(Kind::Id, &key.info.id),
        Attribute::bytes(Kind::Subject, &der(tbs.subject().to_der())?),
        Attribute::bytes(Kind::Issuer, &der(tbs.issuer().to_der())?),
        Attribute::bytes(Kind::SerialNumber, &der(tbs.serial_number().to_der())?),
        Attribute::bytes(Kind::Value, certificate.der()),
    ];
    session
        .create(&template)
        .map_err(|call| access.failed(call))?;
    tracing::info!(certificate = certificate.id(), token = %access.token, "certificate imported");
    Ok(TokenCertificate {
        label: label.to_owned(),
        id: key.info.id,
        certificate: certificate.clone(),
    })
}

/// The one certificate on the token that has the key's public half; of several, the one with the key's id.
pub(super) fn certificate_of(
    access: &Access,
    session: &dyn ModuleSession,
    key: &KeyInfo,
) -> Result<Certificate, Error> {
    let mut all = read_certificates(access, session)?;
    all.retain(|found| Some(found.certificate.public_key()) == key.public_key.as_ref());
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

fn read_certificates(
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
