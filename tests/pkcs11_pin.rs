//! A PIN is never guessed, never shown, and a wrong one costs one try.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::fault::{Fault, faulty};
use support::recovery::{self, sign};
use support::softhsm::{self, PIN, SoftHsm, Token};
use support::spy::{Spy, spy};
use taskseal::error::ErrorClass;
use taskseal::pkcs11::{
    Builder, Error, Health, Pin, PinError, PinSource, Pkcs11Signer, Rv, TokenFlags, Uri, UriError,
    forget_refused_pins,
};
use taskseal::{Signer, SigningKey};

fn value(pin: &str) -> PinSource {
    PinSource::Value(Pin::new(pin).unwrap())
}

/// A token with one key, which nobody is logged in to, behind a spy.
fn token(hsm: &SoftHsm) -> (Token, Builder, Arc<Spy>) {
    let token = hsm.token_with_key();
    let (module, spy) = spy(hsm.module());
    let builder = token
        .builder_without_pin()
        .module_implementation(module)
        .object_label("k");
    (token, builder, spy)
}

#[test]
fn a_wrong_pin_costs_one_try_however_many_threads_have_it() {
    softhsm::test(|hsm| {
        let (token, builder, spy) = token(hsm);
        let classes: Vec<(bool, ErrorClass)> = std::thread::scope(|scope| {
            let open = || {
                let error = builder
                    .clone()
                    .pin(value("00000000"))
                    .open_key()
                    .unwrap_err();
                (matches!(error, Error::PinRefused { .. }), error.class())
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(
            classes
                .iter()
                .filter(|(refused_now, _)| *refused_now)
                .count(),
            1
        );
        assert!(
            classes
                .iter()
                .all(|(_, class)| *class == ErrorClass::Credential)
        );
        assert_eq!(spy.count("C_Login"), 1);

        let again = builder
            .clone()
            .pin(value("00000000"))
            .open_key()
            .unwrap_err();
        let Error::PinRefusedBefore {
            rv: Rv::PIN_INCORRECT,
            ..
        } = &again
        else {
            panic!("{again}")
        };
        assert!(!format!("{again} {again:?}").contains("00000000"));
        assert!(again.to_string().contains("CKR_PIN_INCORRECT"), "{again}");
        assert_eq!(spy.count("C_Login"), 1);
        // By another way the same PIN is the same PIN.
        let file = hsm.directory().join("pin");
        std::fs::write(&file, "00000000\n").unwrap();
        let from_file = builder.clone().pin(PinSource::File(file.clone()));
        assert!(matches!(
            from_file.open_key(),
            Err(Error::PinRefusedBefore { .. })
        ));
        assert_eq!(spy.count("C_Login"), 1);
        // Another wrong one costs its own try, and does not make the first one forgotten.
        assert!(matches!(
            builder.clone().pin(value("11111111")).open_key(),
            Err(Error::PinRefused { .. })
        ));
        assert!(matches!(
            from_file.open_key(),
            Err(Error::PinRefusedBefore { .. })
        ));
        assert_eq!(spy.count("C_Login"), 2);
        // The file is put right.
        std::fs::write(&file, format!("{PIN}\n")).unwrap();
        assert!(from_file.open_key().is_ok());
        assert_eq!(spy.count("C_Login"), 3);
        assert!(token.builder().token().unwrap().flags.initialized);
    });
}

/// A process has a second source with an old PIN: it would cost a try with each login, and in the end the token.
#[test]
fn a_pin_that_was_refused_is_not_tried_again_after_another_one_was_right() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        let wrong = builder.clone().pin(value("00000000"));
        let right = builder.pin(value(PIN));
        assert!(matches!(wrong.open_key(), Err(Error::PinRefused { .. })));
        for logins in 2..=3 {
            // Its login ends with it.
            right.open_key().unwrap().close().unwrap();
            assert_eq!(spy.count("C_Login"), logins);
            let error = wrong.open_key().unwrap_err();
            assert!(matches!(error, Error::PinRefusedBefore { .. }), "{error}");
            assert_eq!(spy.count("C_Login"), logins);
        }
        // Somebody has set the token's PIN to it, and says so.
        forget_refused_pins();
        assert!(matches!(wrong.open_key(), Err(Error::PinRefused { .. })));
        right.open_key().unwrap();
    });
}

