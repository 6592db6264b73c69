//! Finding a pair of keys on a token, and what is checked of them.

use super::cipher::{CipherKey, Handles, Padding, Work, tag};
use super::secret::read_secret_keys;
use crate::pkcs11::builder::Builder;
use crate::pkcs11::error::Error;
use crate::pkcs11::find::why_unsafe;
use crate::pkcs11::info::SecretKeyInfo;
use crate::pkcs11::module::{
    Attribute, AttributeKind as Kind, KeyType, Module as _, ModuleSession, ObjectClass,
    ObjectHandle,
};
use crate::pkcs11::recovery::Find;
use crate::pkcs11::rv::Rv;
use crate::pkcs11::session::Access;
use crate::pkcs11::uri::{ObjectType, Uri};

/// What a trial is made of. No Fernet token begins like this, so a tag of it is good for nothing else.
const TRIAL: &[u8; 32] = b"taskseal trial of a pair of keys";

/// The handles as they are found.
struct Found {
    signing: ObjectHandle,
    encrypting: ObjectHandle,
}

impl Found {
    const fn with(&self, padding: Padding) -> Handles {
        Handles {
            signing: self.signing,
            encrypting: CipherKey {
                handle: self.encrypting,
                padding,
            },
        }
    }
}

/// Which pair is meant.
#[derive(Debug, Clone)]
pub(crate) struct PairFilter {
    label: String,
    allow_extractable: bool,
}

/// A pair that was opened, and how the same one is found again.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    filter: PairFilter,
    /// What the token offers.
    padding: Padding,
    /// What the pair made of the trial data. Others under the same label are others.
    trial: Trial,
}

/// A tag and two blocks: what nobody can tell without the keys, and what tells nobody anything of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trial {
    tag: [u8; 32],
    block: Vec<u8>,
}

impl PairFilter {
    /// The pair with this label.
    pub(super) const fn new(label: String, allow_extractable: bool) -> Self {
        Self {
            label,
            allow_extractable,
        }
    }

    /// Finds the pair, checks it and makes a trial with it.
    pub(super) fn check(
        self,
        access: &Access,
        session: &dyn ModuleSession,
    ) -> Result<(Handles, Pair), Error> {
        let found = self.find(access, session)?;
        let (padding, block) = self.choose_padding(access, session, found.encrypting)?;
        let tag = tag(access, session, found.signing, TRIAL)?;
        let pair = Pair {
            filter: self,
            padding,
            trial: Trial { tag, block },
        };
        Ok((found.with(padding), pair))
    }

    /// Who pads, and the block that the key makes of the trial data.
    fn choose_padding(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
        handle: ObjectHandle,
    ) -> Result<(Padding, Vec<u8>), Error> {
        let mut tried = Vec::new();
        for padding in Padding::ALL {
            let mechanism = padding.mechanism();
            let listed = access.module.mechanism(access.token.slot_id, mechanism);
            if listed.map_err(|call| access.failed(call))?.is_none() {
                tried.push(format!("{mechanism} is not offered"));
                continue;
            }
            match self.trial_block(access, session, CipherKey { handle, padding }) {
                // Some tokens list what they do not do.
                Err(Error::Call { call, .. })
                    if call.is(Rv::MECHANISM_INVALID) || call.is(Rv::MECHANISM_PARAM_INVALID) =>
                {
                    tried.push(format!("{mechanism}: {call}"));
                }
                block => return Ok((padding, block?)),
            }
        }
        let tried = tried.join("; ");
        Err(self.unusable(
            access,
            format!("no AES-CBC is to be had ({tried}); take another token or module"),
        ))
    }

