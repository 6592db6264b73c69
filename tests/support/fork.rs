//! `fork` for tests.
//!
//! A fork of a process with threads is what prefork servers do to a library, so it has to be done here too.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskseal::pkcs11::module::{
    Attribute, AttributeKind, Attributes, CallError, CipherMechanism, LibraryInfo, MechanismInfo,
    MechanismKind, Module, ModuleSession, ObjectHandle, SignMechanism, SlotInfo, User, library,
};
use taskseal::pkcs11::{Pin, Rv, TokenInfo};

/// A forked child.
pub struct Child(libc::pid_t);

/// Runs `run` in a forked child, which then ends without unwinding or exit handlers, as Python's workers do: with 0 if
/// `run` returned `Ok`, with 1 if it returned an error (shown on standard error) or panicked.
#[allow(
    unsafe_code,
    reason = "fork, waitpid, kill and _exit have no safe form in std"
)]
pub fn fork(run: impl FnOnce() -> Result<(), String>) -> Child {
    // SAFETY: the child runs code that may lock and allocate although the parent has threads. glibc makes malloc usable
    // again; that the rest is what this crate promises, and what is tested.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let code = match result {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => {
                    eprintln!("child: {error}");
                    1
                }
                Err(_) => 1,
            };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        pid => Child(pid),
    }
}

impl Child {
    /// Waits for the child; panics if it failed or did not end in time, in which case it is killed.
    #[allow(unsafe_code, reason = "see fork")]
    pub fn succeed(self, within: Duration) {
        let start = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: the pid is of a child that was not waited for yet.
            let ended = unsafe { libc::waitpid(self.0, &mut status, libc::WNOHANG) };
            if ended == self.0 {
                assert_eq!(status, 0, "the child ended with status {status:#x}");
                return;
            }
            assert_eq!(ended, 0, "waitpid: {}", std::io::Error::last_os_error());
            if start.elapsed() > within {
                // SAFETY: as above.
                unsafe { libc::kill(self.0, libc::SIGKILL) };
                panic!("the child did not end within {within:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What a module does in a forked child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// `CKR_CRYPTOKI_NOT_INITIALIZED` until the child calls `C_Initialize`, which works: openCryptoki, p11-kit.
    Strict,
    /// `C_Initialize` says that it is initialised, and whatever else the child calls breaks the parent: tpm2-pkcs11.
    Fragile,
}

/// A real module with such manners.
#[derive(Debug)]
pub struct ForkModule {
    inner: Arc<dyn Module>,
    shared: Arc<ForkShared>,
}

#[derive(Debug)]
pub struct ForkShared {
    manners: Manners,
    /// The process that initialised the module.
    pid: AtomicU32,
    /// Calls by another process that the parent would feel.
    trespasses: AtomicUsize,
}

impl ForkShared {
    /// How often this process called what is another's.
    pub fn trespasses(&self) -> usize {
        self.trespasses.load(Ordering::SeqCst)
    }

    fn is_own(&self) -> bool {
        self.pid.load(Ordering::SeqCst) == std::process::id()
    }

    fn check(&self, function: &'static str) -> Result<(), CallError> {
        if self.is_own() {
            return Ok(());
        }
        self.trespasses.fetch_add(1, Ordering::SeqCst);
        Err(CallError::new(function, Rv::CRYPTOKI_NOT_INITIALIZED))
    }
}

/// The real module at `path` with these manners.
pub fn fork_module(path: &Path, manners: Manners) -> (Arc<dyn Module>, Arc<ForkShared>) {
    let shared = Arc::new(ForkShared {
        manners,
        pid: AtomicU32::new(0),
        trespasses: AtomicUsize::new(0),
    });
    let module = ForkModule {
        inner: library(path).unwrap(),
        shared: shared.clone(),
    };
    (Arc::new(module), shared)
}

impl ForkModule {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.shared.check(function)
    }
}

impl Module for ForkModule {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn initialize(&self) -> Result<(), CallError> {
        let pid = std::process::id();
        let owner = self.shared.pid.load(Ordering::SeqCst);
        match self.shared.manners {
            Manners::Fragile if owner != 0 => {
                return Err(CallError::new(
                    "C_Initialize",
                    Rv::CRYPTOKI_ALREADY_INITIALIZED,
                ));
            }
            // The real one has to be given the manners.
            Manners::Strict if owner != 0 && owner != pid => {
                self.inner.finalize()?;
                self.inner.initialize()?;
            }
            // Whoever made the token has initialised it.
            _ => drop(self.inner.initialize()),
        }
        self.shared.pid.store(pid, Ordering::SeqCst);
        Ok(())
    }

    fn finalize(&self) -> Result<(), CallError> {
        self.before("C_Finalize")?;
        self.inner.finalize()
    }

    fn library(&self) -> Result<LibraryInfo, CallError> {
        Ok(LibraryInfo {
            manufacturer: "tpm2-software.github.io".to_owned(),
            description: "TPM2.0 Cryptoki".to_owned(),
            ..LibraryInfo::default()
        })
    }

    fn slots(&self) -> Result<Vec<u64>, CallError> {
        self.before("C_GetSlotList")?;
        self.inner.slots()
    }

    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError> {
        self.before("C_GetSlotInfo")?;
        self.inner.slot(slot)
    }

    fn token(&self, slot: u64) -> Result<TokenInfo, CallError> {
        self.before("C_GetTokenInfo")?;
        self.inner.token(slot)
    }

    fn mechanism(
        &self,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        self.before("C_GetMechanismInfo")?;
        self.inner.mechanism(slot, kind)
    }

    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError> {
        self.before("C_OpenSession")?;
        Ok(Box::new(ForkSession {
            inner: self.inner.open_session(slot, writable)?,
            shared: self.shared.clone(),
        }))
    }

    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError> {
        self.before("C_InitToken")?;
        self.inner.init_token(slot, so_pin, label)
    }
}

struct ForkSession {
    inner: Box<dyn ModuleSession>,
    shared: Arc<ForkShared>,
}

impl ForkSession {
    fn inner(&self) -> &dyn ModuleSession {
        self.inner.as_ref()
    }

    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.shared.check(function)
    }
}

impl ModuleSession for ForkSession {
    fn close(self: Box<Self>) -> Result<(), CallError> {
        self.before("C_CloseSession")?;
        self.inner.close()
    }

