//! Tokens and keys that are away for a while, and those that are gone.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::fault::Fault;
use support::recovery::{SLACK, eventually, sign, token};
use support::softhsm;
use taskseal::SignError;
use taskseal::error::ErrorClass;
use taskseal::pkcs11::{Error, Health, Rv};

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
