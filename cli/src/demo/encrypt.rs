//! One task in every scope, and what of it can be read in the values that the broker and the result store keep.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use taskseal::fernet::body::FernetBodies;
use taskseal::pkcs11::{Builder, generate_fernet_keys};
use taskseal::{Destination, Fernet, KombuMessage, MessageSealer, MultiFernet, Sealer, Signer};

use super::place::broken;
use super::readable::{EXAMPLE, Fact, readable};
use super::show::Show;
use crate::failure::Failure;

/// A scope, and what can be read.
#[derive(Serialize)]
pub(super) struct Scope {
    scope: &'static str,
    message: Seen,
    results: Seen,
}

#[derive(Serialize)]
struct Seen {
    bytes: usize,
    readable: Vec<&'static str>,
}

impl Seen {
    fn new(facts: &[Fact], values: &[Vec<u8>]) -> Self {
        Self {
            bytes: values.iter().map(Vec::len).sum(),
            readable: readable(facts, values),
        }
    }
}

/// What the Python package seals results for.
const RESULT: &str = "celery-result";
/// How many facts can be read of the message, and of the results, in the order of [`values`].
const PROMISED: [(usize, usize); 6] = [(13, 4), (14, 5), (13, 0), (14, 5), (0, 0), (0, 0)];

/// Shows the table of all scopes, with Fernet keys that are made in the token; fails when one hides less than it promises.
pub(super) fn compare(
    show: &mut Show,
    signer: Arc<dyn Signer>,
    token: &Builder,
) -> Result<Vec<Scope>, Failure> {
    show.step("Seal a task and its results in every scope, and look for its secrets where they are stored")?;
    let keys = token.clone().object_label("queue");
    generate_fernet_keys(&keys)?;
    let fernet = Fernet::new(keys.open_fernet_keys()?);
    let signer_id = signer.certificate().id().to_owned();
    let facts = EXAMPLE.facts(&signer_id);
    let result_facts = EXAMPLE.result_facts(&signer_id);
    let scopes: Vec<Scope> = values(signer, fernet.into())?
        .into_iter()
        .map(|values| Scope {
            scope: values.scope,
            message: Seen::new(&facts, &[values.message]),
            results: Seen::new(&result_facts, &values.results),
        })
        .collect();
    show.line(&format!(
        "    {:32} {:21} {:20} readable",
        "", "message", "results"
    ))?;
    for scope in &scopes {
        let seen = |seen: &Seen, all: usize| {
            let (count, bytes) = (seen.readable.len(), seen.bytes);
            format!("{count:>2} of {all}, {bytes:>4} bytes")
        };
        let what = match (scope.message.readable.len(), scope.results.readable.len()) {
            (0, 0) => "nothing",
            (_, 0) => "headers repeat the arguments",
            (14, 5) => "everything, and who signed it",
            _ => "everything",
        };
        show.line(&format!(
            "    {:32} {:21} {:20} {what}",
            scope.scope,
            seen(&scope.message, facts.len()),
            seen(&scope.results, result_facts.len()),
        ))?;
    }
    show.line("")?;
    show.line(
        "    What remains: the queue's name and length, sizes, times, and the name of the results' key and",
    )?;
    show.line(&format!(
        "    channel, which holds the task's id: celery-task-meta-{}",
        EXAMPLE.id
    ))?;
    let counts: Vec<_> = scopes
        .iter()
        .map(|scope| (scope.message.readable.len(), scope.results.readable.len()))
        .collect();
    match counts == PROMISED {
        true => Ok(scopes),
        false => Err(broken(&format!("facts readable by scope: {counts:?}"))),
    }
}

/// The values that a Redis broker and a Redis result store would hold.
struct Values {
    scope: &'static str,
    message: Vec<u8>,
    results: Vec<Vec<u8>>,
}

