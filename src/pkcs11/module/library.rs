//! The real module: a shared library through the crate `cryptoki`.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::Error as CrateError;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object as co;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot};
use cryptoki::types::Ulong;
use zeroize::Zeroize as _;

use super::{
    Answer, Attribute, AttributeKind, Attributes, CallError, CipherMechanism, LibraryInfo,
    LoadError, MechanismInfo, MechanismKind, Module, ModuleSession, ObjectHandle, SignMechanism,
    SlotInfo, User,
};
use crate::pkcs11::pin::Pin;
use crate::pkcs11::rv::Rv;
use crate::pkcs11::token::{SessionCounts, SessionLimit, TokenFlags, TokenInfo};
use crate::pss::Digest;

/// A loaded shared library. Holds no state but the addresses of its functions.
pub(crate) struct CryptokiModule {
    path: PathBuf,
    context: Pkcs11,
    /// What `C_Initialize` is given in `pReserved`. Kept for as long as the module may look at it.
    reserved: Option<CString>,
}

impl CryptokiModule {
    /// Loads the library at a canonical path. It is initialised with this text in `pReserved`.
    pub(crate) fn new(path: PathBuf, reserved: Option<&str>) -> Result<Self, LoadError> {
        let reserved = reserved.map(CString::new).transpose();
        let reserved = reserved.map_err(|_| LoadError {
            path: path.clone(),
            reason: "the text for its initialisation (x-init-reserved) contains a zero byte"
                .to_owned(),
        })?;
        let context = Pkcs11::new(&path).map_err(|error| LoadError {
            path: path.clone(),
            reason: match error {
                CrateError::LibraryLoading(_) | CrateError::MissingSymbol(_) => error.to_string(),
                _ => call_error("C_GetFunctionList", error).to_string(),
            },
        })?;
        Ok(Self {
            path,
            context,
            reserved,
        })
    }

    /// Whether it is initialised with exactly this text, or with none.
    pub(crate) fn has_reserved(&self, wanted: Option<&str>) -> bool {
        self.reserved.as_deref().map(CStr::to_bytes) == wanted.map(str::as_bytes)
    }

