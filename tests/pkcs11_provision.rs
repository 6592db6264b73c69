//! Making tokens, keys and certificates on tokens, and listing them.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::time::{Duration, Instant};

use support::fault::Fault;
use support::recovery::{SLACK, eventually, token};
use support::softhsm::{self, PIN, SO_PIN, certificate};
use taskseal::error::ErrorClass;
use taskseal::pkcs11::{self, Builder, Error, KeyInfo, NewKey, Pin, Rv};

fn new_key(label: &str) -> NewKey {
    NewKey {
        bits: 2048,
        label: label.to_owned(),
        id: None,
    }
}

#[test]
fn tokens_are_initialised_once_and_listed() {
    softhsm::test(|hsm| {
        let blank = pkcs11::list_tokens(hsm.module()).unwrap();
        assert!(
            blank.iter().all(|token| !token.flags.initialized),
            "{blank:?}"
        );
        let none = Builder::new()
            .module_path(hsm.module())
            .token()
            .unwrap_err();
        assert!(none.to_string().contains("uninitialised"), "{none}");
        let token = hsm.token("lab");
        assert!(token.info.flags.initialized && token.info.flags.user_pin_initialized);
        assert!(token.info.flags.login_required);
        let [so, user] = [SO_PIN, PIN].map(|pin| Pin::new(pin).unwrap());
        let init = |label: &str| pkcs11::init_token(hsm.module(), label, &so, &user);
        assert!(matches!(init("lab"), Err(Error::Exists { .. })));
        for bad in ["", "ends with blank ", &"x".repeat(33)] {
            assert!(matches!(init(bad), Err(Error::Argument(_))), "{bad}");
        }
        let listed = pkcs11::list_tokens(hsm.module()).unwrap();
        assert!(listed.contains(&token.info));
        assert_eq!(
            listed
                .iter()
                .filter(|token| token.flags.initialized)
                .count(),
            1
        );
    });
}

#[test]
fn new_keys_stay_in_the_token_and_overwrite_nothing() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let made = token.generate(2048, "k");
        let expected = [
            made.sensitive,
            made.always_sensitive,
            made.never_extractable,
            made.local,
            made.sign,
        ];
        assert_eq!(expected, [Some(true); 5]);
        assert_eq!(made.extractable, Some(false));
        assert_eq!((made.bits(), made.id.len()), (Some(2048), 16));
        assert_eq!(made.public_key.as_ref().unwrap().exponent(), [1, 0, 1]);
        let new = |label: &str, id: Option<Vec<u8>>| {
            pkcs11::generate_key(
                &token.builder(),
                &NewKey {
                    bits: 2048,
                    label: label.into(),
                    id,
                },
            )
        };
        assert!(matches!(new("k", None), Err(Error::Exists { .. })));
        assert!(matches!(
            new("other", Some(made.id.clone())),
            Err(Error::Exists { .. })
        ));
        assert!(matches!(new("", None), Err(Error::Argument(_))));
        assert!(matches!(
            new("other", Some(vec![])),
            Err(Error::Argument(_))
        ));
        let odd = NewKey {
            bits: 2049,
            label: "odd".into(),
            id: None,
        };
        assert!(matches!(
            pkcs11::generate_key(&token.builder(), &odd),
            Err(Error::Argument(_))
        ));
        let listed: Vec<KeyInfo> = pkcs11::list_keys(&token.builder()).unwrap();
        assert_eq!(listed, [made]);
        assert_eq!(new("other", Some(vec![7])).unwrap().id, [7]);
    });
}

/// A template that a token does not take is tried once without what it may not like (tpm2-pkcs11 says
/// `CKR_GENERAL_ERROR`), but not when the pair was made in spite of the error.
#[test]
fn a_key_pair_is_made_once_whatever_the_token_says() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        faults.script("C_GenerateKeyPair", [Fault::Rv(Rv::GENERAL_ERROR)]);
        pkcs11::generate_key(&builder, &new_key("a")).unwrap();
        faults.script("C_GenerateKeyPair", [Fault::Rv(Rv::GENERAL_ERROR); 2]);
        pkcs11::generate_key(&builder, &new_key("b")).unwrap_err();
        faults.script("C_GenerateKeyPair", [Fault::MadeBut(Rv::GENERAL_ERROR)]);
        pkcs11::generate_key(&builder, &new_key("c")).unwrap_err();
        assert_eq!(faults.count("C_GenerateKeyPair"), 5);
        let labels = |label: &str| {
            let keys = pkcs11::list_keys(&builder).unwrap();
            keys.iter().filter(|key| key.label == label).count()
        };
        assert_eq!(["k", "a", "b", "c"].map(labels), [1, 1, 0, 1]);
    });
}

