//! Tokens of Python's `cryptography`, bodies of `kombu-fernet-serializers`, and the plain scheme of one token in place of the
//! JSON: each made there and read here, and the other way round.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::python::{Environment, Peer};
use taskseal::fernet::body::{BodyType, FernetBodies, keys_from};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::{Destination, Fernet, KombuMessage, MessageOpener, MessageSealer, MultiFernet};

/// A peer, or nothing when there is no Python environment.
fn peer(test: &str) -> Option<Peer> {
    let python = Environment::Fernet.python(test)?;
    Some(Peer::start(&python, "fernet_peer.py"))
}

fn key_text() -> String {
    SoftwareKeys::generate().unwrap().expose_text().to_owned()
}

fn fernet(key: &str) -> Fernet {
    Fernet::new(SoftwareKeys::from_text(key).unwrap())
}

fn lengths() -> impl Iterator<Item = Vec<u8>> {
    (0..50)
        .chain([1000, 65_536])
        .map(|len| (0..len).map(|at| (at * 7 % 256) as u8).collect())
}

#[test]
fn tokens_of_python_are_read_and_ours_are_read_there() {
    let Some(mut peer) = peer("tokens_of_python_are_read_and_ours_are_read_there") else {
        return;
    };
    let key = key_text();
    let ours = fernet(&key);
    let at = 1_700_000_000;
    let time = UNIX_EPOCH + Duration::from_secs(at);
    for data in lengths() {
        let encoded = STANDARD.encode(&data);
        let request = json!({"op": "encrypt", "key": key, "data": encoded, "at": at});
        let token = peer.ask(&request).unwrap();
        let token = token.as_str().unwrap().as_bytes();
        assert_eq!(ours.decrypt(token, None).unwrap(), data);
        assert_eq!(ours.timestamp(token).unwrap(), time);

        let token = ours.encrypt(&data).unwrap();
        let request = json!({"op": "decrypt", "keys": [key], "token": token, "ttl": 60});
        assert_eq!(peer.ask(&request).unwrap(), json!(encoded));
    }
    // The same keys, IV and time give the same bytes there: the official vectors; and another key is refused here and there.
    let token = fernet(&key_text()).encrypt(b"x").unwrap();
    assert!(ours.decrypt(token.as_bytes(), None).is_err());
    let error = peer.ask(&json!({"op": "decrypt", "keys": [key], "token": token}));
    assert!(error.unwrap_err().starts_with("InvalidToken"));
}

#[test]
fn rotation_means_the_same_on_both_sides() {
    let Some(mut peer) = peer("rotation_means_the_same_on_both_sides") else {
        return;
    };
    let (new, old) = (key_text(), key_text());
    let ours = MultiFernet::new(fernet(&new), [fernet(&old)]);
    let time = UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let token = fernet(&old).encrypt_at(b"data", time).unwrap();

    let theirs = peer
        .ask(&json!({"op": "rotate", "keys": [new, old], "token": token}))
        .unwrap();
    assert_eq!(theirs["at"], 1_600_000_000);
    let rotated = theirs["token"].as_str().unwrap();
    assert_eq!(
        fernet(&new).decrypt(rotated.as_bytes(), None).unwrap(),
        b"data"
    );
    assert!(fernet(&old).decrypt(rotated.as_bytes(), None).is_err());

    let rotated = ours.rotate(token.as_bytes()).unwrap();
    let again = peer.ask(&json!({"op": "rotate", "keys": [new], "token": rotated}));
    assert_eq!(again.unwrap()["at"], 1_600_000_000);
}

/// What both JSON and MessagePack can say.
fn values() -> [Value; 4] {
    [
        json!([[1, 2.5, null, true], {"key": ["本局", -7]}, {"callbacks": null}]),
        json!({"Žluťoučký": "kůň 🦀", "empty": {}, "large": u64::MAX, "small": i64::MIN}),
        json!([]),
        json!("x".repeat(100_000)),
    ]
}

