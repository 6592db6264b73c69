//! Making tokens and keys, and listing what is there.

use std::path::Path;

use super::builder::Builder;
use super::certificates::{TokenCertificate, read_certificates};
use super::error::Error;
use super::find::{FoundKey, KEY_GENERATION, KeyFilter, Match, read_keys};
use super::guard::Guard;
use super::info::KeyInfo;
use super::make::{keep_in_time, random_id, refuse_existing, undo};
use super::module::{
    Attribute, AttributeKind as Kind, Module as _, ModuleSession, ObjectClass, ObjectHandle, User,
};
use super::pin::Pin;
use super::rv::Rv;
use super::session::{Access, Login};
use super::slots::{read_token, tokens};
use super::token::TokenInfo;
use super::uri::Uri;
use crate::hex::hex;

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

/// Lists the tokens of a module, uninitialised ones too, within [`Builder::DEFAULT_DEADLINE`]. A token that cannot be read
/// is listed with the reason.
///
/// # Errors
/// [`Error::ModuleLoad`], [`Error::Timeout`], or [`Error::Call`] when the module does not list its slots.
pub fn list_tokens(module_path: &Path) -> Result<Vec<TokenInfo>, Error> {
    let builder = Builder::new().module_path(module_path);
    builder.on_module(Builder::DEFAULT_DEADLINE, all_tokens)
}

/// Initialises the first blank token of a module (`C_InitToken`, `C_InitPIN`) and returns it; its slot may have got
/// another number.
///
/// # Errors
/// [`Error::Exists`] when a token of that label is there; [`Error::NoBlankToken`]; [`Error::Argument`] for a label that
/// is empty or longer than 32 bytes; [`Error::Call`] when a call fails, and [`Error::Timeout`] after
/// [`Builder::DEFAULT_PROVISION_DEADLINE`]: the token may then be half initialised.
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
    let builder = Builder::new().module_path(module_path);
    let (label, so_pin, user_pin) = (label.to_owned(), so_pin.clone(), user_pin.clone());
    builder.on_module(Builder::DEFAULT_PROVISION_DEADLINE, move |module| {
        let blank = blank_token(module, &label)?;
        module
            .init_token(blank.slot_id, &so_pin, &label)
            .map_err(|call| Error::call(call, Some(&blank)))?;
        let is_new = |token: &TokenInfo| token.label == label && token.flags.initialized;
        let token = all_tokens(module)?.into_iter().find(is_new);
        let token = token.ok_or_else(|| Error::Misbehaved {
            on: module.name(),
            what: format!("does not show the new token {label:?}"),
        })?;
        set_user_pin(module, &token, &so_pin, &user_pin)?;
        tracing::info!(%token, "token initialised");
        Ok(read_token(module, token.slot_id))
    })
}

fn all_tokens(module: &Guard) -> Result<Vec<TokenInfo>, Error> {
    tokens(module).map_err(|call| Error::call(call, None))
}

/// The first one, unless the label is taken.
fn blank_token(module: &Guard, label: &str) -> Result<TokenInfo, Error> {
    let found = all_tokens(module)?;
    if let Some(token) = found.iter().find(|token| token.label == label) {
        return Err(Error::Exists {
            what: token.to_string(),
            on: module.path().display().to_string(),
        });
    }
    let is_blank = |token: &&TokenInfo| !token.flags.initialized && token.unreadable.is_none();
    match found.iter().find(is_blank) {
        Some(blank) => Ok(blank.clone()),
        None => Err(Error::NoBlankToken {
            module: module.path().to_owned(),
            found,
        }),
    }
}

