//! A module that stands before another one: every call goes through a hook, which may count it, refuse it or change its
//! answer.
#![allow(
    missing_docs,
    reason = "the methods have the names of the calls that they stand for"
)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use taskseal::pkcs11::module::{
    Attribute, AttributeKind, Attributes, CallError, CipherMechanism, LibraryInfo, MechanismInfo,
    MechanismKind, Module, ModuleSession, ObjectHandle, SignMechanism, SlotInfo, User,
};
use taskseal::pkcs11::{Pin, TokenInfo};

/// What stands before a module.
///
/// The methods with the name of a call are made instead of it; without one of its own, a hook has [`before`](Self::before)
/// and then the call. A hook that answers for itself asks `before` where it wants to.
pub trait Hook: fmt::Debug + Send + Sync + 'static {
    /// Before a call of this function, `C_…`; an error comes back instead of its answer.
    fn before(&self, function: &'static str) -> Result<(), CallError>;

    /// What stands before a session that was just opened; it is dropped with the session.
    fn session(self: Arc<Self>) -> Box<dyn SessionHook>;

    /// Whether there is another instance of the module.
    fn another(&self) -> bool {
        false
    }

    fn initialize(&self, inner: &dyn Module) -> Result<(), CallError> {
        self.before("C_Initialize")?;
        inner.initialize()
    }

    fn library(&self, inner: &dyn Module) -> Result<LibraryInfo, CallError> {
        self.before("C_GetInfo")?;
        inner.library()
    }

    fn slots(&self, inner: &dyn Module) -> Result<Vec<u64>, CallError> {
        self.before("C_GetSlotList")?;
        inner.slots()
    }

    fn token(&self, inner: &dyn Module, slot: u64) -> Result<TokenInfo, CallError> {
        self.before("C_GetTokenInfo")?;
        inner.token(slot)
    }

    fn mechanism(
        &self,
        inner: &dyn Module,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        self.before("C_GetMechanismInfo")?;
        inner.mechanism(slot, kind)
    }

    fn open_session(
        &self,
        inner: &dyn Module,
        slot: u64,
        writable: bool,
    ) -> Result<Box<dyn ModuleSession>, CallError> {
        self.before("C_OpenSession")?;
        inner.open_session(slot, writable)
    }
}

/// What stands before a session, as [`Hook`] before a module.
pub trait SessionHook: Send {
    /// Before a call of this function, `C_…`; an error comes back instead of its answer.
    fn before(&self, function: &'static str) -> Result<(), CallError>;

    fn login(
        &self,
        inner: &dyn ModuleSession,
        user: User,
        pin: Option<&Pin>,
    ) -> Result<(), CallError> {
        self.before("C_Login")?;
        inner.login(user, pin)
    }

    fn find(
        &self,
        inner: &dyn ModuleSession,
        template: &[Attribute],
    ) -> Result<Vec<ObjectHandle>, CallError> {
        self.before("C_FindObjects")?;
        inner.find(template)
    }

    fn attributes(
        &self,
        inner: &dyn ModuleSession,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        self.before("C_GetAttributeValue")?;
        inner.attributes(object, kinds)
    }

    fn sign(
        &self,
        inner: &dyn ModuleSession,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Sign")?;
        inner.sign(mechanism, key, data)
    }

    fn encrypt(
        &self,
        inner: &dyn ModuleSession,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Encrypt")?;
        inner.encrypt(mechanism, key, data)
    }

    fn decrypt(
        &self,
        inner: &dyn ModuleSession,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Decrypt")?;
        inner.decrypt(mechanism, key, data)
    }

    fn generate_rsa(
        &self,
        inner: &dyn ModuleSession,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        self.before("C_GenerateKeyPair")?;
        inner.generate_rsa(public, private)
    }
}

/// The module behind the hook.
pub fn wrap(inner: Arc<dyn Module>, hook: Arc<dyn Hook>) -> Arc<dyn Module> {
    Arc::new(Wrapped { inner, hook })
}

#[derive(Debug)]
struct Wrapped {
    inner: Arc<dyn Module>,
    hook: Arc<dyn Hook>,
}

impl Module for Wrapped {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn initialize(&self) -> Result<(), CallError> {
        self.hook.initialize(&*self.inner)
    }

    fn finalize(&self) -> Result<(), CallError> {
        self.hook.before("C_Finalize")?;
        self.inner.finalize()
    }

    fn another(&self) -> Option<Arc<dyn Module>> {
        let again = || wrap(self.inner.clone(), self.hook.clone());
        self.hook.another().then(again)
    }

    fn library(&self) -> Result<LibraryInfo, CallError> {
        self.hook.library(&*self.inner)
    }

    fn slots(&self) -> Result<Vec<u64>, CallError> {
        self.hook.slots(&*self.inner)
    }

    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError> {
        self.hook.before("C_GetSlotInfo")?;
        self.inner.slot(slot)
    }

    fn token(&self, slot: u64) -> Result<TokenInfo, CallError> {
        self.hook.token(&*self.inner, slot)
    }

    fn mechanism(
        &self,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        self.hook.mechanism(&*self.inner, slot, kind)
    }

    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError> {
        let inner = self.hook.open_session(&*self.inner, slot, writable)?;
        let hook = self.hook.clone().session();
        Ok(Box::new(WrappedSession { inner, hook }))
    }

    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError> {
        self.hook.before("C_InitToken")?;
        self.inner.init_token(slot, so_pin, label)
    }
}

struct WrappedSession {
    inner: Box<dyn ModuleSession>,
    hook: Box<dyn SessionHook>,
}

impl ModuleSession for WrappedSession {
    fn close(self: Box<Self>) -> Result<(), CallError> {
        self.hook.before("C_CloseSession")?;
        self.inner.close()
    }

    fn user_is_logged_in(&self) -> Result<bool, CallError> {
        self.hook.before("C_GetSessionInfo")?;
        self.inner.user_is_logged_in()
    }

    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError> {
        self.hook.login(&*self.inner, user, pin)
    }

    fn init_pin(&self, pin: &Pin) -> Result<(), CallError> {
        self.hook.before("C_InitPIN")?;
        self.inner.init_pin(pin)
    }

    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        self.hook.find(&*self.inner, template)
    }

    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        self.hook.attributes(&*self.inner, object, kinds)
    }

    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.hook.sign(&*self.inner, mechanism, key, data)
    }

    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError> {
        self.hook.before("C_SignInit")?;
        self.inner.sign_init(mechanism, key)
    }

    fn sign_update(&self, data: &[u8]) -> Result<(), CallError> {
        self.hook.before("C_SignUpdate")?;
        self.inner.sign_update(data)
    }

    fn sign_final(&self) -> Result<Vec<u8>, CallError> {
        self.hook.before("C_SignFinal")?;
        self.inner.sign_final()
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.hook.encrypt(&*self.inner, mechanism, key, data)
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.hook.decrypt(&*self.inner, mechanism, key, data)
    }

    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        self.hook.before("C_GenerateKey")?;
        self.inner.generate_secret(mechanism, template)
    }

    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        self.hook.generate_rsa(&*self.inner, public, private)
    }

    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError> {
        self.hook.before("C_CreateObject")?;
        self.inner.create(template)
    }

    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError> {
        self.hook.before("C_DestroyObject")?;
        self.inner.destroy(object)
    }
}
