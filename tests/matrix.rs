//! One suite, many PKCS#11 modules: SoftHSM in every run of the tests, the others through `scripts/tokens/*`, which make
//! the tokens and say in the environment what to expect (see `support/matrix.rs`).
//!
//! Each test writes what it found into `target/matrix/`; `scripts/test-tokens --docs` makes the table in `docs/hsm.md`
//! out of it.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use serde_json::{Map, json};
use support::fork::fork;
use support::matrix::{Fixture, test};
use taskseal::ErrorClass;
use taskseal::pkcs11::module::{Attribute, AttributeKind as Kind, ObjectClass, User};
use taskseal::pkcs11::{self, Builder, Error, Pin, Pkcs11Key, SignaturePath};
use taskseal::pss::{Digest, KeySizes, Salt, Scheme, SchemeError};
use taskseal::signer::{SignError, SigningKey};

#[test]
fn a_token_is_found_by_its_uri() {
    test(|fixture| {
        let token = fixture.builder().token().unwrap();
        let library = fixture.module().library().unwrap();
        let (major, minor) = library.version;
        fixture.record("library", library.description.trim());
        let version = std::env::var("TASKSEAL_MATRIX_VERSION");
        fixture.record(
            "version",
            version.unwrap_or_else(|_| format!("{major}.{minor}")),
        );
        fixture.record("token", token.to_string());
        if let Some(text) = fixture.uri.init_reserved() {
            // The same text is the same module, whoever asks; another one is refused.
            assert_eq!(fixture.builder().token().unwrap(), token);
            let other = fixture.builder().init_reserved(format!("{text} "));
            let error = other.token().unwrap_err();
            assert!(matches!(error, Error::ModuleLoad { .. }), "{error}");
        }
    });
}

#[test]
fn a_key_is_made_in_the_token_and_overwrites_none() {
    test(|fixture| {
        let mut wanted = fixture.new_key(2048);
        wanted.id = Some(std::process::id().to_be_bytes().to_vec());
        let made = pkcs11::generate_key(&fixture.builder(), &wanted).unwrap();
        assert_eq!(
            (made.sensitive, made.extractable),
            (Some(true), Some(false))
        );
        let facts = [
            ("always sensitive", made.always_sensitive),
            ("never extractable", made.never_extractable),
            ("local", made.local),
        ];
        for (name, fact) in facts {
            fixture.record(name, fact);
        }
        // NSS would silently overwrite the first key when a second is made with its id.
        let mut same_id = fixture.new_key(2048);
        same_id.id.clone_from(&wanted.id);
        let mut same_label = fixture.new_key(2048);
        same_label.label.clone_from(&wanted.label);
        for second in [same_id, same_label] {
            let error = pkcs11::generate_key(&fixture.builder(), &second).unwrap_err();
            assert!(matches!(error, Error::Exists { .. }), "{error}");
        }
        let keys = pkcs11::list_keys(&fixture.builder()).unwrap();
        let there = keys.iter().filter(|key| key.id == made.id);
        let halves: Vec<_> = there.map(|key| key.public_key.as_ref()).collect();
        assert_eq!(halves, [made.public_key.as_ref()]);
        fixture.record("a second key with the same id", "refused");
    });
}

#[test]
fn each_salt_signs_with_each_digest_by_the_expected_path() {
    test(|fixture| {
        let key = fixture.generate(2048);
        let mut found = Map::new();
        for digest in Digest::ALL {
            let mut of_digest = Map::new();
            for (salt, name) in [(Salt::DigestLength, "digest"), (Salt::Maximum, "max")] {
                let scheme = Scheme::new(digest, salt);
                let opened = open(&fixture.builder().scheme(scheme), &key.label).unwrap();
                let path = match opened.signature_path() {
                    SignaturePath::Pss => "pss",
                    SignaturePath::HostPadding => "host",
                    other => panic!("{scheme}: {other:?}"),
                };
                assert_eq!(Some(path), fixture.expects(name), "{scheme}");
                for message in [&b""[..], b"a message", &[7; 100_000]] {
                    let signature = opened.sign_message(message).unwrap();
                    verify(&opened, message, &signature);
                }
                of_digest.insert(name.to_owned(), path.into());
            }
            found.insert(digest.as_str().to_owned(), of_digest.into());
        }
        fixture.record("paths", found);
    });
}

