//! Fernet with its keys on a token: the same tokens as with keys in memory, recovery, deadlines, and what is refused.
#![cfg(all(feature = "pkcs11", feature = "software"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::time::{Duration, Instant, SystemTime};

use support::fault::Fault;
use support::fernet::{Vector, flipped};
use support::fernet_pair::{
    KEY, both, cause, faulted, faulted_with, in_memory, named, offering_all_but,
};
use support::fork::fork;
use support::keys::{opener, signer};
use support::softhsm::{self, Token};
use taskseal::fernet::body::FernetBodies;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet, FernetError, FernetKeys as _, MultiFernet};
use taskseal::pkcs11::module::{
    Attribute, AttributeKind as Kind, KeyType, MechanismKind, ObjectClass,
};
use taskseal::pkcs11::{self, Error, Pkcs11FernetKeys, Rv, SecretKeyInfo};
use taskseal::pss::Scheme;
use taskseal::{Destination, ErrorClass, MessageOpener, MessageSealer};

fn generated(token: &Token, label: &str) -> Pkcs11FernetKeys {
    pkcs11::generate_fernet_keys(&named(token, label)).unwrap();
    named(token, label).open_fernet_keys().unwrap()
}

/// Lengths around the borders of blocks, and around those of what goes to the token at a time.
fn lengths() -> impl Iterator<Item = usize> {
    let chunk = 16 * 1024;
    (0..=33).chain([
        200,
        1024,
        chunk - 26,
        chunk - 25,
        chunk,
        chunk + 1,
        3 * chunk,
        1 << 20,
        (3 << 20) + 5,
    ])
}

#[test]
fn generated_keys_are_two_stay_in_the_token_and_round_trip() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let made = pkcs11::generate_fernet_keys(&named(&token, "queue")).unwrap();
        let kinds: Vec<_> = made.iter().map(|key| (key.kind(), key.len)).collect();
        assert!(kinds.contains(&("generic secret", Some(32))), "{kinds:?}");
        assert!(kinds.contains(&("AES", Some(16))), "{kinds:?}");
        assert_ne!(made[0].id, made[1].id);
        for key in &made {
            assert_eq!(key.label, "queue");
            assert_eq!((key.sensitive, key.extractable), (Some(true), Some(false)));
        }
        let listed: Vec<SecretKeyInfo> = pkcs11::list_secret_keys(&token.builder()).unwrap();
        assert_eq!(listed.len(), 2);
        let fernet = Fernet::new(named(&token, "queue").open_fernet_keys().unwrap());
        for len in lengths() {
            let data = vec![b'x'; len];
            let sealed = fernet.encrypt(&data).unwrap();
            assert!(
                fernet.decrypt(sealed.as_bytes(), None).unwrap() == data,
                "{len}"
            );
        }
        // Other keys do not read it, on the same token or in memory.
        let sealed = fernet.encrypt(b"data").unwrap();
        for other in [Fernet::new(generated(&token, "other")), in_memory()] {
            let error = other.decrypt(sealed.as_bytes(), None).unwrap_err();
            assert!(matches!(error, FernetError::Refused));
        }
    });
}

#[test]
fn imported_keys_make_the_very_tokens_of_the_same_keys_in_memory() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let both = both(&token, &KEY);
        let (now, iv) = (SystemTime::now(), [7; 16]);
        for len in lengths() {
            // Data that looks like padding, too.
            for data in [vec![0x10; len], (0..=250).cycle().take(len).collect()] {
                let made =
                    |fernet: &Fernet| fernet.dangerous_encrypt_with_iv(&data, now, iv).unwrap();
                let theirs = made(&in_memory());
                for on_token in &both {
                    assert!(made(on_token) == theirs, "{len}");
                    let read = on_token.decrypt(theirs.as_bytes(), None).unwrap();
                    assert!(read == data, "{len}");
                }
            }
        }
    });
}

#[test]
fn the_official_vectors_hold() {
    softhsm::test(|hsm| {
        let all = [Vector::generate(), Vector::verify(), Vector::invalid()].concat();
        let keys = SoftwareKeys::from_text(&all[0].secret).unwrap();
        let both = both(&hsm.token("lab"), &keys.expose_bytes());
        for vector in all {
            assert_eq!(vector.secret, keys.expose_text());
            for fernet in &both {
                vector.check(fernet);
            }
        }
    });
}

