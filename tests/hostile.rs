//! Bad messages: whatever comes in, an error that names the reason or a message that verified; never a panic.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::keys::signer;
use support::log::Warnings;
use support::mutate::{Random, mutate};
use taskseal::envelope::{Field, dangerous_inspect_unverified};
use taskseal::pss::Scheme;
use taskseal::{
    EnvelopeError, ErrorClass, Format, MemoryCertStore, OpenError, Opener, Policy, Sealer,
};

const BODY: &[u8] = br#"[[1, "two"], {"three": 3}, {}]"#;
const MIB: usize = 1 << 20;

/// One signer and one opener that takes every format.
struct World {
    sealer: Sealer,
    opener: Opener,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let signer = signer(2048, Scheme::default(), "CN=worker,O=Example");
    let store = MemoryCertStore::new();
    store.add(signer.certificate().clone()).unwrap();
    World {
        sealer: Sealer::new(signer),
        opener: Opener::new(store).with_policy(Policy::new().formats(Format::ALL)),
    }
});

impl World {
    fn seal(&self, format: Format, body: &[u8]) -> Vec<u8> {
        let sealer = self.sealer.clone().with_format(format);
        sealer.seal_bytes(body).unwrap().into_bytes()
    }

    fn signer_id(&self) -> &str {
        self.sealer.signer().certificate().id()
    }

    /// An opener that takes 128 MiB.
    fn patient(&self) -> Opener {
        let policy = self.opener.policy().clone().max_message_len(128 * MIB);
        self.opener.clone().with_policy(policy)
    }

    /// The reason for which these fields are refused, sent as `celery` and as `celery-raw`.
    fn refusal(&self, fields: &[&[u8]]) -> OpenError {
        let raw = fields.join(&b"\0\x01"[..]);
        let bare = refused(&self.opener, &raw);
        let text = refused(&self.opener, STANDARD.encode(&raw).as_bytes());
        // The raw form is known by the separator after the signer id. Where that is missing, or further on than a signer
        // id can be long, only the text form gets as far as its fields.
        if fields.len() > 1 && fields[0].len() < 10_000 {
            assert_eq!(bare.to_string(), text.to_string());
        }
        text
    }
}

/// The error of a wire that has to be refused as hostile, with a text that an operator can read and log.
fn refused(opener: &Opener, wire: &[u8]) -> OpenError {
    let error = opener.open(wire).map(drop).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Rejected, "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.len() < 2000, "an error of {} bytes", text.len());
    assert!(
        !text.contains(['\n', '\0', '\u{1b}']),
        "control characters in {text}"
    );
    error
}

fn malformed(error: &OpenError) -> &EnvelopeError {
    match error {
        OpenError::Malformed(error) => error,
        other => panic!("not malformed: {other}"),
    }
}

#[test]
fn a_wire_cut_at_any_length_is_refused() {
    for format in Format::ALL {
        let wire = WORLD.seal(format, BODY);
        assert!(WORLD.opener.open(&wire).is_ok());
        for len in 0..wire.len() {
            let error = refused(&WORLD.opener, &wire[..len]);
            assert!(
                matches!(
                    error.reason(),
                    "malformed" | "bad-signature" | "unknown-signer"
                ),
                "{format} cut at {len}: {error}"
            );
        }
        // Cut inside of the base64, at every length of what was encoded.
        if format.is_text() {
            let raw = STANDARD.decode(&wire).unwrap();
            for len in 0..raw.len() {
                refused(&WORLD.opener, STANDARD.encode(&raw[..len]).as_bytes());
            }
        }
    }
}

#[test]
fn what_is_not_base64_is_refused() {
    let good = String::from_utf8(WORLD.seal(Format::Celery, BODY)).unwrap();
    let outer = EnvelopeError::Base64 {
        field: Field::Envelope,
    };
    for bad in [
        good.replace('A', "_"),
        good.replacen('A', "\u{e4}", 1),
        good.replacen('A', "\r\n", 1),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}===="),
        format!("b'{good}'"),
        "{\"body\": 1}".to_owned(),
        "=".to_owned(),
        "====".to_owned(),
        "A".to_owned(),
    ] {
        assert_eq!(malformed(&refused(&WORLD.opener, bad.as_bytes())), &outer);
    }

    let id = STANDARD.encode(WORLD.signer_id());
    let signature = STANDARD.encode([7; 256]);
    let labels: [&[u8]; 3] = [b"application/json", b"utf-8", BODY];
    let with = |id: &str, signature: &str| {
        let [content_type, encoding, body] = labels;
        WORLD.refusal(&[
            id.as_bytes(),
            signature.as_bytes(),
            content_type,
            encoding,
            body,
        ])
    };
    assert_eq!(with(&id, &signature).reason(), "bad-signature");
    for bad in ["!", "QQ", "QR==", "QQ==QQ==", "Q\nQ==", "-_-_"] {
        let error = with(&format!("{id}{bad}"), &signature);
        assert_eq!(
            malformed(&error),
            &EnvelopeError::Base64 {
                field: Field::SignerId
            }
        );
        let error = with(&id, &format!("{signature}{bad}"));
        assert_eq!(
            malformed(&error),
            &EnvelopeError::Base64 {
                field: Field::Signature
            }
        );
    }
}