/// SHA-512 with a salt of 64 bytes does not fit into 1024 bits. NSS's session is stuck after such a call, openCryptoki
/// and SoftHSM answer with codes that mean anything.
#[test]
fn a_salt_that_is_too_long_is_refused_before_the_token_is_asked() {
    test(|fixture| {
        let small = KeySizes::dangerous_allow_small(1024);
        let builder = fixture.builder().dangerous_allow_small_keys(small);
        let key = match pkcs11::generate_key(&builder, &fixture.new_key(1024)) {
            Ok(key) => key,
            Err(Error::Call { call, .. }) if fixture.expects("small") == Some("no") => {
                return fixture.record("salt too long", format!("no key that small: {call}"));
            }
            Err(error) => panic!("{error}"),
        };
        let (builder, spy) = fixture.spied(builder);
        let scheme = Scheme::new(Digest::Sha512, Salt::DigestLength);
        let error = open(&builder.clone().scheme(scheme), &key.label).unwrap_err();
        assert!(
            matches!(error, Error::Scheme(SchemeError::KeyTooSmall { .. })),
            "{error}"
        );
        assert_eq!(spy.count("C_Sign"), 0);
        // The same key and token sign what fits.
        let scheme = Scheme::new(Digest::Sha256, Salt::Maximum);
        let opened = open(&builder.scheme(scheme), &key.label).unwrap();
        verify(&opened, b"fits", &opened.sign_message(b"fits").unwrap());
        assert!(spy.count("C_Sign") > 0);
        fixture.record("salt too long", "refused before the call");
    });
}

