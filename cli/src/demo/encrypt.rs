//! One task in every scope, and what of it can be read in the value that the broker stores.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use taskseal::fernet::body::FernetBodies;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::{Destination, Fernet, KombuMessage, MessageSealer, MultiFernet, Sealer, Signer};

use super::readable::{Task, readable};
use super::show::Show;
use super::story::broken;
use crate::failure::Failure;

/// A scope, and what can be read.
#[derive(Serialize)]
pub(super) struct Scope {
    scope: &'static str,
    bytes: usize,
    readable: Vec<&'static str>,
}

const QUEUE: &str = "orders";
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
    routing_key: QUEUE,
    signer_id: "",
};

/// Shows the table of all scopes; fails when one hides less than it promises.
pub(super) fn compare(show: &mut Show, signer: Arc<dyn Signer>) -> Result<Vec<Scope>, Failure> {
    show.step("Seal a task in every scope, and look for its secrets at the broker")?;
    let signer_id = signer.certificate().id().to_owned();
    let facts = Task {
        signer_id: &signer_id,
        ..TASK
    }
    .facts();
    let scopes: Vec<Scope> = values(signer)?
        .into_iter()
        .map(|(scope, value)| Scope {
            scope,
            bytes: value.len(),
            readable: readable(&facts, &value),
        })
        .collect();
    for scope in &scopes {
        let (count, bytes) = (scope.readable.len(), scope.bytes);
        let what = match scope.scope {
            "encrypted body" => "everything: headers repeat the arguments".to_owned(),
            _ if count == 0 => "nothing".to_owned(),
            _ if count == facts.len() => "everything, and who signed it".to_owned(),
            _ if count + 1 == facts.len() => "everything".to_owned(),
            _ => scope.readable.join(", "),
        };
        show.line(&format!(
            "    {:31}{count:>2} of {} readable, {bytes:>4} bytes: {what}",
            scope.scope,
            facts.len()
        ))?;
    }
    show.line("")?;
    show.line(
        "    What remains: the queue's name and length, sizes and times, the names of result keys.",
    )?;
    let counts: Vec<usize> = scopes.iter().map(|scope| scope.readable.len()).collect();
    match counts == [13, 14, 13, 14, 0, 0] {
        true => Ok(scopes),
        false => Err(broken(&format!("facts readable by scope: {counts:?}"))),
    }
}

/// The value that a Redis broker would store, by scope.
fn values(signer: Arc<dyn Signer>) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let body = json!([
        [TASK.argument, 129.95],
        {"card": TASK.keyword_argument},
        {"callbacks": null, "errbacks": null, "chain": null, "chord": null},
    ]);
    let bytes = body.to_string();
    let fernet = MultiFernet::from(Fernet::new(SoftwareKeys::generate()?));
    let signed = Sealer::new(Arc::clone(&signer)).seal_bytes(bytes.as_bytes())?;
    let encrypted = FernetBodies::new(fernet.clone()).seal_json(&body)?;

    let plain = message(bytes.as_bytes(), "application/json")?;
    let to = Destination::any()
        .with_exchange("")
        .with_routing_key(QUEUE)
        .with_queue(QUEUE);
    let whole = |sealer: MessageSealer| sealer.seal(&plain, &to).map(String::into_bytes);
    Ok(vec![
        ("plain", plain.to_json()?),
        (
            "signed body",
            message(signed.as_bytes(), signed.content_type())?.to_json()?,
        ),
        (
            "encrypted body",
            message(encrypted.as_bytes(), encrypted.content_type())?.to_json()?,
        ),
        (
            "whole message, signed",
            whole(MessageSealer::signed(Arc::clone(&signer)))?,
        ),
        (
            "whole message, encrypted",
            whole(MessageSealer::encrypted(fernet.clone()))?,
        ),
        (
            "whole message, signed+encrypted",
            whole(MessageSealer::signed_and_encrypted(signer, fernet))?,
        ),
    ])
}

/// As Celery 5 and kombu's Redis transport write it.
fn message(body: &[u8], content_type: &str) -> Result<KombuMessage, Failure> {
    let mut message = KombuMessage::new(body, content_type, "utf-8");
    let headers = [
        ("lang", json!("py")),
        ("task", json!(TASK.name)),
        ("id", json!(TASK.id)),
        ("shadow", json!(null)),
        ("eta", json!(TASK.eta)),
        ("expires", json!("2030-01-02T08:00:00+00:00")),
        ("group", json!(null)),
        ("group_index", json!(null)),
        ("retries", json!(TASK.retries)),
        ("timelimit", json!([300, 240])),
        ("root_id", json!(TASK.root_id)),
        ("parent_id", json!(TASK.root_id)),
        ("argsrepr", json!(TASK.args_repr)),
        ("kwargsrepr", json!(TASK.kwargs_repr)),
        ("origin", json!("gen4711@shop-3")),
        ("ignore_result", json!(false)),
    ];
    for (name, value) in headers {
        message.headers_mut().set(name, &value)?;
    }
    let properties = [
        ("correlation_id", json!(TASK.id)),
        ("reply_to", json!(TASK.reply_to)),
        ("delivery_mode", json!(2)),
        (
            "delivery_info",
            json!({"exchange": "", "routing_key": TASK.routing_key}),
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