#[test]
fn each_missing_separator_is_named() {
    let id = STANDARD.encode(WORLD.signer_id());
    let signature = STANDARD.encode([7; 256]);
    let fields: [&[u8]; 5] = [
        id.as_bytes(),
        signature.as_bytes(),
        b"application/json",
        b"utf-8",
        b"",
    ];
    let after = [
        Field::SignerId,
        Field::Signature,
        Field::ContentType,
        Field::ContentEncoding,
    ];
    for (count, after) in (1..5).zip(after) {
        let error = WORLD.refusal(&fields[..count]);
        assert_eq!(
            malformed(&error),
            &EnvelopeError::MissingSeparator { after }
        );
    }
    // With all four of them it is an envelope, of an empty body that nobody signed.
    assert_eq!(WORLD.refusal(&fields).reason(), "bad-signature");
    // Half a separator is none.
    for half in [&b"\0"[..], b"\x01", b"\x01\0", b"\0\x02"] {
        let error = refused(&WORLD.opener, STANDARD.encode(fields.join(half)).as_bytes());
        assert_eq!(error.reason(), "malformed");
    }
}

#[test]
fn each_field_has_a_limit() {
    let id = STANDARD.encode(WORLD.signer_id()).into_bytes();
    let signature = STANDARD.encode([7; 256]).into_bytes();
    let fields: [&[u8]; 5] = [&id, &signature, b"application/json", b"utf-8", b"{}"];
    let limits = [
        (0, Field::SignerId, 10_924),
        (1, Field::Signature, 1_368),
        (2, Field::ContentType, 255),
        (3, Field::ContentEncoding, 255),
    ];
    for (at, field, max) in limits {
        for len in [max + 4, 100_000, 30 * MIB] {
            let long = vec![b'A'; len];
            let mut fields = fields;
            fields[at] = &long;
            let error = WORLD.refusal(&fields);
            assert_eq!(
                malformed(&error),
                &EnvelopeError::TooLong { field, max },
                "{len}"
            );
        }
        let mut fields = fields;
        fields[at] = b"";
        assert_eq!(
            malformed(&WORLD.refusal(&fields)),
            &EnvelopeError::Empty { field }
        );
    }
}

#[test]
fn a_body_can_be_empty_but_not_emptied() {
    for format in Format::ALL {
        let wire = WORLD.seal(format, b"");
        assert_eq!(WORLD.opener.open(&wire).unwrap().body(), b"");
        let wire = WORLD.seal(format, BODY);
        let unpacked = dangerous_inspect_unverified(&wire, Some(format)).unwrap();
        let emptied = taskseal::Envelope {
            body: b"",
            ..unpacked.envelope()
        };
        let error = refused(&WORLD.opener, &format.pack(&emptied).unwrap());
        assert_eq!(error.reason(), "bad-signature");
    }
}

#[test]
fn text_fields_are_text() {
    let id = STANDARD.encode(WORLD.signer_id()).into_bytes();
    let signature = STANDARD.encode([7; 256]).into_bytes();
    for bad in [&b"\xff"[..], b"\xc3\x28", b"a\0b", b"\0", b"\xed\xa0\x80"] {
        let fields: [&[u8]; 5] = [&id, &signature, bad, b"utf-8", BODY];
        let not_text = |field| EnvelopeError::NotText {
            field,
            wanted: "visible ASCII",
        };
        assert_eq!(
            malformed(&WORLD.refusal(&fields)),
            &not_text(Field::ContentType)
        );
        let fields: [&[u8]; 5] = [&id, &signature, b"application/json", bad, BODY];
        assert_eq!(
            malformed(&WORLD.refusal(&fields)),
            &not_text(Field::ContentEncoding)
        );
    }
    for bad in [&b"worker \xff 7"[..], b"\xc3\x28 7", b"\xed\xa0\x80 1"] {
        let encoded = STANDARD.encode(bad).into_bytes();
        let fields = [
            &encoded,
            &signature,
            &b"application/json"[..],
            b"utf-8",
            BODY,
        ];
        let utf8 = EnvelopeError::NotText {
            field: Field::SignerId,
            wanted: "UTF-8",
        };
        assert_eq!(malformed(&WORLD.refusal(&fields)), &utf8);
        let old = [bad, &[7; 256], b"application/json", b"utf-8", BODY].join(&b"\0\x01"[..]);
        let error = refused(&WORLD.opener, STANDARD.encode(old).as_bytes());
        assert_eq!(malformed(&error), &utf8);
    }
}

