//! Signatures of a token: every scheme, many threads, refusals, wrong answers and lost sessions.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use support::softhsm;
use support::spy::failed;
use taskseal::error::ErrorClass;
use taskseal::pkcs11::module::{
    AttributeKind as Kind, AttributeValue, MechanismKind, SignMechanism,
};
use taskseal::pkcs11::{Error, Rv, SignaturePath, TokenInfo};
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::{SignError, Signer, SigningKey};

fn schemes() -> impl Iterator<Item = Scheme> {
    Digest::ALL
        .into_iter()
        .flat_map(|digest| Salt::ALL.map(|salt| Scheme::new(digest, salt)))
}

/// Long enough for a key to be opened and for the whole ladder, for tests in which nothing helps.
const SHORT: Duration = Duration::from_millis(1500);

fn class(result: Result<Vec<u8>, SignError>) -> ErrorClass {
    result.unwrap_err().class()
}

#[test]
fn every_digest_and_salt_verifies() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        for bits in [2048, 3072] {
            let (_, certificate) = token.generate_certified(bits, &format!("k{bits}"));
            for scheme in schemes() {
                let signer = token
                    .builder()
                    .scheme(scheme)
                    .open_signer(certificate.clone())
                    .unwrap();
                assert_eq!(signer.key().signature_path(), SignaturePath::Pss);
                for message in [&b""[..], b"message", &[7; 100_000]] {
                    let signature = signer.sign(message).unwrap();
                    assert_eq!(signature.as_bytes().len(), bits / 8);
                    certificate
                        .verify(message, signature.as_bytes(), scheme)
                        .unwrap();
                    for other in schemes().filter(|other| *other != scheme) {
                        assert!(
                            certificate
                                .verify(message, signature.as_bytes(), other)
                                .is_err()
                        );
                    }
                }
            }
        }
    });
}

/// Some codes by which a token refuses stand for a lost session as well.
#[test]
fn a_token_that_refuses_the_salt_or_lacks_pss_gets_the_padding_made_here() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, certificate) = token.generate_certified(2048, "k");
        let (builder, spy) = token.spied();
        for refusal in [
            None,
            Some(Rv::MECHANISM_PARAM_INVALID),
            Some(Rv::GENERAL_ERROR),
            Some(Rv::KEY_TYPE_INCONSISTENT),
        ] {
            let mut hooks = spy.hooks.lock().unwrap();
            hooks.not_offered = match refusal {
                Some(_) => vec![],
                None => vec![MechanismKind::RsaPkcsPss],
            };
            hooks.sign = Some(Box::new(move |mechanism| {
                let is_pss = matches!(mechanism, SignMechanism::RsaPkcsPss { .. });
                let refusal = refusal.filter(|_| is_pss)?;
                Some(Err(failed("C_SignInit", refusal)))
            }));
            drop(hooks);
            for scheme in schemes() {
                let signer = builder
                    .clone()
                    .scheme(scheme)
                    .open_signer(certificate.clone())
                    .unwrap();
                assert_eq!(signer.key().signature_path(), SignaturePath::HostPadding);
                let [one, two] = [(); 2].map(|()| signer.sign(b"message").unwrap());
                certificate
                    .verify(b"message", one.as_bytes(), scheme)
                    .unwrap();
                assert_ne!(one.as_bytes(), two.as_bytes(), "a salt was used twice");
            }
        }
        assert_eq!(spy.count("C_Finalize"), 0);
    });
}

#[test]
fn a_token_that_can_do_neither_is_refused_when_it_is_opened() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, spy) = token.spied();
        let mut hooks = spy.hooks.lock().unwrap();
        hooks.not_offered = vec![MechanismKind::RsaX509];
        hooks.sign = Some(Box::new(|_| {
            Some(Err(failed("C_SignInit", Rv::MECHANISM_PARAM_INVALID)))
        }));
        drop(hooks);
        let scheme = Scheme::new(Digest::Sha256, Salt::Maximum);
        let error = builder.scheme(scheme).open_key().unwrap_err();
        assert!(
            matches!(error, Error::Unsupported { salt_len: 222, .. }),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Permanent);
        for part in [
            "222 bytes",
            "CKM_RSA_PKCS_PSS: C_SignInit: CKR_MECHANISM_PARAM_INVALID",
            "CKM_RSA_X_509 is not offered",
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
    });
}

