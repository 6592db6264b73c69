//! Several signers behind one: no call fails as long as one of them works.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::keys::{certificate, key, other_key};
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::signer::failover::{FailoverError, Preference};
use taskseal::{
    Certificate, ErrorClass, FailoverSigner, MemoryCertStore, Opener, Sealer, SignError, Signature,
    Signer, SoftwareSigner,
};

const SOON: Duration = Duration::from_millis(5);

/// A signer that can be broken, and counts.
#[derive(Debug)]
struct Breakable {
    signer: SoftwareSigner,
    /// 0 while it works; else a class.
    broken: AtomicU32,
    calls: AtomicUsize,
}

impl Breakable {
    fn new(other: bool, subject: &str, scheme: Scheme) -> Arc<Self> {
        let key = if other {
            other_key(scheme)
        } else {
            key(2048, scheme)
        };
        let certificate = certificate(&key, subject);
        let signer = SoftwareSigner::new(key, certificate).unwrap();
        Arc::new(Self {
            signer,
            broken: AtomicU32::new(0),
            calls: AtomicUsize::new(0),
        })
    }

    fn break_as(&self, class: u32) {
        self.broken.store(class, Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Signer for Breakable {
    fn certificate(&self) -> &Certificate {
        self.signer.certificate()
    }

    fn scheme(&self) -> Scheme {
        self.signer.scheme()
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let class = match self.broken.load(Ordering::SeqCst) {
            0 => return self.signer.sign(message),
            1 => ErrorClass::SessionLost,
            2 => ErrorClass::Timeout,
            _ => ErrorClass::Permanent,
        };
        Err(SignError::Other {
            class,
            source: "broken by the test".into(),
        })
    }
}

fn pair() -> [Arc<Breakable>; 2] {
    [
        Breakable::new(false, "CN=first", Scheme::default()),
        Breakable::new(true, "CN=second", Scheme::default()),
    ]
}

fn joined(
    pair: &[Arc<Breakable>; 2],
    preference: Preference,
    first_probe: Duration,
) -> FailoverSigner {
    let members: [Arc<dyn Signer>; 2] = [pair[0].clone(), pair[1].clone()];
    FailoverSigner::with_probes(members, preference, first_probe, first_probe).unwrap()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{what} did not happen"
        );
        std::thread::sleep(SOON);
    }
}

fn signed_by(signer: &FailoverSigner) -> String {
    signer.sign(b"m").unwrap().certificate().issuer().to_owned()
}

#[test]
fn the_first_signs_while_it_works_and_is_taken_back() {
    let pair = pair();
    let signer = joined(&pair, Preference::PreferFirst, SOON);
    assert_eq!(signed_by(&signer), "first");
    assert_eq!(pair[1].calls(), 0);

    pair[0].break_as(1);
    assert_eq!(signed_by(&signer), "second");
    let health = signer.health();
    assert!(health[0].failing_since.is_some());
    assert_eq!(health[0].class, Some(ErrorClass::SessionLost));
    assert_eq!((health[1].failing_since, health[1].class), (None, None));

    pair[0].break_as(0);
    wait_until("a successful probe", || {
        signer.health()[0].failing_since.is_none()
    });
    assert_eq!(signed_by(&signer), "first");
}

#[test]
fn a_failing_member_is_passed_over_until_a_probe_succeeds() {
    let pair = pair();
    let signer = joined(&pair, Preference::PreferFirst, Duration::from_secs(3600));
    pair[0].break_as(2);
    for _ in 0..20 {
        assert_eq!(signed_by(&signer), "second");
    }
    assert_eq!(
        pair[0].calls(),
        1,
        "only the call that found it out went there"
    );
}

#[test]
fn when_all_fail_each_is_tried_once_and_the_error_says_what_to_do() {
    let pair = pair();
    let signer = joined(&pair, Preference::PreferFirst, Duration::from_secs(3600));
    pair[0].break_as(2);
    pair[1].break_as(3);
    for round in 1..=3 {
        let error = signer.sign(b"m").unwrap_err();
        assert_eq!(
            error.class(),
            ErrorClass::Timeout,
            "one of them may come back, so trying again makes sense"
        );
        assert_eq!((pair[0].calls(), pair[1].calls()), (round, round));
    }
    pair[1].break_as(0);
    assert_eq!(signed_by(&signer), "second");
}

#[test]
fn round_robin_takes_each_in_turn() {
    let pair = pair();
    let signer = joined(&pair, Preference::RoundRobin, SOON);
    let turns: Vec<_> = (0..6).map(|_| signed_by(&signer)).collect();
    assert_eq!(
        turns,
        ["first", "second", "first", "second", "first", "second"]
    );
    pair[1].break_as(1);
    assert!((0..4).all(|_| signed_by(&signer) == "first"));
}

#[test]
fn no_call_fails_under_load_while_one_lives_and_the_envelope_names_who_signed() {
    let pair = pair();
    let store = MemoryCertStore::new();
    for member in &pair {
        store.add(member.certificate().clone()).unwrap();
    }
    let opener = Opener::new(store);
    let signer = joined(&pair, Preference::RoundRobin, SOON);
    let sealer = Sealer::new(Arc::new(signer.clone()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for turn in 0..50 {
                    let sealed = sealer.seal(&turn).unwrap();
                    assert_eq!(
                        opener
                            .open(sealed.as_bytes())
                            .unwrap()
                            .json::<i32>()
                            .unwrap(),
                        turn
                    );
                }
            });
        }
        // The other one fails and recovers, over and over.
        for _ in 0..20 {
            pair[0].break_as(1);
            std::thread::sleep(SOON);
            pair[0].break_as(0);
            wait_until("recovery", || {
                signer
                    .health()
                    .iter()
                    .all(|member| member.failing_since.is_none())
            });
        }
    });
}

#[test]
fn dropping_does_not_wait_for_the_probes() {
    let pair = pair();
    let signer = joined(&pair, Preference::PreferFirst, SOON);
    pair[0].break_as(1);
    signed_by(&signer);
    let calls = pair[0].calls();
    wait_until("a probe", || pair[0].calls() > calls);
    drop(signer);
    wait_until("the end of the probing thread", || {
        Arc::strong_count(&pair[0]) == 1
    });
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let none: [Arc<dyn Signer>; 0] = [];
    assert_eq!(
        FailoverSigner::new(none, Preference::PreferFirst).unwrap_err(),
        FailoverError::Empty
    );
    let other = Scheme::new(Digest::Sha512, Salt::Maximum);
    let members: [Arc<dyn Signer>; 2] = [
        Breakable::new(false, "CN=a", Scheme::default()),
        Breakable::new(true, "CN=b", other),
    ];
    let error = FailoverSigner::new(members, Preference::PreferFirst).unwrap_err();
    assert!(
        matches!(error, FailoverError::Schemes { at: 2, .. }),
        "{error}"
    );
}
