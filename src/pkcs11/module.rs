//! The PKCS#11 module: the shared library, loaded and initialised once per process, behind a narrow trait.
//!
//! Only `module/library.rs` touches `cryptoki`'s context. Everything else speaks [`Module`] and [`ModuleSession`],
//! about a dozen calls, so that a test can put an implementation there that injects faults. **The traits are not covered
//! by the version promise of this crate.**

mod library;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::object as co;
use cryptoki::types::Ulong;

use self::library::CryptokiModule;
use super::error::Error;
use super::pin::Pin;
use super::rv::Rv;
use super::token::TokenInfo;
use crate::pss::Digest;

/// A loaded and initialised module.
pub trait Module: Send + Sync + fmt::Debug {
    /// The canonical path: what tells modules apart in this process.
    fn path(&self) -> &Path;

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

    /// `C_OpenSession`. Closing happens when the session is dropped.
    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError>;

    /// `C_InitToken`.
    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError>;
}

/// A session: used by one thread at a time, handed from thread to thread, closed when dropped.
pub trait ModuleSession: Send {
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
        })
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
}

impl SignMechanism {
    /// Which mechanism it is.
    #[must_use]
    pub const fn kind(self) -> MechanismKind {
        match self {
            Self::RsaPkcsPss { .. } => MechanismKind::RsaPkcsPss,
            Self::RsaX509 => MechanismKind::RsaX509,
            Self::HashRsaPkcsPss { digest, .. } => MechanismKind::HashRsaPkcsPss(digest),
        }
    }
}

/// One attribute of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Which one, `CKA_…`.
    pub kind: AttributeKind,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// `CK_BBOOL`.
    Flag(bool),
    /// Bytes or text.
    Bytes(Vec<u8>),
    /// A number.
    Number(u64),
    /// `CKA_CLASS`.
    Class(ObjectClass),
    /// `CKA_KEY_TYPE`: RSA, or another.
    Rsa(bool),
    /// `CKA_CERTIFICATE_TYPE`: X.509, or another.
    X509(bool),
}

/// Classes of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectClass {
    /// `CKO_PRIVATE_KEY`.
    PrivateKey,
    /// `CKO_PUBLIC_KEY`.
    PublicKey,
    /// `CKO_CERTIFICATE`.
    Certificate,
    /// Any other.
    Other,
}

macro_rules! attribute_kinds {
    ($($group:ident { $($kind:ident),* $(,)? })*) => {
        /// The attributes in use, by their names in the standard (`CKA_…`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum AttributeKind {
            Class,
            KeyType,
            CertificateType,
            ModulusBits,
            $($($kind,)*)*
        }

        impl AttributeKind {
            const fn to_crate(self) -> co::AttributeType {
                match self {
                    Self::Class => co::AttributeType::Class,
                    Self::KeyType => co::AttributeType::KeyType,
                    Self::CertificateType => co::AttributeType::CertificateType,
                    Self::ModulusBits => co::AttributeType::ModulusBits,
                    $($(Self::$kind => co::AttributeType::$kind,)*)*
                }
            }
        }

        impl Attribute {
            fn from_crate(attribute: co::Attribute) -> Option<Self> {
                let (kind, value) = match attribute {
                    co::Attribute::Class(class) => {
                        (AttributeKind::Class, AttributeValue::Class(ObjectClass::from_crate(class)))
                    }
                    co::Attribute::KeyType(key) => {
                        (AttributeKind::KeyType, AttributeValue::Rsa(key == co::KeyType::RSA))
                    }
                    co::Attribute::CertificateType(kind) => (
                        AttributeKind::CertificateType,
                        AttributeValue::X509(kind == co::CertificateType::X_509),
                    ),
                    co::Attribute::ModulusBits(bits) => {
                        (AttributeKind::ModulusBits, AttributeValue::Number(*bits))
                    }
                    $($(co::Attribute::$kind(value) => {
                        (AttributeKind::$kind, AttributeValue::$group(value))
                    })*)*
                    _ => return None,
                };
                Some(Self { kind, value })
            }

            fn to_crate(&self) -> Option<co::Attribute> {
                Some(match (self.kind, &self.value) {
                    (AttributeKind::Class, AttributeValue::Class(class)) => {
                        co::Attribute::Class(class.to_crate()?)
                    }
                    (AttributeKind::KeyType, AttributeValue::Rsa(true)) => {
                        co::Attribute::KeyType(co::KeyType::RSA)
                    }
                    (AttributeKind::CertificateType, AttributeValue::X509(true)) => {
                        co::Attribute::CertificateType(co::CertificateType::X_509)
                    }
                    (AttributeKind::ModulusBits, AttributeValue::Number(bits)) => {
                        co::Attribute::ModulusBits(Ulong::new(*bits))
                    }
                    $($((AttributeKind::$kind, AttributeValue::$group(value)) => {
                        co::Attribute::$kind(value.clone())
                    })*)*
                    _ => return None,
                })
            }
        }
    };
}

