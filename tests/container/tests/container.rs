//! SoftHSM in containers behind `p11-kit server`: what happens to a signer when its token freezes, dies, comes back, or is
//! another one. Needs a Docker engine; `scripts/softhsm-image` makes the image.

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{softhsm, test};
use taskseal::ErrorClass;
use taskseal::pkcs11::{Pkcs11Key, Pkcs11Signer, SignaturePath};
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::signer::failover::Preference;
use taskseal::{FailoverSigner, Signer, SigningKey as _};

#[test]
fn a_key_in_a_container_signs() {
    test(|world| {
        let server = world.server("a");
        world.use_server(&server);
        world.generate();
        for salt in Salt::ALL {
            let scheme = Scheme::new(Digest::Sha256, salt);
            let key = world.builder().scheme(scheme).open_key().unwrap();
            assert_eq!(key.signature_path(), SignaturePath::Pss);
            let signature = key.sign_message(b"from the host").unwrap();
            assert!(
                key.public_key()
                    .verifies(b"from the host", &signature, scheme)
            );
        }
    });
}

/// Frozen processes keep their connections, so that a call just does not come back.
#[test]
fn a_frozen_container_costs_a_signature_its_deadline_and_signs_again_afterwards() {
    const DEADLINE: Duration = Duration::from_secs(2);
    test(|world| {
        let server = world.server("a");
        world.use_server(&server);
        world.generate();
        let key = world.builder().deadline(DEADLINE).open_key().unwrap();
        sign(&key).unwrap();
        for _ in 0..2 {
            let failed = thread::scope(|scope| {
                let signing = scope.spawn(|| {
                    // Frozen in mid-signature, whenever that is.
                    loop {
                        let start = Instant::now();
                        if let Err(class) = sign(&key) {
                            break (class, start.elapsed());
                        }
                    }
                });
                thread::sleep(Duration::from_millis(300));
                server.pause();
                signing.join().unwrap()
            });
            assert_eq!(failed.0, ErrorClass::Timeout);
            assert!(failed.1 < DEADLINE + Duration::from_secs(1), "{failed:?}");
            assert!(!key.health().is_usable());
            server.unpause();
            let back = until_it_signs(&key);
            eprintln!("measured: frozen: signs {back:?} after it goes on");
            assert!(back < Duration::from_secs(10), "{back:?}");
            assert!(key.health().is_usable(), "{}", key.health());
        }
    });
}

#[test]
fn a_container_that_is_killed_and_restarted_under_load_signs_again_within_seconds() {
    test(|world| {
        let server = world.server("a");
        world.use_server(&server);
        world.generate();
        // Calls that hang in p11-kit-client are heard of after it.
        let deadline = Duration::from_secs(3);
        let key = world.builder().deadline(deadline).open_key().unwrap();
        let ended = AtomicBool::new(false);
        let start = Instant::now();
        let (returns, threads) = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load(&key, start, &ended)))
                .collect();
            let mut returns = Vec::new();
            for away in [Duration::from_millis(500), Duration::from_secs(6)] {
                thread::sleep(Duration::from_secs(1));
                server.kill();
                thread::sleep(away);
                server.restart();
                returns.push(start.elapsed());
                // Enough for the 5 seconds that are promised, and some signatures after them.
                thread::sleep(Duration::from_secs(6));
            }
            ended.store(true, Ordering::Relaxed);
            let threads: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
            (returns, threads)
        });
        for returned in returns {
            for thread in &threads {
                let next = thread.signed.iter().find(|at| **at > returned).unwrap();
                let away = *next - returned;
                assert!(away < Duration::from_secs(5), "back after {away:?}");
            }
            let first = threads.iter().flat_map(|thread| &thread.signed);
            let first = first.filter(|at| **at > returned).min().unwrap();
            eprintln!(
                "measured: killed: signs {:?} after it is back",
                *first - returned
            );
        }
        for class in threads.iter().flat_map(|thread| &thread.failed) {
            assert_retry(*class);
        }
        let signed: usize = threads.iter().map(|thread| thread.signed.len()).sum();
        let failed: usize = threads.iter().map(|thread| thread.failed.len()).sum();
        let statistics = key.statistics();
        let (reloads, stuck) = (statistics.reloads, statistics.stuck_calls);
        eprintln!(
            "measured: killed: {signed} signatures, {failed} failures, {reloads} new starts, {stuck} calls hang"
        );
        assert!(reloads >= 1);
    });
}

/// Two servers whose tokens and keys have the same labels, PIN and id, and are not the same. What a client can reach at
/// one address is exchanged, as by a moved network address.
#[test]
fn two_containers_that_exchange_their_roles_never_sign_with_the_other_key() {
    test(|world| {
        let [ours, other] = ["a", "b"].map(|name| {
            let server = world.server(name);
            server.generate(support::LABEL);
            server
        });
        world.use_server(&ours);
        let key = world
            .builder()
            .deadline(Duration::from_secs(3))
            .open_key()
            .unwrap();
        for round in 0..2 {
            sign(&key).unwrap();
            world.use_server(&other);
            ours.kill();
            for _ in 0..3 {
                // `sign` verifies, so that a signature by the other key would not pass.
                assert_retry(sign(&key).unwrap_err());
            }
            ours.restart();
            world.use_server(&ours);
            other.kill();
            let back = until_it_signs(&key);
            eprintln!("measured: exchanged: signs {back:?} after its own token is back");
            assert!(back < Duration::from_secs(10), "round {round}: {back:?}");
            other.restart();
        }
    });
}

