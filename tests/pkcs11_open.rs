//! Which token, which key, which certificate; what is refused.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::softhsm::{self, PIN, certificate};
use support::spy::{failed, spy};
use taskseal::error::ErrorClass;
use taskseal::pkcs11::load;
use taskseal::pkcs11::module::{AttributeKind as Kind, AttributeValue};
use taskseal::pkcs11::{self, Builder, Error, NewKey, Pin, Pkcs11Key, Pkcs11Signer, Rv, Uri};
use taskseal::pss::{Digest, KeySizes, Salt, Scheme};
use taskseal::{SignError, Signer, SigningKey};

#[test]
fn a_token_is_found_by_each_attribute() {
    softhsm::test(|hsm| {
        let lab = hsm.token("lab one");
        hsm.token("other");
        let info = &lab.info;
        let found = |builder: Builder| builder.module_path(hsm.module()).token();
        assert_eq!(found(Builder::new().token_label("lab one")).unwrap(), *info);
        assert_eq!(
            found(Builder::new().token_serial(&info.serial)).unwrap(),
            *info
        );
        assert_eq!(found(Builder::new().slot_id(info.slot_id)).unwrap(), *info);
        let both = Builder::new()
            .token_manufacturer(&info.manufacturer)
            .token_model(&info.model);
        assert_eq!(found(both.clone().token_label("lab one")).unwrap(), *info);
        assert!(matches!(found(both), Err(Error::SeveralTokens { .. })));
        let uri = |text: String| found(Builder::new().uri(&text.parse().unwrap()));
        let same = format!(
            "pkcs11:token=lab%20one;slot-id={};serial={}",
            info.slot_id, info.serial
        );
        assert_eq!(uri(same).unwrap(), *info);
        assert!(uri("pkcs11:token=lab%20one;library-manufacturer=SoftHSM".into()).is_ok());
        let other = uri("pkcs11:token=lab%20one;library-version=99".into()).unwrap_err();
        assert!(matches!(other, Error::LibraryMismatch { .. }), "{other}");
        assert!(uri("pkcs11:token=lab%20one;slot-manufacturer=Nobody".into()).is_err());
    });
}

#[test]
fn no_token_and_several_tokens_are_different_errors_that_list_what_is_there() {
    softhsm::test(|hsm| {
        let [one, two] = ["one", "two"].map(|label| hsm.token(label));
        let none = Builder::new()
            .module_path(hsm.module())
            .token_label("three")
            .token()
            .unwrap_err();
        assert!(matches!(none, Error::TokenNotFound { .. }));
        assert_eq!(none.class(), ErrorClass::Transient);
        let several = Builder::new()
            .module_path(hsm.module())
            .token()
            .unwrap_err();
        assert!(
            matches!(&several, Error::SeveralTokens { found, .. } if found.len() == 2),
            "{several}"
        );
        for text in [none.to_string(), several.to_string()] {
            for token in [&one.info, &two.info] {
                for part in [
                    &token.label,
                    &token.serial,
                    &token.manufacturer,
                    &token.model,
                ] {
                    assert!(text.contains(part.as_str()), "{text}");
                }
                assert!(text.contains(&token.slot_id.to_string()), "{text}");
            }
        }
        assert!(none.to_string().contains("three"));
    });
}

