//! Whole messages: the three forms, what they are bound to, and everything that has to be refused.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use support::fernet::flipped;
use support::keys::{certificate, hours, key, opener, other_key, signer};
use support::log::Warnings;
use support::mutate::{Random, mutate};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::issue;
use taskseal::message::{
    MemoryReplay, OpenedMessage, Recall, ReplayError, ReplayKey, ReplayMemory, Timing,
};
use taskseal::pss::Scheme;
use taskseal::{
    Destination, ErrorClass, Fernet, KombuMessage, MessageError, MessageOpener, MessageSealer,
    MultiFernet, OpenError, Opener, Policy, SealError, Sealer, Signer, SoftwareSigner,
};

/// As kombu's Redis transport stores a task of Celery 5.
const STORED: &str = r#"{"body": "W1sxLCAyXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbH1d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "tasks.add", "id": "6d2bb8ef-3f1c-4d0e-9a0f-9a6c1b6f2b7e", "eta": null, "retries": 0, "timelimit": [null, null], "argsrepr": "(1, 2)", "big": 123456789012345678901234567890, "ratio": 1.10, "lone": "\ud800"}, "properties": {"correlation_id": "6d2bb8ef-3f1c-4d0e-9a0f-9a6c1b6f2b7e", "reply_to": "b2f0", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 0, "body_encoding": "base64", "delivery_tag": "c0ffee"}, "x-new": [1, {"z": 1, "a": 2}]}"#;

fn fernet() -> MultiFernet {
    Fernet::new(SoftwareKeys::generate().unwrap()).into()
}

fn worker() -> Arc<dyn Signer> {
    signer(2048, Scheme::default(), "CN=worker,O=Example")
}

fn to_celery() -> Destination {
    Destination::any()
        .with_exchange("")
        .with_routing_key("celery")
        .with_queue("celery")
}

/// Sealer and opener of each form, with the same keys.
fn forms() -> [(MessageSealer, MessageOpener); 3] {
    let (signer, fernet) = (worker(), fernet());
    let opener = opener(signer.certificate());
    [
        (
            MessageSealer::signed(Arc::clone(&signer)),
            MessageOpener::signed(opener.clone()),
        ),
        (
            MessageSealer::encrypted(fernet.clone()),
            MessageOpener::encrypted(fernet.clone()),
        ),
        (
            MessageSealer::signed_and_encrypted(signer, fernet.clone()),
            MessageOpener::signed_and_encrypted(opener, fernet),
        ),
    ]
}

fn signed_and_encrypted() -> (MessageSealer, MessageOpener) {
    let [_, _, both] = forms();
    both
}

fn any() -> [Destination; 1] {
    [Destination::any()]
}

/// What Fernet keeps of a time.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn reason(result: Result<OpenedMessage, MessageError>) -> &'static str {
    let error = result.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Rejected, "{error}");
    error.reason()
}

#[test]
fn every_form_gives_back_the_message_byte_for_byte() {
    for (sealer, opener) in forms() {
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        assert!(wire.is_ascii());
        let opened = opener.open(wire.as_bytes(), &any()).unwrap();
        assert_eq!(opened.payload(), STORED.as_bytes());
        let message = opened.message().unwrap();
        assert_eq!(message.content_type(), Some("application/json"));
        assert_eq!(
            message.body().unwrap(),
            br#"[[1, 2], {}, {"callbacks": null}]"#
        );
        assert_eq!(opened.into_payload(), STORED.as_bytes());
    }
}

#[test]
fn the_signed_forms_say_who_when_and_where_to() {
    let now = SystemTime::now();
    let [signed, encrypted, both] = forms();
    for (sealer, opener) in [&signed, &both] {
        let seal = || {
            sealer
                .seal_json_at(STORED.as_bytes(), &to_celery(), now)
                .unwrap()
        };
        let opened = opener.open(seal().as_bytes(), &[to_celery()]).unwrap();
        assert_eq!(opened.signer().unwrap().subject(), "CN=worker,O=Example");
        assert_eq!(opened.destination(), &to_celery());
        let off = now.duration_since(opened.issued_at()).unwrap();
        assert!(off < Duration::from_millis(1), "milliseconds are kept");
        let again = opener.open(seal().as_bytes(), &[to_celery()]).unwrap();
        assert_ne!(opened.id().unwrap(), again.id().unwrap());
        assert_ne!(opened.replay_key(), again.replay_key());
    }
    let (sealer, opener) = encrypted;
    let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
    let opened = opener.open(wire.as_bytes(), &any()).unwrap();
    assert!(opened.signer().is_none() && opened.id().is_none() && opened.replay_key().is_none());
    assert_eq!(
        reason(opener.open(wire.as_bytes(), &[to_celery()])),
        "destination",
        "it does not say where it goes"
    );
}