#[test]
fn four_threads_sign_at_once_and_every_signature_verifies() {
    const EACH: usize = 25;
    test(|fixture| {
        let key = fixture.generate(2048);
        let (builder, spy) = fixture.spied(fixture.builder());
        let opened = open(&builder.max_sessions(4), &key.label).unwrap();
        let signed: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let opened = &opened;
                    scope.spawn(move || {
                        for number in 0..EACH {
                            let message = format!("message {number} of thread {thread}");
                            let signature = opened.sign_message(message.as_bytes()).unwrap();
                            verify(opened, message.as_bytes(), &signature);
                        }
                        EACH
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!(spy.most_open() > 1, "the threads took turns at one session");
        fixture.record(
            "threads",
            json!({"threads": 4, "signatures": signed, "sessions": spy.most_open()}),
        );
    });
}

#[test]
fn a_wrong_pin_costs_one_try_whatever_the_threads_do() {
    test(|fixture| {
        let key = fixture.generate(2048);
        let wrong = fixture.builder_with(&fixture.uri, "wrongpin");
        let (builder, spy) = fixture.spied(wrong);
        // The test's own sessions are closed, so the process is logged out.
        let refused: Vec<Error> = thread::scope(|scope| {
            let attempt = || {
                (0..3)
                    .map(|_| open(&builder, &key.label).unwrap_err())
                    .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(attempt)).collect();
            let joined = threads.into_iter().map(|t| t.join().unwrap());
            joined.flatten().collect()
        });
        for error in &refused {
            assert_eq!(error.class(), ErrorClass::Credential, "{error}");
        }
        let shown = |error: &&Error| matches!(error, Error::PinRefused { .. });
        assert_eq!(refused.iter().filter(shown).count(), 1);
        assert_eq!(spy.count("C_Login"), 1);
        let opened = open(&fixture.builder(), &key.label).unwrap();
        verify(
            &opened,
            b"right PIN",
            &opened.sign_message(b"right PIN").unwrap(),
        );
        fixture.record("wrong PIN", "1 try for 24 attempts of 8 threads");
    });
}

#[test]
fn a_destroyed_key_signs_no_more_and_no_other_takes_its_place() {
    test(|fixture| {
        let key = fixture.generate(2048);
        // A key that is not there may come back, so each signature waits for it as long as it may.
        let patient = fixture.builder().deadline(Duration::from_secs(2));
        let opened = open(&patient, &key.label).unwrap();
        sign(&opened).unwrap();
        destroy(fixture, &key.label);
        // Another one under its name: nothing that it signs may be handed out.
        let mut next = fixture.new_key(2048);
        next.label.clone_from(&key.label);
        pkcs11::generate_key(&fixture.builder(), &next).unwrap();
        let outcomes: BTreeSet<_> = (0..2)
            .map(|_| match opened.sign_message(b"after") {
                Ok(signature) => {
                    verify(&opened, b"after", &signature);
                    "signs"
                }
                Err(error) => {
                    assert!(matches!(error, SignError::Token(_)), "{error}");
                    assert_ne!(error.class(), ErrorClass::Credential, "{error}");
                    "fails"
                }
            })
            .collect();
        let expected = fixture.expects("destroyed").unwrap_or("fails");
        assert_eq!(outcomes, BTreeSet::from([expected]));
        fixture.record("destroyed key", expected);
    });
}

#[test]
fn a_logout_by_somebody_else_in_the_process_is_made_good() {
    test(|fixture| {
        let key = fixture.generate(2048);
        let opened = open(&fixture.builder(), &key.label).unwrap();
        for _ in 0..2 {
            sign(&opened).unwrap();
            log_out(fixture, &opened);
        }
        sign(&opened).unwrap();
        fixture.record("logout by others", "signs on");
    });
}

/// Every session, handle and login is gone, and the module wants its start again, with the text that it had.
#[test]
fn a_module_that_somebody_else_finalised_is_started_again() {
    test(|fixture| {
        // What others in the process do is of no concern to a module that has a state for each of them.
        let has_its_own = fixture.expects("logout") == Some("own");
        let key = fixture.generate(2048);
        let opened = open(&fixture.builder(), &key.label).unwrap();
        sign(&opened).unwrap();
        let context = cryptoki::context::Pkcs11::new(fixture.module_path()).unwrap();
        let finalized = context.finalize();
        assert!(has_its_own || finalized.is_ok(), "{finalized:?}");
        let start = Instant::now();
        sign(&opened).unwrap();
        if !has_its_own {
            fixture.record(
                "finalized by others",
                format!("signs on after {}", millis(start)),
            );
        }
        assert!(opened.health().is_usable(), "{}", opened.health());
    });
}

/// What a forked child inherits is the parent's: it starts the module anew where that is known to do no harm, and says so
/// where it is not. The parent goes on either way.
#[test]
fn a_forked_child_signs_or_is_refused_and_does_not_disturb_the_parent() {
    test(|fixture| {
        let key = fixture.generate(2048);
        let opened = open(&fixture.builder(), &key.label).unwrap();
        let expected = fixture.expects("fork").unwrap_or("signs");
        for _ in 0..2 {
            sign(&opened).unwrap();
            let child = fork(|| match (expected, sign(&opened)) {
                ("signs", Ok(())) => Ok(()),
                ("refused", Err(SignError::Token(Error::Forked { .. }))) => Ok(()),
                (_, outcome) => Err(format!("{expected} was expected: {outcome:?}")),
            });
            // At the same time.
            sign(&opened).unwrap();
            child.succeed(Duration::from_secs(60));
        }
        sign(&opened).unwrap();
        fixture.record(
            "fork",
            format!("child {expected}, parent signs on")
                .replace("child refused", "child is refused"),
        );
    });
}

/// p11-kit-client writes to a socket; when the server is gone, the kernel answers with SIGPIPE, which ends a process that
/// does not ignore it. Rust's start-up ignores it, so a Rust program lives, and connects again.
#[test]
fn a_server_that_is_killed_does_not_take_the_process_with_it() {
    const SIGPIPE: u32 = 13;
    test(|fixture| {
        let Some(server) = fixture.server() else {
            return;
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
        let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
        assert_eq!(ignored >> (SIGPIPE - 1) & 1, 1, "SIGPIPE is not ignored");

        let key = fixture.generate(2048);
        let opened = open(&fixture.builder(), &key.label).unwrap();
        opened.sign_message(b"before").unwrap();
        let ours = children(server);
        assert!(!ours.is_empty(), "the server has no process for this one");
        for process in ours {
            let mut kill = Command::new("kill");
            kill.args(["-KILL", &process.to_string()]);
            assert!(kill.status().unwrap().success());
        }
        let start = Instant::now();
        sign(&opened).unwrap();
        fixture.record("server killed", format!("signs on after {}", millis(start)));
    });
}

/// The token is of no use afterwards, so the scripts run this test last.
#[test]
fn locking_out_takes_as_many_wrong_pins_as_expected_and_the_last_is_not_spent_unasked() {
    const MOST: usize = 40;
    test(|fixture| {
        let attempt = |pin: &str, on_final_try: bool| {
            let builder = fixture.builder_with(&fixture.throwaway, pin);
            let builder = builder.dangerous_login_on_final_try(on_final_try);
            pkcs11::list_keys(&builder)
        };
        attempt(&fixture.pin, false).unwrap();
        let limit = match fixture.expects("lock") {
            Some("never") => 12,
            _ => MOST,
        };
        let mut tries = 0;
        let mut stopped_at = None;
        let mut locked = false;
        while tries < limit && !locked {
            // Another one each time: the same is shown once.
            let wrong = format!("wrong{tries:03}");
            match attempt(&wrong, stopped_at.is_some()).unwrap_err() {
                Error::FinalTry { .. } => stopped_at = Some(tries),
                Error::Locked { .. } => locked = true,
                Error::PinRefused { call, .. } => {
                    tries += 1;
                    locked = call.to_string().contains("CKR_PIN_LOCKED");
                }
                other => panic!("after {tries} tries: {other}"),
            }
        }
        let last = attempt(&fixture.pin, true);
        let found = if locked {
            let error = last.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Credential, "{error}");
            tries.to_string()
        } else {
            last.unwrap();
            "never".to_owned()
        };
        fixture.record(
            "lock-out",
            json!({"after": found, "stopped before the last try": stopped_at}),
        );
        assert_eq!(Some(found.as_str()), fixture.expects("lock"));
        if let Some(stopped_at) = stopped_at {
            assert_eq!(stopped_at + 1, tries, "there was more than one try left");
        }
    });
}

/// The child processes of a process.
fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
            // After the name, which may contain anything: the state, then the parent.
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(1) == Some(&parent.to_string())
        })
    };
    numbers.filter(is_child).collect()
}