#[test]
fn an_unknown_signer_is_named_and_cut() {
    for (id, shown) in [
        ("nobody 1".to_owned(), "\"nobody 1\""),
        (
            format!("{} 1", "\u{1b}[2Jevil\n".repeat(700)),
            "\\u{1b}[2Jevil\\n",
        ),
        (format!("{} ", WORLD.signer_id()), "unknown"),
    ] {
        for format in Format::ALL {
            let wire = format
                .pack(&taskseal::Envelope {
                    signer_id: &id,
                    signature: &[7; 256],
                    content_type: "application/json",
                    content_encoding: "utf-8",
                    body: BODY,
                })
                .unwrap();
            let error = refused(&WORLD.opener, &wire);
            assert_eq!(error.reason(), "unknown-signer", "{format}: {error}");
            assert!(error.to_string().contains(shown), "{error}");
        }
    }
}

#[test]
fn signatures_of_every_length_but_the_key_s_are_refused() {
    let id = STANDARD.encode(WORLD.signer_id()).into_bytes();
    for len in (0..=1024).filter(|len| *len != 256) {
        let signature = STANDARD.encode(vec![7; len]).into_bytes();
        let error = WORLD.refusal(&[&id, &signature, b"application/json", b"utf-8", BODY]);
        let wanted = if len == 0 {
            "malformed"
        } else {
            "bad-signature"
        };
        assert_eq!(error.reason(), wanted, "{len}");
        // In the old form the length is the key's, so another one puts the separator in the wrong place.
        let old = [
            WORLD.signer_id().as_bytes(),
            &vec![7; len],
            b"application/json",
            b"utf-8",
            BODY,
        ]
        .join(&b"\0\x01"[..]);
        let error = refused(&WORLD.opener, STANDARD.encode(old).as_bytes());
        assert_eq!(error.reason(), "malformed", "{len}: {error}");
    }
    // The signature's value is out of range: not below the modulus.
    for value in [[0; 256], [0xff; 256]] {
        let signature = STANDARD.encode(value).into_bytes();
        let error = WORLD.refusal(&[&id, &signature, b"application/json", b"utf-8", BODY]);
        assert_eq!(error.reason(), "bad-signature");
    }
}

#[test]
fn empty_and_70_mib_wires_are_refused_by_the_limit_and_by_their_content() {
    for format in Format::ALL {
        let opener = WORLD
            .opener
            .clone()
            .with_policy(Policy::new().formats([format]));
        assert_eq!(
            malformed(&refused(&opener, b"")),
            &EnvelopeError::Empty {
                field: Field::Envelope
            }
        );
    }
    let separators = [0, 1].repeat(35 * MIB);
    let mut random = Random::new(70);
    let noise: Vec<u8> = (0..70 * MIB).map(|_| random.byte()).collect();
    let large: [(&str, Vec<u8>); 7] = [
        ("zeros", vec![0; 70 * MIB]),
        ("separators", separators.clone()),
        ("A", vec![b'A'; 70 * MIB]),
        ("=", vec![b'='; 70 * MIB]),
        ("0xff", vec![0xff; 70 * MIB]),
        ("noise", noise),
        (
            "base64 of separators",
            STANDARD.encode(&separators[..52 * MIB + 512 * 1024]).into(),
        ),
    ];
    let patient = WORLD.patient();
    for (name, wire) in large {
        assert!(wire.len() >= 70 * MIB, "{name}");
        let started = Instant::now();
        assert_eq!(refused(&WORLD.opener, &wire).reason(), "too-large");
        assert!(started.elapsed() < Duration::from_millis(200), "{name}");
        let error = refused(&patient, &wire);
        assert_eq!(error.reason(), "malformed", "{name}: {error}");
    }

    // A whole envelope of 70 MiB whose body nobody signed, and one that is genuine.
    let body = vec![b' '; 53 * MIB];
    let wire = WORLD.seal(Format::Celery, &body);
    assert!(wire.len() > 70 * MIB);
    assert_eq!(refused(&WORLD.opener, &wire).reason(), "too-large");
    assert_eq!(patient.open(&wire).unwrap().body(), body);
    let mut forged = wire;
    let last = forged.len() - 9;
    forged[last] ^= 2;
    assert_eq!(refused(&patient, &forged).reason(), "bad-signature");
}