#[test]
fn many_threads_share_few_sessions() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, certificate) = token.generate_certified(2048, "k");
        let (builder, spy) = token.spied();
        let builder = builder.max_sessions(2);
        let signer = builder
            .session_wait(Duration::from_secs(60))
            .open_signer(certificate.clone())
            .unwrap();
        let sign_many = |thread: usize| {
            for number in 0..50 {
                let message = format!("{thread} {number}");
                let signature = signer.sign(message.as_bytes()).unwrap();
                certificate
                    .verify(message.as_bytes(), signature.as_bytes(), signer.scheme())
                    .unwrap();
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || sign_many(thread));
            }
        });
        // One more than signatures: the trial.
        assert_eq!(spy.count("C_Sign"), 401);
        assert_eq!((spy.most_open(), spy.count("C_OpenSession")), (2, 2));
        assert_eq!(spy.count("C_Login"), 1);
        // One search for each session, none for a signature.
        assert_eq!(spy.count("C_FindObjects"), 2);
        drop(signer);
        assert_eq!(spy.open(), 0);
    });
}

#[test]
fn a_caller_waits_for_a_session_only_so_long() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, spy) = token.spied();
        let wait = Duration::from_millis(200);
        let key = builder
            .max_sessions(1)
            .session_wait(wait)
            .open_key()
            .unwrap();
        let (entered, has_entered) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let blocks = std::sync::Mutex::new((entered, released));
        spy.hooks.lock().unwrap().sign = Some(Box::new(move |_| {
            let (entered, released) = &*blocks.lock().unwrap();
            entered.send(()).unwrap();
            released.recv().unwrap();
            None
        }));
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| key.sign_message(b"slow"));
            has_entered.recv().unwrap();
            let start = Instant::now();
            let busy = key.sign_message(b"busy").unwrap_err();
            assert!(start.elapsed() >= wait);
            assert_eq!(busy.class(), ErrorClass::Busy);
            assert!(
                matches!(&busy, SignError::Token(Error::Busy { sessions: 1, .. })),
                "{busy}"
            );
            release.send(()).unwrap();
            assert!(slow.join().unwrap().is_ok());
            // A free session is there again.
            release.send(()).unwrap();
            assert!(key.sign_message(b"free").is_ok());
        });
    });
}

#[test]
fn a_waiting_caller_gets_the_session_that_is_given_back() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let key = token
            .builder()
            .max_sessions(1)
            .session_wait(Duration::from_secs(60))
            .open_key()
            .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| assert!(key.sign_message(b"m").is_ok())));
            }
        });
    });
}

/// Kryoptic was seen to sign with another key through a stale handle.
#[test]
fn a_signature_that_is_not_the_keys_is_thrown_away_with_its_session() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let other = token.signer(2048, "other");
        let scheme = other.scheme();
        token.generate(2048, "k");
        let (builder, spy) = token.spied();
        let key = builder
            .max_sessions(1)
            .deadline(SHORT)
            .object_label("k")
            .open_key()
            .unwrap();
        let foreign = other.sign(b"message").unwrap().as_bytes().to_vec();
        let right = key.sign_message(b"message").unwrap();
        let short = right[1..].to_vec();
        let long = [&right[..], &[0]].concat();
        for wrong in [
            foreign,
            short,
            long,
            Vec::new(),
            vec![0; 256],
            vec![0xff; 256],
        ] {
            let asked = spy.count("C_Sign");
            let len = wrong.len();
            spy.hooks.lock().unwrap().sign = Some(Box::new(move |_| Some(Ok(wrong.clone()))));
            let error = key.sign_message(b"message").unwrap_err();
            assert_eq!(error.class(), ErrorClass::SessionLost);
            assert!(
                matches!(error, SignError::Token(Error::WrongSignature { len: is, .. }) if is == len)
            );
            assert!(spy.count("C_Sign") > asked + 1, "it was tried once");
            assert_eq!(spy.open(), 0);
            spy.hooks.lock().unwrap().sign = None;
            let opened = spy.count("C_OpenSession");
            let signature = key.sign_message(b"message").unwrap();
            assert!(key.public_key().verifies(b"message", &signature, scheme));
            assert_eq!(spy.count("C_OpenSession"), opened + 1);
        }
    });
}