/// openCryptoki's tokens cannot be read through the crate: one of them must not hide the others, and its slot still
/// names it.
#[test]
fn a_token_that_cannot_be_read_hides_no_other_and_is_found_by_its_slot() {
    softhsm::test(|hsm| {
        let [good, bad] = ["good", "bad"].map(|label| hsm.token(label));
        bad.generate(2048, "k");
        let (module, spy) = spy(hsm.module());
        let slot = bad.info.slot_id;
        spy.hooks.lock().unwrap().token = Some(Box::new(move |info| {
            if info.slot_id == slot {
                Err(failed("C_GetTokenInfo", Rv::DEVICE_ERROR))
            } else {
                Ok(info)
            }
        }));
        let builder = Builder::new().module_implementation(module);
        assert_eq!(
            builder.clone().token_label("good").token().unwrap(),
            good.info
        );
        let none = builder
            .clone()
            .token_label("bad")
            .token()
            .unwrap_err()
            .to_string();
        assert!(
            none.contains("cannot be read: C_GetTokenInfo: CKR_DEVICE_ERROR"),
            "{none}"
        );
        let pin = pkcs11::PinSource::Value(Pin::new(PIN).unwrap());
        let key = builder
            .slot_id(slot)
            .pin(pin)
            .object_label("k")
            .open_key()
            .unwrap();
        assert!(key.sign_message(b"m").is_ok());
    });
}

#[test]
fn a_key_is_found_by_label_by_id_and_by_its_certificate() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (first, first_certificate) = token.generate_certified(2048, "first");
        let (second, _) = token.generate_certified(2048, "second");
        assert_ne!(first.id, second.id);
        let id: String = first.id.iter().map(|byte| format!("%{byte:02x}")).collect();
        for attributes in [
            format!("id={id}"),
            "object=first".into(),
            format!("object=first;id={id};type=private"),
        ] {
            let key = Pkcs11Key::open(&token.uri(&attributes)).unwrap();
            assert_eq!(Some(key.public_key()), first.public_key.as_ref());
        }
        // Two keys, no name: the certificate says which.
        let signer =
            Pkcs11Signer::open(&token.uri("type=private"), first_certificate.clone()).unwrap();
        let signature = signer.sign(b"message").unwrap();
        assert_eq!(signature.certificate(), &first_certificate);
        first_certificate
            .verify(b"message", signature.as_bytes(), signer.scheme())
            .unwrap();

        let none = Pkcs11Key::open(&token.uri("object=third")).unwrap_err();
        assert!(matches!(&none, Error::KeyNotFound { found, .. } if found.len() == 2));
        let several = Pkcs11Key::open(&token.uri("type=private")).unwrap_err();
        assert!(matches!(&several, Error::SeveralKeys { found, .. } if found.len() == 2));
        for text in [none.to_string(), several.to_string()] {
            assert!(
                text.contains("\"first\"") && text.contains("\"second\""),
                "{text}"
            );
            assert!(
                text.contains(&first.id_hex()) && text.contains("\"lab\""),
                "{text}"
            );
        }
        let wrong_class = Pkcs11Key::open(&token.uri("object=first;type=cert")).unwrap_err();
        assert!(matches!(wrong_class, Error::Argument(_)));
    });
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, first) = token.generate_certified(2048, "first");
        token.generate(2048, "second");
        let error = Pkcs11Signer::open(&token.uri("object=second"), first.clone()).unwrap_err();
        assert!(matches!(error, SignError::KeyMismatch { .. }), "{error}");
        // A certificate whose key is nowhere on the token.
        let other = hsm.token("other");
        other.generate(2048, "third");
        let error = Pkcs11Signer::open(&other.uri("type=private"), first).unwrap_err();
        assert!(
            matches!(error, SignError::Token(Error::KeyNotFound { .. })),
            "{error}"
        );
    });
}

#[test]
fn the_same_key_twice_is_an_error() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, certificate) = token.generate_certified(2048, "first");
        let (builder, spy) = token.spied();
        token.generate(2048, "second");
        // Both keys read the same modulus: what a copied object looks like.
        let modulus = certificate.public_key().modulus().to_vec();
        spy.hooks.lock().unwrap().attributes = Some(Box::new(move |mut attributes| {
            for attribute in &mut attributes.0 {
                if attribute.kind == Kind::Modulus {
                    attribute.value = AttributeValue::Bytes(modulus.clone());
                }
            }
            attributes
        }));
        let error = builder.open_signer(certificate).unwrap_err();
        assert!(
            matches!(error, SignError::Token(Error::SeveralKeys { .. })),
            "{error}"
        );
    });
}

