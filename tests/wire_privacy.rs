//! What a broker sees of one and the same task, by scope: a stock Celery publishes it to a real Redis, which tells what it got
//! (`MONITOR`), and the analysis looks for fourteen facts in that value and in everything that can be unwrapped from it.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../cli/src/demo/readable.rs"]
mod readable;
mod support;

use std::sync::Arc;

use readable::{Fact, Task, readable};
use serde_json::{Value, json};
use support::keys;
use support::python::{self, Environment, Peer};
use support::redis::{Monitor, Redis};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::pss::Scheme;
use taskseal::{
    Destination, Fernet, KombuMessage, MessageSealer, MultiFernet, Signer, SoftwareSigner,
};

const TASK: Task<'static> = Task {
    name: "orders.charge_card",
    id: "5f0c7d6e-2c0a-4a2f-9f5a-6d1f3f1f7a10",
    root_id: "0b5a8e0c-90b0-45a7-8c5e-1c1f6ce64c11",
    argument: "acct-7719-2604",
    args_repr: "('acct-7719-2604', 129.95)",
    keyword_argument: "4556-7375-8689-9855",
    kwargs_repr: "{'card': '4556-7375-8689-9855'}",
    reply_to: "93b4f2b0-6f5f-3a5b-8f0e-7d0e4ac2d612",
    eta: "2030-01-01T08:00:00+00:00",
    retries: 3,
    routing_key: "orders",
    signer_id: "Example worker",
};

/// What an application gives to Celery.
fn task() -> Value {
    json!({
        "name": TASK.name,
        "args": [TASK.argument, 129.95],
        "kwargs": {"card": TASK.keyword_argument},
        "task_id": TASK.id,
        "root_id": TASK.root_id,
        "parent_id": TASK.root_id,
        "reply_to": TASK.reply_to,
        "eta": TASK.eta,
        "retries": TASK.retries,
        "time_limit": 300,
        "queue": TASK.routing_key,
    })
}

#[test]
fn plain_13_signed_14_body_13_message_0() {
    let test = "plain_13_signed_14_body_13_message_0";
    let Some(python) = Environment::Fernet.python(test) else {
        return;
    };
    let Some(mut redis) = Redis::start() else {
        return python::skip(test, "no redis-server on this machine; run ./scripts/test");
    };
    let mut monitor = redis.monitor();
    let mut peer = Peer::start(&python, "fernet_peer.py");
    let fernet_key = SoftwareKeys::generate().unwrap();
    peer.ask(&json!({"op": "use_keys", "key": fernet_key.expose_text()}))
        .unwrap();
    let (security, signer) = security();
    let facts = TASK.facts();

    let mut published = |serializer: &str| {
        let directory = security.path().to_str().unwrap();
        let request = json!({
            "op": "publish", "url": redis.url(), "serializer": serializer, "security": directory, "task": task(),
        });
        peer.ask(&request).unwrap();
        stored(&mut monitor)
    };
    let plain = published("json");
    let body = published("fernet_json");
    let signed = published("auth");

    let all: Vec<&str> = facts.iter().map(|fact| fact.name).collect();
    assert_eq!(readable(&facts, &plain), all[..13]);
    assert_eq!(readable(&facts, &signed), all);
    assert_eq!(readable(&facts, &body), all[..13]);
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
    assert!(readable(&hidden, &without.to_json().unwrap()).is_empty());

    // The very message that Celery made, as a whole.
    let fernet = MultiFernet::from(Fernet::new(fernet_key));
    let to = Destination::any()
        .with_queue("orders")
        .with_routing_key("orders");
    for (sealer, expected) in [
        (MessageSealer::signed(Arc::clone(&signer)), &all[..]),
        (MessageSealer::encrypted(fernet.clone()), &[]),
        (MessageSealer::signed_and_encrypted(signer, fernet), &[]),
    ] {
        let sealed = sealer.seal_json(&plain, &to).unwrap();
        redis.run(&[b"LPUSH", b"orders", sealed.as_bytes()]);
        let seen = stored(&mut monitor);
        assert_eq!(seen, sealed.as_bytes());
        assert_eq!(readable(&facts, &seen), expected);
    }
}

/// The value of the next message in the queue, whose name is what remains.
fn stored(monitor: &mut Monitor) -> Vec<u8> {
    let mut command = monitor.next("LPUSH");
    assert_eq!(command.len(), 3);
    assert_eq!(command[1], b"orders");
    command.remove(2)
}

/// The directory of a key and a certificate that Celery signs with, and the same as a signer.
fn security() -> (tempfile::TempDir, Arc<dyn Signer>) {
    let directory = tempfile::tempdir().unwrap();
    let key = keys::key(2048, Scheme::default());
    let certificate = keys::certificate(&key, "CN=worker,O=Example");
    assert!(certificate.id().starts_with(TASK.signer_id));
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