#[test]
fn what_fails_until_the_deadline_names_function_value_and_token() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, spy) = token.spied();
        let key = builder.max_sessions(1).deadline(SHORT).open_key().unwrap();
        for (rv, expected) in [
            (Rv::DEVICE_ERROR, ErrorClass::SessionLost),
            (Rv::KEY_HANDLE_INVALID, ErrorClass::SessionLost),
            (Rv::HOST_MEMORY, ErrorClass::Transient),
            (Rv::DATA_LEN_RANGE, ErrorClass::Permanent),
            (Rv(0xce53_4351), ErrorClass::SessionLost),
        ] {
            spy.hooks.lock().unwrap().sign =
                Some(Box::new(move |_| Some(Err(failed("C_Sign", rv)))));
            let error = key.sign_message(b"m").unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("C_Sign: {rv} on token \"lab\"")),
                "{text}"
            );
            assert_eq!(class(Err(error)), expected, "{rv}");
            assert_eq!(spy.open(), 0);
            spy.hooks.lock().unwrap().sign = None;
            assert!(key.sign_message(b"m").is_ok());
        }
    });
}

#[test]
fn a_logout_by_somebody_else_costs_no_signature() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, spy) = token.spied();
        let key = builder.max_sessions(1).open_key().unwrap();
        assert_eq!(spy.count("C_Login"), 1);
        // Another part of the process, with a session of its own.
        let context = Pkcs11::new(hsm.module()).unwrap();
        let session = context
            .open_ro_session(token.info.slot_id.try_into().unwrap())
            .unwrap();
        session.logout().unwrap();
        let signature = key.sign_message(b"m").unwrap();
        assert!(key.public_key().verifies(b"m", &signature, key.scheme()));
        assert_eq!(spy.count("C_Login"), 2);
    });
}

/// Two keys share a token: what one of them found before the other had to log in again is not used after it.
#[test]
fn handles_found_before_a_login_are_not_used_after_it() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        token.generate(2048, "one");
        token.generate(2048, "two");
        let (builder, spy) = token.spied();
        let [one, two] =
            ["one", "two"].map(|label| builder.clone().object_label(label).open_key().unwrap());
        let context = Pkcs11::new(hsm.module()).unwrap();
        let session = context
            .open_ro_session(token.info.slot_id.try_into().unwrap())
            .unwrap();
        session.logout().unwrap();
        assert!(one.sign_message(b"m").is_ok());
        let found = spy.count("C_FindObjects");
        assert!(two.sign_message(b"m").is_ok());
        assert_eq!(spy.count("C_FindObjects"), found + 1);
    });
}

#[test]
fn a_destroyed_key_is_an_error_and_comes_back_with_its_object() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        token.generate(2048, "other");
        let key = token
            .builder()
            .object_label("k")
            .max_sessions(1)
            .session_wait(Duration::ZERO)
            .deadline(SHORT)
            .open_key()
            .unwrap();
        token.destroy("k");
        for _ in 0..3 {
            let error = key.sign_message(b"m").unwrap_err();
            let gone = matches!(&error, SignError::Token(Error::KeyGone { .. }));
            assert!(gone, "{error}");
            assert_eq!(error.class(), ErrorClass::Permanent);
        }
        // Another key under the same name is another key.
        token.generate(2048, "k");
        assert!(key.sign_message(b"m").is_err());
        assert!(token.builder().object_label("k").open_key().is_ok());
    });
}

