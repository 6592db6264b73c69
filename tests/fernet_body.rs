//! Encrypted bodies under the four content types of `kombu-fernet-serializers`.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::fernet::flipped;
use support::mutate::{Random, mutate};
use taskseal::ErrorClass;
use taskseal::fernet::body::{
    BodyError, BodyType, FernetBodies, KEY_VARIABLE, OpenedBody, PREVIOUS_KEY_VARIABLE, keys_from,
};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet, MultiFernet};

fn bodies() -> FernetBodies {
    FernetBodies::new(Fernet::new(SoftwareKeys::generate().unwrap()))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    name: String,
    weights: Vec<f64>,
    extra: BTreeMap<String, Option<bool>>,
}

fn order() -> Order {
    Order {
        id: u64::MAX,
        name: "Žluťoučký kůň 🦀".into(),
        weights: vec![1.5, -0.0, 1e300],
        extra: [("x".into(), Some(true)), ("y".into(), None)].into(),
    }
}

#[test]
fn any_serde_type_goes_through_json_and_messagepack() {
    let bodies = bodies().accept([BodyType::Json, BodyType::MsgPack]);
    let sealed = bodies.seal_json(&order()).unwrap();
    let opened = bodies
        .open("application/x-fernet-json", sealed.as_bytes())
        .unwrap();
    assert_eq!(opened.json::<Order>().unwrap(), order());

    let sealed = bodies.seal_msgpack(&order()).unwrap();
    assert_eq!(sealed.body_type(), BodyType::MsgPack);
    let opened = bodies
        .open("application/x-fernet-msgpack", sealed.as_bytes())
        .unwrap();
    assert_eq!(opened.msgpack::<Order>().unwrap(), order());
    // As a map with names: what Python makes a dict of.
    assert_eq!(opened.body()[0], 0x84);
    assert!(matches!(
        opened.json::<Value>(),
        Err(BodyError::NotThat {
            found: BodyType::MsgPack,
            ..
        })
    ));
}

#[test]
fn the_other_two_are_bytes() {
    for body_type in [BodyType::Yaml, BodyType::PythonSerialize] {
        let bodies = bodies().accept([body_type]);
        let sealed = bodies.seal_bytes(body_type, b"\x80\x04N.").unwrap();
        assert_eq!(sealed.content_encoding(), "utf-8");
        let opened = bodies
            .open(sealed.content_type(), sealed.as_bytes())
            .unwrap();
        assert_eq!(
            (opened.body_type(), opened.body()),
            (body_type, &b"\x80\x04N."[..])
        );
        assert_eq!(
            opened.json::<Value>().unwrap_err().reason(),
            "not-that-type"
        );
        assert_eq!(
            opened.msgpack::<Value>().unwrap_err().reason(),
            "not-that-type"
        );
        assert_eq!(opened.into_body(), b"\x80\x04N.");
    }
}

#[test]
fn what_is_not_listed_is_refused_before_it_is_decrypted() {
    let bodies = bodies();
    let sealed = bodies.seal_bytes(BodyType::PythonSerialize, b"N.").unwrap();
    for content_type in [
        "application/x-fernet-python-serialize",
        "application/x-fernet-yaml",
        "application/x-fernet-msgpack",
        "application/json",
        "application/X-fernet-json",
        "",
    ] {
        for token in [sealed.as_bytes(), b"no token"] {
            let error = bodies.open(content_type, token).unwrap_err();
            assert_eq!(
                (error.reason(), error.class()),
                ("content-type", ErrorClass::Rejected)
            );
        }
    }
    let error = bodies
        .open("application/x-fernet-json", b"no token")
        .unwrap_err();
    assert_eq!(
        (error.reason(), error.class()),
        ("token", ErrorClass::Rejected)
    );
    let long = bodies.clone().with_max_len(sealed.as_bytes().len() - 1);
    let error = long
        .open("application/x-fernet-json", sealed.as_bytes())
        .unwrap_err();
    assert_eq!(error.reason(), "too-large");
    assert!(
        bodies
            .open("application/x-fernet-json", &vec![b'A'; 65 << 20])
            .is_err()
    );
}

#[test]
fn an_old_token_is_refused_when_a_time_to_live_is_set() {
    let bodies = bodies();
    let sealed = bodies.seal_json(&1).unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let open =
        |bodies: &FernetBodies| bodies.open_at(sealed.content_type(), sealed.as_bytes(), later);
    assert!(open(&bodies).is_ok());
    assert!(open(&bodies.clone().with_ttl(Duration::from_secs(3660))).is_ok());
    assert_eq!(
        open(&bodies.with_ttl(Duration::from_secs(60)))
            .unwrap_err()
            .reason(),
        "token"
    );
}

#[test]
fn a_flipped_bit_anywhere_is_refused_alike() {
    let bodies = bodies();
    let sealed = bodies.seal_json(&order()).unwrap();
    let open = |token: &str| bodies.open(sealed.content_type(), token.as_bytes());
    assert!(open(sealed.as_str()).is_ok());
    for bad in flipped(sealed.as_str()) {
        let error = open(&bad).unwrap_err();
        assert_eq!(
            (error.reason(), error.class()),
            ("token", ErrorClass::Rejected)
        );
    }
}

#[test]
fn a_body_in_a_token_of_64_mib_is_opened_and_a_longer_one_is_not() {
    let bodies = bodies();
    // Header, tag and at least one byte of padding.
    let most = (FernetBodies::MAX_LEN / 4 * 3 - 25 - 32) / 16 * 16 - 1;
    let body = vec![b'7'; most];
    let sealed = bodies.seal_bytes(BodyType::Json, &body).unwrap();
    assert!(FernetBodies::MAX_LEN - sealed.as_bytes().len() < 24);
    let opened = bodies.open(sealed.content_type(), sealed.as_bytes());
    assert!(opened.unwrap().body() == body);
    let longer = bodies.seal_bytes(BodyType::Json, &vec![b'7'; most + 1]);
    let longer = longer.unwrap();
    let error = bodies.open(longer.content_type(), longer.as_bytes());
    assert_eq!(error.unwrap_err().reason(), "too-large");
}

