//! Finding a private key on a token, and what is checked of it.

use std::fmt;

use super::certificates::read_certificates;
use super::error::Error;
use super::info::KeyInfo;
use super::module::{
    Attribute, AttributeKind as Kind, KeyType, MechanismKind, ModuleSession, ObjectClass,
    ObjectHandle,
};
use super::recovery::Find;
use super::session::Access;
use crate::public_key::{PublicKey, strip_zeros};

/// Which private key is meant.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyFilter {
    pub(super) label: Option<String>,
    pub(super) id: Option<Vec<u8>>,
    /// The public half that it must have: that of a certificate.
    pub(super) public_key: Option<PublicKey>,
}

impl fmt::Display for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.label.as_ref().map(|label| format!("label {label:?}")));
        parts.extend(
            self.id
                .as_ref()
                .map(|id| format!("id {}", crate::hex::hex(id))),
        );
        parts.extend(
            self.public_key
                .as_ref()
                .map(|_| "the certificate's public key".to_owned()),
        );
        if parts.is_empty() {
            return f.write_str("any attributes (none are given)");
        }
        f.write_str(&parts.join(", "))
    }
}

/// The one key that is meant, or what is in its place. None at all and several are errors.
pub(super) enum Match {
    /// The key.
    One(Box<FoundKey>),
    /// Keys of that label or id, with other public halves than the one that is wanted.
    Other(Vec<KeyInfo>),
}

impl KeyFilter {
    /// Finds the one key that is meant.
    pub(super) fn find(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
    ) -> Result<Match, Error> {
        let named = read_keys(access, session, &self.template())?;
        let is_named = self.label.is_some() || self.id.is_some();
        let others: Vec<KeyInfo> = named.iter().map(|key| key.info.clone()).collect();
        let mut matching: Vec<FoundKey> = named
            .into_iter()
            .filter_map(|key| match &self.public_key {
                Some(wanted) => key.with_half(wanted, is_named),
                None => Some(key),
            })
            .collect();
        let token = || Box::new(access.token.clone());
        match (matching.pop(), matching.is_empty()) {
            (Some(key), true) => Ok(Match::One(Box::new(key))),
            (Some(key), false) => {
                matching.push(key);
                let found = matching.into_iter().map(|key| key.info).collect();
                Err(Error::SeveralKeys {
                    wanted: self.to_string(),
                    token: token(),
                    found,
                })
            }
            (None, _) if is_named && !others.is_empty() => Ok(Match::Other(others)),
            (None, _) => Err(self.not_found(access, session)?),
        }
    }

    fn not_found(&self, access: &Access, session: &dyn ModuleSession) -> Result<Error, Error> {
        let all = [Attribute::class(ObjectClass::PrivateKey)];
        let all = read_keys(access, session, &all)?;
        Ok(Error::KeyNotFound {
            wanted: self.to_string(),
            token: Box::new(access.token.clone()),
            found: all.into_iter().map(|key| key.info).collect(),
        })
    }

    fn template(&self) -> Vec<Attribute> {
        let mut template = vec![Attribute::class(ObjectClass::PrivateKey), Attribute::rsa()];
        template.extend(
            self.label
                .as_ref()
                .map(|label| Attribute::bytes(Kind::Label, label.as_bytes())),
        );
        template.extend(self.id.as_ref().map(|id| Attribute::bytes(Kind::Id, id)));
        template
    }
}

impl Find for KeyFilter {
    type Handles = ObjectHandle;

    fn find_again(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
    ) -> Result<ObjectHandle, Error> {
        match self.find(access, session)? {
            Match::One(key) => Ok(key.handle),
            // The one that was opened is gone, whatever has its name now.
            Match::Other(_) => Err(self.not_found(access, session)?),
        }
    }
}

/// The one private key that is meant.
pub(super) fn find_key(
    access: &Access,
    session: &dyn ModuleSession,
    filter: &KeyFilter,
) -> Result<FoundKey, Error> {
    match filter.find(access, session)? {
        Match::One(key) => Ok(*key),
        Match::Other(found) => Err(Error::OtherKey {
            wanted: filter.to_string(),
            token: Box::new(access.token.clone()),
            found,
        }),
    }
}

