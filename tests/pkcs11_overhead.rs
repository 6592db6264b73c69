//! What a signature costs beside the bare calls: worker thread, pool, and the check of each signature.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

use std::time::{Duration, Instant};

use support::softhsm;
use taskseal::pkcs11::Pin;
use taskseal::pkcs11::module::{
    Attribute, AttributeKind, ObjectClass, SignMechanism, User, library,
};
use taskseal::pss::Digest;
use taskseal::{Sealer, SigningKey as _};

/// Runs `call` in so many threads for so long; calls per second.
fn rate(threads: usize, time: Duration, call: &(impl Fn() + Sync)) -> f64 {
    let start = Instant::now();
    let calls: usize = std::thread::scope(|scope| {
        let count = || {
            let mut calls = 0;
            while start.elapsed() < time {
                call();
                calls += 1;
            }
            calls
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    calls as f64 / start.elapsed().as_secs_f64()
}

/// Sealing 200 bytes makes at least 0.92 of the signatures that bare `C_SignInit` and `C_Sign` make. Measured in turns, so
/// that what else the machine does falls on both. Not run by itself: it needs a release build and a quiet machine.
#[test]
#[ignore = "a measurement: cargo test --release --test pkcs11_overhead -- --ignored --nocapture"]
fn sealing_costs_little_beside_the_bare_calls() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let signer = token.signer(2048, "k");
        let bits = signer.key().public_key().bits();
        assert_eq!(bits, 2048);
        let sealer = Sealer::new(std::sync::Arc::new(signer));
        let body = "x".repeat(198);
        let bare = library(hsm.module()).unwrap();
        let salt_len = 32;
        let mechanism = SignMechanism::RsaPkcsPss {
            digest: Digest::Sha256,
            salt_len,
        };
        for threads in [1, 2] {
            let sessions: Vec<_> = (0..threads)
                .map(|_| {
                    let session = bare.open_session(token.info.slot_id, false).unwrap();
                    // Already done by the signer; the answer is the same.
                    let _ = session.login(User::User, Some(&Pin::new(softhsm::PIN).unwrap()));
                    let key = session
                        .find(&[
                            Attribute::class(ObjectClass::PrivateKey),
                            Attribute::bytes(AttributeKind::Label, b"k"),
                        ])
                        .unwrap();
                    std::sync::Mutex::new((session, *key.first().unwrap()))
                })
                .collect();
            let sign = || {
                let free = sessions.iter().find_map(|session| session.try_lock().ok());
                let free = free.unwrap();
                free.0.sign(mechanism, free.1, &[7; 32]).unwrap();
            };
            let seal = || drop(sealer.seal(&body).unwrap());
            let turn = Duration::from_millis(500);
            let mut ratios = Vec::new();
            let (mut with, mut without) = (0.0, 0.0);
            for _ in 0..12 {
                let bare = rate(threads, turn, &sign);
                let sealed = rate(threads, turn, &seal);
                ratios.push(sealed / bare);
                with += sealed / 12.0;
                without += bare / 12.0;
            }
            ratios.sort_by(f64::total_cmp);
            let median = ratios[ratios.len() / 2];
            eprintln!(
                "overhead: {threads} threads: {without:.0}/s bare, {with:.0}/s sealed, median of the ratios {median:.3}"
            );
            assert!(median >= 0.92, "{ratios:?}");
        }
    });
}
