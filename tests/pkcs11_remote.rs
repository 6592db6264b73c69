//! A token in another process, behind `p11-kit server` and `p11-kit-client.so`: what a signer does when that is killed.
#![cfg(all(feature = "pkcs11", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::log::Warnings;
use support::recovery::SLACK;
use support::remote::{Server, client_module};
use support::softhsm::{self, SoftHsm};
use taskseal::pkcs11::{self, Builder, Error, Pkcs11Key};
use taskseal::{ErrorClass, SigningKey};

const DEADLINE: Duration = Duration::from_secs(3);

/// Runs `test` with a server whose token has the key `k`. Says so and passes where there is no p11-kit, except with
/// `CI=true`, where it fails.
fn test<F: FnOnce(&SoftHsm, Server)>(test: F) {
    let name = softhsm::name_of::<F>();
    if client_module().is_none() {
        return support::python::skip(name, "no p11-kit-client.so; install p11-kit-modules");
    }
    softhsm::test_named(name, |hsm| {
        hsm.token_with_key();
        test(hsm, Server::start(hsm, "lab"));
    });
}

fn open(server: &Server) -> Pkcs11Key {
    server
        .builder()
        .object_label("k")
        .deadline(DEADLINE)
        .reload_interval(Duration::from_secs(1))
        .open_key()
        .unwrap()
}

fn sign(key: &Pkcs11Key) -> Result<(), ErrorClass> {
    let signature = key.sign_message(b"m").map_err(|error| error.class())?;
    assert!(
        key.public_key().verifies(b"m", &signature, key.scheme()),
        "a signature was handed out that does not verify"
    );
    Ok(())
}

