//! Finding a pair of keys on a token, and what is checked of them.

use super::cipher::{Work, tag};
use super::provision::{SecretKeyInfo, read_secret_keys};
use crate::pkcs11::error::Error;
use crate::pkcs11::find::why_unsafe;
use crate::pkcs11::module::{
    Attribute, AttributeKind as Kind, KeyType, ModuleSession, ObjectClass, ObjectHandle,
};
use crate::pkcs11::recovery::Find;
use crate::pkcs11::session::Access;

/// The handles of a pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handles {
    pub(super) signing: ObjectHandle,
    pub(super) encrypting: ObjectHandle,
}

/// Which pair is meant.
#[derive(Debug, Clone)]
pub(crate) struct PairFilter {
    label: String,
    allow_extractable: bool,
    /// What the pair made of the trial data when it was opened. Others under the same label are others.
    trial: Option<Trial>,
}

/// A tag and a block: what nobody can tell without the keys, and what tells nobody anything of them.
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
            trial: None,
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Finds the pair, checks it and makes a trial with it; and how the same pair is found again.
    pub(super) fn check(
        mut self,
        access: &Access,
        session: &dyn ModuleSession,
    ) -> Result<(Handles, Self), Error> {
        let handles = self.find(access, session)?;
        self.trial = Some(self.make_trial(access, session, handles)?);
        Ok((handles, self))
    }

    fn find(&self, access: &Access, session: &dyn ModuleSession) -> Result<Handles, Error> {
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
        Ok(Handles {
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

    /// What the keys make of known data; an error when they do not decrypt what they encrypted.
    fn make_trial(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
        keys: Handles,
    ) -> Result<Trial, Error> {
        /// No Fernet token begins like this, so a tag of it is good for nothing else.
        const TEXT: &[u8; 32] = b"taskseal trial of a pair of keys";
        let key = keys.encrypting;
        let mut work = Work::new(TEXT.to_vec(), 0, [0; 16]);
        work.encrypt(access, session, key)?;
        let block = work.take();
        let mut work = Work::new(block.clone(), 0, [0; 16]);
        work.decrypt(access, session, key)?;
        let plain = work.take();
        if plain.as_slice() != TEXT {
            return Err(self.unusable(
                access,
                "the AES key does not decrypt what it encrypted".to_owned(),
            ));
        }
        Ok(Trial {
            tag: tag(access, session, keys.signing, TEXT)?,
            block,
        })
    }

    fn unusable(&self, access: &Access, reason: String) -> Error {
        Error::FernetKeys {
            label: self.label.clone(),
            token: Box::new(access.token.clone()),
            reason,
        }
    }
}

impl Find for PairFilter {
    type Handles = Handles;

    fn find_again(&self, access: &Access, session: &dyn ModuleSession) -> Result<Handles, Error> {
        let handles = self.find(access, session)?;
        let trial = self.make_trial(access, session, handles)?;
        if self.trial.as_ref().is_some_and(|before| *before != trial) {
            return Err(self.unusable(
                access,
                "the keys of that label are others than those that were opened".to_owned(),
            ));
        }
        Ok(handles)
    }
}
