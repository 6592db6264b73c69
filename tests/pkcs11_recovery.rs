//! What a signer does when its token fails: recovery, deadlines, PINs, health.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::fault::{Fault, Faults, OTHER_KEY};
use support::softhsm::{self, PIN, SoftHsm, Token};
use taskseal::error::ErrorClass;
use taskseal::pkcs11::{
    self, Builder, Error, Health, NewKey, Pin, PinSource, Pkcs11Key, Rv, forget_refused_pins,
};
use taskseal::{SignError, SigningKey};

/// What a call may take beyond its deadline, on a slow machine with others beside it.
const SLACK: Duration = Duration::from_millis(500);

/// A token with a key `k`, behind faults.
fn token(hsm: &SoftHsm) -> (Token, Builder, Arc<Faults>) {
    let token = hsm.token_with_key();
    let (builder, faults) = token.faulty();
    (token, builder.object_label("k"), faults)
}

fn sign(key: &Pkcs11Key) -> Result<(), SignError> {
    let signature = key.sign_message(b"message")?;
    assert!(
        key.public_key()
            .verifies(b"message", &signature, key.scheme())
    );
    Ok(())
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Each answer that one of seven modules gave when another session had logged out, the key's handle was old or the
/// backend was gone.
#[test]
fn any_failure_of_a_signature_costs_one_session_and_no_signature() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        // Its session keeps the login, which ends with the last one.
        let _keeper = builder.open_key().unwrap();
        let key = builder.max_sessions(1).open_key().unwrap();
        for rv in [
            Rv::OBJECT_HANDLE_INVALID,
            Rv::GENERAL_ERROR,
            Rv::KEY_TYPE_INCONSISTENT,
            Rv::KEY_HANDLE_INVALID,
            Rv::USER_NOT_LOGGED_IN,
            Rv::OPERATION_ACTIVE,
            Rv::DEVICE_ERROR,
            Rv::DEVICE_MEMORY,
            Rv::DEVICE_REMOVED,
            Rv::HOST_MEMORY,
            Rv::FUNCTION_FAILED,
            Rv::TOKEN_NOT_PRESENT,
            Rv::CRYPTOKI_NOT_INITIALIZED,
            Rv(0xce53_4351),
        ] {
            let opened = faults.count("C_OpenSession");
            faults.script("C_Sign", [Fault::Rv(rv)]);
            sign(&key).unwrap_or_else(|error| panic!("{rv}: {error}"));
            assert_eq!(faults.count("C_OpenSession"), opened + 1, "{rv}");
        }
        assert_eq!((faults.count("C_Finalize"), faults.open()), (0, 2));
        assert_eq!(faults.count("C_Login"), 1);
    });
}

/// tpm2-pkcs11: the session says that it is logged in, and signing says that nobody is.
#[test]
fn a_login_that_was_lost_unnoticed_is_made_again() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        // Its session keeps the login, which ends with the last one.
        let _keeper = builder.open_key().unwrap();
        let key = builder.max_sessions(1).open_key().unwrap();
        faults.script("C_Sign", [Fault::Rv(Rv::USER_NOT_LOGGED_IN); 2]);
        sign(&key).unwrap();
        assert_eq!(faults.count("C_Login"), 2);
        assert_eq!(
            faults.answers("C_Login", "CKR_USER_ALREADY_LOGGED_IN"),
            1,
            "that answer is as good as a login"
        );
        assert_eq!(faults.count("C_Finalize"), 0);
    });
}