#[test]
fn the_packages_bodies_are_opened_and_ours_are_opened_by_it() {
    let Some(mut peer) = peer("the_packages_bodies_are_opened_and_ours_are_opened_by_it") else {
        return;
    };
    let (key, previous) = (key_text(), key_text());
    peer.ask(&json!({"op": "use_keys", "key": key, "previous": previous}))
        .unwrap();
    let bodies = |first: &str, second: Option<&str>| {
        let keys = keys_from(|name| match name {
            "KOMBU_FERNET_KEY" => Some(first.to_owned()),
            _ => second.map(str::to_owned),
        });
        FernetBodies::new(keys.unwrap()).accept(BodyType::ALL)
    };
    let ours = bodies(&key, Some(&previous));
    for value in values() {
        for (serializer, body_type) in [
            ("fernet_json", BodyType::Json),
            ("fernet_msgpack", BodyType::MsgPack),
            ("fernet_yaml", BodyType::Yaml),
            ("fernet_pickle", BodyType::PythonSerialize),
        ] {
            let made = json!({"op": "dumps", "serializer": serializer, "value": value});
            let made = peer.ask(&made).unwrap();
            assert_eq!(made["content_type"], body_type.content_type());
            assert_eq!(made["content_encoding"], body_type.content_encoding());
            let token = STANDARD.decode(made["payload"].as_str().unwrap()).unwrap();
            let opened = ours.open(body_type.content_type(), &token).unwrap();
            // The other two are opaque here; their bytes go back as they came, below.
            match body_type {
                BodyType::Json => assert_eq!(opened.json::<Value>().unwrap(), value),
                BodyType::MsgPack => assert_eq!(opened.msgpack::<Value>().unwrap(), value),
                _ => {}
            }
            // Under the present and under the previous key.
            for sealer in [&ours, &bodies(&previous, None)] {
                let sealed = match body_type {
                    BodyType::Json => sealer.seal_json(&value).unwrap(),
                    BodyType::MsgPack => sealer.seal_msgpack(&value).unwrap(),
                    _ => sealer.seal_bytes(body_type, opened.body()).unwrap(),
                };
                let request = json!({
                    "op": "loads",
                    "content_type": sealed.content_type(),
                    "content_encoding": sealed.content_encoding(),
                    "payload": STANDARD.encode(sealed.as_bytes()),
                });
                assert_eq!(peer.ask(&request).unwrap(), value, "{serializer}");
            }
        }
    }
    let stranger = bodies(&key_text(), None).seal_json(&1).unwrap();
    let request = json!({
        "op": "loads",
        "content_type": stranger.content_type(),
        "content_encoding": "utf-8",
        "payload": STANDARD.encode(stranger.as_bytes()),
    });
    // What kombu makes of InvalidToken.
    assert!(peer.ask(&request).unwrap_err().starts_with("DecodeError"));
}

/// The older form that the package writes has one type for text and bytes.
#[test]
fn bytes_of_the_packages_messagepack_are_bytes_here() {
    let Some(mut peer) = peer("bytes_of_the_packages_messagepack_are_bytes_here") else {
        return;
    };
    let key = key_text();
    peer.ask(&json!({"op": "use_keys", "key": key})).unwrap();
    let made = json!({"op": "dumps", "serializer": "fernet_msgpack", "value": "x".repeat(40)});
    let made = peer.ask(&made).unwrap();
    let token = STANDARD.decode(made["payload"].as_str().unwrap()).unwrap();
    let ours = FernetBodies::new(fernet(&key)).accept([BodyType::MsgPack]);
    let opened = ours.open("application/x-fernet-msgpack", &token).unwrap();
    // raw 16: 40 bytes are too many for a fixed raw, and the older form has no str 8.
    assert_eq!(opened.body()[..3], [0xda, 0, 40]);
    assert_eq!(opened.msgpack::<String>().unwrap(), "x".repeat(40));
}

#[test]
fn whole_messages_of_the_plain_scheme_are_opened_and_ours_are_opened_by_it() {
    let Some(mut peer) =
        peer("whole_messages_of_the_plain_scheme_are_opened_and_ours_are_opened_by_it")
    else {
        return;
    };
    let key = key_text();
    peer.ask(&json!({"op": "use_keys", "key": key})).unwrap();
    let (sealer, opener) = (
        MessageSealer::encrypted(fernet(&key)),
        MessageOpener::encrypted(fernet(&key)),
    );
    let mut message = KombuMessage::new(b"[[1, 2], {}, {}]", "application/json", "utf-8");
    message.headers_mut().set("task", "tasks.add").unwrap();
    message.headers_mut().set("argsrepr", "('kůň',)").unwrap();
    message.properties_mut().set("priority", &0).unwrap();
    let value: Value = serde_json::from_slice(&message.to_json().unwrap()).unwrap();

    let theirs = peer
        .ask(&json!({"op": "plain_seal", "key": key, "message": value}))
        .unwrap();
    let opened = opener
        .open(theirs.as_str().unwrap().as_bytes(), &[Destination::any()])
        .unwrap();
    assert!(opened.issued_at() <= SystemTime::now());
    let read = opened.message().unwrap();
    assert_eq!(read.body().unwrap(), b"[[1, 2], {}, {}]");
    assert_eq!(
        read.headers().get::<String>("argsrepr").unwrap().unwrap(),
        "('kůň',)"
    );

    let ours = sealer.seal(&message, &Destination::any()).unwrap();
    let request = json!({"op": "plain_open", "key": key, "token": ours});
    assert_eq!(peer.ask(&request).unwrap(), value);
}
