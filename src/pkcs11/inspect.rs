//! [`Inspection`]: what module and token say of themselves, without a login.

use std::path::PathBuf;

use super::builder::Builder;
use super::error::Error;
use super::module::{LibraryInfo, MechanismKind, Module as _};
use super::session::Access;
use super::token::TokenInfo;
use crate::pss::Digest;

/// What a module and one of its tokens say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The module's file, with links resolved.
    pub module: PathBuf,
    /// The library's own description (`C_GetInfo`).
    pub description: String,
    /// Who made the library.
    pub manufacturer: String,
    /// The library's version, major and minor.
    pub version: (u8, u8),
    /// The version of PKCS#11 that it speaks, major and minor.
    pub cryptoki: (u8, u8),
    /// The token.
    pub token: TokenInfo,
    /// The mechanisms that matter here, whether offered or not. A token may list one and refuse it.
    pub mechanisms: Vec<Mechanism>,
}

/// A mechanism, as the token lists it (`C_GetMechanismInfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mechanism {
    /// Its name in the standard, `CKM_…`.
    pub name: String,
    /// Whether it is listed for what it is used for here.
    pub offered: bool,
    /// Smallest and largest key, in bits, as listed.
    pub key_bits: Option<(usize, usize)>,
}

impl Builder {
    /// The token that is meant, without logging in.
    ///
    /// # Errors
    /// [`Error`]: the module, none or several tokens, or no answer within the deadline.
    pub fn token(&self) -> Result<TokenInfo, Error> {
        self.on_token(self.options.limits.deadline, |access, _| {
            Ok(access.token.clone())
        })
    }

    /// Asks the module and the token that are meant what they are, without a login.
    ///
    /// # Errors
    /// [`Error`]: the module, none or several tokens, or no answer within the deadline.
    pub fn inspect(&self) -> Result<Inspection, Error> {
        self.on_token(self.options.limits.deadline, |access, _| {
            Inspection::of(access)
        })
    }
}

impl Inspection {
    fn of(access: &Access) -> Result<Self, Error> {
        let (module, token) = (&access.module, access.token.clone());
        let LibraryInfo {
            manufacturer,
            description,
            version,
            cryptoki,
        } = module.library().map_err(|call| Error::call(call, None))?;
        let kinds = [
            MechanismKind::RsaPkcsPss,
            MechanismKind::RsaX509,
            MechanismKind::RsaKeyPairGen,
        ];
        let hashing = Digest::ALL.map(MechanismKind::HashRsaPkcsPss);
        let mechanisms = kinds
            .into_iter()
            .chain(hashing)
            .map(|kind| {
                // A module that fails here is asked again, for real, when a key is opened.
                let listed = module.mechanism(token.slot_id, kind).ok().flatten();
                let offered = listed.is_some_and(|info| match kind {
                    MechanismKind::RsaKeyPairGen => info.generate_key_pair,
                    _ => info.sign,
                });
                let key_bits = listed.map(|info| (info.min_key, info.max_key));
                Mechanism {
                    name: kind.to_string(),
                    offered,
                    key_bits,
                }
            })
            .collect();
        Ok(Self {
            module: module.path().to_owned(),
            description,
            manufacturer,
            version,
            cryptoki,
            token,
            mechanisms,
        })
    }
}