/// The daemon or server was killed: every call fails until the module is initialised again (TPM, p11-kit; SoftHSM after
/// its storage was away).
#[test]
fn a_module_that_fails_until_it_is_started_anew_is_started_anew_once_for_all() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder.max_sessions(4).open_key().unwrap();
        for rv in [
            Rv::GENERAL_ERROR,
            Rv::DEVICE_ERROR,
            Rv::OBJECT_HANDLE_INVALID,
        ] {
            let before = faults.count("C_Finalize");
            faults.happens(Fault::Dead(rv));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| sign(&key).unwrap());
                }
            });
            assert_eq!(faults.count("C_Finalize"), before + 1, "{rv}");
            // The next one may be made at once only after the interval.
            std::thread::sleep(Duration::from_millis(5100));
        }
        assert_eq!(key.statistics().reloads, 3);
        assert_eq!(faults.answers("C_Login", "CKR_PIN_INCORRECT"), 0);
        assert!(key.health().is_usable());
        key.close().unwrap();
        assert_eq!(faults.open(), 0);
    });
}

#[test]
fn a_module_is_started_anew_only_so_often() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let interval = Duration::from_millis(800);
        let key = builder
            .reload_interval(interval)
            .deadline(Duration::from_secs(3))
            .open_key()
            .unwrap();
        // Starting it anew does not help.
        faults.always("C_Sign", Fault::Rv(Rv::DEVICE_ERROR));
        let start = Instant::now();
        let error = sign(&key).unwrap_err();
        assert_eq!(error.class(), ErrorClass::SessionLost, "{error}");
        let possible = start.elapsed().as_millis() / interval.as_millis() + 1;
        let made = faults.count("C_Finalize");
        assert!(made >= 2, "only {made}");
        assert!(made as u128 <= possible, "{made} in {:?}", start.elapsed());
        let Health::Degraded { why, .. } = key.health() else {
            panic!("{}", key.health())
        };
        assert!(why.contains("CKR_DEVICE_ERROR"), "{why}");
        faults.clear();
        sign(&key).unwrap();
        assert!(key.health().is_usable());
    });
}

#[test]
fn a_module_that_must_not_be_started_anew_is_not() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder
            .allow_reload(false)
            .deadline(Duration::from_secs(1))
            .open_key()
            .unwrap();
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        assert!(sign(&key).is_err());
        assert_eq!(faults.count("C_Finalize"), 0);
    });
}

#[test]
fn a_token_that_disappears_and_comes_back_costs_no_signature() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder
            .reload_interval(Duration::from_millis(200))
            .open_key()
            .unwrap();
        for absence in [
            Fault::Away(Duration::from_millis(700)),
            Fault::NoSlots(Duration::from_millis(700)),
        ] {
            faults.happens(absence);
            // A kept session may still work while the slot list is empty.
            faults.script("C_Sign", [Fault::Rv(Rv::DEVICE_REMOVED)]);
            let start = Instant::now();
            sign(&key).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(600), "{absence:?}");
        }
    });
}

/// p11-kit whose server is away: `C_Initialize` works and shows nothing, until the next one.
#[test]
fn a_start_that_shows_no_slots_is_repeated() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder
            .reload_interval(Duration::from_millis(300))
            .open_key()
            .unwrap();
        faults.script("C_Initialize", [Fault::Blind]);
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        sign(&key).unwrap();
        assert_eq!(faults.count("C_Finalize"), 2);
    });
}

/// openCryptoki without its daemon, SoftHSM without its files: the module stays uninitialised, and later it works.
#[test]
fn a_start_that_fails_is_repeated_until_it_works() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder.open_key().unwrap();
        faults.script(
            "C_Initialize",
            [
                Rv::HOST_MEMORY,
                Rv::FUNCTION_FAILED,
                Rv::GENERAL_ERROR,
                Rv(0xce53_4351),
            ]
            .map(Fault::Rv),
        );
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        sign(&key).unwrap();
        assert_eq!(faults.count("C_Finalize"), 1);
    });
}