    /// Refuses whoever wants the module with another text in `pReserved` than it was initialised with.
    pub(crate) fn check_reserved(&self, wanted: Option<&str>) -> Result<(), LoadError> {
        let is = self.reserved.as_deref().map(CStr::to_bytes);
        match wanted {
            Some(wanted) if is != Some(wanted.as_bytes()) => Err(LoadError {
                path: self.path.clone(),
                reason: format!(
                    "this process initialised it with {}, and now {wanted:?} is wanted (x-init-reserved); a module is \
                     initialised once per process, so use the same text everywhere, or another process",
                    match is {
                        Some(is) => format!("{:?}", String::from_utf8_lossy(is)),
                        None => "no text".to_owned(),
                    }
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// The arguments of `C_Initialize`: the operating system's locks, and the text in `pReserved`. They point into `reserved`
/// and are for at once.
#[allow(unsafe_code)]
fn arguments(reserved: Option<&CString>) -> CInitializeArgs {
    let flags = CInitializeFlags::OS_LOCKING_OK;
    let Some(reserved) = reserved else {
        return CInitializeArgs::new(flags);
    };
    let pointer = NonNull::from(reserved.as_c_str()).cast();
    // SAFETY: it points to a string that ends with a zero byte and that the module's owner keeps. What a module takes
    // pReserved for is outside of the standard; whoever names a text in the configuration vouches for it as for the
    // module itself, whose code runs in this process anyway.
    unsafe { CInitializeArgs::new_with_reserved(flags, pointer) }
}

impl fmt::Debug for CryptokiModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptokiModule")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Module for CryptokiModule {
    fn path(&self) -> &Path {
        &self.path
    }

    fn initialize(&self) -> Result<(), CallError> {
        let done = self.context.initialize(arguments(self.reserved.as_ref()));
        done.map_err(|e| call_error("C_Initialize", e)).inspect_err(|call| {
            if call.is(Rv::CRYPTOKI_ALREADY_INITIALIZED) && self.reserved.is_some() {
                tracing::warn!(module = %self.path.display(), "the module was initialised by somebody else before: the text for its initialisation (x-init-reserved) was not used");
            }
        })
    }

    fn finalize(&self) -> Result<(), CallError> {
        // The crate's function eats one clone; the others may call `initialize` again.
        self.context
            .clone()
            .finalize()
            .map_err(|e| call_error("C_Finalize", e))
    }

    fn another(&self) -> Option<Arc<dyn Module>> {
        let context = Pkcs11::new(&self.path)
            .inspect_err(|error| {
                tracing::warn!(module = %self.path.display(), %error, "the module gives no other instance");
            })
            .ok()?;
        Some(Arc::new(Self {
            path: self.path.clone(),
            context,
            reserved: self.reserved.clone(),
        }))
    }

    fn library(&self) -> Result<LibraryInfo, CallError> {
        let info = self
            .context
            .get_library_info()
            .map_err(|e| call_error("C_GetInfo", e))?;
        let version = info.library_version();
        let cryptoki = info.cryptoki_version();
        Ok(LibraryInfo {
            manufacturer: info.manufacturer_id().to_owned(),
            description: info.library_description().to_owned(),
            version: (version.major(), version.minor()),
            cryptoki: (cryptoki.major(), cryptoki.minor()),
        })
    }

    fn slots(&self) -> Result<Vec<u64>, CallError> {
        let slots = self
            .context
            .get_slots_with_token()
            .map_err(|e| call_error("C_GetSlotList", e))?;
        Ok(slots.iter().map(Slot::id).collect())
    }

    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError> {
        let name = "C_GetSlotInfo";
        let info = self
            .context
            .get_slot_info(to_slot(name, slot)?)
            .map_err(|e| call_error(name, e))?;
        Ok(SlotInfo {
            description: clean(info.slot_description()),
            manufacturer: clean(info.manufacturer_id()),
        })
    }

    fn token(&self, slot: u64) -> Result<TokenInfo, CallError> {
        let name = "C_GetTokenInfo";
        let info = self
            .context
            .get_token_info(to_slot(name, slot)?)
            .map_err(|e| call_error(name, e))?;
        let (hardware, firmware) = (info.hardware_version(), info.firmware_version());
        Ok(TokenInfo {
            label: clean(info.label()),
            manufacturer: clean(info.manufacturer_id()),
            model: clean(info.model()),
            serial: clean(info.serial_number()),
            flags: TokenFlags {
                initialized: info.token_initialized(),
                login_required: info.login_required(),
                user_pin_initialized: info.user_pin_initialized(),
                protected_authentication_path: info.protected_authentication_path(),
                write_protected: info.write_protected(),
                error_state: info.error_state(),
                user_pin_count_low: info.user_pin_count_low(),
                user_pin_final_try: info.user_pin_final_try(),
                user_pin_locked: info.user_pin_locked(),
                user_pin_to_be_changed: info.user_pin_to_be_changed(),
                so_pin_final_try: info.so_pin_final_try(),
                so_pin_locked: info.so_pin_locked(),
            },
            hardware: (hardware.major(), hardware.minor()),
            firmware: (firmware.major(), firmware.minor()),
            min_pin_len: info.min_pin_length(),
            max_pin_len: info.max_pin_length(),
            sessions: SessionCounts {
                open: info.session_count(),
                max: session_limit(info.max_session_count()),
                open_writable: info.rw_session_count(),
                max_writable: session_limit(info.max_rw_session_count()),
            },
            ..TokenInfo::new(slot)
        })
    }

    fn mechanism(
        &self,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        let name = "C_GetMechanismInfo";
        match self
            .context
            .get_mechanism_info(to_slot(name, slot)?, mechanism_type(kind))
        {
            Ok(info) => Ok(Some(MechanismInfo {
                sign: info.sign(),
                generate_key_pair: info.generate_key_pair(),
                min_key: info.min_key_size(),
                max_key: info.max_key_size(),
            })),
            Err(CrateError::Pkcs11(rv, _)) if Rv::from(rv) == Rv::MECHANISM_INVALID => Ok(None),
            Err(error) => Err(call_error(name, error)),
        }
    }

    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError> {
        let name = "C_OpenSession";
        let slot = to_slot(name, slot)?;
        // Without the crate's own closing: see `ModuleSession`.
        let session = if writable {
            self.context.open_rw_session_no_drop(slot)
        } else {
            self.context.open_ro_session_no_drop(slot)
        };
        Ok(Box::new(CryptokiSession(
            session.map_err(|e| call_error(name, e))?,
        )))
    }

    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError> {
        let name = "C_InitToken";
        self.context
            .init_token(to_slot(name, slot)?, so_pin.secret(), label)
            .map_err(|e| call_error(name, e))
    }
}

struct CryptokiSession(Session);

impl ModuleSession for CryptokiSession {
    fn close(self: Box<Self>) -> Result<(), CallError> {
        self.0.close().map_err(|e| call_error("C_CloseSession", e))
    }

    fn user_is_logged_in(&self) -> Result<bool, CallError> {
        let info = self
            .0
            .get_session_info()
            .map_err(|e| call_error("C_GetSessionInfo", e))?;
        Ok(matches!(
            info.session_state(),
            SessionState::RoUser | SessionState::RwUser
        ))
    }

    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError> {
        let user = match user {
            User::User => UserType::User,
            User::SecurityOfficer => UserType::So,
            User::ContextSpecific => UserType::ContextSpecific,
        };
        self.0
            .login(user, pin.map(Pin::secret))
            .map_err(|e| call_error("C_Login", e))
    }

    fn init_pin(&self, pin: &Pin) -> Result<(), CallError> {
        self.0
            .init_pin(pin.secret())
            .map_err(|e| call_error("C_InitPIN", e))
    }

    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        let name = "C_FindObjects";
        let found = self.0.find_objects(&to_template(name, template)?);
        Ok(found
            .map_err(|e| call_error(name, e))?
            .iter()
            .map(|o| ObjectHandle(o.handle()))
            .collect())
    }

    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        let name = "C_GetAttributeValue";
        let object = to_object(object);
        let types: Vec<_> = kinds.iter().map(|kind| kind.to_crate()).collect();
        let found = match self.0.get_attributes(object, &types) {
            Ok(found) => found,
            Err(error @ CrateError::Pkcs11(..)) => return Err(call_error(name, error)),
            // One value that the crate cannot read must not hide the others.
            Err(_) => {
                let mut found = Vec::new();
                for kind in types {
                    found.extend(self.0.get_attributes(object, &[kind]).unwrap_or_default());
                }
                found
            }
        };
        Ok(Attributes(
            found
                .into_iter()
                .filter_map(Attribute::from_crate)
                .collect(),
        ))
    }

    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let name = "C_Sign";
        self.0
            .sign(&to_mechanism(name, mechanism)?, to_object(key), data)
            .map_err(|e| call_error(name, e))
    }

    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError> {
        let name = "C_SignInit";
        self.0
            .sign_init(&to_mechanism(name, mechanism)?, to_object(key))
            .map_err(|e| call_error(name, e))
    }

    fn sign_update(&self, data: &[u8]) -> Result<(), CallError> {
        self.0
            .sign_update(data)
            .map_err(|e| call_error("C_SignUpdate", e))
    }

    fn sign_final(&self) -> Result<Vec<u8>, CallError> {
        self.0
            .sign_final()
            .map_err(|e| call_error("C_SignFinal", e))
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.0
            .encrypt(&to_cipher(mechanism), to_object(key), data)
            .map_err(|e| call_error("C_Encrypt", e))
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.0
            .decrypt(&to_cipher(mechanism), to_object(key), data)
            .map_err(|e| call_error("C_Decrypt", e))
    }

    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        let name = "C_GenerateKey";
        let mechanism = match mechanism {
            MechanismKind::AesKeyGen => Mechanism::AesKeyGen,
            MechanismKind::GenericSecretKeyGen => Mechanism::GenericSecretKeyGen,
            _ => return Err(CallError::new(name, Rv::MECHANISM_INVALID)),
        };
        self.0
            .generate_key(&mechanism, &to_template(name, template)?)
            .map(|key| ObjectHandle(key.handle()))
            .map_err(|e| call_error(name, e))
    }

    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        let name = "C_GenerateKeyPair";
        let (public, private) = (to_template(name, public)?, to_template(name, private)?);
        self.0
            .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)
            .map(|(public, private)| {
                (
                    ObjectHandle(public.handle()),
                    ObjectHandle(private.handle()),
                )
            })
            .map_err(|e| call_error(name, e))
    }

    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError> {
        let name = "C_CreateObject";
        let mut template = to_template(name, template)?;
        let created = self.0.create_object(&template);
        for attribute in &mut template {
            if let co::Attribute::Value(value) = attribute {
                value.zeroize();
            }
        }
        created
            .map(|object| ObjectHandle(object.handle()))
            .map_err(|e| call_error(name, e))
    }

    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError> {
        self.0
            .destroy_object(to_object(object))
            .map_err(|e| call_error("C_DestroyObject", e))
    }
}