#[test]
fn nothing_is_readable_in_the_encrypted_forms_and_everything_in_the_signed_one() {
    for (at, (sealer, _)) in forms().into_iter().enumerate() {
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        let decoded = URL_SAFE
            .decode(&wire)
            .or_else(|_| STANDARD.decode(&wire))
            .unwrap();
        let readable = decoded
            .windows(9)
            .any(|part| part == b"tasks.add" || part == b"worker-ke");
        assert_eq!(readable, at == 0);
    }
}

#[test]
fn an_opener_takes_its_own_form_alone() {
    let forms = forms();
    for (at, (sealer, _)) in forms.iter().enumerate() {
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        for (other, (_, opener)) in forms.iter().enumerate() {
            let opened = opener.open(wire.as_bytes(), &any());
            assert_eq!(opened.is_ok(), at == other, "{at} {other}");
        }
    }
}

#[test]
fn only_expected_destinations_are_taken() {
    let [signed, _, both] = forms();
    for (sealer, opener) in [signed, both] {
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        let open = |expected: &[Destination]| opener.open(wire.as_bytes(), expected);
        let queue = |name| Destination::any().with_queue(name);
        assert!(open(&[queue("celery")]).is_ok());
        assert!(open(&[queue("other"), queue("celery")]).is_ok());
        assert_eq!(reason(open(&[queue("other")])), "destination");
        assert_eq!(
            reason(open(&[queue("celery").with_exchange("x")])),
            "destination"
        );
        assert_eq!(
            reason(open(&[])),
            "destination",
            "nothing expected, nothing taken"
        );
        let error = open(&[queue("other")]).unwrap_err().to_string();
        assert!(error.contains(r#"queue "celery""#), "{error}");

        let nowhere = sealer
            .seal_json(STORED.as_bytes(), &Destination::any())
            .unwrap();
        let opened = opener.open(nowhere.as_bytes(), &[queue("celery")]);
        assert_eq!(reason(opened), "destination", "expected, and not said");
    }
}

#[test]
fn age_and_clock_skew_are_limits() {
    let start = SystemTime::now();
    let minute = Duration::from_secs(60);
    let second = Duration::from_secs(1);
    for (sealer, opener) in forms() {
        let opener = opener.with_max_age(10 * minute).with_clock_skew(minute);
        // Fernet counts whole seconds.
        let whole = whole_seconds(start);
        let wire = sealer
            .seal_json_at(STORED.as_bytes(), &to_celery(), whole)
            .unwrap();
        let open = |at| opener.open_at(wire.as_bytes(), &any(), at);
        assert!(open(whole + 11 * minute).is_ok());
        assert_eq!(reason(open(whole + 11 * minute + second)), "too-old");
        assert!(open(whole - minute).is_ok());
        assert_eq!(reason(open(whole - minute - second)), "from-the-future");
        let endless = opener.clone().with_max_age(Duration::MAX);
        assert!(
            endless
                .open_at(wire.as_bytes(), &any(), whole + hours(20))
                .is_ok()
        );
    }
}

/// One skew for the message and for the certificate, whichever way it was set.
#[test]
fn the_clock_skew_counts_for_the_certificate() {
    let key = key(2048, Scheme::default());
    let start = whole_seconds(SystemTime::now());
    let second = Duration::from_secs(1);
    let cert = issue::self_sign(&key, "CN=ahead", start, start + hours(1)).unwrap();
    let signer = Arc::new(SoftwareSigner::new(key, cert.clone()).unwrap());
    let wire = MessageSealer::signed(signer)
        .seal_json_at(STORED.as_bytes(), &to_celery(), start)
        .unwrap();
    let opener = |policy| MessageOpener::signed(opener(&cert).with_policy(policy));
    for (opener, skew) in [
        (opener(Policy::new()), 60),
        (opener(Policy::new().clock_skew(5 * second)), 5),
        (opener(Policy::new()).with_clock_skew(7 * second), 7),
    ] {
        let open = |at| opener.open_at(wire.as_bytes(), &any(), at);
        assert!(open(start - second * skew).is_ok(), "{skew}");
        assert_eq!(reason(open(start - second * (skew + 1))), "not-yet-valid");
    }
}

#[test]
fn a_message_that_was_remembered_is_refused() {
    let memory = Arc::new(MemoryReplay::new(2));
    let [signed, _, both] = forms();
    for (sealer, opener) in [signed, both] {
        let opener = opener.with_replay_memory(Arc::clone(&memory) as _);
        let seal = || sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        let (wire, other) = (seal(), seal());
        let opened = opener.open(wire.as_bytes(), &any()).unwrap();
        let again = opener.open(wire.as_bytes(), &any()).unwrap();
        opener.remember(&opened).unwrap();
        assert_eq!(opener.remember(&again).unwrap_err().reason(), "replayed");
        assert_eq!(reason(opener.open(wire.as_bytes(), &any())), "replayed");
        assert!(opener.open(other.as_bytes(), &any()).is_ok());
    }
    assert_eq!(memory.len(), 2);
}

/// The outer base64 of an envelope, and the id of its signer, are not signed.
#[test]
fn one_key_under_two_certificates_does_not_make_a_message_new() {
    let keys = key(2048, Scheme::default());
    let old = certificate(&keys, "CN=worker");
    let new = certificate(&keys, "CN=worker-renewed");
    let store = taskseal::MemoryCertStore::new();
    store.add(old.clone()).unwrap();
    store.add(new.clone()).unwrap();
    let signer = Arc::new(SoftwareSigner::new(keys, old.clone()).unwrap());
    let opener = MessageOpener::signed(Opener::new(store))
        .with_replay_memory(Arc::new(MemoryReplay::new(10)));
    let wire = MessageSealer::signed(signer)
        .seal_json(STORED.as_bytes(), &to_celery())
        .unwrap();
    let first = opener.open(wire.as_bytes(), &any()).unwrap();
    opener.remember(&first).unwrap();
    let raw = STANDARD.decode(&wire).unwrap();
    let after = raw.iter().position(|byte| *byte == 0).unwrap();
    let renamed = [STANDARD.encode(new.id()).as_bytes(), &raw[after..]].concat();
    let renamed = STANDARD.encode(renamed);
    assert_ne!(renamed, wire);
    assert_eq!(reason(opener.open(renamed.as_bytes(), &any())), "replayed");
}

/// Forgetting a message would let it in again, and refusing to go on would stop whoever is busy.
#[test]
fn a_full_replay_memory_takes_new_messages_and_lets_none_in_again() {
    let memory = Arc::new(MemoryReplay::new(8));
    let (sealer, opener) = signed_and_encrypted();
    let opener = opener
        .with_replay_memory(Arc::clone(&memory) as _)
        .with_max_age(hours(1))
        .with_clock_skew(Duration::ZERO);
    let start = SystemTime::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let seal = |at| {
        sealer
            .seal_json_at(STORED.as_bytes(), &to_celery(), at)
            .unwrap()
    };
    let open = |wire: &String, at| opener.open_at(wire.as_bytes(), &any(), at);
    let unseen = seal(start);
    let wires: Vec<_> = (0..20).map(|second| seal(after(second))).collect();
    for (second, wire) in (0..).zip(&wires) {
        let opened = open(wire, after(second)).unwrap();
        opener.remember_at(&opened, after(second)).unwrap();
        assert!(memory.len() <= 8);
    }
    let reasons: Vec<_> = wires
        .iter()
        .map(|wire| reason(open(wire, after(30))))
        .collect();
    assert_eq!((reasons[0], reasons[19]), ("forgotten", "replayed"));
    assert!(
        reasons
            .iter()
            .all(|r| ["forgotten", "replayed"].contains(r))
    );
    assert_eq!(
        reason(open(&unseen, after(30))),
        "forgotten",
        "nobody can tell any more"
    );
    // What ended by itself makes room, and nothing more is forgotten.
    let young = seal(after(7000));
    let opened = open(&young, after(7000)).unwrap();
    opener.remember_at(&opened, after(7000)).unwrap();
    assert_eq!(memory.len(), 1);
}

/// One compromised signer stops nobody else: neither are their messages refused, nor let in again.
#[test]
fn a_signer_that_fills_the_replay_memory_is_refused_alone() {
    let memory = MemoryReplay::new(80);
    let now = SystemTime::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    // What their key begins with says whose a message is.
    let key =
        |owner: u8, number: u64| ReplayKey::of(&[&[owner; 32][..], &number.to_be_bytes()].concat());
    for number in 0..20 {
        for owner in [1, 2] {
            let new = memory.insert(&key(owner, number), after(1000 + number), now);
            assert!(new.unwrap());
        }
    }
    // They end in ten years.
    for number in 0..1000 {
        let years = after(315_360_000 + number);
        assert!(memory.insert(&key(3, number), years, now).unwrap());
        assert!(memory.len() <= 80);
    }
    let recall = |owner, number, until| {
        memory
            .recall(&key(owner, number), after(until), now)
            .unwrap()
    };
    for owner in [1, 2] {
        for number in 0..20 {
            assert_eq!(recall(owner, number, 1000 + number), Recall::Handled);
        }
        assert_eq!(recall(owner, 999, 1), Recall::New);
    }
    assert_eq!(recall(3, 0, 315_360_000), Recall::Forgotten);
    assert_eq!(recall(3, 5000, 1000), Recall::Forgotten);
}

/// Whatever the clocks of two openers say within the skew: what one has forgotten, the other does not take.
#[test]
fn a_message_is_remembered_for_as_long_as_any_clock_within_the_skew_takes_it() {
    let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
    let [signed, _, both] = forms();
    for (sealer, opener) in [signed, both] {
        let opener = opener.with_max_age(10 * minute).with_clock_skew(minute);
        let start = SystemTime::now();
        for due in [start, start + hours(5)] {
            let mut message = KombuMessage::from_json(STORED.as_bytes()).unwrap();
            message.headers_mut().set("eta", &iso8601(due)).unwrap();
            let wire = sealer.seal_at(&message, &to_celery(), start).unwrap();
            let open = |at| opener.open_at(wire.as_bytes(), &any(), at);
            let until = opener.remember_until(&open(start).unwrap());
            // The clock of whoever forgets says `until`, the other's is behind by the skew.
            assert_eq!(reason(open(until - minute + second)), "too-old");
            assert!(open(until - minute - second).is_ok());
        }
    }
}

/// ISO 8601 in UTC.
fn iso8601(time: SystemTime) -> String {
    der::DateTime::from_system_time(whole_seconds(time))
        .unwrap()
        .to_string()
}

/// A countdown is a part of what the sender signed: the message waits so long by right.
#[test]
fn the_age_of_a_task_that_waits_for_its_eta_counts_from_there() {
    let start = whole_seconds(SystemTime::now());
    for (sealer, opener) in forms() {
        let opener = opener
            .with_max_age(hours(1))
            .with_clock_skew(Duration::ZERO);
        let seal = |eta: &str| {
            let mut message = KombuMessage::from_json(STORED.as_bytes()).unwrap();
            message.headers_mut().set("eta", eta).unwrap();
            sealer.seal_at(&message, &to_celery(), start).unwrap()
        };
        let open = |wire: &str, at| opener.open_at(wire.as_bytes(), &any(), at);
        let wire = seal(&iso8601(start + hours(5)));
        for after in [0, 1, 2, 5, 6] {
            let opened = open(&wire, start + hours(after)).unwrap();
            assert_eq!(opened.issued_at(), start);
            assert_eq!(opened.age_from(), start + hours(5));
        }
        assert_eq!(reason(open(&wire, start + hours(7))), "too-old");
        // One in the past makes nothing older, and what is none nothing younger.
        for eta in [&*iso8601(start - hours(48)), "tomorrow", ""] {
            let wire = seal(eta);
            assert!(open(&wire, start + hours(1)).is_ok(), "{eta}");
            assert_eq!(reason(open(&wire, start + hours(2))), "too-old", "{eta}");
        }
        // However far ahead it lies: no more than ten years.
        let wire = seal("9999-01-01T00:00:00Z");
        let opened = open(&wire, start).unwrap();
        let until = start + MessageOpener::MAX_AHEAD + hours(1);
        assert_eq!(opener.remember_until(&opened), until);
        // An eta is no excuse for a message from the future.
        let early = start - Duration::from_secs(1);
        assert_eq!(reason(open(&wire, early)), "from-the-future");
    }
}

/// Whoever can keep a message is told what time alone says, when all else is good.
#[test]
fn what_time_alone_refuses_is_told_apart_from_what_is_wrong_for_ever() {
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    let [signed, _, both] = forms();
    for (sealer, opener) in [signed, both] {
        let opener = opener.with_max_age(10 * minute).with_clock_skew(minute);
        let timing = |sealed_at| {
            let wire = sealer
                .seal_json_at(STORED.as_bytes(), &to_celery(), sealed_at)
                .unwrap();
            let open = |to| opener.open_untimed_at(wire.as_bytes(), &[to], now);
            let elsewhere = open(to_celery().with_queue("other")).unwrap_err();
            assert_eq!(elsewhere.reason(), "destination", "that comes first");
            let message = open(to_celery()).unwrap();
            assert_eq!(message.whenever().payload(), STORED.as_bytes());
            let timing = message.timing();
            let refusal = message.in_time().map_or_else(|e| e.reason(), |_| "none");
            (timing, refusal)
        };
        assert_eq!(timing(now), (Timing::InTime, "none"));
        assert_eq!(timing(now - 12 * minute), (Timing::Late, "too-old"));
        let (Timing::Early(by), "from-the-future") = timing(now + 5 * minute) else {
            panic!()
        };
        let off = (4 * minute).checked_sub(by).unwrap();
        assert!(off < Duration::from_millis(2), "{by:?}");
        // The certificates of these tests are valid for some days.
        let far = hours(24 * 400 * 100);
        let wire = sealer
            .seal_json_at(STORED.as_bytes(), &to_celery(), now + far)
            .unwrap();
        let timing = |at| {
            let message = opener.open_untimed_at(wire.as_bytes(), &any(), at);
            let message = message.unwrap();
            (message.timing(), message.refusal().unwrap().reason())
        };
        assert_eq!(timing(now + far), (Timing::Late, "expired"));
        let (Timing::Early(_), "not-yet-valid") = timing(now - hours(24 * 400)) else {
            panic!()
        };
    }
}

/// Nobody without a key makes a message that time alone speaks against.
#[test]
fn a_forged_message_under_an_expired_certificate_has_a_bad_signature() {
    let [(sealer, opener), ..] = forms();
    let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
    let mut raw = STANDARD.decode(&wire).unwrap();
    let end = raw.len() - 5;
    raw[end] ^= 1;
    let forged = STANDARD.encode(raw);
    let at = SystemTime::now() + hours(24 * 400 * 100);
    let error = opener.open_untimed_at(forged.as_bytes(), &any(), at);
    let reason = error.unwrap_err().reason();
    assert!(["bad-signature", "malformed"].contains(&reason), "{reason}");
}

/// The same keys serve two places: what was sent in one is not taken in the other.
#[test]
fn a_message_of_another_domain_is_refused() {
    let (signer, fernet) = (worker(), fernet());
    let trusting = opener(signer.certificate());
    let sealer = MessageSealer::signed_and_encrypted(Arc::clone(&signer), fernet.clone());
    let opener = MessageOpener::signed_and_encrypted(trusting, fernet.clone());
    let domains = ["", "production", "staging"];
    for from in domains {
        let sealer = sealer.clone().with_domain(from);
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        let result = sealer.seal_payload("result", "task-1", b"7").unwrap();
        for to in domains {
            let opener = opener.clone().with_domain(to);
            let opened = opener.open(wire.as_bytes(), &[to_celery()]);
            let payload = opener.open_payload(result.as_bytes(), "result", "task-1");
            let named = opener.open_payload_of(result.as_bytes(), "result");
            if from == to {
                assert_eq!(opened.unwrap().destination(), &to_celery());
                assert_eq!(payload.unwrap().payload(), b"7");
                assert_eq!(named.unwrap().0, "task-1");
            } else {
                assert_eq!(reason(opened), "domain");
                assert_eq!(reason(payload), "domain");
                assert_eq!(reason(named.map(|(_, opened)| opened)), "domain");
            }
        }
    }
    // What is encrypted alone has no place to say it.
    let plain = MessageSealer::encrypted(fernet.clone());
    let wire = plain.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
    let there = MessageOpener::encrypted(fernet).with_domain("production");
    assert_eq!(reason(there.open(wire.as_bytes(), &any())), "domain");
    let plain = plain.with_domain("production");
    assert!(plain.seal_json(STORED.as_bytes(), &to_celery()).is_err());
    assert!(plain.seal_payload("result", "task-1", b"7").is_ok());
    let long = sealer.with_domain(&"d".repeat(4097));
    assert!(long.seal_json(STORED.as_bytes(), &to_celery()).is_err());
}

#[test]
fn a_replay_memory_that_fails_opens_nothing() {
    #[derive(Debug)]
    struct Down;
    impl ReplayMemory for Down {
        fn recall(
            &self,
            _: &ReplayKey,
            _: SystemTime,
            _: SystemTime,
        ) -> Result<Recall, ReplayError> {
            Err(ReplayError::new(ErrorClass::Transient, "it is down"))
        }
        fn insert(&self, _: &ReplayKey, _: SystemTime, _: SystemTime) -> Result<bool, ReplayError> {
            Err(ReplayError::new(ErrorClass::Transient, "it is down"))
        }
    }
    let (sealer, opener) = signed_and_encrypted();
    let opener = opener.with_replay_memory(Arc::new(Down));
    let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
    let error = opener.open(wire.as_bytes(), &any()).unwrap_err();
    assert_eq!(
        (error.reason(), error.class()),
        ("replay-memory", ErrorClass::Transient)
    );
}

#[test]
fn keys_are_changed_without_losing_what_is_on_its_way() {
    let keys: Vec<Fernet> = (0..2)
        .map(|_| Fernet::new(SoftwareKeys::generate().unwrap()))
        .collect();
    let signer = worker();
    let opener = opener(signer.certificate());
    let old = MessageSealer::signed_and_encrypted(Arc::clone(&signer), keys[0].clone());
    let new = MessageSealer::signed_and_encrypted(signer, keys[1].clone());
    let both = MultiFernet::new(keys[1].clone(), [keys[0].clone()]);
    let during = MessageOpener::signed_and_encrypted(opener.clone(), both.clone());
    let after = MessageOpener::signed_and_encrypted(opener, keys[1].clone());
    let wire = old.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
    assert!(during.open(wire.as_bytes(), &any()).is_ok());
    assert_eq!(reason(after.open(wire.as_bytes(), &any())), "token");
    let rotated = both.rotate(wire.as_bytes()).unwrap();
    assert!(after.open(rotated.as_bytes(), &any()).is_ok());
    let wire = new.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
    assert!(during.open(wire.as_bytes(), &any()).is_ok());
}

#[test]
fn one_of_several_hundred_keys_opens_and_a_rotated_message_keeps_its_age() {
    let keys: Vec<Fernet> = (0..300)
        .map(|_| Fernet::new(SoftwareKeys::generate().unwrap()))
        .collect();
    let all = MultiFernet::new(keys[0].clone(), keys[1..].iter().cloned());
    let signer = worker();
    let trusting = opener(signer.certificate());
    let start = whole_seconds(SystemTime::now());
    for maker in [&keys[0], &keys[150], &keys[299]] {
        let forms = [
            (
                MessageSealer::encrypted(maker.clone()),
                MessageOpener::encrypted(all.clone()),
            ),
            (
                MessageSealer::signed_and_encrypted(Arc::clone(&signer), maker.clone()),
                MessageOpener::signed_and_encrypted(trusting.clone(), all.clone()),
            ),
        ];
        for (sealer, opener) in forms {
            let opener = opener
                .with_max_age(Duration::from_secs(60))
                .with_clock_skew(Duration::ZERO);
            let wire = sealer
                .seal_json_at(STORED.as_bytes(), &to_celery(), start)
                .unwrap();
            let rotated = all.rotate(wire.as_bytes()).unwrap();
            assert_ne!(rotated, wire);
            for wire in [wire, rotated] {
                let open = |after| {
                    let at = start + Duration::from_secs(after);
                    opener.open_at(wire.as_bytes(), &any(), at)
                };
                let opened = open(60).unwrap();
                assert_eq!(opened.payload(), STORED.as_bytes());
                assert_eq!(opened.issued_at(), start);
                assert_eq!(reason(open(61)), "too-old");
            }
        }
    }
}

#[test]
fn payloads_open_for_their_purpose_and_context_alone() {
    for (sealer, opener) in forms() {
        let wire = sealer
            .seal_payload("result", "task-1", b"\x00\xff result")
            .unwrap();
        let open = |purpose, context| opener.open_payload(wire.as_bytes(), purpose, context);
        let opened = open("result", "task-1").unwrap();
        assert_eq!(opened.payload(), b"\x00\xff result");
        assert!(opened.id().is_some() && opened.replay_key().is_some());
        let (context, named) = opener.open_payload_of(wire.as_bytes(), "result").unwrap();
        assert_eq!((&*context, named.payload()), ("task-1", opened.payload()));
        assert_eq!(
            reason(
                opener
                    .open_payload_of(wire.as_bytes(), "event")
                    .map(|(_, opened)| opened)
            ),
            "purpose"
        );
        assert_eq!(reason(open("result", "task-2")), "context");
        assert_eq!(reason(open("result", "")), "context");
        assert_eq!(reason(open("event", "task-1")), "purpose");

        let message = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        assert!(
            opener
                .open_payload(message.as_bytes(), "result", "task-1")
                .is_err()
        );
        assert!(opener.open(wire.as_bytes(), &any()).is_err());

        assert!(sealer.seal_payload("message", "", b"").is_err());
        assert!(sealer.seal_payload("", "", b"").is_err());
        assert!(sealer.seal_payload("a b", "", b"").is_err());
        assert!(sealer.seal_payload("x", &"c".repeat(4097), b"").is_err());
        let asked = open("message", "task-1").unwrap_err();
        assert_eq!(asked.class(), ErrorClass::Permanent);
    }
}

/// The signature of a task's body and that of a whole message are made with one key and one scheme.
#[test]
fn a_body_is_no_message_and_a_message_no_body() {
    let signer = worker();
    let trusting = opener(signer.certificate());
    let message = MessageSealer::signed(Arc::clone(&signer))
        .seal_json(STORED.as_bytes(), &to_celery())
        .unwrap();
    let wide = Policy::new()
        .accept_content_type(taskseal::message::BOUND_CONTENT_TYPE)
        .accept_content_encoding("binary");
    let body_opener = trusting.clone().with_policy(wide);
    let error = body_opener.open(message.as_bytes()).unwrap_err();
    assert_eq!(error.reason(), "scope");
    assert_eq!(reason_of(trusting.open(message.as_bytes())), "content-type");

    let bodies = Sealer::new(Arc::clone(&signer))
        .with_content(taskseal::message::BOUND_CONTENT_TYPE, "binary");
    let body = bodies.seal_bytes(STORED.as_bytes()).unwrap();
    let message_opener = MessageOpener::signed(trusting.clone());
    assert_eq!(
        reason(message_opener.open(body.as_bytes(), &any())),
        "scope"
    );
    let plain = Sealer::new(signer).seal_bytes(STORED.as_bytes()).unwrap();
    assert_eq!(
        reason(message_opener.open(plain.as_bytes(), &any())),
        "content-type"
    );

    // And the bytes of a message's content are not signed as a body.
    let unpacked = taskseal::Format::Celery
        .unpack(message.as_bytes(), |_| None)
        .unwrap();
    let again = bodies.seal_bytes(unpacked.body()).unwrap_err();
    assert!(matches!(again, SealError::Reserved));
    assert_eq!(again.class(), ErrorClass::Permanent);
}

fn reason_of(result: Result<taskseal::Opened<'_>, OpenError>) -> &'static str {
    result.unwrap_err().reason()
}

#[test]
fn strangers_are_refused_by_both_layers() {
    let (signer, fernet_keys) = (worker(), fernet());
    let trusting = opener(signer.certificate());
    let opener = MessageOpener::signed_and_encrypted(trusting, fernet_keys.clone());
    let wrong_token = MessageSealer::signed_and_encrypted(signer, fernet());
    let wire = wrong_token
        .seal_json(STORED.as_bytes(), &to_celery())
        .unwrap();
    assert_eq!(reason(opener.open(wire.as_bytes(), &any())), "token");

    // Whoever has the Fernet key and no trusted certificate.
    let stranger = other_key(Scheme::default());
    let unknown = certificate(&stranger, "CN=stranger");
    let stranger = Arc::new(SoftwareSigner::new(stranger, unknown).unwrap());
    let wire = MessageSealer::signed_and_encrypted(stranger, fernet_keys)
        .seal_json(STORED.as_bytes(), &to_celery())
        .unwrap();
    assert_eq!(
        reason(opener.open(wire.as_bytes(), &any())),
        "unknown-signer"
    );
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let small = KombuMessage::new(b"[[], {}, {}]", "application/json", "utf-8");
    let [signed, encrypted, both] = forms();
    for (sealer, opener) in [encrypted, both] {
        let wire = sealer.seal(&small, &to_celery()).unwrap();
        assert!(opener.open(wire.as_bytes(), &any()).is_ok());
        for bad in flipped(&wire) {
            assert_eq!(reason(opener.open(bad.as_bytes(), &any())), "token");
        }
        for len in 0..wire.len() {
            assert_eq!(
                reason(opener.open(&wire.as_bytes()[..len], &any())),
                "token",
                "{len}"
            );
        }
    }
    let (sealer, opener) = signed;
    let wire = sealer.seal(&small, &to_celery()).unwrap();
    let raw = STANDARD.decode(&wire).unwrap();
    for at in 0..raw.len() * 8 {
        let mut bad = raw.clone();
        bad[at / 8] ^= 1 << (at % 8);
        reason(opener.open(STANDARD.encode(&bad).as_bytes(), &any()));
    }
    for at in 0..wire.len() {
        let mut bad = wire.clone().into_bytes();
        bad[at] ^= 1;
        reason(opener.open(&bad, &any()));
        reason(opener.open(&wire.as_bytes()[..at], &any()));
    }
}

#[test]
fn damaged_messages_never_open_and_never_panic() {
    let mut random = Random::new(4);
    for (sealer, opener) in forms() {
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        for _ in 0..2000 {
            let bad = mutate(&mut random, wire.as_bytes());
            if bad != wire.as_bytes() {
                assert!(opener.open(&bad, &any()).is_err());
                assert!(opener.open_payload(&bad, "result", "x").is_err());
            }
        }
    }
}

/// What a holder of the Fernet key can put inside, where no signature stands before the parser.
#[test]
fn damaged_json_inside_of_a_good_token_never_panics() {
    let mut random = Random::new(5);
    let fernet = fernet();
    let opener = MessageOpener::encrypted(fernet.clone());
    let mut read = 0;
    for _ in 0..5000 {
        let token = fernet
            .encrypt(&mutate(&mut random, STORED.as_bytes()))
            .unwrap();
        let opened = opener.open(token.as_bytes(), &any());
        let message = opened.and_then(|opened| opened.message());
        read += usize::from(message.is_ok_and(|message| message.to_json().is_ok()));
    }
    assert!((1..5000).contains(&read), "{read}");
}

#[test]
fn sizes_are_limited_before_anything_is_decoded() {
    for (sealer, opener) in forms() {
        let wire = sealer.seal_json(STORED.as_bytes(), &to_celery()).unwrap();
        let limit = |len| opener.clone().with_max_len(len);
        assert!(limit(wire.len()).open(wire.as_bytes(), &any()).is_ok());
        assert_eq!(
            reason(limit(wire.len() - 1).open(wire.as_bytes(), &any())),
            "too-large"
        );
        assert_eq!(
            reason(opener.open(&vec![b'A'; 65 << 20], &any())),
            "too-large"
        );
    }
}

#[test]
fn messages_of_almost_64_mib_go_through_every_form() {
    // Each form wraps it in base64 once.
    let json = format!(r#"{{"body": "{}"}}"#, "x".repeat(47 << 20));
    for (sealer, opener) in forms() {
        let wire = sealer.seal_json(json.as_bytes(), &to_celery()).unwrap();
        assert!((62 << 20..=64 << 20).contains(&wire.len()));
        let opened = opener.open(wire.as_bytes(), &any()).unwrap();
        assert!(opened.payload() == json.as_bytes());
        let mut bad = wire.into_bytes();
        bad[40 << 20] ^= 1;
        reason(opener.open(&bad, &any()));
    }
}

#[test]
fn what_is_not_a_message_is_not_sealed() {
    let (sealer, _) = signed_and_encrypted();
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"body": 1}"#,
        r#"{"body": "", "headers": []}"#,
    ] {
        let error = sealer.seal_json(bad.as_bytes(), &to_celery()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{bad}");
    }
    let long = Destination::any().with_queue(&"q".repeat(4097));
    assert!(sealer.seal_json(STORED.as_bytes(), &long).is_err());
}

/// The trusted signer whose messages go astray is named, however much garbage comes with them.
#[test]
fn a_flood_of_whole_messages_is_a_few_lines_that_name_each_reason_and_signer() {
    let (sealer, opener) = signed_and_encrypted();
    let here = [Destination::any().with_queue("here")];
    let there = Destination::any().with_queue("there");
    let astray = sealer.seal_json(STORED.as_bytes(), &there).unwrap();
    let warnings = Warnings::default();
    warnings.of(|| {
        for number in 0..3000 {
            let wire = match number {
                10 | 20 | 2000 => astray.as_bytes(),
                _ => b"garbage",
            };
            opener.open(wire, &here).unwrap_err();
        }
        drop(opener);
    });
    let lines = warnings.lines();
    assert!(lines.len() < 6, "{lines:#?}");
    let last = &lines[lines.len() - 1];
    assert!(last.contains("destination: 2 (\""), "{lines:#?}");
    assert!(last.contains("token: 2996"), "{lines:#?}");
}