#[test]
fn keys_that_can_be_read_are_refused_unless_the_unsafe_choice_is_named() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        token.make_key(
            "extractable",
            &[(Kind::Sensitive, true), (Kind::Extractable, true)],
        );
        token.make_key(
            "readable",
            &[(Kind::Sensitive, false), (Kind::Extractable, false)],
        );
        for (label, attribute) in [
            ("extractable", "CKA_EXTRACTABLE"),
            ("readable", "CKA_SENSITIVE"),
        ] {
            let builder = token.builder().object_label(label);
            let error = builder.open_key().unwrap_err();
            assert!(matches!(error, Error::Extractable { .. }), "{error}");
            assert!(error.to_string().contains(attribute), "{error}");
            assert_eq!(error.class(), ErrorClass::Permanent);
            let key = builder.dangerous_allow_extractable().open_key().unwrap();
            assert!(key.sign_message(b"m").is_ok());
        }
    });
}

/// An attribute that the token does not show is unknown, not false.
#[test]
fn keys_of_which_nobody_knows_are_refused_too() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        for hidden in [Kind::Sensitive, Kind::Extractable] {
            let (builder, spy) = token.spied();
            spy.hooks.lock().unwrap().attributes = Some(Box::new(move |mut attributes| {
                attributes.0.retain(|attribute| attribute.kind != hidden);
                attributes
            }));
            let error = builder.open_key().unwrap_err();
            assert!(matches!(error, Error::Extractable { .. }), "{error}");
            assert!(error.to_string().contains("cannot be read"), "{error}");
        }
    });
}

#[test]
fn keys_that_must_not_sign_and_small_keys_are_refused() {
    softhsm::test(|hsm| {
        let token = hsm.token_with_key();
        let (builder, spy) = token.spied();
        spy.hooks.lock().unwrap().attributes = Some(Box::new(|mut attributes| {
            for attribute in &mut attributes.0 {
                if attribute.kind == Kind::Sign {
                    attribute.value = AttributeValue::Flag(false);
                }
            }
            attributes
        }));
        let error = builder.open_key().unwrap_err();
        assert!(matches!(error, Error::NotForSigning { .. }), "{error}");

        let small = NewKey {
            bits: 1024,
            label: "small".into(),
            id: None,
        };
        assert!(matches!(
            pkcs11::generate_key(&token.builder(), &small),
            Err(Error::Scheme(_))
        ));
        let sizes = KeySizes::dangerous_allow_small(1024);
        let allowed = token
            .builder()
            .object_label("small")
            .dangerous_allow_small_keys(sizes);
        pkcs11::generate_key(&allowed, &small).unwrap();
        let refused = token
            .builder()
            .object_label("small")
            .open_key()
            .unwrap_err();
        assert!(matches!(refused, Error::Scheme(_)), "{refused}");
        let key = allowed.clone().open_key().unwrap();
        assert!(
            key.public_key()
                .verifies(b"m", &key.sign_message(b"m").unwrap(), key.scheme())
        );
        // Digest and salt do not fit into 128 bytes.
        let scheme = Scheme::new(Digest::Sha512, Salt::DigestLength);
        assert!(matches!(
            allowed.scheme(scheme).open_key(),
            Err(Error::Scheme(_))
        ));
    });
}