#[test]
fn tokens_of_64_mib_go_through_the_token_in_parts() {
    softhsm::test(|hsm| {
        let data: Vec<u8> = (0..=250).cycle().take(64 << 20).collect();
        let (now, iv) = (SystemTime::now(), [7; 16]);
        let theirs = in_memory()
            .dangerous_encrypt_with_iv(&data, now, iv)
            .unwrap();
        for fernet in both(&hsm.token("lab"), &KEY) {
            let ours = fernet.dangerous_encrypt_with_iv(&data, now, iv).unwrap();
            assert!(ours == theirs);
            assert!(fernet.decrypt(theirs.as_bytes(), None).unwrap() == data);
            let mut bad = ours.into_bytes();
            bad[40 << 20] ^= 1;
            let error = fernet.decrypt(&bad, None).unwrap_err();
            assert!(matches!(error, FernetError::Refused), "{error}");
        }
    });
}

#[test]
fn keys_in_the_token_are_found_among_several_hundred_and_rotate_keeps_the_time() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let on_token = Fernet::new(generated(&token, "new"));
        let old_on_token = Fernet::new(generated(&token, "old"));
        let in_memory: Vec<Fernet> = (0..300)
            .map(|_| Fernet::new(SoftwareKeys::generate().unwrap()))
            .collect();
        let others = in_memory.iter().chain([&old_on_token]).cloned();
        let all = MultiFernet::new(on_token.clone(), others);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        let minute = Duration::from_secs(60);
        for maker in [&on_token, &in_memory[0], &in_memory[299], &old_on_token] {
            let sealed = maker.encrypt_at(b"data", at).unwrap();
            assert_eq!(all.decrypt(sealed.as_bytes(), None).unwrap(), b"data");
            let rotated = all.rotate(sealed.as_bytes()).unwrap();
            assert_eq!(on_token.timestamp(rotated.as_bytes()).unwrap(), at);
            let read = |after| on_token.decrypt_at(rotated.as_bytes(), Some(minute), at + after);
            assert_eq!(read(minute).unwrap(), b"data");
            let error = read(minute + Duration::from_secs(1)).unwrap_err();
            assert!(matches!(error, FernetError::Refused), "{error}");
        }
    });
}

#[test]
fn bodies_and_whole_messages_with_keys_in_the_token() {
    softhsm::test(|hsm| {
        let signer = signer(2048, Scheme::default(), "CN=worker");
        let trusting = opener(signer.certificate());
        let to = [Destination::any().with_queue("celery")];
        let json = br#"{"body": "W10="}"#;
        let whole = |fernet: &Fernet| {
            [
                (
                    MessageSealer::encrypted(fernet.clone()),
                    MessageOpener::encrypted(fernet.clone()),
                ),
                (
                    MessageSealer::signed_and_encrypted(signer.clone(), fernet.clone()),
                    MessageOpener::signed_and_encrypted(trusting.clone(), fernet.clone()),
                ),
            ]
        };
        for on_token in both(&hsm.token("lab"), &KEY) {
            // Sealed there and opened here, and the other way round.
            for (ours, theirs) in [(&on_token, &in_memory()), (&in_memory(), &on_token)] {
                let sealed = FernetBodies::new(ours.clone()).seal_json(&[1]).unwrap();
                let bodies = FernetBodies::new(theirs.clone());
                let open = |token: &str| bodies.open(sealed.content_type(), token.as_bytes());
                let opened = open(sealed.as_str()).unwrap();
                assert_eq!(opened.json::<[u8; 1]>().unwrap(), [1]);
                for bad in flipped(sealed.as_str()) {
                    assert_eq!(open(&bad).unwrap_err().reason(), "token");
                }
                for ((sealer, _), (_, opener)) in whole(ours).iter().zip(whole(theirs)) {
                    let any = [Destination::any()];
                    let wire = sealer.seal_json(json, &to[0]).unwrap();
                    let opened = opener.open(wire.as_bytes(), &any).unwrap();
                    assert_eq!(opened.payload(), json);
                    // Every bit of a longer token takes a call each; the lowest of each character is enough here.
                    for at in 0..wire.len() {
                        let mut bad = wire.clone().into_bytes();
                        bad[at] ^= 1;
                        let error = opener.open(&bad, &any).unwrap_err();
                        assert_eq!(error.reason(), "token");
                    }
                }
            }
        }
    });
}

#[test]
fn a_token_of_a_key_in_memory_is_rotated_to_keys_in_the_token() {
    softhsm::test(|hsm| {
        let [on_token, _] = both(&hsm.token("lab"), &KEY);
        let old = Fernet::new(SoftwareKeys::generate().unwrap());
        let sealed = old.encrypt(b"data").unwrap();
        let both = MultiFernet::new(on_token, [old]);
        let rotated = both.rotate(sealed.as_bytes()).unwrap();
        assert_eq!(
            in_memory().decrypt(rotated.as_bytes(), None).unwrap(),
            b"data"
        );
    });
}

