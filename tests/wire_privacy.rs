//! What a broker and a result store see of one and the same task, by scope: a stock Celery publishes it to a real Redis and
//! stores its results there, Redis tells what it got (`MONITOR`), and the analysis looks for fourteen facts of the message and
//! five of the results in those values and in everything that can be unwrapped from them.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../cli/src/demo/readable.rs"]
mod readable;
mod support;

use std::slice;
use std::sync::Arc;

use readable::{EXAMPLE, Fact, readable};
use serde_json::{Value, json};
use support::keys;
use support::python::{self, Environment, Peer};
use support::redis::{Monitor, Redis};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::pss::Scheme;
use taskseal::{
    Destination, Fernet, KombuMessage, MessageSealer, MultiFernet, Signer, SoftwareSigner,
};

const SIGNER_ID: &str = "Example worker";

/// What an application gives to Celery.
fn task() -> Value {
    json!({
        "name": EXAMPLE.name,
        "args": [EXAMPLE.argument, 129.95],
        "kwargs": {"card": EXAMPLE.keyword_argument},
        "task_id": EXAMPLE.id,
        "root_id": EXAMPLE.root_id,
        "parent_id": EXAMPLE.root_id,
        "reply_to": EXAMPLE.reply_to,
        "eta": EXAMPLE.eta,
        "retries": EXAMPLE.retries,
        "time_limit": 300,
        "queue": EXAMPLE.routing_key,
    })
}

/// What a worker gives to Celery's result backend: the task failed first, and was run again.
fn results() -> Value {
    json!({
        "task_id": EXAMPLE.id,
        "exception": EXAMPLE.exception,
        "traceback": EXAMPLE.traceback,
        "result": EXAMPLE.result,
    })
}

#[test]
fn of_the_message_plain_13_signed_14_body_13_message_0() {
    let test = "of_the_message_plain_13_signed_14_body_13_message_0";
    let Some(mut wire) = Wire::start(test) else {
        return;
    };
    let facts = EXAMPLE.facts(SIGNER_ID);
    let plain = wire.published("json");
    let body = wire.published("fernet_json");
    let signed = wire.published("auth");

    let all: Vec<&str> = facts.iter().map(|fact| fact.name).collect();
    let seen = |value: &Vec<u8>| readable(&facts, slice::from_ref(value));
    assert_eq!(seen(&plain), all[..13]);
    assert_eq!(seen(&signed), all);
    assert_eq!(seen(&body), all[..13]);
    // The body itself is hidden: without the headers that repeat it, the arguments cannot be read.
    let hidden: Vec<Fact> = facts
        .iter()
        .filter(|fact| ["argument values", "keyword argument values"].contains(&fact.name))
        .cloned()
        .collect();
    let mut without = KombuMessage::from_json(&body).unwrap();
    for name in ["argsrepr", "kwargsrepr"] {
        without.headers_mut().set(name, "").unwrap();
    }
    assert!(readable(&hidden, &[without.to_json().unwrap()]).is_empty());

    // The very message that Celery made, as a whole.
    let to = Destination::any()
        .with_queue(EXAMPLE.routing_key)
        .with_routing_key(EXAMPLE.routing_key);
    for (sealer, expected) in wire.sealers(&all) {
        let sealed = sealer.seal_json(&plain, &to).unwrap();
        wire.redis
            .run(&[b"LPUSH", EXAMPLE.routing_key.as_bytes(), sealed.as_bytes()]);
        let stored = wire.message();
        assert_eq!(stored, sealed.as_bytes());
        assert_eq!(seen(&stored), expected);
    }
}

#[test]
fn of_the_results_plain_4_signed_5_body_0_message_0() {
    let test = "of_the_results_plain_4_signed_5_body_0_message_0";
    let Some(mut wire) = Wire::start(test) else {
        return;
    };
    let facts = EXAMPLE.result_facts(SIGNER_ID);
    let plain = wire.finished("json");
    let body = wire.finished("fernet_json");
    let signed = wire.finished("auth");

    let all: Vec<&str> = facts.iter().map(|fact| fact.name).collect();
    assert_eq!(readable(&facts, &plain), all[..4]);
    assert_eq!(readable(&facts, &signed), all);
    assert!(readable(&facts, &body).is_empty());
    for (value, status) in plain.iter().zip(["FAILURE", "SUCCESS"]) {
        let value: Value = serde_json::from_slice(value).unwrap();
        assert_eq!(value["status"], status);
    }

    // The very results that Celery made, sealed as the Python package does it.
    for (sealer, expected) in wire.sealers(&all) {
        let seal = |value| sealer.seal_payload("celery-result", EXAMPLE.id, value);
        let stored: Vec<Vec<u8>> = plain
            .iter()
            .map(|value| {
                let sealed = seal(value).unwrap();
                let (key, value) = (result_key(), sealed.as_bytes());
                wire.redis.run(&[b"SETEX", &key, b"86400", value]);
                wire.redis.run(&[b"PUBLISH", &key, value]);
                let stored = wire.result();
                assert_eq!(stored, value);
                stored
            })
            .collect();
        assert_eq!(readable(&facts, &stored), expected);
    }
}

