//! A module that stands before another one, counts calls and breaks what it is told to break.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use taskseal::pkcs11::module::{
    Attribute, AttributeKind, Attributes, CallError, CipherMechanism, LibraryInfo, MechanismInfo,
    MechanismKind, Module, ModuleSession, ObjectHandle, SignMechanism, SlotInfo, User, load,
};
use taskseal::pkcs11::{Pin, Rv, TokenInfo};

/// Changes what `C_GetTokenInfo` says.
type TokenHook = Box<dyn Fn(TokenInfo) -> Result<TokenInfo, CallError> + Send + Sync>;
/// Changes the attributes of an object.
type AttributeHook = Box<dyn Fn(Attributes) -> Attributes + Send + Sync>;
/// Answers instead of `C_Sign`, or lets it through.
type SignHook = Box<dyn Fn(SignMechanism) -> Option<Result<Vec<u8>, CallError>> + Send + Sync>;

#[derive(Default)]
pub struct Hooks {
    pub token: Option<TokenHook>,
    pub attributes: Option<AttributeHook>,
    pub sign: Option<SignHook>,
    pub not_offered: Vec<MechanismKind>,
    /// Answers instead of a context-specific `C_Login`.
    pub context_login: Option<Rv>,
}

/// What the module and its sessions share.
#[derive(Default)]
pub struct Spy {
    pub hooks: Mutex<Hooks>,
    counts: Mutex<HashMap<&'static str, usize>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Spy {
    /// How often the function was called.
    pub fn count(&self, function: &str) -> usize {
        self.counts
            .lock()
            .unwrap()
            .get(function)
            .copied()
            .unwrap_or(0)
    }

    /// How many sessions are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many sessions were open at once.
    pub fn most_open(&self) -> usize {
        self.most_open.load(Ordering::SeqCst)
    }

    fn called(&self, function: &'static str) {
        *self.counts.lock().unwrap().entry(function).or_default() += 1;
    }
}

impl std::fmt::Debug for Spy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spy")
    }
}

/// The real module at `path` behind a spy.
pub fn spy(path: &Path) -> (Arc<dyn Module>, Arc<Spy>) {
    let spy = Arc::new(Spy::default());
    (
        Arc::new(SpyModule {
            inner: load(path).unwrap(),
            spy: spy.clone(),
        }),
        spy,
    )
}

#[derive(Debug)]
struct SpyModule {
    inner: Arc<dyn Module>,
    spy: Arc<Spy>,
}

impl Module for SpyModule {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn initialize(&self) -> Result<(), CallError> {
        self.spy.called("C_Initialize");
        self.inner.initialize()
    }

    fn finalize(&self) -> Result<(), CallError> {
        self.spy.called("C_Finalize");
        self.inner.finalize()
    }

    fn library(&self) -> Result<LibraryInfo, CallError> {
        self.inner.library()
    }

    fn slots(&self) -> Result<Vec<u64>, CallError> {
        self.inner.slots()
    }

    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError> {
        self.inner.slot(slot)
    }

    fn token(&self, slot: u64) -> Result<TokenInfo, CallError> {
        let info = self.inner.token(slot)?;
        match &self.spy.hooks.lock().unwrap().token {
            Some(hook) => hook(info),
            None => Ok(info),
        }
    }

    fn mechanism(
        &self,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        if self.spy.hooks.lock().unwrap().not_offered.contains(&kind) {
            return Ok(None);
        }
        self.inner.mechanism(slot, kind)
    }

    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError> {
        self.spy.called("C_OpenSession");
        let inner = self.inner.open_session(slot, writable)?;
        let open = self.spy.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.spy.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Box::new(SpySession {
            inner: Some(inner),
            spy: self.spy.clone(),
        }))
    }

    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError> {
        self.inner.init_token(slot, so_pin, label)
    }
}

struct SpySession {
    inner: Option<Box<dyn ModuleSession>>,
    spy: Arc<Spy>,
}

impl SpySession {
    fn inner(&self) -> &dyn ModuleSession {
        self.inner.as_deref().unwrap()
    }
}

impl SpySession {
    /// A mechanism that is not offered is not there either.
    fn offered(&self, function: &'static str, mechanism: CipherMechanism) -> Result<(), CallError> {
        let not_offered = &self.spy.hooks.lock().unwrap().not_offered;
        match not_offered.contains(&mechanism.kind()) {
            true => Err(failed(function, Rv::MECHANISM_INVALID)),
            false => Ok(()),
        }
    }
}

impl Drop for SpySession {
    fn drop(&mut self) {
        self.spy.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ModuleSession for SpySession {
    fn close(mut self: Box<Self>) -> Result<(), CallError> {
        self.spy.called("C_CloseSession");
        self.inner.take().unwrap().close()
    }

    fn user_is_logged_in(&self) -> Result<bool, CallError> {
        self.inner().user_is_logged_in()
    }

    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError> {
        if user != User::ContextSpecific {
            self.spy.called("C_Login");
            return self.inner().login(user, pin);
        }
        self.spy.called("C_Login(context)");
        let answer = self.spy.hooks.lock().unwrap().context_login;
        match answer {
            Some(rv) => Err(failed("C_Login", rv)),
            None => self.inner().login(user, pin),
        }
    }

    fn init_pin(&self, pin: &Pin) -> Result<(), CallError> {
        self.inner().init_pin(pin)
    }

    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        self.spy.called("C_FindObjects");
        self.inner().find(template)
    }

    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        let attributes = self.inner().attributes(object, kinds)?;
        Ok(match &self.spy.hooks.lock().unwrap().attributes {
            Some(hook) => hook(attributes),
            None => attributes,
        })
    }

    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.spy.called("C_Sign");
        let answer = self
            .spy
            .hooks
            .lock()
            .unwrap()
            .sign
            .as_ref()
            .and_then(|hook| hook(mechanism));
        answer.unwrap_or_else(|| self.inner().sign(mechanism, key, data))
    }

    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError> {
        self.spy.called("C_SignInit");
        self.inner().sign_init(mechanism, key)
    }

    fn sign_update(&self, data: &[u8]) -> Result<(), CallError> {
        self.inner().sign_update(data)
    }

    fn sign_final(&self) -> Result<Vec<u8>, CallError> {
        self.inner().sign_final()
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.offered("C_EncryptInit", mechanism)?;
        self.inner().encrypt(mechanism, key, data)
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.offered("C_DecryptInit", mechanism)?;
        self.inner().decrypt(mechanism, key, data)
    }

    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        self.inner().generate_secret(mechanism, template)
    }

    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        self.inner().generate_rsa(public, private)
    }

    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError> {
        self.inner().create(template)
    }

    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError> {
        self.inner().destroy(object)
    }
}

/// A failed call.
pub fn failed(function: &'static str, rv: Rv) -> CallError {
    CallError::new(function, rv)
}