/// Opens a key by its label.
fn open(builder: &Builder, label: &str) -> Result<Pkcs11Key, Error> {
    builder.clone().object_label(label).open_key()
}

/// Signs once and verifies.
fn sign(key: &Pkcs11Key) -> Result<(), SignError> {
    let message = format!("by process {}", std::process::id());
    let signature = key.sign_message(message.as_bytes())?;
    verify(key, message.as_bytes(), &signature);
    Ok(())
}

fn millis(start: Instant) -> String {
    format!("{} ms", start.elapsed().as_millis())
}

fn verify(key: &Pkcs11Key, message: &[u8], signature: &[u8]) {
    assert!(
        key.public_key().verifies(message, signature, key.scheme()),
        "a signature was handed out that does not verify"
    );
}

/// Destroys both halves of a key.
fn destroy(fixture: &Fixture, label: &str) {
    let slot = fixture.builder().token().unwrap().slot_id;
    let session = fixture.module().open_session(slot, true).unwrap();
    if !session.user_is_logged_in().unwrap() {
        let pin = Pin::new(fixture.pin.clone()).unwrap();
        session.login(User::User, Some(&pin)).unwrap();
    }
    for class in [ObjectClass::PrivateKey, ObjectClass::PublicKey] {
        let template = [
            Attribute::class(class),
            Attribute::bytes(Kind::Label, label.as_bytes()),
        ];
        for handle in session.find(&template).unwrap() {
            session.destroy(handle).unwrap();
        }
    }
}

/// `C_Logout` by another part of the process: it ends the login of all its sessions with the token.
fn log_out(fixture: &Fixture, key: &Pkcs11Key) {
    let context = cryptoki::context::Pkcs11::new(fixture.module_path()).unwrap();
    // Another part of the process finds the module initialised, except behind p11-kit, where each has its own connection.
    let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    let own = context.initialize(arguments).is_ok();
    assert_eq!(own, fixture.expects("logout") == Some("own"));
    let slots = context.get_slots_with_token().unwrap();
    let slot = slots.iter().find(|slot| slot.id() == key.token().slot_id);
    let session = context.open_ro_session(*slot.unwrap()).unwrap();
    if own {
        let pin = AuthPin::new(fixture.pin.clone().into_boxed_str());
        session.login(UserType::User, Some(&pin)).unwrap();
    }
    session.logout().unwrap();
}
