//! The PKCS#11 module: the shared library behind a narrow trait.
//!
//! Only `module/library.rs` touches `cryptoki`'s context. Everything else speaks [`Module`] and [`ModuleSession`],
//! some thirty calls, so that a test can put an implementation there that injects faults. **The traits are not covered
//! by the version promise of this crate.**

mod attribute;
pub(super) mod library;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::attribute::{
    Attribute, AttributeKind, AttributeValue, Attributes, KeyType, ObjectClass,
};
use super::pin::Pin;
use super::rv::Rv;
use super::token::TokenInfo;
use crate::pss::Digest;

/// A shared library that is not a module, or not the one that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

/// A loaded module.
///
/// An implementation keeps no lock or state of its own that a forked child could not use: the child calls
/// [`initialize`](Module::initialize) on the same value.
pub trait Module: Send + Sync + fmt::Debug {
    /// The canonical path: what tells modules apart in this process.
    fn path(&self) -> &Path;

    /// `C_Initialize`, with the operating system's locks.
    fn initialize(&self) -> Result<(), CallError>;

    /// `C_Finalize`. Every session is gone after it.
    fn finalize(&self) -> Result<(), CallError>;

    /// Another instance of the module, not initialised, with sessions, logins and locks of its own, such as
    /// p11-kit-client makes with each `C_GetFunctionList`. Whether it is one shows in its [`initialize`](Self::initialize):
    /// where there is one state for the whole process, that says `CKR_CRYPTOKI_ALREADY_INITIALIZED`.
    fn another(&self) -> Option<Arc<dyn Module>> {
        None
    }

    /// `C_GetInfo`.
    fn library(&self) -> Result<LibraryInfo, CallError>;

    /// `C_GetSlotList` of the slots with a token.
    fn slots(&self) -> Result<Vec<u64>, CallError>;

    /// `C_GetSlotInfo`.
    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError>;

    /// `C_GetTokenInfo`.
    fn token(&self, slot: u64) -> Result<TokenInfo, CallError>;

    /// `C_GetMechanismInfo`; `None` when the token does not list the mechanism.
    fn mechanism(&self, slot: u64, kind: MechanismKind)
    -> Result<Option<MechanismInfo>, CallError>;

    /// `C_OpenSession`.
    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError>;

    /// `C_InitToken`.
    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError>;
}

/// A session: used by one thread at a time, handed from thread to thread.
///
/// Dropping it calls nothing. Its number may belong to somebody else by then: after a new initialisation of the module,
/// or in a forked child.
pub trait ModuleSession: Send {
    /// `C_CloseSession`.
    fn close(self: Box<Self>) -> Result<(), CallError>;

    /// `C_GetSessionInfo`: whether the user is logged in.
    fn user_is_logged_in(&self) -> Result<bool, CallError>;

    /// `C_Login`; without a PIN by the token's protected authentication path.
    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError>;

    /// `C_InitPIN`.
    fn init_pin(&self, pin: &Pin) -> Result<(), CallError>;

    /// `C_FindObjectsInit`, `C_FindObjects` until the end, `C_FindObjectsFinal`.
    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError>;

    /// `C_GetAttributeValue`. Attributes that the object does not have, or does not show, are missing in the answer.
    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError>;

    /// `C_SignInit` and `C_Sign`.
    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError>;

    /// `C_SignInit` alone, for a key that wants a login between the two.
    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError>;

    /// `C_SignUpdate`.
    fn sign_update(&self, data: &[u8]) -> Result<(), CallError>;

    /// `C_SignFinal`.
    fn sign_final(&self) -> Result<Vec<u8>, CallError>;

    /// `C_EncryptInit` and `C_Encrypt`.
    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError>;

    /// `C_DecryptInit` and `C_Decrypt`.
    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError>;

    /// `C_GenerateKey` with `CKM_AES_KEY_GEN` or `CKM_GENERIC_SECRET_KEY_GEN`.
    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError>;

    /// `C_GenerateKeyPair` with `CKM_RSA_PKCS_KEY_PAIR_GEN`; public and private handle.
    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError>;

    /// `C_CreateObject`.
    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError>;

    /// `C_DestroyObject`.
    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError>;
}

/// A call that a module did not answer with `CKR_OK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// Name of the function, `C_…`.
    pub function: &'static str,
    /// What came back.
    pub answer: Answer,
}

/// What came back from a call instead of `CKR_OK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A return value.
    Rv(Rv),
    /// The module does not have the function.
    NoFunction,
    /// `CKR_OK`, with an answer that cannot be understood.
    Malformed(String),
}

impl CallError {
    /// For what belongs to another process, or to a state of the module that is over.
    pub(crate) const fn not_initialized(function: &'static str) -> Self {
        Self::new(function, Rv::CRYPTOKI_NOT_INITIALIZED)
    }

    /// A call that came back with this value.
    #[must_use]
    pub const fn new(function: &'static str, rv: Rv) -> Self {
        Self {
            function,
            answer: Answer::Rv(rv),
        }
    }

    /// The return value, if there was one.
    #[must_use]
    pub const fn rv(&self) -> Option<Rv> {
        match self.answer {
            Answer::Rv(rv) => Some(rv),
            Answer::NoFunction | Answer::Malformed(_) => None,
        }
    }