/// Asks a token for something, and drops the answer.
type Errand<'a> = &'a dyn Fn(&Builder) -> Result<(), Error>;

#[test]
fn what_is_made_after_the_deadline_is_destroyed_again() {
    softhsm::test(|hsm| {
        let (token, builder, faults) = token(hsm);
        let certificate = certificate(&builder.open_key().unwrap(), "CN=k");
        let queue = |builder: &Builder| builder.clone().object_label("queue");
        let objects = || token.session().find(&[]).unwrap().len();
        let errands: [(&str, Errand<'_>); 4] = [
            ("C_GenerateKeyPair", &|builder| {
                pkcs11::generate_key(builder, &new_key("new")).map(drop)
            }),
            ("C_GenerateKey", &|builder| {
                pkcs11::generate_fernet_keys(&queue(builder)).map(drop)
            }),
            ("C_CreateObject", &|builder| {
                let other = builder.clone().object_label("other");
                pkcs11::import_fernet_keys(&other, &[7; 32]).map(drop)
            }),
            ("C_CreateObject", &|builder| {
                pkcs11::import_certificate(builder, &certificate, None).map(drop)
            }),
        ];
        let deadline = Duration::from_millis(600);
        let short = builder.clone().provision_deadline(deadline);
        for (function, make) in errands {
            let before = objects();
            faults.script(function, [Fault::Hang]);
            let start = Instant::now();
            let error = make(&short).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Timeout, "{function}: {error}");
            let took = start.elapsed();
            assert!(
                took >= deadline && took < deadline + SLACK,
                "{function}: {took:?}"
            );
            assert_eq!(faults.hanging(), 1, "{function}");
            faults.release();
            eventually(function, || faults.open() == 0);
            assert_eq!(objects(), before, "{function}");
            make(&builder).unwrap();
            assert!(objects() > before, "{function}");
        }
    });
}

#[test]
fn looking_at_a_token_that_hangs_ends_at_the_deadline() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = token(hsm);
        let errands: [(&str, Errand<'_>); 6] = [
            ("C_Login", &|builder| pkcs11::list_keys(builder).map(drop)),
            ("C_FindObjects", &|builder| {
                pkcs11::list_keys(builder).map(drop)
            }),
            ("C_FindObjects", &|builder| {
                pkcs11::find_certificates(builder).map(drop)
            }),
            ("C_FindObjects", &|builder| {
                pkcs11::list_secret_keys(builder).map(drop)
            }),
            ("C_GetTokenInfo", &|builder| builder.token().map(drop)),
            ("C_GetMechanismInfo", &|builder| builder.inspect().map(drop)),
        ];
        let deadline = Duration::from_millis(400);
        let short = builder
            .clone()
            .deadline(deadline)
            .provision_deadline(deadline);
        for (function, ask) in errands {
            faults.script(function, [Fault::Hang]);
            let start = Instant::now();
            let error = ask(&short).unwrap_err();
            assert!(
                matches!(error, Error::Timeout { .. }),
                "{function}: {error}"
            );
            let took = start.elapsed();
            assert!(took < deadline + SLACK, "{function}: {took:?}");
            // Not one more thread.
            let start = Instant::now();
            let error = ask(&short.clone().max_stuck(1)).unwrap_err();
            assert!(matches!(error, Error::Stuck { .. }), "{function}: {error}");
            assert!(start.elapsed() < deadline / 2, "{function}");
            faults.release();
            eventually(function, || faults.hanging() == 0 && faults.open() == 0);
            eventually(function, || ask(&builder).is_ok());
        }
    });
}
