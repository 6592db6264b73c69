//! `fork` for tests.
//!
//! A fork of a process with threads is what prefork servers do to a library, so it has to be done here too.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskseal::pkcs11::Rv;
use taskseal::pkcs11::library;
use taskseal::pkcs11::module::{CallError, LibraryInfo, Module};

use taskseal_testkit::wrap::{Hook, SessionHook, wrap};

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

/// What stands before a real module to give it such manners.
#[derive(Debug)]
pub struct ForkHook {
    manners: Manners,
    /// The process that initialised the module.
    pid: AtomicU32,
    /// Calls by another process that the parent would feel.
    trespasses: AtomicUsize,
}

impl ForkHook {
    /// How often this process called what is another's.
    pub fn trespasses(&self) -> usize {
        self.trespasses.load(Ordering::SeqCst)
    }

    fn is_own(&self) -> bool {
        self.pid.load(Ordering::SeqCst) == std::process::id()
    }
}

/// The real module at `path` with these manners.
pub fn fork_module(path: &Path, manners: Manners) -> (Arc<dyn Module>, Arc<ForkHook>) {
    let shared = Arc::new(ForkHook {
        manners,
        pid: AtomicU32::new(0),
        trespasses: AtomicUsize::new(0),
    });
    (wrap(library(path).unwrap(), shared.clone()), shared)
}

impl Hook for ForkHook {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        if self.is_own() {
            return Ok(());
        }
        self.trespasses.fetch_add(1, Ordering::SeqCst);
        Err(CallError::new(function, Rv::CRYPTOKI_NOT_INITIALIZED))
    }

    fn session(self: Arc<Self>) -> Box<dyn SessionHook> {
        Box::new(ForkSession(self))
    }

    fn initialize(&self, inner: &dyn Module) -> Result<(), CallError> {
        let pid = std::process::id();
        let owner = self.pid.load(Ordering::SeqCst);
        match self.manners {
            Manners::Fragile if owner != 0 => {
                return Err(CallError::new(
                    "C_Initialize",
                    Rv::CRYPTOKI_ALREADY_INITIALIZED,
                ));
            }
            // The real one has to be given the manners.
            Manners::Strict if owner != 0 && owner != pid => {
                inner.finalize()?;
                inner.initialize()?;
            }
            // Whoever made the token has initialised it.
            _ => drop(inner.initialize()),
        }
        self.pid.store(pid, Ordering::SeqCst);
        Ok(())
    }

    fn library(&self, _: &dyn Module) -> Result<LibraryInfo, CallError> {
        Ok(LibraryInfo {
            manufacturer: "tpm2-software.github.io".to_owned(),
            description: "TPM2.0 Cryptoki".to_owned(),
            ..LibraryInfo::default()
        })
    }
}

struct ForkSession(Arc<ForkHook>);

impl SessionHook for ForkSession {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.0.before(function)
    }
}
