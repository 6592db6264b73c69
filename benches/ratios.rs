//! How much the library costs beyond the cryptography under it, and how it compares to stock Celery: ratios alone, each
//! measured in alternating slices of one run. `./scripts/bench` writes them to `docs/performance.md`.
//!
//!     cargo bench --bench ratios                 everything that is there
//!     cargo bench --bench ratios -- celery       the cases whose name contains a word
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod support;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256};
use base64::Engine as _;
use serde_json::{Value, json};
use support::celery::Celery;
use support::compare::{Effort, Outcome, Timed, compare, timed};
use support::token::{BareFernet, BareSession, Token};
use support::{KIB, MIB, bare_key, body, certificate, opener, sealer};
use taskseal::fernet::Fernet;
use taskseal::pss::{Salt, Scheme};
use taskseal::{CertStore, Certificate, MemoryCertStore, Sealer, Signer as _};

/// Comparisons that belong together, by the word to choose them by.
type Group = (&'static str, fn() -> Vec<Outcome>);

fn main() {
    support::token::with_token_store();
    // What cargo bench passes on by itself is no word to choose by.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let groups: [Group; 7] = [
        ("software", software),
        ("large", large),
        ("store", store),
        ("token", token),
        ("token-fernet", token_fernet),
        ("celery", celery),
        ("fernet", support::fernet::compare_all),
    ];
    let mut rows = Vec::new();
    for (name, run) in groups {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            rows.extend(run());
        }
    }
    let mut report = format!("{}\n", Outcome::HEAD);
    for row in &rows {
        writeln!(report, "{}", row.row()).unwrap();
    }
    if let Some(celery) = Celery::start() {
        writeln!(report, "\nStock Celery: {}.", celery.versions).unwrap();
    }
    std::fs::write(support::result_file("ratios.md"), report).unwrap();
    let missed = rows.iter().filter(|row| row.met() == Some(false)).count();
    println!("{} comparisons, {missed} below their target", rows.len());
}

/// 200 bytes, against nothing but the signature.
fn software() -> Vec<Outcome> {
    let message = body(200);
    let sealer = sealer(Scheme::default());
    let bare = bare_key();
    let mut signature = vec![0; bare.public_modulus_len()];
    let random = SystemRandom::new();
    let seal = compare(
        Effort::usual(),
        "seal 200 B, software",
        timed(|| sealer.seal_bytes(&message).unwrap()),
        "`RsaKeyPair::sign`",
        timed(|| {
            bare.sign(&RSA_PSS_SHA256, &random, &message, &mut signature)
                .unwrap();
        }),
        Some(0.97),
    );

    let opener = opener();
    let sealed = sealer.seal_bytes(&message).unwrap();
    bare.sign(&RSA_PSS_SHA256, &random, &message, &mut signature)
        .unwrap();
    let public =
        ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, certificate().public_key().spki()).unwrap();
    let open = compare(
        Effort::usual(),
        "open 200 B",
        timed(|| opener.open(sealed.as_bytes()).unwrap().body().len()),
        "`ParsedPublicKey::verify_sig`",
        timed(|| public.verify_sig(&message, &signature).unwrap()),
        Some(0.9),
    );
    vec![seal, open]
}

/// 64 MiB, against decoding and hashing with the same crates.
fn large() -> Vec<Outcome> {
    let sealed = sealer(Scheme::default())
        .seal_bytes(&body(64 * MIB))
        .unwrap();
    let opener = opener();
    // The engine that the library uses.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let engine = base64::engine::simd::Simd::standard(base64::engine::general_purpose::PAD);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let engine = base64::engine::general_purpose::STANDARD;
    vec![compare(
        Effort::few(),
        "open 64 MiB",
        timed(|| opener.open(sealed.as_bytes()).unwrap().body().len()),
        "base64 decoding + SHA-256",
        timed(|| {
            let decoded = engine.decode(sealed.as_bytes()).unwrap();
            digest(&SHA256, &decoded)
        }),
        Some(0.8),
    )]
}