const fn session_limit(limit: Limit) -> SessionLimit {
    match limit {
        Limit::Max(most) => SessionLimit::Most(most),
        Limit::Infinite => SessionLimit::Unlimited,
        Limit::Unavailable => SessionLimit::Unknown,
    }
}

/// Tokens pad with blanks, some with zero bytes.
fn clean(text: &str) -> String {
    text.trim_end_matches([' ', '\0']).to_owned()
}

fn to_slot(function: &'static str, slot: u64) -> Result<Slot, CallError> {
    Slot::try_from(slot).map_err(|_| CallError::new(function, Rv::SLOT_ID_INVALID))
}

#[allow(unsafe_code)]
fn to_object(object: ObjectHandle) -> co::ObjectHandle {
    // SAFETY: a handle is a number that the module checks with each call, and answers with CKR_OBJECT_HANDLE_INVALID;
    // the crate marks this as unsafe only because callers can make numbers up.
    #[allow(
        clippy::useless_conversion,
        reason = "CK_ULONG has 32 bits on some targets"
    )]
    unsafe {
        co::ObjectHandle::new_from_raw(object.0.try_into().unwrap_or(0))
    }
}

fn to_template(
    function: &'static str,
    template: &[Attribute],
) -> Result<Vec<co::Attribute>, CallError> {
    template
        .iter()
        .map(|attribute| {
            attribute
                .to_crate()
                .ok_or(CallError::new(function, Rv::ATTRIBUTE_VALUE_INVALID))
        })
        .collect()
}

