//! Several signers behind one: no call fails as long as one of them works.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use support::keys::{certificate, hours, key, other_key};
use support::log::Warnings;
use taskseal::issue;
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::signer::failover::{FailoverError, Preference, Validity};
use taskseal::{
    Certificate, ErrorClass, FailoverSigner, MemoryCertStore, MessageOpener, MessageSealer, Opener,
    Sealer, SignError, Signature, Signer, SoftwareKey, SoftwareSigner,
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
        Self::certified(key, certificate)
    }

    /// With a certificate that is valid from `start` to `end`, in hours from `now`.
    fn valid(other: bool, subject: &str, now: SystemTime, [start, end]: [u64; 2]) -> Arc<Self> {
        let scheme = Scheme::default();
        let key = if other {
            other_key(scheme)
        } else {
            key(2048, scheme)
        };
        let (start, end) = (now + hours(start), now + hours(end));
        let certificate = issue::self_sign(&key, subject, start, end).unwrap();
        Self::certified(key, certificate)
    }

    fn certified(key: SoftwareKey, certificate: Certificate) -> Arc<Self> {
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

/// Nobody accepts what is signed under a certificate that is out of its time, so the next member signs.
#[test]
fn a_member_whose_certificate_is_out_of_its_time_is_passed_over() {
    let now = SystemTime::now();
    let pair = [
        Breakable::valid(false, "CN=first", now, [0, 10]),
        Breakable::valid(true, "CN=second", now, [5, 20]),
    ];
    for preference in [Preference::PreferFirst, Preference::RoundRobin] {
        let signer = joined(&pair, preference, SOON);
        let by = |at: SystemTime| {
            let signature = signer.sign_at(b"m", at).unwrap();
            signature.certificate().issuer().to_owned()
        };
        let both = |at| [by(at), by(at)];
        // Only the first is valid; both are; only the second is, from the very second at which the first one ends.
        assert_eq!(both(now + hours(1)), ["first", "first"]);
        match preference {
            Preference::PreferFirst => assert_eq!(both(now + hours(6)), ["first", "first"]),
            _ => assert_ne!(by(now + hours(6)), by(now + hours(6))),
        }
        let end = pair[0].certificate().not_after();
        let second = Duration::from_secs(1);
        assert!(both(end - second).contains(&"first".to_owned()));
        assert_eq!(both(end), ["second", "second"]);
        let validity = |at| signer.health_at(at).into_iter().map(|one| one.validity);
        assert!(validity(now + hours(1)).eq([Validity::Valid, Validity::NotYetValid]));
        assert!(validity(end).eq([Validity::Expired, Validity::Valid]));
        // It is no failure: the member is taken again as soon as the time says so.
        assert!(
            signer
                .health()
                .iter()
                .all(|member| member.failing_since.is_none())
        );
    }
    let calls = pair[0].calls();
    let signer = joined(&pair, Preference::PreferFirst, SOON);
    let warnings = Warnings::default();
    warnings.of(|| {
        for at in [15, 16, 17, 5, 5] {
            signer.sign_at(b"m", now + hours(at)).unwrap();
        }
    });
    assert_eq!(
        pair[0].calls(),
        calls + 2,
        "its token was asked for nothing"
    );
    // It is said when it changes, and not for each signature.
    let warnings = warnings.lines();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("has expired; it is passed over"));
}

#[test]
fn when_no_certificate_is_valid_the_error_names_them_all() {
    let now = SystemTime::now();
    let pair = [
        Breakable::valid(false, "CN=first", now, [0, 10]),
        Breakable::valid(true, "CN=second", now, [20, 30]),
    ];
    let signer = joined(&pair, Preference::PreferFirst, SOON);
    for (at, class, first, second) in [
        (
            15,
            ErrorClass::Transient,
            "expired at",
            "is not valid before",
        ),
        (40, ErrorClass::Permanent, "expired at", "expired at"),
    ] {
        let error = signer.sign_at(b"m", now + hours(at)).unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        let text = error.to_string();
        for (member, what) in pair.iter().zip([first, second]) {
            let id = member.certificate().id();
            assert!(text.contains(&format!("{id:?} {what} 2")), "{text}");
        }
    }
    assert_eq!((pair[0].calls(), pair[1].calls()), (0, 0));
    // A member that is valid and fails says why it failed.
    pair[0].break_as(2);
    let error = signer.sign_at(b"m", now + hours(1)).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Timeout);
}

/// The time at which a message is sealed is the time at which its signer is chosen.
#[test]
fn a_message_is_sealed_by_a_member_that_is_valid_then() {
    let now = SystemTime::now();
    let pair = [
        Breakable::valid(false, "CN=first", now, [0, 10]),
        Breakable::valid(true, "CN=second", now, [10, 20]),
    ];
    let store = MemoryCertStore::new();
    for member in &pair {
        store.add(member.certificate().clone()).unwrap();
    }
    let opener = MessageOpener::signed(Opener::new(store));
    let sealer = MessageSealer::signed(Arc::new(joined(&pair, Preference::PreferFirst, SOON)));
    let (purpose, context) = ("result", "some task");
    for (at, by) in [(1, "first"), (15, "second")] {
        let at = now + hours(at);
        let wire = sealer.seal_payload_at(purpose, context, b"m", at).unwrap();
        let opened = opener
            .open_payload_at(wire.as_bytes(), purpose, context, at)
            .unwrap();
        assert_eq!(opened.signer().unwrap().issuer(), by);
    }
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
