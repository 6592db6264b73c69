//! The end of a process whose threads are still signing.
#![cfg(all(feature = "pkcs11", unix))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::fork::fork;
use support::softhsm::{self, Token};
use taskseal::SigningKey as _;
use taskseal::pkcs11::library;
use taskseal::pkcs11::module::{CallError, ModuleSession, ObjectHandle, SignMechanism};
use taskseal_testkit::wrap::{Hook, SessionHook, wrap};

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls of `C_Sign` in progress.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Calls of `C_Sign` do not return.
static HANG: AtomicBool = AtomicBool::new(false);
/// One of them has not.
static HANGS: AtomicBool = AtomicBool::new(false);

/// A module whose signatures take a while. Not one with `Faults`: that stands before a guard, whose calls would wait for the end
/// while the end waits for those of the guard before it.
#[derive(Debug)]
struct Slow;

impl Hook for Slow {
    fn before(&self, _: &'static str) -> Result<(), CallError> {
        Ok(())
    }

    fn session(self: Arc<Self>) -> Box<dyn SessionHook> {
        Box::new(SlowSession)
    }
}

struct SlowSession;

impl SessionHook for SlowSession {
    fn before(&self, _: &'static str) -> Result<(), CallError> {
        Ok(())
    }

    fn sign(
        &self,
        inner: &dyn ModuleSession,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        INSIDE.fetch_add(1, Ordering::SeqCst);
        while HANG.load(Ordering::SeqCst) {
            HANGS.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(20));
        let signature = inner.sign(mechanism, key, data);
        INSIDE.fetch_sub(1, Ordering::SeqCst);
        signature
    }
}

/// Signs on three threads until the process ends.
fn sign_for_ever(token: &Token) {
    let module = wrap(library(&token.module).unwrap(), Arc::new(Slow));
    let builder = token
        .builder()
        .module_implementation(module)
        .max_sessions(3);
    let key = Arc::new(builder.open_key().unwrap());
    for _ in 0..3 {
        let key = key.clone();
        std::thread::spawn(move || while key.sign_message(b"message").is_ok() {});
    }
    while INSIDE.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
}

/// Stands for the destructors of a library: runs after the handlers that were registered later.
extern "C" fn torn_down() {
    if INSIDE.load(Ordering::SeqCst) > 0 {
        // SAFETY: ends the process, with a status that says so.
        #[allow(unsafe_code)]
        unsafe {
            libc::_exit(3)
        }
    }
}

#[allow(unsafe_code, reason = "exit and its handlers have no safe form in std")]
fn exit() -> ! {
    // SAFETY: the handlers of this process are the tested one, those of libraries and `torn_down`.
    unsafe { libc::exit(0) }
}

#[test]
fn no_call_is_in_a_module_when_the_libraries_are_torn_down() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let child = fork(|| {
            // SAFETY: the handler reads a number.
            #[allow(unsafe_code)]
            let failed = unsafe { libc::atexit(torn_down) };
            assert_eq!(failed, 0);
            sign_for_ever(&token);
            exit()
        });
        child.succeed(PATIENCE);
    });
}

#[test]
fn a_call_that_hangs_does_not_keep_a_process_from_ending() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let start = Instant::now();
        let child = fork(|| {
            sign_for_ever(&token);
            HANG.store(true, Ordering::SeqCst);
            while !HANGS.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            exit()
        });
        child.succeed(PATIENCE);
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}
