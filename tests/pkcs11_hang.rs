//! Calls that hang: deadlines, and instances of a module that are left behind.
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
use taskseal::pkcs11::{Error, Rv};

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

/// They need not have been written off, and are made again in the other instance.
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
                thread.join().unwrap().unwrap();
            }
            assert!(start.elapsed() < deadline / 2, "{:?}", start.elapsed());
            assert_eq!((key.statistics().stuck_calls, faults.hanging()), (2, 2));
        });
        faults.release();
        // A process that ends under a call in the module may crash.
        eventually("the calls come back", || key.statistics().stuck_calls == 0);
    });
}

/// Of the instances that are left alone the last half is not spent at once, however often a server goes away.
#[test]
fn a_server_that_goes_away_again_and_again_does_not_use_up_the_instances() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        faults.others.store(16, Ordering::SeqCst);
        let key = builder
            .reload_interval(Duration::from_secs(60))
            .deadline(Duration::from_secs(2))
            .open_key()
            .unwrap();
        for outage in 1..=9 {
            faults.script("C_Sign", [Fault::Hang]);
            std::thread::scope(|scope| {
                let hanging = scope.spawn(|| sign(&key));
                eventually("a call hangs", || faults.hanging() == outage);
                faults.happens(Fault::ServerAway(Duration::ZERO));
                let signed = [sign(&key), hanging.join().unwrap()];
                let signed = signed.map(|signed| signed.is_ok());
                assert_eq!(signed, [outage < 9; 2], "outage {outage}");
            });
        }
        assert_eq!(key.statistics().reloads, 8);
        assert_eq!(faults.count("C_Finalize"), 0);
        faults.release();
        eventually("the calls come back", || key.statistics().stuck_calls == 0);
        sign(&key).unwrap();
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