    fn user_is_logged_in(&self) -> Result<bool, CallError> {
        self.before("C_GetSessionInfo")?;
        self.inner().user_is_logged_in()
    }

    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError> {
        self.before("C_Login")?;
        self.inner().login(user, pin)
    }

    fn init_pin(&self, pin: &Pin) -> Result<(), CallError> {
        self.before("C_InitPIN")?;
        self.inner().init_pin(pin)
    }

    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        self.before("C_FindObjects")?;
        self.inner().find(template)
    }

    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        self.before("C_GetAttributeValue")?;
        self.inner().attributes(object, kinds)
    }

    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Sign")?;
        self.inner().sign(mechanism, key, data)
    }

    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError> {
        self.before("C_SignInit")?;
        self.inner().sign_init(mechanism, key)
    }

    fn sign_update(&self, data: &[u8]) -> Result<(), CallError> {
        self.before("C_SignUpdate")?;
        self.inner().sign_update(data)
    }

    fn sign_final(&self) -> Result<Vec<u8>, CallError> {
        self.before("C_SignFinal")?;
        self.inner().sign_final()
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Encrypt")?;
        self.inner().encrypt(mechanism, key, data)
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Decrypt")?;
        self.inner().decrypt(mechanism, key, data)
    }

    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        self.before("C_GenerateKey")?;
        self.inner().generate_secret(mechanism, template)
    }

    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        self.before("C_GenerateKeyPair")?;
        self.inner().generate_rsa(public, private)
    }

    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError> {
        self.before("C_CreateObject")?;
        self.inner().create(template)
    }

    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError> {
        self.before("C_DestroyObject")?;
        self.inner().destroy(object)
    }
}
