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