/// Kryoptic makes a new, empty store when its own is away: the key is not found.
#[test]
fn a_key_that_is_not_there_for_a_while_costs_no_signature() {
    softhsm::test(|hsm| {
        let (token, builder, _) = token(hsm);
        let key = builder
            .reload_interval(Duration::from_millis(200))
            .open_key()
            .unwrap();
        let path = hsm.directory().join("tokens");
        let aside = hsm.directory().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::thread::scope(|scope| {
            let back = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(800));
                std::fs::remove_dir_all(&path).unwrap();
                std::fs::rename(&aside, &path).unwrap();
            });
            sign(&key).unwrap();
            back.join().unwrap();
        });
        assert!(token.builder().token().is_ok());
    });
}

/// Somebody destroyed it: other keys are there, also after a new start of the module.
#[test]
fn a_key_that_is_gone_is_said_at_once_and_is_found_when_it_is_there_again() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let deadline = Duration::from_secs(6);
        let key = builder.deadline(deadline).open_key().unwrap();
        faults.labels_hidden.store(true, Ordering::SeqCst);
        faults.script("C_Sign", [Fault::Rv(Rv::KEY_HANDLE_INVALID)]);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while start.elapsed() < Duration::from_millis(2500) {
                        let begun = Instant::now();
                        let error = match sign(&key) {
                            Ok(()) => continue,
                            Err(error) => error,
                        };
                        let gone = matches!(&error, SignError::Token(Error::KeyGone { .. }));
                        assert!(gone, "{error}");
                        assert_eq!(error.class(), ErrorClass::Permanent);
                        assert!(begun.elapsed() < deadline / 4, "{:?}", begun.elapsed());
                    }
                });
            }
        });
        assert!(key.statistics().failures(ErrorClass::Permanent) > 100);
        assert_eq!(faults.count("C_Finalize"), 1);
        let looks = faults.count("C_FindObjects");
        assert!(looks < 150, "{looks}");
        assert!(matches!(key.health(), Health::Failed { .. }));
        faults.labels_hidden.store(false, Ordering::SeqCst);
        let start = Instant::now();
        eventually("it is found again", || sign(&key).is_ok());
        assert!(start.elapsed() < Duration::from_millis(1500));
        assert!(key.health().is_usable());
        assert_eq!(faults.count("C_Finalize"), 1);
    });
}

/// What the token holds is away, and may come back: the first call waits for it, the next ones do not.
#[test]
fn a_token_that_stays_empty_costs_one_deadline_and_then_nothing() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let deadline = Duration::from_secs(1);
        let key = builder.deadline(deadline).open_key().unwrap();
        faults.objects_hidden.store(true, Ordering::SeqCst);
        faults.script("C_Sign", [Fault::Rv(Rv::OBJECT_HANDLE_INVALID)]);
        let mut slow = 0;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let begun = Instant::now();
            let error = sign(&key).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Transient, "{error}");
            slow += usize::from(begun.elapsed() > deadline * 9 / 10);
        }
        // The first one did not give up before its time, which a long pause before the deadline once made it do.
        assert_eq!((slow, faults.count("C_Finalize")), (1, 1));
        faults.objects_hidden.store(false, Ordering::SeqCst);
        let start = Instant::now();
        eventually("it is found again", || sign(&key).is_ok());
        assert!(start.elapsed() < Duration::from_millis(1500));
    });
}

#[test]
fn a_key_is_opened_although_its_token_comes_two_seconds_later() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let away = Duration::from_secs(2);
        for absence in [Fault::Away(away), Fault::NoSlots(away), Fault::Blind] {
            faults.happens(absence);
            let start = Instant::now();
            sign(&builder.open_key().unwrap()).unwrap();
            let waited = start.elapsed();
            assert!(
                waited >= away - SLACK || matches!(absence, Fault::Blind),
                "{absence:?}"
            );
            faults.clear();
        }
        for function in ["C_OpenSession", "C_FindObjects", "C_GetAttributeValue"] {
            faults.script(function, [Fault::Rv(Rv::DEVICE_ERROR)]);
            builder.open_key().unwrap();
        }
        // What was perhaps never there is said at once.
        for wrong in [
            builder.clone().object_label("none"),
            builder.clone().token_label("none"),
        ] {
            let start = Instant::now();
            assert_eq!(wrong.open_key().unwrap_err().class(), ErrorClass::Transient);
            assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
        }
    });
}