/// Whatever is done to a wire: what comes out, if anything, is a body that was signed, under the certificate that signed.
#[test]
fn mutated_wires_are_refused_or_verified() {
    const ROUNDS: usize = 10_000;
    let bodies: [&[u8]; 4] = [BODY, b"", b"a\0\x01b\0\x01", &[0xff; 400]];
    let mut random = Random::new(0x7a5c_5ea1);
    let mut opened = 0;
    let mut reasons = BTreeMap::<&str, usize>::new();
    for format in Format::ALL {
        let wires: Vec<_> = bodies.iter().map(|body| WORLD.seal(format, body)).collect();
        let raws: Vec<_> = wires
            .iter()
            .map(|wire| match format {
                Format::CeleryRaw => wire.clone(),
                _ => STANDARD.decode(wire).unwrap(),
            })
            .collect();
        for round in 0..ROUNDS {
            let which = random.below(wires.len());
            // Half of them under the outer base64, so that the damage reaches the fields.
            let wire = match (format.is_text(), round % 2) {
                (true, 0) => STANDARD.encode(mutate(&mut random, &raws[which])).into(),
                (true, _) => mutate(&mut random, &wires[which]),
                (false, 0) => mutate(&mut random, &raws[which]),
                // The start of one with the end of another.
                (false, _) => {
                    let other = &raws[random.below(raws.len())];
                    let at = random.below(raws[which].len());
                    [&raws[which][..at], &other[at.min(other.len())..]].concat()
                }
            };
            match WORLD.opener.open(&wire) {
                Ok(message) => {
                    opened += 1;
                    assert!(bodies.contains(&message.body()), "{format}, round {round}");
                    assert_eq!(message.signer().id(), WORLD.signer_id());
                    assert_eq!(message.content_type(), "application/json");
                }
                Err(error) => {
                    assert_eq!(error.class(), ErrorClass::Rejected, "{error}");
                    *reasons.entry(error.reason()).or_default() += 1;
                }
            }
            // Inspection sees the same bytes and believes them even less.
            let _ = dangerous_inspect_unverified(&wire, None).map(|seen| format!("{seen:?}"));
        }
    }
    // The mutations reach every stage; and a few change nothing, which shows that the check above is not empty.
    for reason in [
        "malformed",
        "unknown-signer",
        "content-type",
        "content-encoding",
        "bad-signature",
    ] {
        assert!(
            reasons.get(reason).is_some_and(|count| *count > 30),
            "{reasons:?}"
        );
    }
    assert!(opened > 10, "{opened}");
}

/// Whoever fills the queue does not fill the log, and what is rare among it is not lost.
#[test]
fn a_flood_of_bad_messages_is_a_few_lines_that_count_each_reason_and_signer() {
    const FLOOD: usize = 20_000;
    let store = MemoryCertStore::new();
    let signer = signer(2048, Scheme::default(), "CN=carol");
    store.add(signer.certificate().clone()).unwrap();
    let opener = Opener::new(store);
    let stranger = Opener::new(MemoryCertStore::new());
    let good = Sealer::new(signer).seal(&[1, 2]).unwrap();
    let good = good.as_bytes();
    // The signature is changed; this one of a trusted signer comes three times.
    let mut forged = STANDARD.decode(good).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let forged = STANDARD.encode(forged);
    let warnings = Warnings::default();
    warnings.of(|| {
        for number in 0..FLOOD {
            match number {
                100 | 7000 | 15_000 => assert_eq!(
                    refused(&opener, forged.as_bytes()).reason(),
                    "bad-signature"
                ),
                _ => drop(opener.open(b"garbage").unwrap_err()),
            }
        }
        drop(opener);
        refused(&stranger, good);
    });
    let lines = warnings.lines();
    assert!(lines.len() < 8, "{lines:#?}");
    let all = lines.join("\n");
    let count = |reason: &str| {
        let said = lines
            .iter()
            .filter(|line| line.contains(&format!("reason={reason} ")));
        let counted = lines.iter().filter_map(|line| {
            let (_, rest) = line.split_once(&format!("{reason}: "))?;
            rest.split([';', ' ']).next()?.parse::<usize>().ok()
        });
        said.count() + counted.sum::<usize>()
    };
    assert_eq!(
        (count("malformed"), count("bad-signature")),
        (FLOOD - 3, 3),
        "{all}"
    );
    assert!(all.contains("bad-signature: 2 (\""), "{all}");
    assert_eq!(count("unknown-signer"), 1, "{all}");
}
