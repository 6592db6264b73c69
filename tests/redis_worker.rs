//! Real messages through a real Redis: a Rust producer seals, a stock Celery worker with `setup_security()` runs the
//! tasks, and its signed results are opened here. What is not signed by somebody it trusts does not run.
#![cfg(feature = "software")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::celery::BAD_SIGNATURE;
use support::keys;
use support::python::{self, Environment};
use support::redis::{Answer, Redis};
use support::worker::{Worker, unique_id};
use taskseal::pss::{Salt, Scheme};
use taskseal::{Certificate, Sealer, Signer, SoftwareSigner};

#[test]
fn a_stock_worker_runs_what_is_sealed_in_software() {
    let signers = Salt::ALL.map(|salt| {
        let scheme = Scheme {
            salt,
            ..Scheme::default()
        };
        keys::signer(2048, scheme, &format!("CN=producer {salt},O=Example"))
    });
    sealed_tasks_run("a_stock_worker_runs_what_is_sealed_in_software", &signers);
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_stock_worker_runs_what_is_sealed_on_a_token() {
    support::softhsm::test(|hsm| {
        let signer: Arc<dyn Signer> = Arc::new(hsm.token("producers").signer(2048, "producer"));
        sealed_tasks_run("a_stock_worker_runs_what_is_sealed_on_a_token", &[signer]);
    });
}

/// What the producers seal runs; the rest does not.
fn sealed_tasks_run(test: &str, producers: &[Arc<dyn Signer>]) {
    let Some(python) = Environment::Current.python(test) else {
        return;
    };
    let Some(mut redis) = Redis::start() else {
        return python::skip(test, "no redis-server on this machine; run ./scripts/test");
    };
    let (worker_certificate, directory) = worker_files();
    for (at, producer) in producers.iter().enumerate() {
        trust(
            directory.path(),
            &format!("producer-{at}"),
            producer.certificate(),
        );
    }
    let mut worker = Worker::start(
        &python,
        "worker_app",
        &[
            ("TASKSEAL_TEST_REDIS", redis.url().as_ref()),
            ("TASKSEAL_TEST_DIRECTORY", directory.path().as_os_str()),
        ],
    );
    let results = keys::opener(&worker_certificate);

    let mut sent = Vec::new();
    for producer in producers {
        let sealer = Sealer::new(Arc::clone(producer));
        for (args, kwargs) in [
            (json!([1, 2.5, null]), json!({})),
            (
                json!(["Žluťoučký kůň 🦀", "\u{0}\u{1}"]),
                json!({"key": ["本局"]}),
            ),
            (json!(["x".repeat(1 << 20)]), json!({})),
        ] {
            let message = Message::sealed(&sealer, &args, &kwargs);
            // In between, one of each kind that must not run.
            for bad in Message::unwanted(&sealer) {
                bad.push(&mut redis);
            }
            message.push(&mut redis);
            sent.push((message.id, args, kwargs));
        }
    }

    for (id, args, kwargs) in &sent {
        let wire = worker.wait_for(&mut redis, &format!("celery-task-meta-{id}"));
        // The result is signed too, by the worker.
        let opened = results.open(&wire).unwrap();
        assert_eq!(opened.signer(), &worker_certificate);
        let result: Value = opened.json().unwrap();
        assert_eq!(result["status"], "SUCCESS", "{result}");
        assert_eq!(result["task_id"], json!(id));
        assert_eq!(result["result"], json!({"args": args, "kwargs": kwargs}));
    }
    // The queue is empty, so what did not run never will; and what ran are those messages and no others.
    assert_eq!(redis.run(&[b"LLEN", b"celery"]), Answer::Integer(0));
    let Answer::List(ran) = redis.run(&[b"LRANGE", b"ran", b"0", b"-1"]) else {
        panic!("no list")
    };
    let ids: Vec<_> = sent
        .iter()
        .map(|(id, ..)| Answer::Bytes(id.clone().into_bytes()))
        .collect();
    assert_eq!(ran, ids);
    // It saw each of the others, and says why it did not run them.
    let count = |text: &str| worker.log().matches(text).count();
    let undecoded = "kombu.exceptions.DecodeError: Unable to deserialize: ";
    for (text, times) in [
        ("kombu.exceptions.ContentDisallowed: Refusing to deserialize untrusted content of type json".into(), 1),
        (format!("{undecoded}SecurityError(\"Unknown certificate"), 1),
        (format!("{undecoded}TypeError('{BAD_SIGNATURE}"), 2),
        (undecoded.into(), 4),
    ] {
        assert_eq!(count(&text), times * sent.len(), "{text}\n{}", worker.end_of_log());
    }
}

/// The worker's key, and a directory of trusted certificates, with its own in it.
fn worker_files() -> (Certificate, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let certificate = keys::certificate(&keys::key(3072, Scheme::default()), "CN=worker,O=Example");
    let pem = der::pem::encode_string("PRIVATE KEY", der::pem::LineEnding::LF, keys::pkcs8(3072))
        .unwrap();
    fs::write(directory.path().join("worker.key"), pem).unwrap();
    fs::create_dir(directory.path().join("trusted")).unwrap();
    trust(directory.path(), "worker", &certificate);
    (certificate, directory)
}

fn trust(directory: &Path, name: &str, certificate: &Certificate) {
    fs::write(
        directory.join("trusted").join(name).with_extension("pem"),
        certificate.to_pem(),
    )
    .unwrap();
}

/// A task message as kombu's Redis transport stores it.
struct Message {
    id: String,
    text: String,
}

impl Message {
    /// Protocol 2: the body is `[args, kwargs, embed]`; everything else is headers, which nobody signs.
    fn sealed(sealer: &Sealer, args: &Value, kwargs: &Value) -> Self {
        let sealed = sealer.seal(&body(args, kwargs)).unwrap();
        Self::new(
            sealed.content_type(),
            sealed.content_encoding(),
            sealed.as_bytes(),
        )
    }

    fn new(content_type: &str, content_encoding: &str, body: &[u8]) -> Self {
        let id = unique_id();
        let text = json!({
            "body": STANDARD.encode(body),
            "content-type": content_type,
            "content-encoding": content_encoding,
            "headers": {
                "lang": "py", "task": "taskseal.record", "id": id, "root_id": id, "parent_id": null, "group": null,
            },
            "properties": {
                "correlation_id": id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "celery"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": unique_id(),
            },
        });
        Self {
            id,
            text: text.to_string(),
        }
    }

    /// What an attacker at the broker could leave there.
    fn unwanted(sealer: &Sealer) -> [Self; 5] {
        let body = body(&json!(["unwanted"]), &json!({}));
        let stranger = keys::other_key(Scheme::default());
        let unknown = keys::certificate(&stranger, "CN=stranger");
        let unknown = Arc::new(SoftwareSigner::new(stranger, unknown).unwrap());
        let unknown = Sealer::new(unknown).seal(&body).unwrap();
        let good = sealer.seal(&body).unwrap();

        // A good signature of another body: of one that is changed, and under another key of the same name.
        let mut changed = STANDARD.decode(good.as_bytes()).unwrap();
        let at = changed
            .windows(8)
            .position(|window| window == b"unwanted")
            .unwrap();
        changed[at] ^= 1;
        let changed = STANDARD.encode(changed);
        let signer_id = sealer.signer().certificate().id();
        let own =
            taskseal::envelope::dangerous_inspect_unverified(unknown.as_bytes(), None).unwrap();
        let forged = taskseal::Envelope {
            signer_id,
            ..own.envelope()
        };
        let forged = taskseal::Format::Celery.pack(&forged).unwrap();

        let sealed = |wire: &[u8]| Self::new("application/data", "utf-8", wire);
        [
            Self::new("application/json", "utf-8", body.to_string().as_bytes()),
            sealed(unknown.as_bytes()),
            sealed(changed.as_bytes()),
            sealed(&forged),
            sealed(STANDARD.encode(body.to_string()).as_bytes()),
        ]
    }

    fn push(&self, redis: &mut Redis) {
        redis.run(&[b"LPUSH", b"celery", self.text.as_bytes()]);
    }
}

fn body(args: &Value, kwargs: &Value) -> Value {
    json!([args, kwargs, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}])
}
