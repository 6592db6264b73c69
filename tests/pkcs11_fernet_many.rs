//! Many tokens in one go, with Fernet's keys on a token: each is what it would be alone, whatever fails on the way.
#![cfg(all(feature = "pkcs11", feature = "software"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::fault::{Chance, Fault, Faults};
use support::fernet_pair::{KEY, both, cause, faulted, imported, in_memory};
use support::softhsm;
use taskseal::ErrorClass;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet, FernetError, MultiFernet};
use taskseal::pkcs11::{Error, Rv};

/// Messages that can be told apart, of many lengths.
fn messages(count: usize) -> Vec<Vec<u8>> {
    let message = |place: usize| {
        let mut message = format!("message {place} ").into_bytes();
        message.resize(message.len() + place * 7 % 300, b'.');
        message
    };
    (0..count).map(message).collect()
}

/// That these are the tokens of these messages, in their order.
fn assert_sealed(tokens: &[String], messages: &[Vec<u8>]) {
    assert_eq!(tokens.len(), messages.len());
    for (token, message) in tokens.iter().zip(messages) {
        assert_eq!(
            &in_memory().decrypt(token.as_bytes(), None).unwrap(),
            message
        );
    }
}

/// So many calls of the function go well, and the next has the fault.
fn after(calls: usize, faults: &Faults, function: &'static str, fault: Fault) {
    let well = std::iter::repeat_n(Fault::Delay(Duration::ZERO), calls);
    faults.script(function, well.chain([fault]));
}

#[test]
fn many_at_once_are_what_one_after_the_other_are() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let mut messages = messages(300);
        // One that is more than goes to the token at a time.
        messages[150] = vec![b'x'; (2 << 20) + 5];
        // On a token that leaves padding to us, and on one that pads.
        for fernet in both(&token, &KEY) {
            assert_sealed(&fernet.encrypt_all(&messages).unwrap(), &messages);

            let mut tokens = in_memory().encrypt_all(&messages).unwrap();
            tokens[7] = Fernet::new(SoftwareKeys::generate().unwrap())
                .encrypt(b"another's")
                .unwrap();
            tokens[299] = "no token".to_owned();
            let opened = fernet.decrypt_all(&tokens, None).unwrap();
            assert_eq!(opened.len(), 300);
            for (place, opened) in opened.into_iter().enumerate() {
                match place {
                    7 | 299 => assert!(matches!(opened, Err(FernetError::Refused))),
                    _ => assert!(opened.unwrap() == messages[place], "{place}"),
                }
            }
        }
    });
}

#[test]
fn tokens_of_keys_in_memory_are_rotated_to_keys_in_the_token() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let new = imported(&token).open_fernet_keys().unwrap();
        let old = Fernet::new(SoftwareKeys::generate().unwrap());
        let messages = messages(50);
        let mut tokens = old.encrypt_all(&messages[..40]).unwrap();
        tokens.extend(in_memory().encrypt_all(&messages[40..]).unwrap());
        let keys = MultiFernet::new(Fernet::new(new), [old]);
        let rotated = keys.rotate_all(&tokens).unwrap();
        let rotated: Vec<String> = rotated.into_iter().map(Result::unwrap).collect();
        assert_sealed(&rotated, &messages);
    });
}

#[test]
fn what_fails_on_the_way_is_made_good_and_only_that_is_made_again() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        let messages = messages(300);
        for function in ["C_Encrypt", "C_Sign"] {
            for fault in [
                Fault::Rv(Rv::SESSION_HANDLE_INVALID),
                Fault::Rv(Rv::USER_NOT_LOGGED_IN),
                Fault::LoseSession,
                Fault::Away(Duration::from_millis(200)),
            ] {
                after(170, &faults, function, fault);
                let before = faults.count("C_Encrypt");
                assert_sealed(&fernet.encrypt_all(&messages).unwrap(), &messages);
                // The one that failed, and what each new session is tried with.
                let more = faults.count("C_Encrypt") - before - messages.len();
                assert!(more < 20, "{fault:?}: {more} more");
            }
        }
        let tokens = in_memory().encrypt_all(&messages).unwrap();
        for function in ["C_Decrypt", "C_Sign"] {
            after(33, &faults, function, Fault::LoseSession);
            let opened = fernet.decrypt_all(&tokens, None).unwrap();
            let opened: Vec<Vec<u8>> = opened.into_iter().map(Result::unwrap).collect();
            assert!(opened == messages);
        }
    });
}