attribute_kinds! {
    Flag {
        Token, Private, Sensitive, Extractable, AlwaysSensitive, NeverExtractable, AlwaysAuthenticate, Local, Sign,
        Verify, Encrypt, Decrypt, Wrap, Unwrap,
    }
    Bytes { Label, Id, Subject, Issuer, SerialNumber, Value, Modulus, PublicExponent }
}

impl ObjectClass {
    fn from_crate(class: co::ObjectClass) -> Self {
        match class {
            co::ObjectClass::PRIVATE_KEY => Self::PrivateKey,
            co::ObjectClass::PUBLIC_KEY => Self::PublicKey,
            co::ObjectClass::CERTIFICATE => Self::Certificate,
            _ => Self::Other,
        }
    }

    const fn to_crate(self) -> Option<co::ObjectClass> {
        match self {
            Self::PrivateKey => Some(co::ObjectClass::PRIVATE_KEY),
            Self::PublicKey => Some(co::ObjectClass::PUBLIC_KEY),
            Self::Certificate => Some(co::ObjectClass::CERTIFICATE),
            Self::Other => None,
        }
    }
}

impl Attribute {
    /// A flag.
    #[must_use]
    pub const fn flag(kind: AttributeKind, value: bool) -> Self {
        Self {
            kind,
            value: AttributeValue::Flag(value),
        }
    }

    /// Bytes or text.
    #[must_use]
    pub fn bytes(kind: AttributeKind, value: &[u8]) -> Self {
        Self {
            kind,
            value: AttributeValue::Bytes(value.to_vec()),
        }
    }

    /// `CKA_CLASS`.
    #[must_use]
    pub const fn class(class: ObjectClass) -> Self {
        Self {
            kind: AttributeKind::Class,
            value: AttributeValue::Class(class),
        }
    }

    /// `CKA_KEY_TYPE` = `CKK_RSA`.
    #[must_use]
    pub const fn rsa() -> Self {
        Self {
            kind: AttributeKind::KeyType,
            value: AttributeValue::Rsa(true),
        }
    }

    /// `CKA_CERTIFICATE_TYPE` = `CKC_X_509`.
    #[must_use]
    pub const fn x509() -> Self {
        Self {
            kind: AttributeKind::CertificateType,
            value: AttributeValue::X509(true),
        }
    }
}

/// What `C_GetAttributeValue` showed. An attribute that is absent here is unknown, which is not the same as false.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(pub Vec<Attribute>);

impl Attributes {
    /// A flag.
    #[must_use]
    pub fn flag(&self, kind: AttributeKind) -> Option<bool> {
        match self.value(kind)? {
            AttributeValue::Flag(value)
            | AttributeValue::Rsa(value)
            | AttributeValue::X509(value) => Some(*value),
            _ => None,
        }
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self, kind: AttributeKind) -> Option<&[u8]> {
        match self.value(kind)? {
            AttributeValue::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// Text; what is not UTF-8 shows as U+FFFD.
    #[must_use]
    pub fn text(&self, kind: AttributeKind) -> Option<String> {
        self.bytes(kind)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&self, kind: AttributeKind) -> Option<&AttributeValue> {
        self.0
            .iter()
            .find(|attribute| attribute.kind == kind)
            .map(|attribute| &attribute.value)
    }
}

/// The one owner of the module at `path` in this process: loads and initialises it on the first call and hands out the
/// same one from then on, also when it is named by another path to the same file.
///
/// `C_Initialize` asks for the operating system's locks; another part of the process may have called it before. The
/// module stays loaded and is never finalised, because nobody here knows who else uses it.
///
/// # Errors
/// [`Error::ModuleLoad`] when it is no module or does not start.
pub fn load(path: &Path) -> Result<Arc<dyn Module>, Error> {
    load_with(path, None)
}

/// As [`load`], with a text for `pReserved` of `C_Initialize`. A module that is loaded is handed out only to those who ask
/// for the text that it was initialised with, or for none.
///
/// # Errors
/// [`Error::ModuleLoad`] as for [`load`], and for another text.
pub fn load_with(path: &Path, reserved: Option<&str>) -> Result<Arc<dyn Module>, Error> {
    static LOADED: Mutex<BTreeMap<PathBuf, Arc<CryptokiModule>>> = Mutex::new(BTreeMap::new());
    let path = path.canonicalize().map_err(|error| Error::ModuleLoad {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let mut loaded = lock(&LOADED);
    if let Some(module) = loaded.get(&path) {
        module.check_reserved(reserved)?;
        return Ok(module.clone());
    }
    let module = Arc::new(CryptokiModule::new(path.clone(), reserved)?);
    loaded.insert(path, module.clone());
    Ok(module)
}

/// A lock whose holder panicked guards nothing that could be half done here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