/// A private key on the token, as it was found in one session.
#[derive(Debug, Clone)]
pub(super) struct FoundKey {
    pub(super) handle: ObjectHandle,
    pub(super) info: KeyInfo,
    /// The token tells nothing of the public half: that it is the certificate's is believed until the trial signature.
    pub(super) half_is_assumed: bool,
}

impl FoundKey {
    /// The same, if that may be its public half. A token that does not tell the exponent, or nothing at all of a key that
    /// is named, leaves the rest to the certificate.
    pub(super) fn with_half(mut self, wanted: &PublicKey, is_named: bool) -> Option<Self> {
        self.half_is_assumed = match self.info.is_half_of(wanted) {
            Some(true) => false,
            None if is_named => true,
            _ => return None,
        };
        self.info.public_key.get_or_insert_with(|| wanted.clone());
        Some(self)
    }

    /// How the same key is found again in another session.
    pub(super) fn filter(&self, public_key: &PublicKey) -> KeyFilter {
        let info = &self.info;
        KeyFilter {
            // What is not UTF-8 cannot be asked for.
            label: Some(info.label.clone())
                .filter(|label| !label.is_empty() && !label.contains('\u{fffd}')),
            id: Some(info.id.clone()).filter(|id| !id.is_empty()),
            public_key: Some(public_key.clone()),
        }
    }

    /// Keys that could leave the token are refused, and so is a key of which that is not known.
    pub(super) fn check(&self, access: &Access, allow_extractable: bool) -> Result<(), Error> {
        let info = &self.info;
        let token = || Box::new(access.token.clone());
        if info.sign == Some(false) {
            return Err(Error::NotForSigning {
                key: info.name(),
                token: token(),
            });
        }
        match why_unsafe(info.sensitive, info.extractable) {
            Some(reason) if allow_extractable => {
                tracing::warn!(key = %info.name(), reason, "an unsafe key is used, as asked for");
            }
            Some(reason) => {
                return Err(Error::Extractable {
                    key: info.name(),
                    token: token(),
                    reason,
                });
            }
            None => {}
        }
        // Only warnings: two of seven modules report these wrongly.
        if info.always_sensitive == Some(false) || info.never_extractable == Some(false) {
            tracing::warn!(
                key = %info.name(),
                "the token says that the key was readable or extractable once (CKA_ALWAYS_SENSITIVE, \
                 CKA_NEVER_EXTRACTABLE); it may have been imported"
            );
        }
        Ok(())
    }

    const fn lacks_exponent(&self) -> bool {
        self.info.public_key.is_none() && self.info.modulus.is_some()
    }

    pub(super) fn public_key(&self, access: &Access) -> Result<&PublicKey, Error> {
        self.info.public_key.as_ref().ok_or_else(|| Error::PublicHalf {
            key: self.info.name(),
            token: Box::new(access.token.clone()),
            reason: "the token does not tell its modulus and public exponent, or they are no RSA key that is supported; \
                     give the key's certificate, which has them"
                .to_owned(),
        })
    }
}

/// Why a key with these attributes could leave the token, if it could.
pub(super) const fn why_unsafe(
    sensitive: Option<bool>,
    extractable: Option<bool>,
) -> Option<&'static str> {
    match (sensitive, extractable) {
        (Some(true), Some(false)) => None,
        (Some(false), _) => Some("CKA_SENSITIVE is false, so its value can be read in plain"),
        (_, Some(true)) => Some("CKA_EXTRACTABLE is true, so it can be wrapped and taken out"),
        (None, _) => Some("CKA_SENSITIVE cannot be read, so nobody knows whether its value can"),
        (_, None) => {
            Some("CKA_EXTRACTABLE cannot be read, so nobody knows whether it can be taken out")
        }
    }
}