/// One task and its results, by scope.
fn values(signer: Arc<dyn Signer>, fernet: MultiFernet) -> Result<Vec<Values>, Failure> {
    let (body, results) = (body(), results());
    let bytes = body.to_string().into_bytes();
    let plain = message(&bytes, "application/json")?;
    let mut all = vec![Values {
        scope: "plain",
        message: plain.to_json()?,
        results: each(&results, |result| Ok(result.to_string().into_bytes()))?,
    }];

    let sealer = Sealer::new(Arc::clone(&signer));
    let signed = sealer.seal_bytes(&bytes)?;
    all.push(Values {
        scope: "signed body",
        message: message(signed.as_bytes(), signed.content_type())?.to_json()?,
        results: each(&results, |result| Ok(sealer.seal(result)?.into_bytes()))?,
    });

    let bodies = FernetBodies::new(fernet.clone());
    let encrypted = bodies.seal_json(&body)?;
    all.push(Values {
        scope: "encrypted body",
        message: message(encrypted.as_bytes(), encrypted.content_type())?.to_json()?,
        results: each(&results, |result| {
            Ok(bodies.seal_json(result)?.into_string().into_bytes())
        })?,
    });

    let queue = EXAMPLE.routing_key;
    let to = Destination::any()
        .with_exchange("")
        .with_routing_key(queue)
        .with_queue(queue);
    let mut whole = |scope, sealer: &MessageSealer| {
        let seal = |result: &Value| {
            let result = result.to_string();
            sealer.seal_payload(RESULT, EXAMPLE.id, result.as_bytes())
        };
        all.push(Values {
            scope,
            message: sealer.seal(&plain, &to)?.into_bytes(),
            results: each(&results, |result| Ok(seal(result)?.into_bytes()))?,
        });
        Ok::<_, Failure>(())
    };
    whole(
        "whole message, signed",
        &MessageSealer::signed(Arc::clone(&signer)),
    )?;
    whole(
        "whole message, encrypted",
        &MessageSealer::encrypted(fernet.clone()),
    )?;
    whole(
        "whole message, signed+encrypted",
        &MessageSealer::signed_and_encrypted(signer, fernet),
    )?;
    Ok(all)
}

fn each(
    results: &[Value],
    seal: impl Fn(&Value) -> Result<Vec<u8>, Failure>,
) -> Result<Vec<Vec<u8>>, Failure> {
    results.iter().map(seal).collect()
}

fn body() -> Value {
    json!([
        [EXAMPLE.argument, 129.95],
        {"card": EXAMPLE.keyword_argument},
        {"callbacks": null, "errbacks": null, "chain": null, "chord": null},
    ])
}

/// As Celery's result backends write them: the task failed first, and was run again.
fn results() -> [Value; 2] {
    [
        json!({
            "status": "FAILURE",
            "result": {"exc_type": "Declined", "exc_message": [EXAMPLE.exception], "exc_module": "orders.payment"},
            "traceback": EXAMPLE.traceback,
            "children": [],
            "date_done": "2030-01-01T08:00:01.250000+00:00",
            "task_id": EXAMPLE.id,
        }),
        json!({
            "status": "SUCCESS",
            "result": EXAMPLE.result,
            "traceback": null,
            "children": [],
            "date_done": "2030-01-01T08:05:01.250000+00:00",
            "task_id": EXAMPLE.id,
        }),
    ]
}

/// As Celery 5 and kombu's Redis transport write it.
fn message(body: &[u8], content_type: &str) -> Result<KombuMessage, Failure> {
    let mut message = KombuMessage::new(body, content_type, "utf-8");
    let headers = [
        ("lang", json!("py")),
        ("task", json!(EXAMPLE.name)),
        ("id", json!(EXAMPLE.id)),
        ("shadow", json!(null)),
        ("eta", json!(EXAMPLE.eta)),
        ("expires", json!("2030-01-02T08:00:00+00:00")),
        ("group", json!(null)),
        ("group_index", json!(null)),
        ("retries", json!(EXAMPLE.retries)),
        ("timelimit", json!([300, 240])),
        ("root_id", json!(EXAMPLE.root_id)),
        ("parent_id", json!(EXAMPLE.root_id)),
        ("argsrepr", json!(EXAMPLE.args_repr)),
        ("kwargsrepr", json!(EXAMPLE.kwargs_repr)),
        ("origin", json!("gen4711@shop-3")),
        ("ignore_result", json!(false)),
    ];
    for (name, value) in headers {
        message.headers_mut().set(name, &value)?;
    }
    let properties = [
        ("correlation_id", json!(EXAMPLE.id)),
        ("reply_to", json!(EXAMPLE.reply_to)),
        ("delivery_mode", json!(2)),
        (
            "delivery_info",
            json!({"exchange": "", "routing_key": EXAMPLE.routing_key}),
        ),
        ("priority", json!(0)),
        (
            "delivery_tag",
            json!("e0a1c6a2-6a6e-4b2f-8d63-7c8f0f2c2d13"),
        ),
    ];
    for (name, value) in properties {
        message.properties_mut().set(name, &value)?;
    }
    Ok(message)
}