/// It is in the slot where it was, and may be the same.
#[test]
fn a_pin_that_was_refused_is_not_tried_again_on_a_token_that_cannot_be_read_any_more() {
    softhsm::test(|hsm| {
        let (module, faults) = faulty(hsm.module()).unwrap();
        let builder = Builder::new()
            .module_implementation(module)
            .slot_id(hsm.token_with_key().info.slot_id)
            .object_label("k")
            .pin(value("00000000"));
        assert!(matches!(builder.open_key(), Err(Error::PinRefused { .. })));
        faults.always("C_GetTokenInfo", Fault::Rv(Rv::DEVICE_ERROR));
        let error = builder.open_key().unwrap_err();
        assert!(matches!(error, Error::PinRefusedBefore { .. }), "{error}");
        assert_eq!(faults.count("C_Login"), 1);
    });
}

#[test]
fn refused_pins_can_be_forgotten_on_purpose() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        let builder = builder.pin(value("00000000"));
        for tries in 1..=2 {
            assert!(matches!(builder.open_key(), Err(Error::PinRefused { .. })));
            assert_eq!(spy.count("C_Login"), tries);
            forget_refused_pins();
        }
    });
}

#[test]
fn no_login_on_the_last_try_or_when_locked() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        let builder = builder.pin(value(PIN));
        let flags = |change: fn(&mut TokenFlags)| {
            spy.hooks.lock().unwrap().token = Some(Box::new(move |mut info| {
                change(&mut info.flags);
                Ok(info)
            }));
        };
        flags(|flags| flags.user_pin_locked = true);
        let locked = builder
            .clone()
            .dangerous_login_on_final_try(true)
            .open_key()
            .unwrap_err();
        assert!(matches!(locked, Error::Locked { .. }), "{locked}");
        flags(|flags| flags.user_pin_final_try = true);
        let last = builder.open_key().unwrap_err();
        assert!(matches!(last, Error::FinalTry { .. }), "{last}");
        assert_eq!([locked.class(), last.class()], [ErrorClass::Credential; 2]);
        assert_eq!(spy.count("C_Login"), 0);
        assert!(
            builder
                .dangerous_login_on_final_try(true)
                .open_key()
                .is_ok()
        );
        assert_eq!(spy.count("C_Login"), 1);
    });
}

#[test]
fn a_pin_that_cannot_be_read_is_an_error_and_not_an_empty_pin() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        let file = hsm.directory().join("pin");
        let missing = builder
            .clone()
            .pin(PinSource::File(file.clone()))
            .open_key()
            .unwrap_err();
        assert!(missing.to_string().contains("No such file"), "{missing}");
        std::fs::write(&file, "\n").unwrap();
        for source in [
            PinSource::File(file.clone()),
            PinSource::Env("TASKSEAL_NO_SUCH_VARIABLE".into()),
            PinSource::callback(|_| Err(PinError::Callback("nobody is there".into()))),
            PinSource::None,
        ] {
            let error = builder.clone().pin(source).open_key().unwrap_err();
            assert!(matches!(error, Error::NoPin { .. }), "{error}");
            assert_eq!(error.class(), ErrorClass::Credential);
        }
        assert!(matches!(
            builder.open_key(),
            Err(Error::NoPin {
                source: PinError::Missing,
                ..
            })
        ));
        assert_eq!(spy.count("C_Login"), 0);
    });
}

#[test]
fn a_pin_with_something_that_nobody_sees_is_refused_before_any_login() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        let file = hsm.directory().join("pin");
        for bad in [
            format!(" {PIN}"),
            format!("{PIN} "),
            format!("{PIN}\t"),
            format!("{PIN}\0"),
            format!("{PIN}\u{200b}"),
            format!("\u{feff} {PIN}"),
        ] {
            assert!(matches!(Pin::new(bad.clone()), Err(PinError::Form(_))));
            std::fs::write(&file, format!("{bad}\n")).unwrap();
            let given = bad.clone();
            for source in [
                PinSource::File(file.clone()),
                PinSource::callback(move |_| Pin::new(given.clone())),
            ] {
                let error = builder.clone().pin(source).open_key().unwrap_err();
                assert!(matches!(error, Error::NoPin { .. }), "{error}");
                assert!(!error.to_string().contains(PIN), "{error}");
            }
            let escaped: String = bad.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let uri = format!("pkcs11:token=t?pin-value={escaped}").parse::<Uri>();
            assert!(matches!(uri, Err(UriError::Value { .. })), "{uri:?}");
        }
        // UTF-16, as some editors write it.
        let wide: Vec<u8> = PIN.encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&file, [&b"\xff\xfe"[..], &wide].concat()).unwrap();
        let from_file = builder.clone().pin(PinSource::File(file.clone()));
        let error = from_file.open_key().unwrap_err();
        assert!(error.to_string().contains("UTF-16"), "{error}");
        assert_eq!(spy.count("C_Login"), 0);

        // A newline and a mark are no part of it, in any source.
        let mut sources = Vec::new();
        for good in [format!("{PIN}\n"), format!("\u{feff}{PIN}\r\n")] {
            assert!(Pin::new(good.clone()).is_ok());
            std::fs::write(&file, format!("{good}a second line\n")).unwrap();
            sources.push(PinSource::Value(Pin::new(good).unwrap()));
            sources.push(PinSource::File(file.clone()));
        }
        for source in sources {
            drop(builder.clone().pin(source).open_key().unwrap());
        }
    });
}