/// A Redis that tells what it gets, and a stock Celery that sends to it.
struct Wire {
    redis: Redis,
    monitor: Monitor,
    peer: Peer,
    security: tempfile::TempDir,
    signer: Arc<dyn Signer>,
    fernet: MultiFernet,
}

impl Wire {
    fn start(test: &str) -> Option<Self> {
        let python = Environment::Fernet.python(test)?;
        let Some(redis) = Redis::start() else {
            python::skip(test, "no redis-server on this machine; run ./scripts/test");
            return None;
        };
        let mut peer = Peer::start(&python, "fernet_peer.py");
        let keys = SoftwareKeys::generate().unwrap();
        peer.ask(&json!({"op": "use_keys", "key": keys.expose_text()}))
            .unwrap();
        let (security, signer) = security();
        Some(Self {
            monitor: redis.monitor(),
            redis,
            peer,
            security,
            signer,
            fernet: Fernet::new(keys).into(),
        })
    }

    /// The value that the broker gets when Celery sends the task.
    fn published(&mut self, serializer: &str) -> Vec<u8> {
        self.ask(serializer, json!({"op": "publish", "task": task()}));
        self.message()
    }

    /// The values that the result store gets when Celery stores the results: the failure, the success.
    fn finished(&mut self, serializer: &str) -> [Vec<u8>; 2] {
        self.ask(serializer, json!({"op": "finish", "results": results()}));
        [self.result(), self.result()]
    }

    fn ask(&mut self, serializer: &str, mut request: Value) {
        request["url"] = self.redis.url().into();
        request["serializer"] = serializer.into();
        request["security"] = self.security.path().to_str().into();
        self.peer.ask(&request).unwrap();
    }

    /// The value of the next message in the queue, whose name is what remains.
    fn message(&mut self) -> Vec<u8> {
        let mut command = self.monitor.next("LPUSH");
        assert_eq!(command.len(), 3);
        assert_eq!(command[1], EXAMPLE.routing_key.as_bytes());
        command.remove(2)
    }

    /// The next value that is stored as the task's result, and announced. The key, which is the channel's name as well, is
    /// what remains: it holds the task's id in every scope.
    fn result(&mut self) -> Vec<u8> {
        let mut stored = self.monitor.next("SETEX");
        assert_eq!(stored.len(), 4);
        assert_eq!(stored[1], result_key());
        let announced = self.monitor.next("PUBLISH");
        assert_eq!(announced, [&b"PUBLISH"[..], &result_key(), &stored[3]]);
        stored.remove(3)
    }

    /// Whole messages in every form, and which of the facts each leaves readable.
    fn sealers<'a>(&self, all: &'a [&'a str]) -> [(MessageSealer, &'a [&'a str]); 3] {
        let (signer, fernet) = (Arc::clone(&self.signer), self.fernet.clone());
        [
            (MessageSealer::signed(Arc::clone(&signer)), all),
            (MessageSealer::encrypted(fernet.clone()), &[]),
            (MessageSealer::signed_and_encrypted(signer, fernet), &[]),
        ]
    }
}

fn result_key() -> Vec<u8> {
    format!("celery-task-meta-{}", EXAMPLE.id).into_bytes()
}

/// The directory of a key and a certificate that Celery signs with, and the same as a signer.
fn security() -> (tempfile::TempDir, Arc<dyn Signer>) {
    let directory = tempfile::tempdir().unwrap();
    let key = keys::key(2048, Scheme::default());
    let certificate = keys::certificate(&key, "CN=worker,O=Example");
    assert!(certificate.id().starts_with(SIGNER_ID));
    let pem = der::pem::encode_string("PRIVATE KEY", der::pem::LineEnding::LF, keys::pkcs8(2048));
    std::fs::write(directory.path().join("worker.key"), pem.unwrap()).unwrap();
    std::fs::create_dir(directory.path().join("trusted")).unwrap();
    std::fs::write(
        directory.path().join("trusted/worker.pem"),
        certificate.to_pem(),
    )
    .unwrap();
    let signer = SoftwareSigner::new(key, certificate).unwrap();
    (directory, Arc::new(signer))
}