const fn mechanism_type(kind: MechanismKind) -> MechanismType {
    match kind {
        MechanismKind::RsaPkcsPss => MechanismType::RSA_PKCS_PSS,
        MechanismKind::RsaX509 => MechanismType::RSA_X_509,
        MechanismKind::HashRsaPkcsPss(Digest::Sha256) => MechanismType::SHA256_RSA_PKCS_PSS,
        MechanismKind::HashRsaPkcsPss(Digest::Sha384) => MechanismType::SHA384_RSA_PKCS_PSS,
        MechanismKind::HashRsaPkcsPss(Digest::Sha512) => MechanismType::SHA512_RSA_PKCS_PSS,
        MechanismKind::RsaKeyPairGen => MechanismType::RSA_PKCS_KEY_PAIR_GEN,
        MechanismKind::Sha256Hmac => MechanismType::SHA256_HMAC,
        MechanismKind::AesCbc => MechanismType::AES_CBC,
        MechanismKind::AesCbcPad => MechanismType::AES_CBC_PAD,
        MechanismKind::AesKeyGen => MechanismType::AES_KEY_GEN,
        MechanismKind::GenericSecretKeyGen => MechanismType::GENERIC_SECRET_KEY_GEN,
    }
}

fn to_mechanism(
    function: &'static str,
    mechanism: SignMechanism,
) -> Result<Mechanism<'static>, CallError> {
    let parameters = |digest, salt_len: usize| {
        let (hash_alg, mgf) = match digest {
            Digest::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
            Digest::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
            Digest::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
        };
        let s_len = Ulong::try_from(salt_len)
            .map_err(|_| CallError::new(function, Rv::MECHANISM_PARAM_INVALID))?;
        Ok(PkcsPssParams {
            hash_alg,
            mgf,
            s_len,
        })
    };
    Ok(match mechanism {
        SignMechanism::RsaPkcsPss { digest, salt_len } => {
            Mechanism::RsaPkcsPss(parameters(digest, salt_len)?)
        }
        SignMechanism::RsaX509 => Mechanism::RsaX509,
        SignMechanism::Sha256Hmac => Mechanism::Sha256Hmac,
        SignMechanism::HashRsaPkcsPss { digest, salt_len } => {
            let parameters = parameters(digest, salt_len)?;
            match digest {
                Digest::Sha256 => Mechanism::Sha256RsaPkcsPss(parameters),
                Digest::Sha384 => Mechanism::Sha384RsaPkcsPss(parameters),
                Digest::Sha512 => Mechanism::Sha512RsaPkcsPss(parameters),
            }
        }
    })
}

const fn to_cipher(mechanism: CipherMechanism) -> Mechanism<'static> {
    match mechanism {
        CipherMechanism::AesCbc { iv } => Mechanism::AesCbc(iv),
        CipherMechanism::AesCbcPad { iv } => Mechanism::AesCbcPad(iv),
    }
}

/// What the crate says, as our error; `called` is the function when the crate does not name it.
fn call_error(called: &'static str, error: CrateError) -> CallError {
    match error {
        CrateError::Pkcs11(rv, function) => {
            CallError::new(function_name(function).unwrap_or(called), rv.into())
        }
        CrateError::NullFunctionPointer => CallError {
            function: called,
            answer: Answer::NoFunction,
        },
        other => CallError {
            function: called,
            answer: Answer::Malformed(other.to_string()),
        },
    }
}

const fn function_name(function: Function) -> Option<&'static str> {
    Some(match function {
        Function::Initialize => "C_Initialize",
        Function::GetInterface => "C_GetInterface",
        Function::GetFunctionList => "C_GetFunctionList",
        Function::FindObjectsInit => "C_FindObjectsInit",
        Function::FindObjects => "C_FindObjects",
        Function::FindObjectsFinal => "C_FindObjectsFinal",
        Function::SignInit => "C_SignInit",
        Function::EncryptInit => "C_EncryptInit",
        Function::DecryptInit => "C_DecryptInit",
        Function::Sign => "C_Sign",
        _ => return None,
    })
}