#[test]
fn a_uri_that_says_where_its_pin_is_goes_before_the_program() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        let file = hsm.directory().join("pin");
        std::fs::write(&file, PIN).unwrap();
        for uri in [
            format!("pkcs11:?pin-value={PIN}"),
            format!("pkcs11:?pin-source=file:{}", file.display()),
        ] {
            let uri: Uri = uri.parse().unwrap();
            // In whichever order the builder is told of the two.
            for builder in [
                builder.clone().uri(&uri).pin(value("00000000")),
                builder.clone().pin(value("00000000")).uri(&uri),
            ] {
                drop(builder.open_key().unwrap());
            }
        }
        assert!(spy.count("C_Login") >= 1);
        let wrong: Uri = "pkcs11:?pin-value=00000000".parse().unwrap();
        let error = builder.uri(&wrong).pin(value(PIN)).open_key().err();
        assert!(
            matches!(error, Some(Error::PinRefused { .. }) | None),
            "{error:?}"
        );
    });
}

#[test]
fn a_pin_pad_is_asked_without_a_pin() {
    softhsm::test(|hsm| {
        let (_, builder, spy) = token(hsm);
        spy.hooks.lock().unwrap().token = Some(Box::new(|mut info| {
            info.flags.protected_authentication_path = true;
            Ok(info)
        }));
        // SoftHSM has no pad, and says so; what counts is that it was asked.
        let error = builder.open_key().unwrap_err();
        assert!(
            matches!(&error, Error::Call { call, .. } if call.rv() == Some(Rv::ARGUMENTS_BAD)),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("C_Login: CKR_ARGUMENTS_BAD on token \"lab\""),
            "{error}"
        );
        assert_eq!(spy.count("C_Login"), 1);
    });
}

#[test]
fn one_login_serves_every_key_of_the_process() {
    softhsm::test(|hsm| {
        let (token, builder, spy) = token(hsm);
        token.generate(2048, "other");
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        let source = PinSource::callback(move |token| {
            assert_eq!(token.label, "lab");
            *count.lock().unwrap() += 1;
            Pin::new(PIN)
        });
        let first = builder.clone().pin(source).open_key().unwrap();
        let second = builder.object_label("other").open_key().unwrap();
        assert!(first.sign_message(b"m").is_ok() && second.sign_message(b"m").is_ok());
        assert_eq!((spy.count("C_Login"), *asked.lock().unwrap()), (1, 1));
    });
}

#[test]
fn pins_named_in_a_uri() {
    softhsm::test(|hsm| {
        let (_, builder, _) = token(hsm);
        let file = hsm.directory().join("the pin");
        std::fs::write(&file, PIN).unwrap();
        let escaped = file.display().to_string().replace(' ', "%20");
        for query in [
            format!("pin-value={PIN}"),
            format!("pin-source=file:{escaped}"),
            format!("pin-source=file://{escaped}"),
            format!("pin-source={escaped}"),
        ] {
            let uri = format!("pkcs11:?{query}").parse().unwrap();
            builder.clone().uri(&uri).open_key().unwrap();
        }
        for source in [
            "pin-source=%7C/bin/echo",
            "pin-source=relative",
            "pin-source=https://example.org/pin",
        ] {
            let uri = format!("pkcs11:?{source}").parse().unwrap();
            assert!(
                matches!(builder.clone().uri(&uri).open_key(), Err(Error::Uri(_))),
                "{source}"
            );
        }
    });
}