/// The security officer's session ends with this function, and with it the login.
fn set_user_pin(
    module: &Guard,
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
/// [`Error`]: module, token, PIN, a call, or [`Error::Timeout`] when the
/// [`provision_deadline`](Builder::provision_deadline) passes.
pub fn list_keys(builder: &Builder) -> Result<Vec<KeyInfo>, Error> {
    builder.in_session(false, |access, session, _| {
        let all = [Attribute::class(ObjectClass::PrivateKey)];
        let keys = read_keys(access, session, &all)?;
        let certificates = read_certificates(access, session)?;
        let counted = |FoundKey { mut info, .. }| {
            let belongs = |found: &&TokenCertificate| {
                info.is_half_of(found.certificate.public_key()) == Some(true)
            };
            info.certificates = certificates.iter().filter(belongs).count();
            info
        };
        Ok(keys.into_iter().map(counted).collect())
    })
}

/// Generates an RSA key pair on the token: not extractable, sensitive, for signing only, with the exponent 65537.
///
/// # Errors
/// [`Error::Exists`] when an object with that label or id is there (NSS would silently overwrite a key with the same
/// id); [`Error::Argument`] for a size or id that is not possible; [`Error::Extractable`] when the token made a key that
/// can be read, which is then destroyed again; [`Error::Timeout`] when the
/// [`provision_deadline`](Builder::provision_deadline) passes: a key that comes later is destroyed again too.
pub fn generate_key(builder: &Builder, key: &NewKey) -> Result<KeyInfo, Error> {
    builder.options.sizes.check(key.bits)?;
    let id = key.check()?;
    let key = key.clone();
    builder.on_token(builder.provision_deadline, move |access, deadline| {
        let offered = access
            .module
            .mechanism(access.token.slot_id, KEY_GENERATION)
            .map_err(|call| access.failed(call))?;
        if !offered.is_some_and(|info| info.generate_key_pair) {
            return Err(Error::Misbehaved {
                on: access.token.to_string(),
                what: format!("does not offer {KEY_GENERATION}"),
            });
        }
        let (session, _) = access.open(true, Login::IfNeeded, deadline)?;
        let session = session.as_ref();
        let by_id = [Attribute::bytes(Kind::Id, &id)];
        let what = format!("an object with id {}", hex(&id));
        refuse_existing(access, session, &by_id, &what)?;
        let by_label = [Attribute::bytes(Kind::Label, key.label.as_bytes())];
        let what = format!("an object with label {:?}", key.label);
        refuse_existing(access, session, &by_label, &what)?;
        let (public, private) = make_pair(access, session, &key, &id)?;
        let made = check_new(access, session, key.label, id)
            .and_then(|made| keep_in_time(access, deadline).map(|()| made))
            .inspect_err(|_| undo(session, &[public, private]))?;
        tracing::info!(key = %made, token = %access.token, "key generated");
        Ok(made)
    })
}

impl NewKey {
    /// The id that it gets.
    fn check(&self) -> Result<Vec<u8>, Error> {
        let refused = |reason: String| Err(Error::Argument(reason));
        if !self.bits.is_multiple_of(64) {
            let bits = self.bits;
            return refused(format!(
                "{bits} bits are not possible; use 2048, 3072 or 4096"
            ));
        }
        if self.label.is_empty() || self.label.len() > Uri::MAX_TEXT_LEN {
            return refused("a key needs a label of 1 to 255 bytes".to_owned());
        }
        match &self.id {
            Some(id) if id.is_empty() || id.len() > Uri::MAX_TEXT_LEN => {
                refused("the id of a key has 1 to 255 bytes".to_owned())
            }
            Some(id) => Ok(id.clone()),
            None => random_id(),
        }
    }
}

fn make_pair(
    access: &Access,
    session: &dyn ModuleSession,
    key: &NewKey,
    id: &[u8],
) -> Result<(ObjectHandle, ObjectHandle), Error> {
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
    made.map_err(|call| access.failed(call))
}

/// The key as the token shows it, if it is as it was asked for.
fn check_new(
    access: &Access,
    session: &dyn ModuleSession,
    label: String,
    id: Vec<u8>,
) -> Result<KeyInfo, Error> {
    let filter = KeyFilter {
        label: Some(label),
        id: Some(id),
        public_key: None,
    };
    let Match::One(found) = filter.find(access, session)? else {
        return Err(Error::Misbehaved {
            on: access.token.to_string(),
            what: "does not show the new key, which was removed again".to_owned(),
        });
    };
    let info = found.info;
    if info.sensitive == Some(true) && info.extractable == Some(false) {
        return Ok(info);
    }
    Err(Error::Extractable {
        key: info.name(),
        token: Box::new(access.token.clone()),
        reason: "the token did not keep CKA_SENSITIVE and CKA_EXTRACTABLE as asked; the new key was destroyed",
    })
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