#[test]
fn what_fails_by_chance_loses_and_swaps_none() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        let messages = messages(1000);
        let often = ["C_Encrypt", "C_Sign", "C_Decrypt"];
        let chance = often.map(|function| (function, 10_000, Fault::LoseSession));
        faults.by_chance(Some(Chance::new(0x5eed, chance.to_vec())));
        let tokens = fernet.encrypt_all(&messages).unwrap();
        let opened = fernet.decrypt_all(&tokens, None).unwrap();
        faults.by_chance(None);
        assert_sealed(&tokens, &messages);
        let opened: Vec<Vec<u8>> = opened.into_iter().map(Result::unwrap).collect();
        assert!(opened == messages);
        assert!(faults.count("C_OpenSession") > 10, "sessions were lost");
    });
}

#[test]
fn a_call_that_hangs_is_left_at_the_deadline() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        let messages = messages(300);
        after(100, &faults, "C_Encrypt", Fault::Hang);
        let start = Instant::now();
        let error = fernet.encrypt_all(&messages).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Timeout, "{error}");
        assert!(matches!(cause(&error), Error::Timeout { .. }));
        assert!(start.elapsed() < Duration::from_secs(3));
        assert_sealed(&fernet.encrypt_all(&messages).unwrap(), &messages);
        faults.release();
    });
}

/// The deadline is 2 s, and all together take twice as long.
#[test]
fn a_slow_token_has_the_deadline_for_some_tokens_not_for_all() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        let messages = messages(80);
        faults.always("C_Encrypt", Fault::Delay(Duration::from_millis(50)));
        let start = Instant::now();
        let tokens = fernet.encrypt_all(&messages).unwrap();
        assert!(start.elapsed() > Duration::from_secs(3));
        faults.clear();
        assert_sealed(&tokens, &messages);
    });
}

/// A message that cannot be read any more when it is its turn.
struct Bad(Cell<u32>);

impl AsRef<[u8]> for Bad {
    fn as_ref(&self) -> &[u8] {
        let left = self.0.get();
        assert!(left > 0, "enough");
        self.0.set(left - 1);
        b"data"
    }
}

#[test]
fn a_panic_of_the_callers_leaves_the_session_in_order() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let keys = imported(&token).max_sessions(1);
        let fernet = Fernet::new(keys.open_fernet_keys().unwrap());
        for place in [0, 1, 2, 77] {
            // Each is read for its length, and then once more.
            let bad = |at| Bad(Cell::new(if at == place { 1 } else { 2 }));
            let messages: Vec<Bad> = (0..100).map(bad).collect();
            let panicked = catch_unwind(AssertUnwindSafe(|| fernet.encrypt_all(&messages)));
            assert!(panicked.is_err());
            let token = fernet.encrypt(b"data").unwrap();
            assert_eq!(
                in_memory().decrypt(token.as_bytes(), None).unwrap(),
                b"data"
            );
        }
    });
}

#[test]
fn each_token_is_counted() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let keys = Arc::new(imported(&token).open_fernet_keys().unwrap());
        let fernet = Fernet::shared(keys.clone());
        let tokens = fernet.encrypt_all(&messages(90)).unwrap();
        fernet.decrypt_all(&tokens, None).unwrap();
        let statistics = keys.statistics();
        assert_eq!(statistics.signatures, 180);
        assert_eq!(statistics.token_time.count(), 180);
    });
}