#[test]
fn every_flipped_bit_and_bad_padding_is_refused_alike() {
    softhsm::test(|hsm| {
        let both = both(&hsm.token("lab"), &KEY);
        let sealed = in_memory().encrypt(b"a message").unwrap();
        for bad in flipped(&sealed) {
            for fernet in &both {
                let error = fernet.decrypt(bad.as_bytes(), None).unwrap_err();
                assert!(matches!(error, FernetError::Refused), "{bad}: {error}");
            }
        }
        // Right tags over wrong padding, as only a holder of the keys can make them.
        let keys = SoftwareKeys::from_bytes(&KEY).unwrap();
        for padding in [[0; 16], [17; 16], [255; 16], *b"fourteen bytes\x01\x03"] {
            let mut raw = vec![0x80];
            raw.extend(1_700_000_000_u64.to_be_bytes());
            raw.extend([9; 16]);
            raw.extend(padding);
            let tag = keys.seal([9; 16], &mut raw, 25).unwrap();
            raw.extend(tag);
            let bad = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, raw);
            for fernet in both.iter().chain([&in_memory()]) {
                let error = fernet.decrypt(bad.as_bytes(), None).unwrap_err();
                assert!(
                    matches!(error, FernetError::Refused),
                    "{padding:?}: {error}"
                );
            }
        }
    });
}

#[test]
fn a_token_without_aes_cbc_of_any_kind_is_refused_and_keeps_no_keys() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let neither = [MechanismKind::AesCbc, MechanismKind::AesCbcPad];
        let builder = offering_all_but(&token, &neither);
        let error = pkcs11::generate_fernet_keys(&builder).unwrap_err();
        assert!(matches!(error, Error::FernetKeys { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        for part in [
            "CKM_AES_CBC is not offered; CKM_AES_CBC_PAD is not offered",
            "take another token or module",
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(
            pkcs11::list_secret_keys(&token.builder()).unwrap(),
            [],
            "half a pair was left"
        );
    });
}

#[test]
fn a_token_that_lists_aes_cbc_and_does_not_do_it_pads() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted_with(&token, [Fault::Rv(Rv::MECHANISM_INVALID)]);
        let (now, iv) = (SystemTime::now(), [7; 16]);
        let data: Vec<u8> = (0..=250).cycle().take(100_000).collect();
        let theirs = in_memory()
            .dangerous_encrypt_with_iv(&data, now, iv)
            .unwrap();
        // One that takes no more than 4 KiB at a time, and one that loses the session on the way.
        for fault in [Fault::Rv(Rv::DATA_LEN_RANGE), Fault::LoseSession] {
            faults.script("C_Encrypt", [fault]);
            let ours = fernet.dangerous_encrypt_with_iv(&data, now, iv).unwrap();
            assert!(ours == theirs, "{fault:?}");
        }
        for fault in [Fault::Rv(Rv::ENCRYPTED_DATA_LEN_RANGE), Fault::LoseSession] {
            faults.script("C_Decrypt", [fault]);
            let before = faults.count("C_Encrypt");
            let read = fernet.decrypt(theirs.as_bytes(), None).unwrap();
            assert!(read == data, "{fault:?}");
            // Its own padding is put behind what it decrypts.
            assert!(faults.count("C_Encrypt") > before);
        }
    });
}

#[test]
fn a_label_is_taken_once_and_what_is_missing_or_double_is_said() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let open = |label: &str| named(&token, label).open_fernet_keys().unwrap_err();
        let error = open("queue");
        assert!(error.to_string().contains("fernet key generate"), "{error}");
        pkcs11::generate_fernet_keys(&named(&token, "queue")).unwrap();
        for again in [
            pkcs11::generate_fernet_keys(&named(&token, "queue")),
            pkcs11::import_fernet_keys(&named(&token, "queue"), &KEY),
        ] {
            assert!(matches!(again.unwrap_err(), Error::Exists { .. }));
        }
        let session = token.session();
        let secret = |label: &str, key: KeyType, value: &[u8], extractable: bool| {
            session
                .create(&[
                    Attribute::class(ObjectClass::SecretKey),
                    Attribute::key_type(key),
                    Attribute::bytes(Kind::Label, label.as_bytes()),
                    Attribute::bytes(Kind::Id, label.as_bytes()),
                    Attribute::flag(Kind::Token, true),
                    Attribute::flag(Kind::Private, true),
                    Attribute::flag(Kind::Sensitive, true),
                    Attribute::flag(Kind::Extractable, extractable),
                    Attribute::flag(Kind::Sign, key == KeyType::GenericSecret),
                    Attribute::flag(Kind::Encrypt, key == KeyType::Aes),
                    Attribute::flag(Kind::Decrypt, key == KeyType::Aes),
                    Attribute::bytes(Kind::Value, value),
                ])
                .unwrap()
        };
        secret("queue", KeyType::Aes, &[1; 16], false);
        let error = open("queue");
        assert!(
            error.to_string().contains("more than one AES key"),
            "{error}"
        );
        secret("long", KeyType::GenericSecret, &[1; 32], false);
        secret("long", KeyType::Aes, &[1; 32], false);
        let error = open("long");
        assert!(error.to_string().contains("128 bits"), "{error}");
        secret("soft", KeyType::GenericSecret, &[1; 32], false);
        secret("soft", KeyType::Aes, &[1; 16], true);
        assert!(matches!(open("soft"), Error::Extractable { .. }));
        named(&token, "soft")
            .dangerous_allow_extractable()
            .open_fernet_keys()
            .unwrap();
        for bad in [
            named(&token, ""),
            named(&token, "queue").object_id(*b"1"),
            token.builder(),
        ] {
            assert!(matches!(
                bad.open_fernet_keys().unwrap_err(),
                Error::Argument(_)
            ));
        }
        let uri = token.uri("object=queue;type=private");
        assert!(matches!(
            Pkcs11FernetKeys::open(&uri).unwrap_err(),
            Error::Argument(_)
        ));
    });
}

