//! Signing in a process that was forked from one that has signed.
#![cfg(all(feature = "pkcs11", unix))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::fork::{Manners, fork, fork_module};
use support::softhsm;
use taskseal::error::ErrorClass;
use taskseal::pkcs11::{Error, Pkcs11Key};
use taskseal::{SignError, Signer, SigningKey};

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn sign_and_verify(key: &Pkcs11Key, times: usize) -> Result<(), String> {
    for number in 0..times {
        let message = format!("{} {number}", std::process::id());
        let signature = key
            .sign_message(message.as_bytes())
            .map_err(|error| error.to_string())?;
        if !key
            .public_key()
            .verifies(message.as_bytes(), &signature, key.scheme())
        {
            return Err("a signature does not verify".to_owned());
        }
    }
    Ok(())
}

#[test]
fn children_sign_with_what_the_parent_opened_and_the_parent_goes_on() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let signer = token.signer(2048, "k");
        let key = signer.key();
        sign_and_verify(key, 3).unwrap();
        let children: Vec<_> = (0..4)
            .map(|_| {
                fork(|| {
                    // Threads of its own, too.
                    std::thread::scope(|scope| {
                        let threads: Vec<_> = (0..3)
                            .map(|_| scope.spawn(|| sign_and_verify(key, 20)))
                            .collect();
                        threads
                            .into_iter()
                            .try_for_each(|thread| thread.join().unwrap())
                    })
                })
            })
            .collect();
        sign_and_verify(key, 20).unwrap();
        for child in children {
            child.succeed(PATIENCE);
            sign_and_verify(key, 3).unwrap();
        }
        assert!(signer.health().is_usable());
    });
}

#[test]
fn grandchildren_sign_whether_or_not_their_parent_did() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let key = token.builder().open_key().unwrap();
        for parent_signs in [false, true] {
            let child = fork(|| {
                if parent_signs {
                    sign_and_verify(&key, 1)?;
                }
                fork(|| sign_and_verify(&key, 3)).succeed(PATIENCE);
                sign_and_verify(&key, 3)
            });
            child.succeed(PATIENCE);
        }
        sign_and_verify(&key, 3).unwrap();
    });
}

/// A lock that a thread of the parent holds at the moment of the fork is never released in the child.
#[test]
fn forks_while_threads_of_the_parent_sign_do_not_hang() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let key = token.builder().max_sessions(3).open_key().unwrap();
        let done = AtomicBool::new(false);
        let signed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let _end = End(&done);
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        sign_and_verify(&key, 1).unwrap();
                        signed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..40 {
                let before = signed.load(Ordering::SeqCst);
                fork(|| sign_and_verify(&key, 3)).succeed(PATIENCE);
                // The threads go on meanwhile.
                while signed.load(Ordering::SeqCst) < before + 3 {
                    std::thread::yield_now();
                }
            }
        });
    });
}

/// Ends the threads, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_child_can_open_keys_of_its_own() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, certificate) = token.generate_certified(2048, "k");
        let builder = token.builder().object_label("k");
        let child = fork(|| {
            let signer = builder
                .open_signer(certificate)
                .map_err(|error| error.to_string())?;
            sign_and_verify(signer.key(), 3)?;
            signer.close().map_err(|error| error.to_string())?;
            match signer.sign(b"m") {
                Err(SignError::Token(Error::Closed)) => Ok(()),
                other => Err(format!("after closing: {other:?}")),
            }
        });
        child.succeed(PATIENCE);
    });
}

/// OpenSSL, under SoftHSM, cleans up after each thread that ends, under a lock that a child would find held.
#[test]
fn forks_while_the_threads_of_a_dropped_key_end_do_not_hang() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let builder = token.builder().max_sessions(8);
        for _ in 0..40 {
            let key = builder.open_key().unwrap();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| sign_and_verify(&key, 3).unwrap());
                }
            });
            drop(key);
            fork(|| {
                let key = builder.open_key().map_err(|error| error.to_string())?;
                sign_and_verify(&key, 1)
            })
            .succeed(PATIENCE);
        }
    });
}

#[test]
fn a_module_that_forgets_everything_in_a_child_is_opened_anew() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (module, shared) = fork_module(hsm.module(), Manners::Strict);
        let key = token
            .builder()
            .module_implementation(module)
            .open_key()
            .unwrap();
        sign_and_verify(&key, 3).unwrap();
        let children: Vec<_> = (0..3)
            .map(|_| {
                fork(|| {
                    sign_and_verify(&key, 5)?;
                    match shared.trespasses() {
                        0 => Ok(()),
                        calls => Err(format!("{calls} calls before C_Initialize")),
                    }
                })
            })
            .collect();
        sign_and_verify(&key, 5).unwrap();
        children
            .into_iter()
            .for_each(|child| child.succeed(PATIENCE));
        sign_and_verify(&key, 3).unwrap();
    });
}

/// A TPM: even `C_CloseSession` in a child breaks the parent.
#[test]
fn a_module_that_does_not_bear_a_fork_is_a_clear_error_and_is_left_alone() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (module, shared) = fork_module(hsm.module(), Manners::Fragile);
        let builder = token.builder().module_implementation(module);
        let key = builder.open_key().unwrap();
        sign_and_verify(&key, 3).unwrap();
        let mut inherited = Some(builder.open_key().unwrap());
        let child = fork(|| {
            let error = key.sign_message(b"m").unwrap_err();
            if !matches!(&error, SignError::Token(Error::Forked { .. }))
                || error.class() != ErrorClass::Permanent
                || !error.to_string().contains("TPM2.0 Cryptoki")
            {
                return Err(format!("not the error that was expected: {error}"));
            }
            if key.health().is_usable() {
                return Err("healthy".to_owned());
            }
            // Neither does dropping it call anything.
            drop(inherited.take());
            match shared.trespasses() {
                0 => Ok(()),
                calls => Err(format!("{calls} calls on what is the parent's")),
            }
        });
        child.succeed(PATIENCE);
        sign_and_verify(&key, 3).unwrap();
    });
}