#[test]
fn one_of_several_hundred_keys_opens_and_a_rotated_body_keeps_its_age() {
    let keys: Vec<Fernet> = (0..300)
        .map(|_| Fernet::new(SoftwareKeys::generate().unwrap()))
        .collect();
    let all = MultiFernet::new(keys[0].clone(), keys[1..].iter().cloned());
    let bodies = FernetBodies::new(all.clone()).with_ttl(Duration::from_secs(60));
    let content_type = BodyType::Json.content_type();
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for maker in [&keys[0], &keys[150], &keys[299]] {
        let token = maker.encrypt_at(b"[1]", hour_ago).unwrap();
        let rotated = all.rotate(token.as_bytes()).unwrap();
        assert_ne!(rotated, token);
        for token in [token, rotated] {
            let open = |at| bodies.open_at(content_type, token.as_bytes(), at);
            assert_eq!(
                open(hour_ago).unwrap().json::<Vec<u8>>().unwrap(),
                [1],
                "at its time"
            );
            assert_eq!(open(SystemTime::now()).unwrap_err().reason(), "token");
        }
    }
}

#[test]
fn keys_come_from_the_environment_when_asked_for() {
    let text = || SoftwareKeys::generate().unwrap().expose_text().to_owned();
    let (new, old) = (text(), text());
    let environment = |new: Option<&str>, old: Option<&str>| {
        keys_from(|name| match name {
            KEY_VARIABLE => new.map(str::to_owned),
            PREVIOUS_KEY_VARIABLE => old.map(str::to_owned),
            other => panic!("{other} is asked for"),
        })
    };
    assert_eq!(
        (KEY_VARIABLE, PREVIOUS_KEY_VARIABLE),
        ("KOMBU_FERNET_KEY", "KOMBU_FERNET_KEY_PREVIOUS")
    );
    let before = FernetBodies::new(environment(Some(&old), None).unwrap());
    let during = FernetBodies::new(environment(Some(&new), Some(&old)).unwrap());
    let after = FernetBodies::new(environment(Some(&new), None).unwrap());
    let json = BodyType::Json.content_type();
    let token = before.seal_json(&1).unwrap();
    assert!(during.open(json, token.as_bytes()).is_ok());
    assert!(after.open(json, token.as_bytes()).is_err());
    let token = during.seal_json(&1).unwrap();
    assert!(
        after.open(json, token.as_bytes()).is_ok(),
        "the first one encrypts"
    );

    for (first, previous, named) in [
        (None, Some(old.as_str()), "KOMBU_FERNET_KEY is not set"),
        (Some("secret"), None, "KOMBU_FERNET_KEY holds no"),
        (
            Some(" \n"),
            Some(&old),
            "KOMBU_FERNET_KEY is not set or empty",
        ),
        (
            Some(&new),
            Some("\u{fffd}"),
            "KOMBU_FERNET_KEY_PREVIOUS holds no",
        ),
    ] {
        let error = environment(first, previous).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent);
        let error = error.to_string();
        assert!(
            error.contains(named) && !error.contains("secret"),
            "{error}"
        );
    }
}

fn opened(body_type: BodyType, body: &[u8]) -> OpenedBody {
    let bodies = bodies().accept(BodyType::ALL);
    let sealed = bodies.seal_bytes(body_type, body).unwrap();
    bodies
        .open(body_type.content_type(), sealed.as_bytes())
        .unwrap()
}

/// Nesting without end, lengths that are not there, and whatever chance makes of a good value.
#[test]
fn hostile_bodies_of_a_key_holder_are_errors() {
    for (body_type, bad) in [
        (BodyType::MsgPack, vec![0x91; 1_000_000]),
        (BodyType::MsgPack, vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        (BodyType::MsgPack, vec![0xdf, 0xff, 0xff, 0xff, 0xff]),
        (BodyType::MsgPack, vec![0xdb, 0xff, 0xff, 0xff, 0xff]),
        (BodyType::MsgPack, vec![0xc6, 0xff, 0xff, 0xff, 0xff]),
        (BodyType::MsgPack, vec![0xc0, 0xc0]),
        (BodyType::MsgPack, vec![]),
        (BodyType::Json, vec![b'['; 1_000_000]),
        (BodyType::Json, b"NaN".to_vec()),
        (BodyType::Json, b"1 2".to_vec()),
    ] {
        let opened = opened(body_type, &bad);
        let error = match body_type {
            BodyType::Json => opened.json::<Value>().unwrap_err(),
            _ => opened.msgpack::<Value>().unwrap_err(),
        };
        assert_eq!(
            (error.reason(), error.class()),
            ("deserialize", ErrorClass::Permanent)
        );
    }
    let nested = |depth| opened(BodyType::MsgPack, &[vec![0x91; depth], vec![0xc0]].concat());
    assert!(nested(100).msgpack::<Value>().is_ok());
    assert!(
        nested(OpenedBody::MAX_DEPTH + 1)
            .msgpack::<Value>()
            .is_err()
    );

    let good = rmp_serde::to_vec_named(&json!([[1, "two"], {"three": [3.0, null]}, {}])).unwrap();
    let mut random = Random::new(6);
    for _ in 0..5000 {
        let _ = opened(BodyType::MsgPack, &mutate(&mut random, &good)).msgpack::<Value>();
    }
}