    pub(crate) fn is(&self, rv: Rv) -> bool {
        self.rv() == Some(rv)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answer {
            Answer::Rv(rv) => write!(f, "{}: {rv}", self.function),
            Answer::NoFunction => write!(
                f,
                "{}: the module does not have this function",
                self.function
            ),
            Answer::Malformed(what) => write!(
                f,
                "{}: an answer that cannot be read ({what})",
                self.function
            ),
        }
    }
}

/// Handle of an object in a session's token. Good until the next login, logout or initialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectHandle(pub u64);

/// Who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// `CKU_USER`.
    User,
    /// `CKU_SO`, the security officer.
    SecurityOfficer,
    /// `CKU_CONTEXT_SPECIFIC`, for one operation.
    ContextSpecific,
}

/// What `C_GetInfo` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LibraryInfo {
    /// Who made the library.
    pub manufacturer: String,
    /// What it is.
    pub description: String,
    /// Its version, major and minor.
    pub version: (u8, u8),
    /// The version of PKCS#11 it speaks, major and minor.
    pub cryptoki: (u8, u8),
}

/// What `C_GetSlotInfo` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotInfo {
    /// What the slot is.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
}

/// What `C_GetMechanismInfo` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MechanismInfo {
    /// `CKF_SIGN`.
    pub sign: bool,
    /// `CKF_GENERATE_KEY_PAIR`.
    pub generate_key_pair: bool,
    /// Smallest key, for RSA in bits.
    pub min_key: usize,
    /// Largest key, for RSA in bits.
    pub max_key: usize,
}

/// The mechanisms that are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MechanismKind {
    /// `CKM_RSA_PKCS_PSS`: signs a hash.
    RsaPkcsPss,
    /// `CKM_RSA_X_509`: the bare private-key operation.
    RsaX509,
    /// `CKM_SHA…_RSA_PKCS_PSS`: hashes on the token.
    HashRsaPkcsPss(Digest),
    /// `CKM_RSA_PKCS_KEY_PAIR_GEN`.
    RsaKeyPairGen,
    /// `CKM_SHA256_HMAC`.
    Sha256Hmac,
    /// `CKM_AES_CBC`: without padding.
    AesCbc,
    /// `CKM_AES_CBC_PAD`: the token pads, and takes the padding away.
    AesCbcPad,
    /// `CKM_AES_KEY_GEN`.
    AesKeyGen,
    /// `CKM_GENERIC_SECRET_KEY_GEN`.
    GenericSecretKeyGen,
}

impl fmt::Display for MechanismKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RsaPkcsPss => "CKM_RSA_PKCS_PSS",
            Self::RsaX509 => "CKM_RSA_X_509",
            Self::HashRsaPkcsPss(Digest::Sha256) => "CKM_SHA256_RSA_PKCS_PSS",
            Self::HashRsaPkcsPss(Digest::Sha384) => "CKM_SHA384_RSA_PKCS_PSS",
            Self::HashRsaPkcsPss(Digest::Sha512) => "CKM_SHA512_RSA_PKCS_PSS",
            Self::RsaKeyPairGen => "CKM_RSA_PKCS_KEY_PAIR_GEN",
            Self::Sha256Hmac => "CKM_SHA256_HMAC",
            Self::AesCbc => "CKM_AES_CBC",
            Self::AesCbcPad => "CKM_AES_CBC_PAD",
            Self::AesKeyGen => "CKM_AES_KEY_GEN",
            Self::GenericSecretKeyGen => "CKM_GENERIC_SECRET_KEY_GEN",
        })
    }
}

/// How to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherMechanism {
    /// `CKM_AES_CBC` over whole blocks.
    AesCbc {
        /// The initialisation vector.
        iv: [u8; 16],
    },
    /// `CKM_AES_CBC_PAD` over any number of bytes, padded as PKCS#7 says.
    AesCbcPad {
        /// The initialisation vector.
        iv: [u8; 16],
    },
}

impl CipherMechanism {
    /// Which mechanism it is.
    #[must_use]
    pub const fn kind(self) -> MechanismKind {
        match self {
            Self::AesCbc { .. } => MechanismKind::AesCbc,
            Self::AesCbcPad { .. } => MechanismKind::AesCbcPad,
        }
    }
}

/// How to sign; MGF1 uses the digest of the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignMechanism {
    /// `CKM_RSA_PKCS_PSS` over a hash.
    RsaPkcsPss {
        /// The digest that made the hash.
        digest: Digest,
        /// Length of the salt, in bytes.
        salt_len: usize,
    },
    /// `CKM_RSA_X_509` over a block as long as the modulus.
    RsaX509,
    /// `CKM_SHA…_RSA_PKCS_PSS` over the message.
    HashRsaPkcsPss {
        /// The digest to hash with.
        digest: Digest,
        /// Length of the salt, in bytes.
        salt_len: usize,
    },
    /// `CKM_SHA256_HMAC` over the message.
    Sha256Hmac,
}

impl SignMechanism {
    /// Which mechanism it is.
    #[must_use]
    pub const fn kind(self) -> MechanismKind {
        match self {
            Self::RsaPkcsPss { .. } => MechanismKind::RsaPkcsPss,
            Self::RsaX509 => MechanismKind::RsaX509,
            Self::HashRsaPkcsPss { digest, .. } => MechanismKind::HashRsaPkcsPss(digest),
            Self::Sha256Hmac => MechanismKind::Sha256Hmac,
        }
    }
}
