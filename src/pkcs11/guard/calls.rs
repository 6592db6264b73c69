//! The calls that go through a guard: those of the module, and those of its sessions.

use std::path::Path;
use std::sync::Arc;

use super::Guard;
use super::instance::Instance;
use super::starts::Sight;
use crate::pkcs11::error::Error;
use crate::pkcs11::limits::{DEADLINE, Rules};
use crate::pkcs11::module::{
    Attribute, AttributeKind, Attributes, CallError, CipherMechanism, LibraryInfo, MechanismInfo,
    MechanismKind, Module, ModuleSession, ObjectHandle, SignMechanism, SlotInfo, User,
};
use crate::pkcs11::pin::Pin;
use crate::pkcs11::process::Deadline;
use crate::pkcs11::rv::Rv;
use crate::pkcs11::token::TokenInfo;

impl Guard {
    /// Opens a session in the current epoch; waits for its turn until the deadline.
    pub(crate) fn open(
        &self,
        slot: u64,
        writable: bool,
        deadline: Deadline,
    ) -> Result<Box<dyn ModuleSession>, CallError> {
        const NAME: &str = "C_OpenSession";
        let instance = self.own(NAME)?;
        let _here = instance.stay();
        let one_at_a_time = instance.sessions.lock(deadline);
        if one_at_a_time.is_none() {
            instance.waited_in_vain();
            return Err(CallError::new(NAME, Rv::FUNCTION_CANCELED));
        }
        let inside = instance.enter(NAME)?;
        // Changes while this call is inside only when the instance is abandoned; then the session is of no use.
        let epoch = self.epoch();
        let session = instance.module.open_session(slot, writable)?;
        drop(inside);
        drop(one_at_a_time);
        Ok(Box::new(GuardedSession {
            session: Some(session),
            guard: self.clone(),
            instance,
            epoch,
        }))
    }
}

impl Module for Guard {
    fn path(&self) -> &Path {
        self.0.module.path()
    }

    fn initialize(&self) -> Result<(), CallError> {
        let deadline = Deadline::after(DEADLINE);
        self.start(&Rules::default(), deadline)
            .map_err(|error| match error {
                Error::ModuleStart { call, .. } => call,
                _ => CallError::new("C_Initialize", Rv::FUNCTION_CANCELED),
            })
    }

    fn finalize(&self) -> Result<(), CallError> {
        const NAME: &str = "C_Finalize";
        let deadline = Deadline::after(DEADLINE);
        let canceled = CallError::new(NAME, Rv::FUNCTION_CANCELED);
        let Ok(turn) = self.take_turn(deadline, |state| !state.running) else {
            return Err(canceled);
        };
        let turn = turn.ok_or(CallError::not_initialized(NAME))?;
        let ours = self.state().ours;
        if ours && self.finalize_in(&turn, Sight::Tokens, deadline) {
            Ok(())
        } else {
            Err(canceled)
        }
    }

    fn library(&self) -> Result<LibraryInfo, CallError> {
        self.call("C_GetInfo", |module| module.library())
    }

    fn slots(&self) -> Result<Vec<u64>, CallError> {
        self.call("C_GetSlotList", |module| module.slots())
    }

    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError> {
        self.call("C_GetSlotInfo", |module| module.slot(slot))
    }

    fn token(&self, slot: u64) -> Result<TokenInfo, CallError> {
        self.call("C_GetTokenInfo", |module| module.token(slot))
    }

    fn mechanism(
        &self,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        self.call("C_GetMechanismInfo", |module| module.mechanism(slot, kind))
    }

    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError> {
        self.open(slot, writable, Deadline::after(DEADLINE))
    }

    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError> {
        self.call("C_InitToken", |module| {
            module.init_token(slot, so_pin, label)
        })
    }
}

/// A session that knows its epoch and its process. Closed when dropped, if it is still its own.
pub(super) struct GuardedSession {
    /// `None` only while it is dropped.
    pub(super) session: Option<Box<dyn ModuleSession>>,
    pub(super) guard: Guard,
    /// Where it was opened.
    pub(super) instance: Arc<Instance>,
    pub(super) epoch: u64,
}

impl GuardedSession {
    fn call<T>(
        &self,
        function: &'static str,
        call: impl FnOnce(&dyn ModuleSession) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.guard.check_process(function)?;
        let _inside = self.instance.enter(function)?;
        match &self.session {
            Some(session) if self.epoch == self.guard.epoch() => call(session.as_ref()),
            _ => Err(CallError::new(function, Rv::SESSION_HANDLE_INVALID)),
        }
    }

    fn shut(&mut self) -> Result<(), CallError> {
        const NAME: &str = "C_CloseSession";
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        if !self.guard.0.process.is_this() {
            // The parent's. Closing it here would break it there (measured on a TPM), and its locks may be held.
            std::mem::forget(session);
            return Ok(());
        }
        let deadline = Deadline::after(DEADLINE);
        // Not its own any more, so there is nothing to wait for.
        if self.epoch != self.guard.epoch() {
            return Ok(());
        }
        let _here = self.instance.stay();
        let Some(_one_at_a_time) = self.instance.sessions.lock(deadline) else {
            return Err(CallError::new(NAME, Rv::FUNCTION_CANCELED));
        };
        let _inside = self.instance.enter(NAME)?;
        if self.epoch != self.guard.epoch() {
            return Ok(());
        }
        session.close()
    }
}

impl Drop for GuardedSession {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::debug!(%error, "a session could not be closed");
        }
    }
}

impl ModuleSession for GuardedSession {
    fn close(mut self: Box<Self>) -> Result<(), CallError> {
        self.shut()
    }

    fn user_is_logged_in(&self) -> Result<bool, CallError> {
        self.call("C_GetSessionInfo", |session| session.user_is_logged_in())
    }

    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError> {
        self.call("C_Login", |session| session.login(user, pin))
    }

    fn init_pin(&self, pin: &Pin) -> Result<(), CallError> {
        self.call("C_InitPIN", |session| session.init_pin(pin))
    }

    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        self.call("C_FindObjects", |session| session.find(template))
    }

    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        self.call("C_GetAttributeValue", |session| {
            session.attributes(object, kinds)
        })
    }

    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.call("C_Sign", |session| session.sign(mechanism, key, data))
    }

    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError> {
        self.call("C_SignInit", |session| session.sign_init(mechanism, key))
    }

    fn sign_update(&self, data: &[u8]) -> Result<(), CallError> {
        self.call("C_SignUpdate", |session| session.sign_update(data))
    }

    fn sign_final(&self) -> Result<Vec<u8>, CallError> {
        self.call("C_SignFinal", |session| session.sign_final())
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.call("C_Encrypt", |session| session.encrypt(mechanism, key, data))
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.call("C_Decrypt", |session| session.decrypt(mechanism, key, data))
    }

    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        self.call("C_GenerateKey", |session| {
            session.generate_secret(mechanism, template)
        })
    }

    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        self.call("C_GenerateKeyPair", |session| {
            session.generate_rsa(public, private)
        })
    }

    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError> {
        self.call("C_CreateObject", |session| session.create(template))
    }

    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError> {
        self.call("C_DestroyObject", |session| session.destroy(object))
    }
}
