//! The part of the matrix (see `tests/matrix.rs`) that concerns Fernet's keys on a token: the same suite on every module,
//! and what is refused by those that cannot.
#![cfg(all(feature = "pkcs11", feature = "software"))]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod support;

use std::thread;
use std::time::{Duration, SystemTime};

use support::fernet_pair::{KEY, in_memory};
use support::fork::fork;
use support::matrix::{Fixture, test};
use taskseal::fernet::{Fernet, FernetError};
use taskseal::pkcs11::module::MechanismKind;
use taskseal::pkcs11::{self, Builder, Error, Pkcs11FernetKeys, SecretKeyInfo};

/// Around the borders of blocks, and around what goes to the token at a time.
const LENGTHS: [usize; 8] = [0, 1, 15, 16, 17, 1000, 16 * 1024 - 26, 50_000];

/// Makes a pair, or imports one, and opens it.
type Make = fn(&Builder) -> Result<Vec<SecretKeyInfo>, Error>;

#[test]
fn generated_fernet_keys_stay_in_the_token_and_round_trip() {
    test(|fixture| {
        let Some(keys) = pair(fixture, "fernet", pkcs11::generate_fernet_keys) else {
            return;
        };
        let fernet = Fernet::new(keys);
        for len in LENGTHS {
            let data = bytes(len);
            let sealed = fernet.encrypt(&data).unwrap();
            let read = fernet.decrypt(sealed.as_bytes(), None).unwrap();
            assert!(read == data, "{len}");
        }
        let sealed = fernet.encrypt(b"data").unwrap();
        let mut bad = sealed.clone().into_bytes();
        for position in [0, 30, bad.len() - 5] {
            if let Some(byte) = bad.get_mut(position) {
                *byte = if *byte == b'A' { b'B' } else { b'A' };
            }
            let error = fernet.decrypt(&bad, None).unwrap_err();
            assert!(matches!(error, FernetError::Refused), "{error}");
            bad = sealed.clone().into_bytes();
        }
        // Others on the same token do not read it.
        let others = builder(fixture);
        pkcs11::generate_fernet_keys(&others).unwrap();
        let others = Fernet::new(others.open_fernet_keys().unwrap());
        let error = others.decrypt(sealed.as_bytes(), None).unwrap_err();
        assert!(matches!(error, FernetError::Refused), "{error}");
    });
}

#[test]
fn imported_fernet_keys_make_the_very_tokens_of_the_same_keys_in_memory() {
    test(|fixture| {
        let import: Make = |builder| pkcs11::import_fernet_keys(builder, &KEY);
        let Some(keys) = pair(fixture, "fernet, imported", import) else {
            return;
        };
        are_those_in_memory(&Fernet::new(keys));
    });
}

#[test]
fn a_token_that_pads_by_itself_makes_the_very_same_too() {
    test(|fixture| {
        if fixture.expects("secret").is_some() {
            // Shown by the test above.
            return;
        }
        let (builder, spy) = fixture.spied(builder(fixture));
        spy.hooks.lock().unwrap().not_offered = vec![MechanismKind::AesCbc];
        pkcs11::import_fernet_keys(&builder, &KEY).unwrap();
        are_those_in_memory(&Fernet::new(builder.open_fernet_keys().unwrap()));
    });
}

fn are_those_in_memory(on_token: &Fernet) {
    let in_memory = in_memory();
    let (now, iv) = (SystemTime::now(), [7; 16]);
    for len in LENGTHS {
        let data = bytes(len);
        let made = |fernet: &Fernet| fernet.dangerous_encrypt_with_iv(&data, now, iv).unwrap();
        let theirs = made(&in_memory);
        assert!(made(on_token) == theirs, "{len}");
        let read = on_token.decrypt(theirs.as_bytes(), None).unwrap();
        assert!(read == data, "{len}");
    }
    // Many at once.
    let data = LENGTHS.map(bytes);
    for (from, to) in [(on_token, &in_memory), (&in_memory, on_token)] {
        let sealed = from.encrypt_all(&data).unwrap();
        let read = to.decrypt_all(&sealed, None).unwrap();
        let read: Vec<Vec<u8>> = read.into_iter().map(Result::unwrap).collect();
        assert!(read == data);
    }
}

#[test]
fn threads_and_a_forked_child_share_fernet_keys_on_a_token() {
    test(|fixture| {
        if fixture.expects("secret").is_some() {
            // Shown by the tests above.
            return;
        }
        let builder = builder(fixture);
        pkcs11::generate_fernet_keys(&builder).unwrap();
        let fernet = Fernet::new(builder.open_fernet_keys().unwrap());
        let sealed = fernet.encrypt(b"data").unwrap();
        thread::scope(|scope| {
            for number in 0..4 {
                let fernet = &fernet;
                scope.spawn(move || {
                    for round in 0..25 {
                        let data = format!("{number} {round}");
                        let sealed = fernet.encrypt(data.as_bytes()).unwrap();
                        let read = fernet.decrypt(sealed.as_bytes(), None).unwrap();
                        assert_eq!(read, data.as_bytes());
                    }
                });
            }
        });
        let read = || fernet.decrypt(sealed.as_bytes(), None);
        let expected = fixture.expects("fork").unwrap_or("signs");
        fork(|| match (expected, read()) {
            ("signs", Ok(data)) if data == b"data" => Ok(()),
            ("refused", Err(FernetError::Keys { .. })) => Ok(()),
            (_, outcome) => Err(format!("{expected} was expected: {outcome:?}")),
        })
        .succeed(Duration::from_secs(60));
        assert_eq!(read().unwrap(), b"data");
    });
}

/// A pair that was made and opened; `None` where the module is known to make none, which then must be said at once, and
/// leave nothing behind.
fn pair(fixture: &Fixture, what: &str, make: Make) -> Option<Pkcs11FernetKeys> {
    let builder = builder(fixture);
    let refused = fixture.expects("secret") == Some("none");
    match make(&builder) {
        Ok(made) => {
            assert!(!refused, "it makes them: take secret=none away");
            let kinds: Vec<_> = made.iter().map(|key| (key.kind(), key.len)).collect();
            for expected in [("generic secret", 32), ("AES", 16)] {
                // What it does not tell is no lie.
                let fits = |(kind, len): &(&str, Option<u64>)| {
                    (*kind, len.unwrap_or(expected.1)) == expected
                };
                assert_eq!(
                    kinds.iter().filter(|kind| fits(kind)).count(),
                    1,
                    "{kinds:?}"
                );
            }
            assert!(matches!(made.as_slice(), [one, other] if one.id != other.id));
            for key in &made {
                assert_eq!((key.sensitive, key.extractable), (Some(true), Some(false)));
            }
            let error = make(&builder).unwrap_err();
            assert!(matches!(error, Error::Exists { .. }), "{error}");
            fixture.record(what, "works");
            Some(builder.open_fernet_keys().unwrap())
        }
        Err(error) => {
            let reason = match error {
                Error::Call { call, .. } if refused => call.to_string(),
                Error::FernetKeys { reason, .. } if refused => reason,
                error => panic!("{error}"),
            };
            assert_eq!(list(fixture), [], "half a pair was left");
            fixture.record(what, format!("refused: {reason}"));
            None
        }
    }
}

/// For a pair with a label of its own.
fn builder(fixture: &Fixture) -> Builder {
    fixture.builder().object_label(fixture.new_key(2048).label)
}

fn list(fixture: &Fixture) -> Vec<SecretKeyInfo> {
    pkcs11::list_secret_keys(&fixture.builder()).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}
