//! Encrypted bodies through a real Redis: a stock Celery worker with `kombu-fernet-serializers` runs what is sealed here, and
//! its encrypted results are opened here. What is not made with its keys does not run.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use serde_json::{Value, json};
use support::python::{self, Environment};
use support::redis::{Answer, Redis};
use support::worker::{Worker, unique_id};
use taskseal::fernet::body::{BodyType, FernetBodies, SealedBody};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::{Fernet, KombuMessage, MultiFernet};

#[test]
fn a_stock_worker_runs_encrypted_json() {
    tasks_run(
        "a_stock_worker_runs_encrypted_json",
        BodyType::Json,
        "fernet_json",
    );
}

#[test]
fn a_stock_worker_runs_encrypted_messagepack() {
    let test = "a_stock_worker_runs_encrypted_messagepack";
    tasks_run(test, BodyType::MsgPack, "fernet_msgpack");
}

fn tasks_run(test: &str, body_type: BodyType, serializer: &str) {
    let Some(python) = Environment::Fernet.python(test) else {
        return;
    };
    let Some(mut redis) = Redis::start() else {
        return python::skip(test, "no redis-server on this machine; run ./scripts/test");
    };
    let keys: Vec<String> = (0..2)
        .map(|_| SoftwareKeys::generate().unwrap().expose_text().to_owned())
        .collect();
    let mut worker = Worker::start(
        &python,
        "fernet_worker_app",
        &[
            ("TASKSEAL_TEST_REDIS", redis.url().as_ref()),
            ("TASKSEAL_TEST_SERIALIZER", serializer.as_ref()),
            ("KOMBU_FERNET_KEY", keys[0].as_ref()),
            ("KOMBU_FERNET_KEY_PREVIOUS", keys[1].as_ref()),
        ],
    );
    let fernet = |key: &String| Fernet::new(SoftwareKeys::from_text(key).unwrap());
    let present = FernetBodies::new(MultiFernet::new(fernet(&keys[0]), [fernet(&keys[1])]))
        .accept([body_type]);
    let previous = FernetBodies::new(fernet(&keys[1]));
    let stranger = FernetBodies::new(Fernet::new(SoftwareKeys::generate().unwrap()));

    let mut sent = Vec::new();
    for args in [
        json!([1, 2.5, null]),
        json!(["kůň 🦀"]),
        json!(["x".repeat(1 << 20)]),
    ] {
        let body = json!([args, {"key": ["本局"]}, {"callbacks": null, "chain": null}]);
        for sealer in [&present, &previous] {
            push(&mut redis, &seal(&stranger, body_type, &body));
            let id = push(&mut redis, &seal(sealer, body_type, &body));
            sent.push((id, args.clone()));
        }
    }
    for (id, args) in &sent {
        let token = worker.wait_for(&mut redis, &format!("celery-task-meta-{id}"));
        let opened = present.open(body_type.content_type(), &token).unwrap();
        let result: Value = match body_type {
            BodyType::Json => opened.json().unwrap(),
            _ => opened.msgpack().unwrap(),
        };
        assert_eq!(result["status"], "SUCCESS", "{result}");
        assert_eq!(result["task_id"], json!(id));
        assert_eq!(
            result["result"],
            json!({"args": args, "kwargs": {"key": ["本局"]}})
        );
    }
    let Answer::List(ran) = redis.run(&[b"LRANGE", b"ran", b"0", b"-1"]) else {
        panic!("no list")
    };
    let ids: Vec<_> = sent
        .iter()
        .map(|(id, _)| Answer::Bytes(id.clone().into_bytes()))
        .collect();
    assert_eq!(ran, ids, "these and no others");
    let refused = worker.log().matches("InvalidToken").count();
    assert!(refused >= sent.len(), "{}", worker.end_of_log());
}

fn seal(bodies: &FernetBodies, body_type: BodyType, body: &Value) -> SealedBody {
    match body_type {
        BodyType::Json => bodies.seal_json(body).unwrap(),
        _ => bodies.seal_msgpack(body).unwrap(),
    }
}

/// Puts a task into the queue, as kombu's Redis transport would.
fn push(redis: &mut Redis, sealed: &SealedBody) -> String {
    let id = unique_id();
    let mut message = KombuMessage::new(
        sealed.as_bytes(),
        sealed.content_type(),
        sealed.content_encoding(),
    );
    for (name, value) in [
        ("lang", json!("py")),
        ("task", json!("taskseal.record")),
        ("id", json!(id)),
        ("root_id", json!(id)),
        ("parent_id", json!(null)),
        ("group", json!(null)),
    ] {
        message.headers_mut().set(name, &value).unwrap();
    }
    for (name, value) in [
        ("correlation_id", json!(id)),
        ("delivery_mode", json!(2)),
        (
            "delivery_info",
            json!({"exchange": "", "routing_key": "celery"}),
        ),
        ("priority", json!(0)),
        ("delivery_tag", json!(unique_id())),
    ] {
        message.properties_mut().set(name, &value).unwrap();
    }
    redis.run(&[b"LPUSH", b"celery", &message.to_json().unwrap()]);
    id
}