/// A store of 100,000 certificates against one of ten.
fn store() -> Vec<Outcome> {
    let template = certificate();
    let all: Vec<Certificate> = (0..100_000)
        .map(|serial| with_serial(&template, serial))
        .collect();
    let filled = |count: usize| {
        let store = MemoryCertStore::new();
        for certificate in &all[..count] {
            store.add(certificate.clone()).unwrap();
        }
        store
    };
    let (large, small) = (filled(all.len()), filled(10));
    let ids: Vec<String> = all.iter().map(|one| one.id().to_owned()).collect();
    let lookup = |store: &'_ MemoryCertStore, at: usize| store.get(&ids[at]).unwrap();
    let turn = RefCell::new(0_usize);
    let next = |below: usize, step: usize| {
        let mut turn = turn.borrow_mut();
        *turn = (*turn + step) % below;
        *turn
    };
    vec![
        compare(
            Effort::usual(),
            "look up one of ten signers in use, store of 100,000",
            timed(|| lookup(&large, next(10, 1))),
            "the same in a store of 10",
            timed(|| lookup(&small, next(10, 1))),
            Some(0.5),
        ),
        // Each certificate once in 100,000 calls: what is slower here is the memory, not the store.
        compare(
            Effort::usual(),
            "look up any of 100,000 signers",
            timed(|| lookup(&large, next(all.len(), 7_919))),
            "any of 10 in a store of 10",
            timed(|| lookup(&small, next(10, 1))),
            None,
        ),
    ]
}

/// The example certificate with another serial number, which is its last part of the id and of nothing else.
fn with_serial(certificate: &Certificate, serial: u32) -> Certificate {
    let der = certificate.der();
    // SEQUENCE of the certificate and of the TBS with two length bytes each, [0] version 2, INTEGER of one byte.
    assert_eq!(&der[8..15], [0xa0, 3, 2, 1, 2, 2, 1]);
    let mut new = der.to_vec();
    // 2^24 and more, so that all are of one length.
    new.splice(
        14..16,
        [&[4][..], &(0x0100_0000 + serial).to_be_bytes()].concat(),
    );
    for at in [2, 6] {
        let len = u16::from_be_bytes([new[at], new[at + 1]]) + 3;
        new[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }
    Certificate::from_der(&new).unwrap()
}

/// 200 bytes on SoftHSM, against a loop of its own functions on the same token.
fn token() -> Vec<Outcome> {
    let Some(token) = Token::shared() else {
        return Vec::new();
    };
    let message = body(200);
    let mut sessions = [token.bare(), token.bare()];
    let certificate = token.signer.certificate().clone();
    let public =
        ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, certificate.public_key().spki()).unwrap();
    let sealer = Sealer::new(token.signer.clone());

    let bare = |session: &mut BareSession, times: u32| {
        let mut signature = [0; 256];
        for _ in 0..times {
            let mut hash = [0; 32];
            hash.copy_from_slice(digest(&SHA256, &message).as_ref());
            session.sign(&mut hash, &mut signature);
        }
        std::hint::black_box(signature);
    };
    let checked = |session: &mut BareSession, times: u32| {
        let mut signature = [0; 256];
        for _ in 0..times {
            let hash = digest(&SHA256, &message);
            let mut bytes = [0; 32];
            bytes.copy_from_slice(hash.as_ref());
            session.sign(&mut bytes, &mut signature);
            public.verify_digest_sig(&hash, &signature).unwrap();
        }
    };
    let seal = |times: u32| {
        for _ in 0..times {
            std::hint::black_box(sealer.seal_bytes(&message).unwrap());
        }
    };
    let seal = &seal;
    let on = |threads: u32| -> Timed<'_> {
        Box::new(move |times| {
            let started = Instant::now();
            if threads == 1 {
                seal(times);
            } else {
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| seal(times.div_ceil(threads)));
                    }
                });
            }
            started.elapsed()
        })
    };
    let effort = Effort {
        slice: Duration::from_millis(60),
        ..Effort::usual()
    };
    let mut outcomes = Vec::new();
    for threads in [1_u32, 2] {
        let word = if threads == 1 { "thread" } else { "threads" };
        let name = format!("seal 200 B on SoftHSM, {threads} {word}, each signature checked");
        let count = threads as usize;
        outcomes.push(compare(
            effort,
            &name,
            on(threads),
            "bare `C_SignInit` + `C_Sign`",
            each_on_a_thread(&mut sessions[..count], &bare),
            Some(0.92),
        ));
        outcomes.push(compare(
            effort,
            &name,
            on(threads),
            "the same bare loop with a check",
            each_on_a_thread(&mut sessions[..count], &checked),
            Some(0.95),
        ));
    }
    let (one, other) = sessions.split_at_mut(1);
    outcomes.push(compare(
        effort,
        "bare loop with a check of each signature, 1 thread",
        each_on_a_thread(one, &checked),
        "bare loop without",
        each_on_a_thread(other, &bare),
        None,
    ));
    outcomes
}

