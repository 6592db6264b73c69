//! `KombuMessage`: what is kept, and what is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use taskseal::message::Fields;
use taskseal::{ErrorClass, KombuError, KombuMessage};

fn parse(json: &str) -> Result<KombuMessage, KombuError> {
    KombuMessage::from_json(json.as_bytes())
}

#[test]
fn unknown_fields_numbers_and_escapes_are_kept_as_they_came() {
    let json = r#"{"body":"e30=","content-encoding":"utf-8","content-type":"application/json","headers":{"z":1.10,"a":123456789012345678901234567890,"lone":"\ud800","é":[ 1 ]},"properties":{"body_encoding":"base64","delivery_tag":"t"},"x-new":{"b":1,"a":2},"another":null}"#;
    let message = parse(json).unwrap();
    assert_eq!(message.to_json().unwrap(), json.as_bytes());
    assert_eq!(message.headers().json("z"), Some("1.10"));
    assert_eq!(message.body().unwrap(), b"{}");
    let names: Vec<&str> = message.others().iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-new", "another"]);
}

#[test]
fn a_new_message_is_what_kombu_writes() {
    let mut message = KombuMessage::new(b"[[], {}, {}]", "application/json", "utf-8");
    message.headers_mut().set("task", "tasks.add").unwrap();
    message.headers_mut().set("retries", &0).unwrap();
    message.headers_mut().set("retries", &1).unwrap();
    message.properties_mut().set("priority", &0).unwrap();
    assert_eq!(
        String::from_utf8(message.to_json().unwrap()).unwrap(),
        r#"{"body":"W1tdLCB7fSwge31d","content-encoding":"utf-8","content-type":"application/json","headers":{"task":"tasks.add","retries":1},"properties":{"body_encoding":"base64","priority":0}}"#
    );
    assert_eq!(message.headers().get::<u8>("retries").unwrap().unwrap(), 1);
    assert!(message.headers().get::<u8>("task").unwrap().is_err());
    assert!(message.headers().get::<u8>("none").is_none());
    assert_eq!(
        (message.headers().len(), message.others().is_empty()),
        (2, true)
    );
}

#[test]
fn bodies_are_text_or_base64_as_the_message_says() {
    let body = |rest: &str| parse(&format!(r#"{{"body":"[1]"{rest}}}"#)).unwrap().body();
    assert_eq!(body("").unwrap(), b"[1]");
    assert_eq!(
        body(r#","properties":{"body_encoding":null}"#).unwrap(),
        b"[1]"
    );
    for bad in ["\"base64\"", "\"utf-8\"", "7"] {
        let error = body(&format!(r#","properties":{{"body_encoding":{bad}}}"#)).unwrap_err();
        assert_eq!(error, KombuError::BodyEncoding);
    }
    assert_eq!(
        parse(r#"{"body":"","content-type":null}"#)
            .unwrap()
            .content_type(),
        None
    );
}

#[test]
fn what_kombu_does_not_write_is_refused_and_not_quoted() {
    for (bad, field) in [
        ("", "message"),
        ("[]", "message"),
        ("\"secret\"", "message"),
        ("{}", "body"),
        (r#"{"body":null}"#, "body"),
        (r#"{"body":7}"#, "body"),
        (r#"{"body":["secret"]}"#, "body"),
        (r#"{"body":"","content-type":7}"#, "content-type"),
        (r#"{"body":"","content-encoding":{}}"#, "content-encoding"),
        (r#"{"body":"","headers":"secret"}"#, "headers"),
        (
            r#"{"body":"","headers":{"secret":1,"secret":2}}"#,
            "headers",
        ),
        (r#"{"body":"","properties":null}"#, "properties"),
    ] {
        let error = parse(bad).unwrap_err();
        assert!(
            matches!(error, KombuError::Malformed { field: found, .. } if found == field),
            "{bad}: {error}"
        );
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for bad in [
        r#"{"body":"","body":""}"#,
        r#"{"body":""} x"#,
        r#"{"body":"","x":NaN}"#,
        r#"{"body":"","x":1,"x":1}"#,
        "{\"body\":\"\",\"x\":\"\u{1}\"}",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let message = parse(r#"{"body":"secret","headers":{"argsrepr":"secret"}}"#).unwrap();
    assert!(!format!("{message:?}").contains("secret"));
}

#[test]
fn depth_number_of_fields_and_length_are_limited() {
    let nested = |depth: usize| {
        // The message and the field itself are two.
        let (open, close) = ("[".repeat(depth - 2), "]".repeat(depth - 2));
        format!(r#"{{"body":"","headers":{{"x":{open}{close}}}}}"#)
    };
    assert!(parse(&nested(KombuMessage::MAX_DEPTH)).is_ok());
    assert_eq!(parse(&nested(129)).unwrap_err(), KombuError::TooDeep);
    assert_eq!(parse(&nested(1_000_000)).unwrap_err(), KombuError::TooDeep);
    assert_eq!(
        parse(&"[".repeat(1_000_000)).unwrap_err(),
        KombuError::TooDeep
    );
    let text = format!(
        r#"{{"body":"","x":"{}\"{}"}}"#,
        "[".repeat(500),
        "{".repeat(500)
    );
    assert!(parse(&text).is_ok(), "brackets in a text do not nest");

    let many = |count: usize| {
        let fields: Vec<String> = (0..count).map(|at| format!(r#""f{at}":0"#)).collect();
        format!(r#"{{"body":"","headers":{{{}}}}}"#, fields.join(","))
    };
    let mut full = parse(&many(Fields::MAX)).unwrap();
    assert_eq!(
        full.headers_mut().set("one more", &0),
        Err(KombuError::TooMany)
    );
    assert_eq!(full.headers_mut().set("f0", &1), Ok(()));
    assert!(parse(&many(Fields::MAX + 1)).is_err());

    let long = vec![b' '; KombuMessage::MAX_LEN + 1];
    assert!(matches!(
        KombuMessage::from_json(&long),
        Err(KombuError::TooLong { .. })
    ));
}