/// Two tokens take turns; each is killed while four threads sign, and the other one takes over.
#[test]
fn a_failover_signer_fails_no_call_while_one_of_two_containers_lives() {
    test(|world| {
        let [a, b] = ["a", "b"].map(|name| {
            let server = world.server(name);
            server.generate(support::LABEL);
            server
        });
        let builders = [world.builder_for(&a), world.builder_for(&b)];
        let [first, second] = builders.map(|builder| {
            let builder = builder.deadline(Duration::from_secs(2));
            let certificate = softhsm::certificate(&builder.open_key().unwrap(), "CN=container");
            Arc::new(builder.open_signer(certificate).unwrap())
        });
        let ids = [&first, &second].map(|signer| signer.certificate().id().to_owned());
        assert_ne!(first.certificate(), second.certificate());
        let probes = Duration::from_millis(200)..Duration::from_secs(1);
        let members: [Arc<dyn Signer>; 2] = [first.clone(), second.clone()];
        let signer = failover(members.to_vec(), probes);
        let of = |signer: &Pkcs11Signer| {
            let statistics = signer.key().statistics();
            let (stuck, reloads) = (statistics.stuck_calls, statistics.reloads);
            format!(
                "{}, {stuck} calls stuck, {reloads} new starts",
                signer.health()
            )
        };
        let health = || format!("{}; {}", of(&first), of(&second));

        let ended = AtomicBool::new(false);
        let signed: Vec<[usize; 2]> = thread::scope(|scope| {
            let load = || {
                let mut signed = [0; 2];
                while !ended.load(Ordering::Relaxed) {
                    // Fails the test: no call may fail.
                    let signature = signer.sign(b"a message").unwrap();
                    let certificate = signature.certificate();
                    let verifies = certificate.public_key().verifies(
                        b"a message",
                        signature.as_bytes(),
                        signer.scheme(),
                    );
                    assert!(verifies, "a signature was handed out that does not verify");
                    let by = ids.iter().position(|id| id == certificate.id());
                    signed[by.unwrap()] += 1;
                }
                signed
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
            let mut lost = None;
            for server in [&a, &b, &a] {
                server.kill();
                thread::sleep(Duration::from_secs(2));
                server.restart();
                let Some(back) = until_all_work(&signer) else {
                    lost = Some(health());
                    break;
                };
                eprintln!("measured: failover: taken back {back:?} after its return");
            }
            // Before anything can panic: the threads would sign for ever.
            ended.store(true, Ordering::Relaxed);
            assert_eq!(lost, None, "a member was not taken back");
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let by_member = |member: usize| signed.iter().map(|by| by[member]).sum::<usize>();
        let [by_first, by_second] = [0, 1].map(by_member);
        eprintln!("measured: failover: {by_first} and {by_second} signatures, no failure");
        assert!(by_first > 0 && by_second > 0);
    });
}

fn failover(members: Vec<Arc<dyn Signer>>, probes: Range<Duration>) -> FailoverSigner {
    FailoverSigner::with_probes(members, Preference::RoundRobin, probes.start, probes.end).unwrap()
}

/// How long it takes until no member is passed over; `None` when that takes too long.
fn until_all_work(signer: &FailoverSigner) -> Option<Duration> {
    let start = Instant::now();
    while signer.health().iter().any(|m| m.failing_since.is_some()) {
        if start.elapsed() > Duration::from_secs(20) {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some(start.elapsed())
}

/// One signature, verified.
fn sign(key: &Pkcs11Key) -> Result<(), ErrorClass> {
    let message = b"a message";
    let signature = key.sign_message(message).map_err(|error| error.class())?;
    assert!(
        key.public_key().verifies(message, &signature, key.scheme()),
        "a signature was handed out that does not verify"
    );
    Ok(())
}

/// How long it takes until a signature is made.
fn until_it_signs(key: &Pkcs11Key) -> Duration {
    let start = Instant::now();
    while let Err(class) = sign(key) {
        assert_retry(class);
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{}",
            key.health()
        );
        // Busy comes at once.
        thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// What one thread of the load saw.
struct Seen {
    /// When each signature was there.
    signed: Vec<Duration>,
    failed: Vec<ErrorClass>,
}

/// Signs until it is told to end.
fn load(key: &Pkcs11Key, start: Instant, ended: &AtomicBool) -> Seen {
    let mut seen = Seen {
        signed: Vec::new(),
        failed: Vec::new(),
    };
    while !ended.load(Ordering::Relaxed) {
        match sign(key) {
            Ok(()) => seen.signed.push(start.elapsed()),
            Err(class) => {
                seen.failed.push(class);
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    seen
}

fn assert_retry(class: ErrorClass) {
    assert!(
        matches!(
            class,
            ErrorClass::Transient
                | ErrorClass::SessionLost
                | ErrorClass::Busy
                | ErrorClass::Timeout
        ),
        "{class:?} does not say that the caller may try again"
    );
}