/// Fernet with its keys on SoftHSM, against a loop of the calls that it needs.
fn token_fernet() -> Vec<Outcome> {
    let Some(token) = Token::shared() else {
        return Vec::new();
    };
    let fernet = token.fernet();
    let mut bare = BareFernet::new(token, false);
    let mut asking = BareFernet::new(token, true);
    let effort = Effort {
        slice: Duration::from_millis(40),
        ..Effort::usual()
    };
    let mut outcomes = Vec::new();
    for size in [200, KIB, 64 * KIB] {
        let data = body(size);
        let made = bare.token(&data);
        assert_eq!(fernet.decrypt(made.as_bytes(), None).unwrap(), data);
        let mut blocks = vec![0; (size / 16 + 1) * 16];
        let mut out = blocks.clone();
        let one = format!("encrypt {size} B with keys on SoftHSM");
        let many = format!("{one}, {} at once", at_once(size));
        let mut against = |what: &str, calls: &str, target, theirs: Timed<'_>| {
            let ours = if what == many {
                all_at_once(&fernet, &data, at_once(size))
            } else {
                timed(|| fernet.encrypt(&data).unwrap())
            };
            outcomes.push(compare(effort, what, ours, calls, theirs, target));
        };
        for what in [&many, &one] {
            against(
                what,
                "a bare loop of the same calls",
                (size < 64 * KIB).then_some(0.95),
                on_a_thread(|| asking.calls(&mut blocks, &mut out)),
            );
            against(
                what,
                "the same calls, with IV, padding and base64 by hand",
                None,
                on_a_thread(|| drop(std::hint::black_box(asking.token(&data)))),
            );
        }
        against(
            &one,
            "`C_EncryptInit`, `C_Encrypt`, `C_SignInit`, `C_Sign`",
            None,
            on_a_thread(|| bare.calls(&mut blocks, &mut out)),
        );
        for what in [&many, &one] {
            let ours = if *what == many {
                decrypted_at_once(&fernet, made.as_bytes(), at_once(size))
            } else {
                timed(|| fernet.decrypt(made.as_bytes(), None).unwrap())
            };
            outcomes.push(compare(
                effort,
                &what.replace("encrypt", "decrypt"),
                ours,
                "a bare loop of the same calls",
                on_a_thread(|| asking.opening_calls(&mut blocks, &mut out)),
                (size < 64 * KIB).then_some(0.95),
            ));
        }
    }
    outcomes
}

/// How many messages of that size are encrypted in one go: a thousand, or what makes 4 MiB.
fn at_once(size: usize) -> usize {
    (4 * MIB / size).min(1000)
}

/// Times messages that are encrypted so many in one go.
fn all_at_once<'a>(fernet: &'a Fernet, data: &'a [u8], most: usize) -> Timed<'a> {
    in_groups(data, most, |some| {
        std::hint::black_box(fernet.encrypt_all(some).unwrap());
    })
}

/// Times tokens that are decrypted so many in one go.
fn decrypted_at_once<'a>(fernet: &'a Fernet, token: &'a [u8], most: usize) -> Timed<'a> {
    in_groups(token, most, |some| {
        for data in std::hint::black_box(fernet.decrypt_all(some, None).unwrap()) {
            data.unwrap();
        }
    })
}