#[test]
fn the_certificate_can_come_from_the_token() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (info, certificate_of_key) = token.generate_certified(2048, "first");
        let (_, other) = token.generate_certified(2048, "second");
        let builder = token
            .builder()
            .object_label("first")
            .certificate_from_token();
        let missing = builder.open().unwrap_err();
        assert!(
            matches!(missing, SignError::Token(Error::CertificateNotFound { .. })),
            "{missing}"
        );
        let imported =
            pkcs11::import_certificate(&token.builder(), &certificate_of_key, None).unwrap();
        assert_eq!((imported.label.as_str(), imported.id), ("first", info.id));
        pkcs11::import_certificate(&token.builder(), &other, Some("by hand")).unwrap();
        let signer = builder.open().unwrap();
        assert_eq!(signer.certificate(), &certificate_of_key);
        assert_eq!(
            pkcs11::find_certificates(&token.builder()).unwrap().len(),
            2
        );
        let counts: Vec<usize> = pkcs11::list_keys(&token.builder())
            .unwrap()
            .iter()
            .map(|key| key.certificates)
            .collect();
        assert_eq!(counts, [1, 1]);

        let again = pkcs11::import_certificate(&token.builder(), &other, None).unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{again}");
        let renewed = certificate(signer.key(), "CN=first,O=renewed");
        pkcs11::import_certificate(&token.builder(), &renewed, None).unwrap();
        let several = builder.open().unwrap_err();
        assert!(
            matches!(several, SignError::Token(Error::SeveralCertificates { .. })),
            "{several}"
        );
        // No private key of the other token belongs to it.
        let elsewhere = hsm.token("elsewhere");
        let error = pkcs11::import_certificate(&elsewhere.builder(), &renewed, None).unwrap_err();
        assert!(matches!(error, Error::KeyNotFound { .. }), "{error}");
    });
}

#[test]
fn modules_that_are_none_are_clear_errors() {
    softhsm::test(|hsm| {
        let token = |builder: Builder| builder.token().unwrap_err();
        assert!(matches!(token(Builder::new()), Error::NoModule));
        let missing = token(Builder::new().module_path("/nonexistent/module.so"));
        assert!(
            missing.to_string().contains("/nonexistent/module.so"),
            "{missing}"
        );
        let text = hsm.directory().join("text.so");
        std::fs::write(&text, "no library").unwrap();
        assert!(matches!(
            token(Builder::new().module_path(&text)),
            Error::ModuleLoad { .. }
        ));
        let looked = token(Builder::new().module_name("no-such-module"));
        assert!(looked.to_string().contains("/usr/lib/pkcs11"), "{looked}");
        assert!(matches!(
            token(Builder::new().module_name("../evil")),
            Error::Argument(_)
        ));
    });
}

#[test]
fn a_module_has_one_owner_whatever_it_is_called() {
    softhsm::test(|hsm| {
        let link = hsm.directory().join("link.so");
        std::os::unix::fs::symlink(hsm.module(), &link).unwrap();
        let [one, two] = [hsm.module(), &link].map(|path: &Path| load(path).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        if hsm.module() == Path::new("/usr/lib/softhsm/libsofthsm2.so") {
            let uri: Uri = "pkcs11:?module-name=softhsm2".parse().unwrap();
            let error = Builder::new().uri(&uri).token().unwrap_err();
            assert!(matches!(error, Error::TokenNotFound { .. }), "{error}");
        }
    });
}

/// SoftHSM takes no text at its initialisation and says so; the tests with NSS, which needs one, are in `matrix.rs`.
#[test]
fn a_text_for_the_initialisation_reaches_the_module_and_is_the_whole_process_s() {
    softhsm::test(|hsm| {
        let with = |text: &str| {
            let builder = Builder::new().module_path(hsm.module()).init_reserved(text);
            builder.token().unwrap_err()
        };
        let error = with("configdir='/nowhere'");
        assert!(matches!(error, Error::ModuleStart { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(error.to_string().contains("CKR_ARGUMENTS_BAD"), "{error}");
        let error = with("a\0b");
        assert!(error.to_string().contains("zero byte"), "{error}");
        // Neither of them left a module behind.
        load(hsm.module()).unwrap();
        let error = with("configdir='/nowhere'");
        assert_eq!(error.class(), ErrorClass::Permanent);
        let text = error.to_string();
        assert!(
            text.contains("initialised it with no text") && text.contains("configdir='/nowhere'"),
            "{error}"
        );
    });
}