/// A template that a token does not take is tried once without what it may not like (tpm2-pkcs11 says
/// `CKR_GENERAL_ERROR`), but not when the pair was made in spite of the error.
#[test]
fn a_key_pair_is_made_once_whatever_the_token_says() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let new = |label: &str| NewKey {
            bits: 2048,
            label: label.to_owned(),
            id: None,
        };
        faults.script("C_GenerateKeyPair", [Fault::Rv(Rv::GENERAL_ERROR)]);
        pkcs11::generate_key(&builder, &new("a")).unwrap();
        faults.script("C_GenerateKeyPair", [Fault::Rv(Rv::GENERAL_ERROR); 2]);
        pkcs11::generate_key(&builder, &new("b")).unwrap_err();
        faults.script("C_GenerateKeyPair", [Fault::MadeBut(Rv::GENERAL_ERROR)]);
        pkcs11::generate_key(&builder, &new("c")).unwrap_err();
        assert_eq!(faults.count("C_GenerateKeyPair"), 5);
        let labels = |label: &str| {
            let keys = pkcs11::list_keys(&builder).unwrap();
            keys.iter().filter(|key| key.label == label).count()
        };
        assert_eq!(["k", "a", "b", "c"].map(labels), [1, 1, 0, 1]);
    });
}

/// Kryoptic was seen to sign with another key through a handle from before.
#[test]
fn wrong_signatures_are_thrown_away_and_made_again() {
    softhsm::test(|hsm| {
        let (token, builder, faults) = token(hsm);
        token.generate(2048, OTHER_KEY);
        let key = builder.open_key().unwrap();
        for fault in [Fault::OtherKey, Fault::Short, Fault::Long] {
            faults.script("C_Sign", [fault]);
            sign(&key).unwrap();
            faults.script("C_Sign", [fault; 3]);
            sign(&key).unwrap();
        }
        assert_eq!(key.statistics().retries, 12);
    });
}

#[test]
fn a_call_that_hangs_is_written_off_and_its_late_answer_is_thrown_away() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let deadline = Duration::from_millis(300);
        let key = builder
            .max_sessions(2)
            .max_stuck(2)
            .deadline(deadline)
            .open_key()
            .unwrap();
        faults.script("C_Sign", [Fault::Hang, Fault::Hang]);
        for stuck in 1..=2 {
            let start = Instant::now();
            let error = sign(&key).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Timeout, "{error}");
            assert!(start.elapsed() >= deadline && start.elapsed() < deadline + SLACK);
            assert_eq!(
                (key.statistics().stuck_calls, faults.hanging()),
                (stuck, stuck)
            );
        }
        // Not one more thread.
        let start = Instant::now();
        let error = sign(&key).unwrap_err();
        assert!(
            matches!(&error, SignError::Token(Error::Stuck { stuck: 2, .. })),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Busy);
        assert!(start.elapsed() < deadline, "{:?}", start.elapsed());
        faults.release();
        eventually("the calls come back", || key.statistics().stuck_calls == 0);
        sign(&key).unwrap();
        key.close().unwrap();
        assert_eq!(faults.open(), 0);
    });
}

/// What `C_Finalize` does to a call in progress is undefined.
#[test]
fn a_module_is_not_started_anew_under_a_call_that_hangs() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder
            .deadline(Duration::from_millis(700))
            .open_key()
            .unwrap();
        faults.script("C_Sign", [Fault::Hang]);
        assert_eq!(sign(&key).unwrap_err().class(), ErrorClass::Timeout);
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        assert!(sign(&key).unwrap_err().class().is_retryable());
        assert_eq!(faults.count("C_Finalize"), 0);
        faults.release();
        eventually("the call comes back", || key.statistics().stuck_calls == 0);
        sign(&key).unwrap();
        assert_eq!(faults.count("C_Finalize"), 1);
    });
}