#[test]
fn a_wrong_pin_costs_one_try_although_every_thread_tries_again() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = recovery::token(hsm);
        let file = hsm.directory().join("pin");
        std::fs::write(&file, PIN).unwrap();
        let key = builder
            .pin(PinSource::File(file.clone()))
            .max_sessions(8)
            .reload_interval(Duration::ZERO)
            .deadline(Duration::from_secs(5))
            .open_key()
            .unwrap();
        std::fs::write(&file, "00000000").unwrap();
        // The login is lost with the module.
        faults.happens(Fault::Dead(Rv::DEVICE_ERROR));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let error = sign(&key).unwrap_err();
                        assert_eq!(error.class(), ErrorClass::Credential, "{error}");
                    }
                });
            }
        });
        assert_eq!(faults.answers("C_Login", "CKR_PIN_INCORRECT"), 1);
        let Health::Failed { why, .. } = key.health() else {
            panic!("{}", key.health())
        };
        assert!(why.contains("CKR_PIN_INCORRECT"), "{why}");
        assert_eq!(key.statistics().failures(ErrorClass::Credential), 40);
        // Somebody provides another PIN.
        std::fs::write(&file, PIN).unwrap();
        sign(&key).unwrap();
        assert!(key.health().is_usable());
        assert_eq!(faults.answers("C_Login", "CKR_PIN_INCORRECT"), 1);
    });
}

/// Each value by which a token refuses a PIN ends all tries with this one.
#[test]
fn locked_and_expired_pins_are_not_tried_again() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = recovery::token(hsm);
        for (number, rv) in [
            Rv::PIN_INCORRECT,
            Rv::PIN_LOCKED,
            Rv::PIN_EXPIRED,
            Rv::PIN_INVALID,
        ]
        .into_iter()
        .enumerate()
        {
            faults.script("C_Login", [Fault::Rv(rv)]);
            let pin = Pin::new(format!("1111111{number}")).unwrap();
            let wrong = builder.clone().pin(PinSource::Value(pin));
            for _ in 0..3 {
                let error = wrong.open_key().unwrap_err();
                assert_eq!(error.class(), ErrorClass::Credential, "{error}");
            }
            assert_eq!(faults.count("C_Login"), number + 1, "{rv}");
        }
    });
}

/// Each try is a prompt on the token, and a mistake there costs a try too.
#[test]
fn a_pin_pad_does_not_ask_again_by_itself_after_a_mistake() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = recovery::token(hsm);
        faults.pin_pad.store(true, Ordering::SeqCst);
        faults.always("C_Login", Fault::Rv(Rv::PIN_INCORRECT));
        let builder = builder.pin(PinSource::None);
        for prompts in 1..=2 {
            for _ in 0..3 {
                let error = builder.open_key().unwrap_err();
                assert_eq!(error.class(), ErrorClass::Credential, "{error}");
            }
            assert_eq!(faults.count("C_Login"), prompts);
            forget_refused_pins();
        }
    });
}

#[test]
fn a_pin_callback_that_panics_is_an_error_and_costs_nothing_else() {
    softhsm::test(|hsm| {
        let (_, builder, faults) = recovery::token(hsm);
        let panics = builder
            .clone()
            .pin(PinSource::callback(|_| panic!("nobody is there")));
        for _ in 0..2 {
            let error = panics.open_key().unwrap_err();
            assert!(matches!(error, Error::Panicked), "{error}");
        }
        assert_eq!((faults.count("C_Login"), faults.open()), (0, 0));
        sign(&builder.open_key().unwrap()).unwrap();
    });
}

/// What happened is told, and no PIN with it.
#[test]
fn events_tell_what_happened_and_never_a_pin() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, certificate) = token.generate_certified(2048, "k");
        let log = Log::default();
        let shown = tracing::subscriber::with_default(log.clone(), || {
            let uri = token.uri("object=k");
            let wrong = token
                .builder_without_pin()
                .pin(value("99999999"))
                .open_key()
                .unwrap_err();
            let signer = Pkcs11Signer::open(&uri, certificate).unwrap();
            signer.sign(b"the message").unwrap();
            format!(
                "{uri} {uri:?} {wrong} {wrong:?} {signer:?} {:?}",
                token.builder().uri(&uri)
            )
        });
        let log = log.0.lock().unwrap();
        for event in [
            "session opened",
            "logged in",
            "signer opened",
            "signed",
            "refused the PIN",
            "pin-value",
        ] {
            assert!(log.contains(event), "{event}: {log}");
        }
        for secret in [PIN, "99999999", "the message"] {
            assert!(
                !log.contains(secret) && !shown.contains(secret),
                "{log}\n{shown}"
            );
        }
    });
}

/// Keeps every event of this crate as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("taskseal")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields<'a>(&'a mut String);
        impl tracing::field::Visit for Fields<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        let mut log = self.0.lock().unwrap();
        event.record(&mut Fields(&mut log));
        log.push('\n');
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
