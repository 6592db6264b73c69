//! A module that stands before another one, counts calls and breaks what it is told to break.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use taskseal::pkcs11::load;
use taskseal::pkcs11::module::{
    AttributeKind, Attributes, CallError, CipherMechanism, MechanismInfo, MechanismKind, Module,
    ModuleSession, ObjectHandle, SignMechanism, User,
};
use taskseal::pkcs11::{Pin, Rv, TokenInfo};

use taskseal_testkit::wrap::{Hook, SessionHook, wrap};

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

    /// A mechanism that is not offered is not there either.
    fn offered(&self, function: &'static str, mechanism: CipherMechanism) -> Result<(), CallError> {
        let not_offered = &self.hooks.lock().unwrap().not_offered;
        match not_offered.contains(&mechanism.kind()) {
            true => Err(failed(function, Rv::MECHANISM_INVALID)),
            false => Ok(()),
        }
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
    (wrap(load(path).unwrap(), spy.clone()), spy)
}

impl Hook for Spy {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.called(function);
        Ok(())
    }

    fn session(self: Arc<Self>) -> Box<dyn SessionHook> {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        Box::new(SpySession(self))
    }

    fn token(&self, inner: &dyn Module, slot: u64) -> Result<TokenInfo, CallError> {
        let info = inner.token(slot)?;
        match &self.hooks.lock().unwrap().token {
            Some(hook) => hook(info),
            None => Ok(info),
        }
    }

    fn mechanism(
        &self,
        inner: &dyn Module,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        if self.hooks.lock().unwrap().not_offered.contains(&kind) {
            return Ok(None);
        }
        inner.mechanism(slot, kind)
    }
}

struct SpySession(Arc<Spy>);

impl Drop for SpySession {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SessionHook for SpySession {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.0.before(function)
    }

    fn login(
        &self,
        inner: &dyn ModuleSession,
        user: User,
        pin: Option<&Pin>,
    ) -> Result<(), CallError> {
        if user != User::ContextSpecific {
            self.0.called("C_Login");
            return inner.login(user, pin);
        }
        self.0.called("C_Login(context)");
        let answer = self.0.hooks.lock().unwrap().context_login;
        match answer {
            Some(rv) => Err(failed("C_Login", rv)),
            None => inner.login(user, pin),
        }
    }

    fn attributes(
        &self,
        inner: &dyn ModuleSession,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        let attributes = inner.attributes(object, kinds)?;
        Ok(match &self.0.hooks.lock().unwrap().attributes {
            Some(hook) => hook(attributes),
            None => attributes,
        })
    }

    fn sign(
        &self,
        inner: &dyn ModuleSession,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.0.called("C_Sign");
        let hooks = self.0.hooks.lock().unwrap();
        let answer = hooks.sign.as_ref().and_then(|hook| hook(mechanism));
        drop(hooks);
        answer.unwrap_or_else(|| inner.sign(mechanism, key, data))
    }

    fn encrypt(
        &self,
        inner: &dyn ModuleSession,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.0.offered("C_EncryptInit", mechanism)?;
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
        self.0.offered("C_DecryptInit", mechanism)?;
        self.before("C_Decrypt")?;
        inner.decrypt(mechanism, key, data)
    }
}

/// A failed call.
pub fn failed(function: &'static str, rv: Rv) -> CallError {
    CallError::new(function, rv)
}