#[test]
fn a_lost_session_a_lost_login_and_a_token_that_is_away_are_made_good() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        for function in ["C_Encrypt", "C_Sign"] {
            for fault in [
                Fault::Rv(Rv::SESSION_HANDLE_INVALID),
                Fault::Rv(Rv::USER_NOT_LOGGED_IN),
                Fault::Rv(Rv::DEVICE_ERROR),
                Fault::LoseSession,
                Fault::Away(Duration::from_millis(300)),
            ] {
                faults.script(function, [fault]);
                let sealed = fernet.encrypt(b"data").unwrap();
                assert_eq!(
                    in_memory().decrypt(sealed.as_bytes(), None).unwrap(),
                    b"data"
                );
            }
        }
        let sealed = in_memory().encrypt(b"data").unwrap();
        faults.script("C_Decrypt", [Fault::Rv(Rv::GENERAL_ERROR)]);
        assert_eq!(fernet.decrypt(sealed.as_bytes(), None).unwrap(), b"data");
        // Short and long tags are no tags.
        for fault in [Fault::Short, Fault::Long] {
            faults.script("C_Sign", [fault]);
            assert_eq!(fernet.decrypt(sealed.as_bytes(), None).unwrap(), b"data");
        }
    });
}

#[test]
fn a_call_that_hangs_is_left_at_the_deadline() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        faults.script("C_Encrypt", [Fault::Hang]);
        let start = Instant::now();
        let error = fernet.encrypt(b"data").unwrap_err();
        assert_eq!(error.class(), ErrorClass::Timeout, "{error}");
        assert!(matches!(cause(&error), Error::Timeout { .. }));
        assert!(start.elapsed() < Duration::from_secs(3));
        fernet.encrypt(b"data").unwrap();
    });
}

#[test]
fn other_keys_under_the_label_are_not_used_for_those_that_were_opened() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        fernet.encrypt(b"data").unwrap();
        token.destroy("q");
        pkcs11::generate_fernet_keys(&named(&token, "q")).unwrap();
        faults.script("C_Encrypt", [Fault::LoseSession]);
        let error = fernet.encrypt(b"data").unwrap_err();
        assert!(matches!(cause(&error), Error::FernetKeys { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
    });
}

#[test]
fn destroyed_keys_are_said_at_once() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (fernet, faults) = faulted(&token);
        pkcs11::generate_fernet_keys(&named(&token, "another")).unwrap();
        token.destroy("q");
        faults.script("C_Encrypt", [Fault::LoseSession]);
        let starts = || faults.count("C_Initialize");
        let error = fernet.encrypt(b"data").unwrap_err();
        assert!(matches!(cause(&error), Error::FernetKeys { .. }), "{error}");
        let before = starts();
        for _ in 0..20 {
            let error = fernet.encrypt(b"data").unwrap_err();
            assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
        }
        assert_eq!(starts(), before);
    });
}

#[test]
fn four_threads_and_a_forked_child_use_one_pair() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let fernet = Fernet::new(generated(&token, "queue"));
        let sealed = fernet.encrypt(b"data").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let fernet = &fernet;
                scope.spawn(move || {
                    for round in 0..50 {
                        let data = format!("{thread} {round}");
                        let sealed = fernet.encrypt(data.as_bytes()).unwrap();
                        let read = fernet.decrypt(sealed.as_bytes(), None).unwrap();
                        assert_eq!(read, data.as_bytes());
                    }
                });
            }
        });
        let read = |fernet: &Fernet| fernet.decrypt(sealed.as_bytes(), None).unwrap() == b"data";
        fork(|| {
            read(&fernet)
                .then_some(())
                .ok_or_else(|| "other data".to_owned())
        })
        .succeed(Duration::from_secs(20));
        assert!(read(&fernet));
    });
}