/// Reads every private key that a template finds.
pub(super) fn read_keys(
    access: &Access,
    session: &dyn ModuleSession,
    template: &[Attribute],
) -> Result<Vec<FoundKey>, Error> {
    let handles = session.find(template).map_err(|call| access.failed(call))?;
    let keys = handles.into_iter();
    let mut keys = keys
        .map(|handle| read_key(access, session, handle))
        .collect::<Result<Vec<_>, _>>()?;
    if keys.iter().any(FoundKey::lacks_exponent) {
        let certificates = read_certificates(access, session)?;
        for key in keys.iter_mut().filter(|key| key.lacks_exponent()) {
            let mut halves = certificates
                .iter()
                .map(|found| found.certificate.public_key());
            let half = halves.find(|half| key.info.is_half_of(half) == Some(true));
            key.info.public_key = half.cloned();
        }
    }
    Ok(keys)
}

fn read_key(
    access: &Access,
    session: &dyn ModuleSession,
    handle: ObjectHandle,
) -> Result<FoundKey, Error> {
    const KINDS: [Kind; 12] = [
        Kind::KeyType,
        Kind::Label,
        Kind::Id,
        Kind::Modulus,
        Kind::PublicExponent,
        Kind::Sensitive,
        Kind::Extractable,
        Kind::AlwaysSensitive,
        Kind::NeverExtractable,
        Kind::AlwaysAuthenticate,
        Kind::Local,
        Kind::Sign,
    ];
    let attributes = session
        .attributes(handle, &KINDS)
        .map_err(|call| access.failed(call))?;
    let label = attributes.text(Kind::Label).unwrap_or_default();
    let id = attributes.bytes(Kind::Id).unwrap_or_default().to_vec();
    let number = |kind| {
        let bytes = attributes.bytes(kind).map(strip_zeros);
        bytes.filter(|bytes| !bytes.is_empty())
    };
    let modulus = number(Kind::Modulus);
    let public_key = match (modulus, number(Kind::PublicExponent)) {
        (Some(modulus), Some(exponent)) => PublicKey::from_components(modulus, exponent).ok(),
        // Some tokens keep the exponent only in the public object.
        _ => public_half(access, session, &id)?
            .filter(|half| modulus.is_none_or(|modulus| modulus == half.modulus())),
    };
    Ok(FoundKey {
        handle,
        half_is_assumed: false,
        info: KeyInfo {
            label,
            id,
            is_rsa: attributes.key_type().map(|key| key == KeyType::Rsa),
            public_key,
            modulus: modulus.map(<[u8]>::to_vec),
            sensitive: attributes.flag(Kind::Sensitive),
            extractable: attributes.flag(Kind::Extractable),
            always_sensitive: attributes.flag(Kind::AlwaysSensitive),
            never_extractable: attributes.flag(Kind::NeverExtractable),
            always_authenticate: attributes.flag(Kind::AlwaysAuthenticate),
            local: attributes.flag(Kind::Local),
            sign: attributes.flag(Kind::Sign),
            certificates: 0,
        },
    })
}

fn public_half(
    access: &Access,
    session: &dyn ModuleSession,
    id: &[u8],
) -> Result<Option<PublicKey>, Error> {
    if id.is_empty() {
        return Ok(None);
    }
    let template = [
        Attribute::class(ObjectClass::PublicKey),
        Attribute::rsa(),
        Attribute::bytes(Kind::Id, id),
    ];
    let found = session
        .find(&template)
        .map_err(|call| access.failed(call))?;
    let [only] = found.as_slice() else {
        return Ok(None);
    };
    let attributes = session
        .attributes(*only, &[Kind::Modulus, Kind::PublicExponent])
        .map_err(|call| access.failed(call))?;
    let halves = attributes
        .bytes(Kind::Modulus)
        .zip(attributes.bytes(Kind::PublicExponent));
    Ok(halves.and_then(|(modulus, exponent)| PublicKey::from_components(modulus, exponent).ok()))
}

/// `CKM_RSA_PKCS_KEY_PAIR_GEN` is asked about where keys are made.
pub(super) const KEY_GENERATION: MechanismKind = MechanismKind::RsaKeyPairGen;