    fn find(&self, access: &Access, session: &dyn ModuleSession) -> Result<Found, Error> {
        let template = [
            Attribute::class(ObjectClass::SecretKey),
            Attribute::bytes(Kind::Label, self.label.as_bytes()),
        ];
        let found = read_secret_keys(access, session, &template)?;
        let signing = self.only(access, session, &found, "generic secret", |info| {
            info.is_hmac_key()
        })?;
        let encrypting = self.only(access, session, &found, "AES key", |info| {
            info.key_type == Some(KeyType::Aes)
        })?;
        if encrypting.1.len.is_some_and(|len| len != 16) {
            return Err(self.unusable(access, "the AES key is not one of 128 bits".to_owned()));
        }
        if signing.1.len.is_some_and(|len| len < 16) {
            return Err(self.unusable(
                access,
                "the generic secret is shorter than 16 bytes".to_owned(),
            ));
        }
        for (_, info) in [signing, encrypting] {
            match why_unsafe(info.sensitive, info.extractable) {
                Some(reason) if self.allow_extractable => {
                    tracing::warn!(key = %info.name(), reason, "an unsafe key is used, as asked for");
                }
                Some(reason) => {
                    return Err(Error::Extractable {
                        key: info.name(),
                        token: Box::new(access.token.clone()),
                        reason,
                    });
                }
                None => {}
            }
        }
        Ok(Found {
            signing: signing.0,
            encrypting: encrypting.0,
        })
    }

    fn only<'a>(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
        found: &'a [(ObjectHandle, SecretKeyInfo)],
        what: &'static str,
        is: impl Fn(&SecretKeyInfo) -> bool,
    ) -> Result<(ObjectHandle, &'a SecretKeyInfo), Error> {
        let mut fitting = found.iter().filter(|(_, info)| is(info));
        match (fitting.next(), fitting.next()) {
            (Some((handle, info)), None) => Ok((*handle, info)),
            (Some(_), Some(_)) => Err(self.unusable(
                access,
                format!("it has more than one {what} of that label; remove one, or give it another label"),
            )),
            (None, _) => {
                let all = [Attribute::class(ObjectClass::SecretKey)];
                let all = read_secret_keys(access, session, &all)?;
                Err(Error::SecretKeyNotFound {
                    what,
                    label: self.label.clone(),
                    token: Box::new(access.token.clone()),
                    found: all.into_iter().map(|(_, info)| info).collect(),
                })
            }
        }
    }

    /// What the AES key makes of the trial data; an error when it does not decrypt what it encrypted.
    fn trial_block(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
        key: CipherKey,
    ) -> Result<Vec<u8>, Error> {
        let mut work = Work::new(TRIAL.to_vec(), 0, [0; 16]);
        work.encrypt(access, session, key)?;
        let block = work.take();
        let mut work = Work::new(block.clone(), 0, [0; 16]);
        work.decrypt(access, session, key)?;
        let plain = work.take();
        if plain.as_slice() != TRIAL {
            return Err(self.unusable(
                access,
                "the AES key does not decrypt what it encrypted".to_owned(),
            ));
        }
        Ok(block)
    }

    fn unusable(&self, access: &Access, reason: String) -> Error {
        Error::FernetKeys {
            label: self.label.clone(),
            token: Box::new(access.token.clone()),
            reason,
        }
    }
}

impl Pair {
    pub(super) fn label(&self) -> &str {
        &self.filter.label
    }
}

impl Find for Pair {
    type Handles = Handles;

    fn find_again(&self, access: &Access, session: &dyn ModuleSession) -> Result<Handles, Error> {
        let filter = &self.filter;
        let handles = filter.find(access, session)?.with(self.padding);
        let trial = Trial {
            block: filter.trial_block(access, session, handles.encrypting)?,
            tag: tag(access, session, handles.signing, TRIAL)?,
        };
        if trial != self.trial {
            return Err(filter.unusable(
                access,
                "the keys of that label are others than those that were opened".to_owned(),
            ));
        }
        Ok(handles)
    }
}

impl Builder {
    /// The label that a pair of keys is known by.
    pub(super) fn fernet_label(&self) -> Result<String, Error> {
        if let Some(other) = self
            .object_type
            .filter(|kind| *kind != ObjectType::SecretKey)
        {
            return Err(Error::Argument(format!(
                "type={} names no secret key; leave type out of the URI or write type=secret-key",
                other.as_str()
            )));
        }
        if self.id.is_some() {
            return Err(Error::Argument(
                "Fernet's two keys have ids of their own; name them by their label (object=…), without an id".to_owned(),
            ));
        }
        match &self.label {
            Some(label) if !label.is_empty() && label.len() <= Uri::MAX_TEXT_LEN => {
                Ok(label.clone())
            }
            _ => Err(Error::Argument(
                "Fernet's keys on a token need a label of 1 to 255 bytes (object=… in the URI)"
                    .to_owned(),
            )),
        }
    }
}