/// In p11-kit-client, the calls of all other threads hang for ever when the connection dies at a bad moment.
#[test]
fn a_server_that_is_killed_under_eight_threads_costs_seconds_whatever_hangs_in_the_client() {
    test(|_, mut server| {
        let key = open(&server);
        let ended = AtomicBool::new(false);
        let signed = std::thread::scope(|scope| {
            let load = || {
                let mut signed = Vec::new();
                while !ended.load(Ordering::SeqCst) {
                    match sign(&key) {
                        Ok(()) => signed.push(Instant::now()),
                        Err(class) => {
                            assert!(class.is_retryable(), "{class:?}");
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                }
                signed
            };
            let threads = [(); 8].map(|()| scope.spawn(load));
            let mut returns = Vec::new();
            for round in 0..8 {
                std::thread::sleep(Duration::from_millis(500));
                if round % 2 == 0 {
                    server.kill_connections();
                } else {
                    server.kill();
                    std::thread::sleep(Duration::from_millis(100));
                    server.restart();
                }
                returns.push(Instant::now());
                std::thread::sleep(Duration::from_secs(4));
            }
            ended.store(true, Ordering::SeqCst);
            let signed = threads.map(|thread| thread.join().unwrap());
            let first = |returned: Instant| {
                let all = signed.iter().flatten().filter(|at| **at > returned);
                *all.min().unwrap() - returned
            };
            let firsts: Vec<_> = returns.into_iter().map(first).collect();
            eprintln!("measured: remote: signs again after {firsts:?}");
            assert!(firsts.iter().all(|first| *first < Duration::from_secs(4)));
            signed
        });
        assert!(signed.iter().all(|thread| thread.len() > 10));
        let statistics = key.statistics();
        eprintln!(
            "measured: remote: {} signatures, {} new starts, {} calls hang for ever",
            statistics.signatures, statistics.reloads, statistics.stuck_calls
        );
        assert!(statistics.reloads >= 8);
        assert!(key.health().is_usable(), "{}", key.health());
    });
}

/// A host in another language may not ignore SIGPIPE, as Rust's start-up does.
#[test]
#[allow(unsafe_code, reason = "signal has no safe form in std")]
fn a_process_that_does_not_ignore_sigpipe_survives_a_server_that_is_killed() {
    test(|_, server| {
        // SAFETY: the default action takes no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let key = open(&server);
        for _ in 0..3 {
            sign(&key).unwrap();
            server.kill_connections();
            let start = Instant::now();
            while sign(&key).is_err() {
                assert!(start.elapsed() < Duration::from_secs(20));
            }
        }
        assert!(key.statistics().reloads >= 3);
    });
}

/// What has no deadline of the caller's own has the default one.
#[test]
fn listing_the_tokens_of_a_server_that_is_frozen_ends_at_the_deadline() {
    test(|_, server| {
        let list = || pkcs11::list_tokens(&client_module().unwrap());
        assert_eq!(list().unwrap()[0].label, "lab");
        server.freeze();
        let start = Instant::now();
        let error = list().unwrap_err();
        let took = start.elapsed();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let late = took.checked_sub(Builder::DEFAULT_DEADLINE);
        assert!(
            late.is_some_and(|late| late < Duration::from_secs(1)),
            "{took:?}"
        );
        server.thaw();
        assert_eq!(list().unwrap()[0].label, "lab");
    });
}

/// When a server went away and came back.
struct Outage {
    lost: Instant,
    returned: Instant,
}

/// A call and what became of it.
#[derive(Clone, Copy)]
struct Call {
    began: Instant,
    ended: Instant,
    error: Option<ErrorClass>,
}

const OUTAGES: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Signs with eight threads while the server is away for each of these times.
fn through_outages(
    key: &Pkcs11Key,
    deadline: Duration,
    warnings: &Warnings,
    mut away: impl FnMut(Duration),
) -> (Vec<Outage>, Vec<Call>) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = || {
            let mut calls = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let began = Instant::now();
                let error = warnings.of(|| sign(key)).err();
                let ended = Instant::now();
                calls.push(Call {
                    began,
                    ended,
                    error,
                });
                let took = ended - began;
                assert!(took < deadline + Duration::from_secs(1), "{took:?}");
                if let Some(class) = error {
                    assert!(class.is_retryable(), "{class:?}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            calls
        };
        let threads = [(); 8].map(|()| scope.spawn(load));
        let outages = OUTAGES.map(|time| {
            std::thread::sleep(Duration::from_millis(700));
            let lost = Instant::now();
            away(time);
            let returned = Instant::now();
            std::thread::sleep(Duration::from_millis(2500));
            Outage { lost, returned }
        });
        ended.store(true, Ordering::SeqCst);
        let calls = threads.map(|thread| thread.join().unwrap());
        (outages.into(), calls.concat())
    })
}

/// Checks that signatures come within a second of each return. How many calls of each outage failed that could have waited
/// until two seconds after it.
fn check(
    name: &str,
    deadline: Duration,
    (outages, calls): &(Vec<Outage>, Vec<Call>),
) -> Vec<usize> {
    let second = Duration::from_secs(1);
    outages
        .iter()
        .map(|Outage { lost, returned }| {
            let signed = calls.iter().filter(|call| call.error.is_none());
            let after = signed.map(|call| call.ended).filter(|at| at > returned);
            let first = after.min().unwrap() - *returned;
            let failed = calls.iter().filter(|call| {
                call.error.is_some() && call.ended > *lost && call.began < *returned + second
            });
            let could_wait = |call: &&Call| call.began + deadline > *returned + 2 * second;
            let wrongly = failed.clone().filter(could_wait).count();
            let failed = failed.count();
            let away = *returned - *lost;
            eprintln!("measured: {name} for {away:?}: signs again after {first:?}, {failed} calls failed, {wrongly} that could have waited");
            assert!(first < second + SLACK, "{name} for {away:?}: {first:?}");
            wrongly
        })
        .collect()
}

/// Its client shows no token then, so there is nothing that a new start could end.
#[test]
fn a_server_that_is_back_is_used_within_a_second_and_no_call_is_lost_that_can_wait_for_it() {
    test(|_, mut server| {
        let deadline = Duration::from_secs(5);
        let builder = server.builder().object_label("k").deadline(deadline);
        let key = builder.open_key().unwrap();
        let warnings = Warnings::default();
        let seen = through_outages(&key, deadline, &warnings, |time| {
            server.kill();
            std::thread::sleep(time);
            server.restart();
        });
        assert_eq!(check("server killed", deadline, &seen), [0; 4]);
        assert!(key.health().is_usable(), "{}", key.health());
        let statistics = key.statistics();
        let lines = warnings.lines();
        eprintln!(
            "measured: server killed: {} signatures, {} tries again, {} new starts, {} calls hang for ever, {} lines in the log",
            statistics.signatures,
            statistics.retries,
            statistics.reloads,
            statistics.stuck_calls,
            lines.len()
        );
        // Two for each outage, another instance, and some in between.
        assert!(lines.len() < 50, "{lines:#?}");
        // Two for each outage, and about two for each second.
        assert!(statistics.reloads < 60, "{}", statistics.reloads);
    });
}

#[test]
fn a_frozen_server_is_used_within_a_second_of_its_thaw() {
    test(|_, server| {
        let deadline = Duration::from_secs(5);
        let builder = server.builder().object_label("k").deadline(deadline);
        let key = builder.open_key().unwrap();
        let seen = through_outages(&key, deadline, &Warnings::default(), |time| {
            server.freeze();
            std::thread::sleep(time);
            server.thaw();
        });
        assert_eq!(check("connections frozen", deadline, &seen), [0; 4]);
        assert!(key.health().is_usable(), "{}", key.health());
    });
}

#[test]
fn a_server_that_is_frozen_whole_is_used_within_a_second_of_its_thaw() {
    test(|_, server| {
        let deadline = Duration::from_secs(5);
        let builder = server.builder().object_label("k").deadline(deadline);
        let key = builder.open_key().unwrap();
        let seen = through_outages(&key, deadline, &Warnings::default(), |time| {
            server.freeze_all();
            std::thread::sleep(time);
            server.thaw_all();
        });
        // In the longest one more calls hang than may, and no instance starts: the others fail at once.
        assert_eq!(check("server frozen", deadline, &seen)[..3], [0; 3]);
        assert!(key.health().is_usable(), "{}", key.health());
    });
}
