//! What of a task and its results can be read, without any key, in the values that a broker stores.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use base64::{alphabet, engine::general_purpose::NO_PAD};
use serde_json::Value;

/// Something about a task, and the text that gives it away.
#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// A task of Celery's protocol 2 and its results: what is nobody's business but the sender's and the worker's.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: &'static str,
    pub(crate) id: &'static str,
    pub(crate) root_id: &'static str,
    pub(crate) argument: &'static str,
    pub(crate) args_repr: &'static str,
    pub(crate) keyword_argument: &'static str,
    pub(crate) kwargs_repr: &'static str,
    pub(crate) reply_to: &'static str,
    pub(crate) eta: &'static str,
    pub(crate) retries: u32,
    /// Of the queue too.
    pub(crate) routing_key: &'static str,
    /// What went wrong the first time: the arguments of the exception.
    pub(crate) exception: &'static str,
    pub(crate) traceback: &'static str,
    /// What it returned the second time.
    pub(crate) result: &'static str,
}

/// The task that is looked for, here and in the tests.
pub(crate) const EXAMPLE: Task = Task {
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
    exception: "limit of the card is reached",
    traceback: "Traceback (most recent call last):\n  File \"/srv/shop/orders/payment.py\", line 41, in charge_card\n",
    result: "receipt-88-4417-0352",
};

impl Task {
    /// Of its message: fourteen, of which the last, who signed it, is there in signed messages alone.
    pub(crate) fn facts(&self, signer_id: &str) -> Vec<Fact> {
        let quoted = |name: &str, value: &str| format!("\"{name}\":\"{value}");
        [
            ("task name", self.name.to_owned()),
            ("task id", self.id.to_owned()),
            ("root and parent id", self.root_id.to_owned()),
            ("argsrepr", self.args_repr.to_owned()),
            ("argument values", self.argument.to_owned()),
            ("kwargsrepr", self.kwargs_repr.to_owned()),
            ("keyword argument values", self.keyword_argument.to_owned()),
            ("origin (process and host)", quoted("origin", "")),
            ("reply_to", self.reply_to.to_owned()),
            ("language", quoted("lang", "py\"")),
            ("eta and expiry", self.eta.to_owned()),
            (
                "retries and time limits",
                format!("\"retries\":{}", self.retries),
            ),
            ("routing key", quoted("routing_key", self.routing_key)),
            ("signer id", signer_id.to_owned()),
        ]
        .map(|(name, text)| Fact { name, text })
        .to_vec()
    }

    /// Of what a worker stores of it, a failure and then a success: five, of which the last is there in signed results
    /// alone.
    pub(crate) fn result_facts(&self, signer_id: &str) -> Vec<Fact> {
        let path = self.traceback.split('"').nth(1).unwrap_or(self.traceback);
        [
            ("result value", self.result),
            ("exception text", self.exception),
            ("traceback path", path),
            ("task id", self.id),
            ("signer id", signer_id),
        ]
        .map(|(name, text)| Fact {
            name,
            text: text.to_owned(),
        })
        .to_vec()
    }
}

/// The facts that can be read in any of these values: in its bytes, in these without blanks, in every text of JSON in it, in
/// whatever looks like base64, and so on inward.
pub(crate) fn readable(facts: &[Fact], values: &[Vec<u8>]) -> Vec<&'static str> {
    let layers: Vec<_> = values.iter().flat_map(|value| layers(value)).collect();
    let there = |fact: &&Fact| {
        let text = fact.text.as_bytes();
        let in_layer = |layer: &Vec<u8>| layer.windows(text.len()).any(|part| part == text);
        layers.iter().any(in_layer)
    };
    facts.iter().filter(there).map(|fact| fact.name).collect()
}

/// More than a message has, and an end for a value that is made to have no end.
const MOST: usize = 2000;
/// Shorter runs of base64 characters are words.
const SHORTEST: usize = 12;

/// The value and everything that can be unwrapped from it.
fn layers(value: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = Vec::new();
    let mut seen = HashSet::new();
    let mut waiting = vec![value.to_vec()];
    while let Some(layer) = waiting.pop() {
        if layer.is_empty() || layers.len() == MOST || !seen.insert(layer.clone()) {
            continue;
        }
        match serde_json::from_slice::<Value>(&layer) {
            Ok(json) => texts(json, &mut waiting),
            Err(_) => {
                from_base64(&layer, &mut waiting);
                waiting.extend(object_in(&layer));
            }
        }
        waiting.push(layer.iter().copied().filter(|byte| *byte != b' ').collect());
        layers.push(layer);
    }
    layers
}

/// What may be JSON behind a header.
fn object_in(layer: &[u8]) -> Option<Vec<u8>> {
    let start = layer.iter().position(|byte| *byte == b'{')?;
    let end = layer.iter().rposition(|byte| *byte == b'}')?;
    layer.get(start..=end).map(<[u8]>::to_vec)
}

fn texts(json: Value, found: &mut Vec<Vec<u8>>) {
    match json {
        Value::String(text) => {
            from_base64(text.as_bytes(), found);
            found.push(text.into_bytes());
        }
        Value::Array(values) => values.into_iter().for_each(|value| texts(value, found)),
        Value::Object(values) => values.into_iter().for_each(|(name, value)| {
            found.push(name.into_bytes());
            texts(value, found);
        }),
        _ => {}
    }
}

/// Every run of characters of either alphabet, decoded, however it ends.
fn from_base64(bytes: &[u8], found: &mut Vec<Vec<u8>>) {
    let lenient = NO_PAD
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    for (alphabet, more) in [(&alphabet::STANDARD, b"+/"), (&alphabet::URL_SAFE, b"-_")] {
        let engine = GeneralPurpose::new(alphabet, lenient);
        let runs = bytes.split(|byte| !byte.is_ascii_alphanumeric() && !more.contains(byte));
        for run in runs.filter(|run| run.len() >= SHORTEST) {
            // One character more than whole groups is no base64.
            let end = run.len() - usize::from(run.len() % 4 == 1);
            let decoded = run.get(..end).and_then(|run| engine.decode(run).ok());
            found.extend(decoded);
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::{Fact, readable};

    fn found(value: &[u8]) -> bool {
        let text = "secret-4711".to_owned();
        !readable(&[Fact { name: "it", text }], &[value.to_vec()]).is_empty()
    }

    /// An analysis that found nothing in anything would prove nothing.
    #[test]
    fn it_is_found_under_every_wrapping() {
        let mut value = b"a \xff secret-4711?~".to_vec();
        for layer in 0..6 {
            assert!(found(&value), "{layer}");
            let text = match layer % 2 {
                0 => STANDARD.encode(&value),
                _ => URL_SAFE.encode(&value),
            };
            value = serde_json::json!({"x": [{"body": text}]})
                .to_string()
                .into();
        }
        assert!(found(br#"{"x": "\u0073ecret-4711"}"#), "escaped");
        let in_between = format!(
            "no base64: \0\x01{}\0\x01",
            STANDARD.encode("a secret-4711")
        );
        assert!(found(in_between.as_bytes()));
        assert!(found(br#"{"secret-4711": 0}"#));
        assert!(found(b"\xc1 header {\"x\": \"secre\\u0074-4711\"}"));
        assert!(!found(b"secret-471"));
    }
}