fn in_groups<'a>(one: &'a [u8], most: usize, run: impl Fn(&[&[u8]]) + 'a) -> Timed<'a> {
    Box::new(move |times| {
        let all = vec![one; times as usize];
        let started = Instant::now();
        all.chunks(most).for_each(&run);
        started.elapsed()
    })
}

/// Times a loop on a thread of its own, as our sessions have them.
fn on_a_thread<'a>(mut run: impl FnMut() + Send + 'a) -> Timed<'a> {
    Box::new(move |times| {
        let mut took = Duration::ZERO;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let started = Instant::now();
                (0..times).for_each(|_| run());
                took = started.elapsed();
            });
        });
        took
    })
}

/// Runs a loop in each of these sessions, each on a thread of its own when there are several.
fn each_on_a_thread<'a>(
    sessions: &'a mut [BareSession],
    run: &'a (dyn Fn(&mut BareSession, u32) + Sync),
) -> Timed<'a> {
    Box::new(move |times| {
        // On threads of their own in any case, as our sessions are: processors differ from moment to moment.
        let started = Instant::now();
        let each = times.div_ceil(sessions.len() as u32);
        std::thread::scope(|scope| {
            for session in &mut *sessions {
                scope.spawn(move || run(session, each));
            }
        });
        started.elapsed()
    })
}

/// Against stock Celery: from a value to a message and back, JSON included on both sides.
fn celery() -> Vec<Outcome> {
    let Some(celery) = Celery::start() else {
        eprintln!("skipped: no stock Celery; ./scripts/bench installs it under target/venv");
        return Vec::new();
    };
    let celery = RefCell::new(celery);
    // What Celery puts under the signature for a task: arguments, keyword arguments, embedded callbacks.
    let embed = json!({"callbacks": null, "errbacks": null, "chain": null, "chord": null});
    let text = String::from_utf8(body(100 * KIB)).unwrap();
    let cases = [
        ("a small body", json!([[1, 2], {}, embed]), 1.8, 1.0),
        (
            "100 kB",
            json!([[text.trim_matches('"')], {}, embed]),
            5.0,
            1.6,
        ),
    ];
    let scheme = Scheme {
        salt: Salt::Maximum,
        ..Scheme::default()
    };
    let (sealer, opener) = (sealer(scheme), opener());
    let mut outcomes = Vec::new();
    for (name, value, open_target, seal_target) in &cases {
        let message = celery.borrow_mut().keep_value(name, value);
        let read: Value = opener.open(message.as_bytes()).unwrap().json().unwrap();
        assert_eq!(&read, value, "taskseal reads something else");
        let sealed = sealer.seal(value).unwrap();
        let read = celery
            .borrow_mut()
            .keep_message(name, sealed.as_str().unwrap());
        assert_eq!(&read, value, "Celery reads something else");

        // Both read the same message, one that Celery made.
        celery.borrow_mut().keep_message(name, &message);
        let theirs = |what: &'static str| -> Timed<'_> {
            let celery = &celery;
            Box::new(move |times| celery.borrow_mut().time(what, name, times))
        };
        outcomes.push(compare(
            Effort::usual(),
            &format!("open {name}"),
            timed(|| opener.open(message.as_bytes()).unwrap().body().len()),
            "Celery's `deserialize`",
            theirs("deserialize"),
            Some(*open_target),
        ));
        outcomes.push(compare(
            Effort::usual(),
            &format!("open {name} and read its JSON"),
            timed(|| {
                let opened = opener.open(message.as_bytes()).unwrap();
                opened.json::<Value>().unwrap()
            }),
            "Celery's `deserialize`",
            theirs("deserialize"),
            None,
        ));
        outcomes.push(compare(
            Effort::usual(),
            &format!("write JSON and seal {name}, software"),
            timed(|| sealer.seal(value).unwrap()),
            "Celery's `serialize`",
            theirs("serialize"),
            Some(*seal_target),
        ));
    }
    outcomes
}