/// p11-kit-client whose server is killed: calls of several threads never come back. Each `C_GetFunctionList` gives it
/// another state.
#[test]
fn calls_that_never_come_back_are_left_to_their_instance_and_another_one_signs() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        faults.others.store(1, Ordering::SeqCst);
        let key = builder
            .max_sessions(4)
            .deadline(Duration::from_millis(700))
            .open_key()
            .unwrap();
        faults.script("C_Sign", [Fault::Hang; 3]);
        for _ in 0..3 {
            assert_eq!(sign(&key).unwrap_err().class(), ErrorClass::Timeout);
        }
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        sign(&key).unwrap();
        assert_eq!((key.statistics().stuck_calls, faults.hanging()), (3, 3));
        assert_eq!(key.statistics().reloads, 1);
        assert!(key.health().is_usable());
        let count = |function| faults.count(function);
        assert_eq!((count("C_Initialize"), count("C_Finalize")), (2, 0));
        // They come back after all, and nobody is disturbed by it.
        faults.release();
        eventually("the calls come back", || key.statistics().stuck_calls == 0);
        sign(&key).unwrap();
        assert_eq!(faults.count("C_Finalize"), 0);
    });
}

/// They need not have been written off.
#[test]
fn calls_that_hang_are_left_behind_before_their_deadline_when_the_module_fails() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        faults.others.store(1, Ordering::SeqCst);
        let deadline = Duration::from_secs(8);
        let key = builder.deadline(deadline).open_key().unwrap();
        faults.script("C_Sign", [Fault::Hang; 2]);
        std::thread::scope(|scope| {
            let hanging = [(); 2].map(|()| scope.spawn(|| sign(&key)));
            eventually("two calls hang", || faults.hanging() == 2);
            faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
            let start = Instant::now();
            sign(&key).unwrap();
            // The others are waited for before they are left.
            assert!(start.elapsed() < deadline / 2, "{:?}", start.elapsed());
            for thread in hanging {
                assert_eq!(
                    thread.join().unwrap().unwrap_err().class(),
                    ErrorClass::Timeout
                );
            }
        });
        faults.release();
        // A process that ends under a call in the module may crash.
        eventually("the calls come back", || key.statistics().stuck_calls == 0);
    });
}

/// At the bound another instance is tried first, and there are only so many.
#[test]
fn instances_and_calls_that_hang_are_bounded() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        faults.others.store(2, Ordering::SeqCst);
        let key = builder
            .max_stuck(2)
            .reload_interval(Duration::from_millis(100))
            .deadline(Duration::from_millis(300))
            .open_key()
            .unwrap();
        for _ in 0..2 {
            faults.script("C_Sign", [Fault::Hang; 2]);
            for _ in 0..2 {
                assert_eq!(sign(&key).unwrap_err().class(), ErrorClass::Timeout);
            }
            std::thread::sleep(Duration::from_millis(100));
            sign(&key).unwrap();
        }
        assert_eq!(faults.hanging(), 4);
        faults.always("C_Sign", Fault::Hang);
        let mut classes = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            classes.push(sign(&key).unwrap_err().class());
            if classes.last() == Some(&ErrorClass::Busy) {
                assert!(start.elapsed() < Duration::from_millis(250));
            }
            std::thread::sleep(Duration::from_millis(110));
        }
        assert_eq!(classes[..2], [ErrorClass::Timeout; 2]);
        assert_eq!(classes[2..], [ErrorClass::Busy; 8]);
        assert_eq!((key.statistics().stuck_calls, faults.hanging()), (6, 6));
        assert_eq!(faults.count("C_Finalize"), 0);
        faults.clear();
        faults.release();
        eventually("the calls come back", || key.statistics().stuck_calls == 0);
        sign(&key).unwrap();
    });
}

