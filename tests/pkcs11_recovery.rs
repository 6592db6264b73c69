//! What a signer does when its token fails: another session, another login, another start of the module.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::time::{Duration, Instant};

use support::fault::{Fault, OTHER_KEY};
use support::log::Warnings;
use support::recovery::{SLACK, sign, token};
use support::softhsm;
use taskseal::SignError;
use taskseal::error::ErrorClass;
use taskseal::pkcs11::{Error, Health, Rv, SignaturePath};

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

/// A key that is opened while the token fails signs as it would have otherwise, and not in its second-best way.
#[test]
fn a_trial_signature_that_fails_is_made_again() {
    softhsm::test(|hsm| {
        let (token, builder, faults) = token(hsm);
        token.generate(2048, OTHER_KEY);
        let builder = builder.reload_interval(Duration::ZERO);
        for fault in [
            Fault::Rv(Rv::SESSION_HANDLE_INVALID),
            Fault::Rv(Rv::DEVICE_REMOVED),
            Fault::Rv(Rv::USER_NOT_LOGGED_IN),
            Fault::Rv(Rv::GENERAL_ERROR),
            Fault::Rv(Rv::HOST_MEMORY),
            Fault::LoseSession,
            Fault::Away(Duration::from_millis(300)),
            Fault::Dead(Rv::DEVICE_ERROR),
        ] {
            // Of one try, of both ways in one try, of two tries.
            for times in [1, 2, 4] {
                faults.script("C_Sign", vec![fault; times]);
                let key = builder
                    .open_key()
                    .unwrap_or_else(|error| panic!("{fault:?}, {times} times: {error}"));
                assert_eq!(key.signature_path(), SignaturePath::Pss, "{fault:?}");
                sign(&key).unwrap();
            }
        }
        faults.script("C_GetMechanismInfo", [Fault::Rv(Rv::DEVICE_ERROR); 2]);
        let key = builder.open_key().unwrap();
        assert_eq!(key.signature_path(), SignaturePath::Pss);
        faults.script("C_Sign", [Fault::OtherKey]);
        let key = builder.open_key().unwrap();
        assert_eq!(key.signature_path(), SignaturePath::Pss);
    });
}

#[test]
fn only_a_refusal_of_the_trial_signature_is_final() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let builder = builder.deadline(Duration::from_secs(1));
        for rv in [
            Rv::MECHANISM_INVALID,
            Rv::MECHANISM_PARAM_INVALID,
            Rv::KEY_TYPE_INCONSISTENT,
            Rv::KEY_FUNCTION_NOT_PERMITTED,
            Rv::FUNCTION_NOT_SUPPORTED,
        ] {
            let asked = faults.count("C_Sign");
            faults.script("C_Sign", [Fault::Rv(rv); 2]);
            let error = builder.open_key().unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{rv}: {error}");
            assert_eq!(error.class(), ErrorClass::Permanent);
            assert_eq!(faults.count("C_Sign"), asked + 2, "{rv}");
        }
        assert_eq!(faults.count("C_Finalize"), 0);
        for rv in [Rv::DEVICE_ERROR, Rv::SESSION_HANDLE_INVALID] {
            faults.always("C_Sign", Fault::Rv(rv));
            let error = builder.open_key().unwrap_err();
            assert_eq!(error.class(), ErrorClass::SessionLost, "{rv}: {error}");
            assert!(error.to_string().contains(&rv.to_string()), "{error}");
            faults.clear();
            sign(&builder.open_key().unwrap()).unwrap();
        }
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

/// Nobody has a session then that a new start would end, so it is repeated soon, and not before `reload_interval`.
#[test]
fn a_module_that_shows_no_token_is_started_anew_with_growing_pauses_until_it_does() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        for away in [300, 1000, 3000].map(Duration::from_millis) {
            let key = builder
                .clone()
                .reload_interval(Duration::from_secs(60))
                .deadline(away + Duration::from_secs(2))
                .open_key()
                .unwrap();
            sign(&key).unwrap();
            let (before, tries) = (faults.count("C_Finalize"), key.statistics().retries);
            let start = Instant::now();
            faults.happens(Fault::ServerAway(away));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        sign(&key).unwrap();
                        let after = start.elapsed() - away;
                        assert!(
                            after < Duration::from_secs(1) + SLACK,
                            "{away:?}: {after:?}"
                        );
                    });
                }
            });
            // At once, after 100, 200, 400 ms, and then after each half of a second.
            let starts = faults.count("C_Finalize") - before;
            let most = 8 + away.as_millis() / 500;
            assert!((2..=most).contains(&(starts as u128)), "{away:?}: {starts}");
            let tries = key.statistics().retries - tries;
            assert!(tries < 8 * 4 * starts as u64, "{away:?}: {tries}");
            assert!(key.health().is_usable());
        }
    });
}

/// Somebody may have sessions with what is still there.
#[test]
fn a_module_that_shows_tokens_is_started_anew_only_so_often_although_the_keys_own_is_not_there() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let key = builder.deadline(Duration::from_secs(2)).open_key().unwrap();
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        faults.always("C_GetTokenInfo", Fault::Rv(Rv::DEVICE_ERROR));
        let error = sign(&key).unwrap_err();
        assert!(
            matches!(&error, SignError::Token(Error::TokenNotFound { .. })),
            "{error}"
        );
        assert_eq!(faults.count("C_Finalize"), 1);
        faults.clear();
        sign(&key).unwrap();
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
        for fault in [
            Fault::Dead(Rv::DEVICE_ERROR),
            Fault::ServerAway(Duration::ZERO),
        ] {
            let tried = key.statistics().retries;
            faults.happens(fault);
            assert!(sign(&key).is_err());
            let tried = key.statistics().retries - tried;
            assert!((3..30).contains(&tried), "{fault:?}: {tried}");
        }
        assert_eq!(faults.count("C_Finalize"), 0);
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

/// Every thread meets the outage and tries again many times.
#[test]
fn an_outage_is_one_line_of_the_log_when_it_begins_and_one_when_it_is_over() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let away = Duration::from_secs(4);
        let builder = builder.reload_interval(Duration::from_secs(60));
        let key = builder.deadline(away / 2).open_key().unwrap();
        let warnings = Warnings::default();
        let start = Instant::now();
        faults.happens(Fault::ServerAway(away));
        let (failed, last) = std::thread::scope(|scope| {
            let sign_through = || {
                let mut failed = 0;
                loop {
                    match warnings.of(|| sign(&key)) {
                        Ok(()) => return (failed, start.elapsed()),
                        Err(_) => failed += 1,
                    }
                }
            };
            let threads = [(); 8].map(|()| scope.spawn(sign_through));
            let ends = threads.map(|thread| thread.join().unwrap());
            let failed: u64 = ends.iter().map(|end| end.0).sum();
            (failed, ends.iter().map(|end| end.1).max().unwrap())
        });
        let lines = warnings.lines();
        assert!(
            lines[0].starts_with("a key fails; it is tried again on=token"),
            "{lines:#?}"
        );
        let over: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with("a key works again"))
            .collect();
        assert!(over[0].contains(" after=4."), "{over:#?}");
        assert!(
            failed >= 8 && over[0].contains(&format!(" failed={failed} ")),
            "{failed}: {over:#?}"
        );
        let tried = key.statistics().retries;
        assert!(tried > 8 * 5, "{tried}");
        // One per second in between, at most; threads that find out late about the return make another two.
        let most = 2 + last.as_secs() as usize + 2;
        assert!(lines.len() <= most, "{lines:#?}");
    });
}
