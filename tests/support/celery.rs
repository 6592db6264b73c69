//! Stock Celery as the other side: the bodies that go both ways, and the Python process that seals and opens them.

use std::sync::{Mutex, MutexGuard, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use taskseal::pss::Digest;
use taskseal::{Certificate, Sealer};

use super::python::{Environment, Peer};

/// What stock Celery says of a signature that does not verify: it means to say "Bad signature", but looks for the
/// exceptions of a module by naming the module.
pub const BAD_SIGNATURE: &str = "catching classes that do not inherit from BaseException";

/// A body, and what Celery loads it as.
pub struct Body {
    pub name: &'static str,
    pub content_type: &'static str,
    pub content_encoding: &'static str,
    pub body: Vec<u8>,
    pub loaded: Value,
}

impl Body {
    pub fn all() -> Vec<Self> {
        let json = |name, loaded: Value| Self {
            name,
            content_type: "application/json",
            content_encoding: "utf-8",
            body: serde_json::to_vec(&loaded).unwrap(),
            loaded,
        };
        // Celery's serializer `raw`: bytes as they are.
        let raw = |name, body: &[u8]| Self {
            name,
            content_type: "application/data",
            content_encoding: "binary",
            body: body.to_vec(),
            loaded: bytes(body),
        };
        vec![
            json(
                "task arguments",
                json!([[2, 3.5, "x"], {"key": null}, {"callbacks": null, "chain": null}]),
            ),
            json(
                "non-ASCII",
                json!([
                    ["Žluťoučký kůň", "本局", "🦀", "\u{0}\u{1}\u{7f}\u{2028}"],
                    {},
                    {}
                ]),
            ),
            json("1 MiB", json!([["x".repeat(1 << 20)], {}, {}])),
            raw("empty", b""),
            raw("separator inside", b"before\0\x01between\0\x01"),
            raw("separator at the start", b"\0\x01"),
            raw("every byte", &(0..=255).collect::<Vec<u8>>()),
        ]
    }

    /// The name of Celery's serializer for it.
    pub fn inner(&self) -> &'static str {
        if self.content_type == "application/json" {
            "json"
        } else {
            "raw"
        }
    }

    pub fn seal(&self, sealer: &Sealer) -> Vec<u8> {
        let sealer = sealer
            .clone()
            .with_content(self.content_type, self.content_encoding);
        sealer.seal_bytes(&self.body).unwrap().into_bytes()
    }

    /// Checks what came out of a message that Celery sealed. Its JSON has other spaces and escapes than ours.
    pub fn check(&self, opened: &taskseal::Opened<'_>, context: &str) {
        let context = format!("{context}: {}", self.name);
        assert_eq!(opened.content_type(), self.content_type, "{context}");
        if self.inner() == "json" {
            assert_eq!(
                opened.content_encoding(),
                self.content_encoding,
                "{context}"
            );
            assert_eq!(opened.json::<Value>().unwrap(), self.loaded, "{context}");
        } else {
            assert_eq!(opened.body(), self.body, "{context}");
        }
    }

    /// Celery 5.4 cuts bodies at a separator, and reads everything as text.
    pub fn loaded_by_old_celery(&self) -> bool {
        std::str::from_utf8(&self.body).is_ok() && !self.body.windows(2).any(|pair| pair == [0, 1])
    }

    /// Celery 5.4 writes separators into a body all the same, but nothing that is not UTF-8.
    pub fn sealed_by_old_celery(&self) -> bool {
        std::str::from_utf8(&self.body).is_ok()
    }
}

pub fn serialize(peer: &mut Peer, name: &str, value: &Value) -> Vec<u8> {
    let wire = peer
        .ask(&json!({"op": "serialize", "name": name, "value": value}))
        .unwrap();
    wire.as_str().unwrap().as_bytes().to_vec()
}

pub fn deserialize(peer: &mut Peer, name: &str, wire: &[u8]) -> Result<Value, String> {
    let wire = std::str::from_utf8(wire).unwrap();
    peer.ask(&json!({"op": "deserialize", "name": name, "wire": wire}))
}

pub fn bytes(bytes: &[u8]) -> Value {
    json!({"bytes": STANDARD.encode(bytes)})
}

pub fn as_text(value: Value) -> Value {
    match value["bytes"].as_str() {
        Some(base64) => String::from_utf8(STANDARD.decode(base64).unwrap())
            .unwrap()
            .into(),
        None => value,
    }
}

pub fn major(version: &Value) -> u32 {
    version
        .as_str()
        .unwrap()
        .split('.')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// The one Python process of each environment, which the tests of this file take turns at.
pub fn peer(environment: Environment, test: &str) -> Option<MutexGuard<'static, Peer>> {
    static CURRENT: OnceLock<Mutex<Peer>> = OnceLock::new();
    static OLD: OnceLock<Mutex<Peer>> = OnceLock::new();
    let python = environment.python(test)?;
    let slot = match environment {
        Environment::Current => &CURRENT,
        Environment::Old => &OLD,
        Environment::Fernet => panic!("its key has to be chosen first: start a peer of its own"),
    };
    let peer = slot.get_or_init(|| Mutex::new(Peer::start(&python, "celery_peer.py")));
    // A test that failed while it held the peer leaves nothing behind in it.
    Some(
        peer.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    )
}

/// Makes a serialiser in Celery that trusts this certificate.
pub fn trust(peer: &mut Peer, name: &str, digest: Digest, certificate: &Certificate) {
    let request = json!({
        "op": "serializer", "name": name, "digest": digest.as_str(), "trusted": [certificate.to_pem()],
    });
    assert_eq!(peer.ask(&request).unwrap(), json!([certificate.id()]));
}

/// Seals each body; Celery of today opens what came out.
pub fn opens_all(peer: &mut Peer, name: &str, sealer: &Sealer) {
    for body in Body::all() {
        let opened = deserialize(peer, name, &body.seal(sealer)).unwrap();
        assert_eq!(opened, body.loaded, "{sealer:?}: {}", body.name);
    }
}

/// Seals each body; Celery 5.4 opens what came out, as far as it opens such a body at all.
pub fn old_opens_all(peer: &mut Peer, name: &str, sealer: &Sealer) {
    for body in Body::all() {
        let context = format!("{sealer:?}: {}", body.name);
        let opened = deserialize(peer, name, &body.seal(sealer));
        if body.loaded_by_old_celery() {
            // Bytes that are UTF-8 come out of it as text.
            assert_eq!(as_text(opened.unwrap()), as_text(body.loaded), "{context}");
        } else {
            // It cuts the body at the first separator in it, and the signature is not one of the rest.
            let error = opened.expect_err(&context);
            assert!(error.contains(BAD_SIGNATURE), "{context}: {error}");
        }
    }
}

/// Seals each body; Celery refuses every signature.
pub fn refuses_all(peer: &mut Peer, name: &str, sealer: &Sealer) {
    for body in Body::all() {
        let context = format!("{sealer:?}: {}", body.name);
        let error = deserialize(peer, name, &body.seal(sealer)).expect_err(&context);
        assert!(error.contains(BAD_SIGNATURE), "{context}: {error}");
    }
}