/// One login is made at a time, and one session opened at a time: whoever hangs there keeps all others out.
#[test]
fn another_instance_does_not_wait_for_a_login_or_session_that_hangs_in_the_last() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        for function in ["C_Login", "C_OpenSession"] {
            faults.others.store(1, Ordering::SeqCst);
            let key = builder
                .clone()
                .reload_interval(Duration::from_millis(100))
                .deadline(Duration::from_millis(500))
                .open_key()
                .unwrap();
            faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
            faults.script(function, [Fault::Hang]);
            eventually(function, || sign(&key).is_ok());
            assert_eq!(faults.hanging(), 1, "{function}");
            faults.release();
            eventually(function, || key.statistics().stuck_calls == 0);
        }
        assert_eq!(faults.answers("C_Login", "CKR_PIN_INCORRECT"), 0);
    });
}

/// Whatever call hangs: opening, logging in, finding, finalising, initialising.
#[test]
fn every_call_that_hangs_keeps_to_the_deadline() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let deadline = Duration::from_millis(600);
        let builder = builder
            .max_sessions(3)
            .max_stuck(100)
            .reload_interval(Duration::ZERO)
            .deadline(deadline);
        for function in [
            "C_OpenSession",
            "C_GetTokenInfo",
            "C_GetSlotList",
            "C_FindObjects",
            "C_GetAttributeValue",
            "C_Login",
            "C_Finalize",
            "C_Initialize",
        ] {
            let key = builder.open_key().unwrap();
            faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
            faults.script(function, [Fault::Hang]);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let start = Instant::now();
                        let result = sign(&key);
                        assert!(
                            start.elapsed() < deadline + SLACK,
                            "{function}: {:?}",
                            start.elapsed()
                        );
                        if let Err(error) = result {
                            assert!(error.class().is_retryable(), "{function}: {error}");
                        }
                    });
                }
            });
            let start = Instant::now();
            drop(key);
            assert!(
                start.elapsed() < SLACK,
                "{function}: dropping took {:?}",
                start.elapsed()
            );
            faults.clear();
            faults.release();
            eventually(function, || faults.hanging() == 0 && faults.open() == 0);
            eventually(function, || {
                builder.open_key().is_ok_and(|key| sign(&key).is_ok())
            });
        }
    });
}

#[test]
fn a_wrong_pin_costs_one_try_although_every_thread_tries_again() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let file = hsm.directory().join("pin");
        std::fs::write(&file, PIN).unwrap();
        let key = builder
            .pin(PinSource::File(file.clone()))
            .max_sessions(8)
            .reload_interval(Duration::ZERO)
            .deadline(Duration::from_secs(5))
            .open_key()
            .unwrap();
        std::fs::write(&file, "00000000").unwrap();
        // The login is lost with the module.
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let error = sign(&key).unwrap_err();
                        assert_eq!(error.class(), ErrorClass::Credential, "{error}");
                    }
                });
            }
        });
        assert_eq!(faults.answers("C_Login", "CKR_PIN_INCORRECT"), 1);
        let Health::Failed { why, .. } = key.health() else {
            panic!("{}", key.health())
        };
        assert!(why.contains("CKR_PIN_INCORRECT"), "{why}");
        assert_eq!(key.statistics().failures(ErrorClass::Credential), 40);
        // Somebody provides another PIN.
        std::fs::write(&file, PIN).unwrap();
        sign(&key).unwrap();
        assert!(key.health().is_usable());
        assert_eq!(faults.answers("C_Login", "CKR_PIN_INCORRECT"), 1);
    });
}