/// As when a network address moves: two servers whose tokens have the same name.
#[test]
fn another_token_in_the_place_of_the_keys_own_is_waited_for_and_never_signs() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        hsm.token("other").generate(2048, "k");
        let (builder, spy) = token.spied();
        let key = builder
            .object_label("k")
            .max_sessions(1)
            .deadline(SHORT)
            .reload_interval(Duration::ZERO)
            .open_key()
            .unwrap();
        let set = |exchanged: bool| {
            let mut hooks = spy.hooks.lock().unwrap();
            hooks.token = exchanged.then_some(Box::new(|mut info: TokenInfo| {
                info.label = match info.label.as_str() {
                    "lab" => "away".to_owned(),
                    "other" => "lab".to_owned(),
                    label => label.to_owned(),
                };
                Ok(info)
            }));
        };
        set(true);
        // The session that is there goes, and with it the signature finds the other token.
        let broken = AtomicBool::new(true);
        spy.hooks.lock().unwrap().sign = Some(Box::new(move |_| {
            let broken = broken.swap(false, Ordering::SeqCst);
            broken.then(|| Err(failed("C_Sign", Rv::DEVICE_ERROR)))
        }));
        for number in 0..20 {
            let start = Instant::now();
            let error = key.sign_message(b"m").unwrap_err();
            let other = matches!(&error, SignError::Token(Error::OtherToken { .. }));
            assert!(other, "{error}");
            assert_eq!(error.class(), ErrorClass::Transient);
            assert!(number == 0 || start.elapsed() < SHORT / 2, "{number}");
        }
        set(false);
        let start = Instant::now();
        while let Err(error) = key.sign_message(b"m") {
            assert_eq!(error.class(), ErrorClass::Transient, "{error}");
            assert!(start.elapsed() < 2 * SHORT, "{error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let signature = key.sign_message(b"m").unwrap();
        assert!(key.public_key().verifies(b"m", &signature, key.scheme()));
    });
}

#[test]
fn a_key_that_wants_a_login_for_each_signature_gets_it() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let attributes = [
            (Kind::Sensitive, true),
            (Kind::Extractable, false),
            (Kind::AlwaysAuthenticate, true),
        ];
        token.make_key("k", &attributes);
        let (builder, spy) = token.spied();
        for scheme in schemes() {
            let key = builder.clone().scheme(scheme).open_key().unwrap();
            assert_eq!(key.signature_path(), SignaturePath::HashOnToken);
            for message in [&b""[..], b"message", &[7; 100_000]] {
                let before = spy.count("C_Login(context)");
                let signature = key.sign_message(message).unwrap();
                assert!(key.public_key().verifies(message, &signature, scheme));
                assert_eq!(spy.count("C_Login(context)"), before + 1);
            }
        }
        assert!(matches!(
            token.builder_without_pin().open_key(),
            Err(Error::NoPin { .. })
        ));
    });
}

/// NSS and openCryptoki store the attribute, ignore it, and answer the login with these.
#[test]
fn modules_that_ignore_always_authenticate_are_tolerated() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, spy) = token.spied();
        let builder = builder.deadline(SHORT);
        spy.hooks.lock().unwrap().attributes = Some(Box::new(|mut attributes| {
            for attribute in &mut attributes.0 {
                if attribute.kind == Kind::AlwaysAuthenticate {
                    attribute.value = AttributeValue::Flag(true);
                }
            }
            attributes
        }));
        for (rv, works) in [
            (Rv::USER_ALREADY_LOGGED_IN, true),
            (Rv::USER_TYPE_INVALID, true),
            (Rv::DEVICE_ERROR, false),
        ] {
            spy.hooks.lock().unwrap().context_login = Some(rv);
            let key = builder.open_key();
            assert_eq!(
                key.is_ok_and(|key| key.sign_message(b"m").is_ok()),
                works,
                "{rv}"
            );
        }
    });
}