/// Each value by which a token refuses a PIN ends all tries with this one.
#[test]
fn locked_and_expired_pins_are_not_tried_again() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        for (number, rv) in [
            Rv::PIN_INCORRECT,
            Rv::PIN_LOCKED,
            Rv::PIN_EXPIRED,
            Rv::PIN_INVALID,
        ]
        .into_iter()
        .enumerate()
        {
            faults.script("C_Login", [Fault::Rv(rv)]);
            let pin = Pin::new(format!("1111111{number}")).unwrap();
            let wrong = builder.clone().pin(PinSource::Value(pin));
            for _ in 0..3 {
                let error = wrong.open_key().unwrap_err();
                assert_eq!(error.class(), ErrorClass::Credential, "{error}");
            }
            assert_eq!(faults.count("C_Login"), number + 1, "{rv}");
        }
    });
}

/// Each try is a prompt on the token, and a mistake there costs a try too.
#[test]
fn a_pin_pad_does_not_ask_again_by_itself_after_a_mistake() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        faults.pin_pad.store(true, Ordering::SeqCst);
        faults.always("C_Login", Fault::Rv(Rv::PIN_INCORRECT));
        let builder = builder.pin(PinSource::None);
        for prompts in 1..=2 {
            for _ in 0..3 {
                let error = builder.open_key().unwrap_err();
                assert_eq!(error.class(), ErrorClass::Credential, "{error}");
            }
            assert_eq!(faults.count("C_Login"), prompts);
            forget_refused_pins();
        }
    });
}

#[test]
fn a_pin_callback_that_panics_is_an_error_and_costs_nothing_else() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let panics = builder
            .clone()
            .pin(PinSource::callback(|_| panic!("nobody is there")));
        for _ in 0..2 {
            let error = panics.open_key().unwrap_err();
            assert!(matches!(error, Error::Panicked), "{error}");
        }
        assert_eq!((faults.count("C_Login"), faults.open()), (0, 0));
        sign(&builder.open_key().unwrap()).unwrap();
    });
}

#[test]
fn what_a_change_must_put_right_is_said_at_once() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder.open_key().unwrap();
        for rv in [
            Rv::DATA_LEN_RANGE,
            Rv::ARGUMENTS_BAD,
            Rv::KEY_FUNCTION_NOT_PERMITTED,
            Rv::MECHANISM_INVALID,
        ] {
            let asked = faults.count("C_Sign");
            faults.script("C_Sign", [Fault::Rv(rv); 2]);
            assert_eq!(
                sign(&key).unwrap_err().class(),
                ErrorClass::Permanent,
                "{rv}"
            );
            assert_eq!(faults.count("C_Sign"), asked + 1, "{rv}");
            assert!(matches!(key.health(), Health::Failed { .. }));
            assert!(sign(&key).is_err());
        }
        sign(&key).unwrap();
        let statistics = key.statistics();
        assert_eq!((statistics.signatures, statistics.reloads), (1, 0));
        assert_eq!(statistics.failures(ErrorClass::Permanent), 8);
        assert_eq!(statistics.token_time.count(), 1);
        assert!(statistics.token_time.sum > Duration::ZERO);
    });
}

/// Others hold all sessions of the token: neither their login nor the module is touched.
#[test]
fn a_full_token_is_waited_for_and_not_started_anew() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        // Its session keeps the login, which ends with the last one.
        let _keeper = builder.open_key().unwrap();
        let key = builder.open_key().unwrap();
        faults.script("C_Sign", [Fault::LoseSession]);
        faults.script("C_OpenSession", [Fault::Rv(Rv::SESSION_COUNT); 4]);
        sign(&key).unwrap();
        assert_eq!(
            (faults.count("C_Finalize"), faults.count("C_Login")),
            (0, 1)
        );
    });
}

#[test]
fn a_closed_key_signs_no_more_and_leaves_nothing_open() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder.max_sessions(4).open_key().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| sign(&key).unwrap()));
            }
        });
        key.close().unwrap();
        assert_eq!(faults.open(), 0);
        assert!(matches!(sign(&key), Err(SignError::Token(Error::Closed))));
        key.close().unwrap();
    });
}
