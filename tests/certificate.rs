//! Certificates: what stock Celery reads out of odd ones is what is read here, and what is no usable certificate is
//! refused with its reason, never with a panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use support::python::{self, Environment};
use taskseal::certificate::CertificateError;
use taskseal::error::ErrorClass;
use taskseal::{Certificate, PublicKey};

const WORKER: &[u8] = include_bytes!("../docs/examples/worker.pem");
const KEY: &[u8] = include_bytes!("../docs/examples/worker.key");

#[test]
fn stock_celery_reads_the_same() {
    let Some(cases) = Case::all("stock_celery_reads_the_same") else {
        return;
    };
    let mut compared = 0;
    for (name, case) in &cases {
        let Some(facts) = &case.facts else { continue };
        if REFUSED_HERE_ALONE
            .iter()
            .any(|(refused, _)| refused == name)
        {
            continue;
        }
        let certificate = Certificate::from_pem(case.pem.as_bytes())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(certificate.id(), facts.id, "{name}");
        assert_eq!(certificate.issuer(), facts.issuer, "{name}");
        assert_eq!(certificate.serial_number(), facts.serial, "{name}");
        assert_eq!(
            seconds(certificate.not_before()),
            facts.not_before,
            "{name}"
        );
        assert_eq!(seconds(certificate.not_after()), facts.not_after, "{name}");
        assert_eq!(
            certificate.has_expired(SystemTime::now()),
            facts.expired,
            "{name}"
        );
        assert_eq!(certificate.public_key().bits(), facts.bits, "{name}");
        assert!(certificate.has_expired(certificate.not_after()), "{name}");
        let second = Duration::from_secs(1);
        assert!(
            !certificate.has_expired(certificate.not_after() - second),
            "{name}"
        );
        assert!(
            !certificate.is_not_yet_valid(certificate.not_before()),
            "{name}"
        );
        compared += 1;
    }
    assert!(compared >= 45, "{compared} compared");
}

/// Certificates that Celery cannot use, or whose key cannot be used by anybody.
#[test]
fn unusable_certificates_are_refused() {
    let Some(cases) = Case::all("unusable_certificates_are_refused") else {
        return;
    };
    for (name, reason) in REFUSED.iter().chain(REFUSED_HERE_ALONE) {
        let case = &cases[*name];
        let here_alone = REFUSED_HERE_ALONE.iter().any(|(alone, _)| alone == name);
        assert_eq!(
            case.facts.is_some(),
            here_alone,
            "{name}: Celery says {:?}",
            case.refused
        );
        let error = Certificate::from_pem(case.pem.as_bytes()).expect_err(name);
        assert!(error.to_string().contains(reason), "{name}: {error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
    // What Celery refuses and this list has not is a gap of the list.
    for (name, case) in &cases {
        let listed = REFUSED.iter().any(|(listed, _)| listed == name);
        assert_eq!(
            case.facts.is_none(),
            listed,
            "{name}: Celery says {:?}",
            case.refused
        );
    }
}

/// What stock Celery refuses too.
const REFUSED: &[(&str, &str)] = &[
    ("RDN not in DER's order", "not encoded as DER asks for"),
    (
        "BMPString with half a surrogate pair",
        "attribute 2.5.4.3 is no text",
    ),
    ("BMPString of odd length", "attribute 2.5.4.3 is no text"),
    ("TeletexString in Latin-1", "attribute 2.5.4.3 is no text"),
    ("UTF8String that is none", "attribute 2.5.4.3 is no text"),
    ("INTEGER in the issuer", "attribute 2.5.4.3 is no text"),
    ("BIT STRING in the issuer", "attribute 2.5.4.45 is no text"),
    (
        "serial with a superfluous zero byte",
        "the certificate is damaged",
    ),
    ("negative modulus", "the RSA public key is malformed"),
    (
        "EC",
        "non-RSA keys are not supported; this one is id-ecPublicKey",
    ),
    (
        "Ed25519",
        "non-RSA keys are not supported; this one is id-Ed25519",
    ),
    ("bytes after it", "the certificate is damaged"),
];

/// What Celery takes and this does not: keys that are weak or that cost a verifier out of proportion, times before
/// 1970, extensions that nobody may pass over (RFC 5280, 4.2), and a type of text that X.509 has all but given up (RFC 5280, 4.1.2.4).
const REFUSED_HERE_ALONE: &[(&str, &str)] = &[
    (
        "RSA-512",
        "an RSA modulus of 512 bits is refused; 1024 to 8192 bits are read",
    ),
    (
        "RSA-16384",
        "an RSA modulus of 16384 bits is refused; 1024 to 8192 bits are read",
    ),
    ("modulus 0", "an RSA modulus of 0 bits is refused"),
    (
        "absurd exponent",
        "an RSA public exponent of 2001 bits is refused",
    ),
    ("exponent 1", "an RSA public exponent of 1 bits is refused"),
    (
        "even exponent",
        "an RSA public exponent of 17 bits is refused",
    ),
    ("even modulus", "the RSA modulus is even"),
    (
        "starts in 1955",
        "the certificate is damaged: malformed ASN.1 DER value for UTCTime",
    ),
    (
        "unknown critical extension",
        "extension 1.3.6.1.4.1.99999.1 is critical and not understood",
    ),
    (
        "UniversalString",
        "the certificate is damaged: unknown/unsupported ASN.1 DER tag: 0x1c",
    ),
];

#[test]
fn key_usage_says_who_may_sign() {
    let Some(cases) = Case::all("key_usage_says_who_may_sign") else {
        return;
    };
    for (name, may_sign) in [
        ("plain", true),
        ("version 1", true),
        ("usage digitalSignature", true),
        ("usage nonRepudiation", true),
        ("usage keyEncipherment", false),
        ("usage keyCertSign", false),
        ("for an authority, critical", true),
        ("purposes clientAuth and timeStamping", true),
        ("purpose timeStamping", false),
        ("purposes timeStamping and OCSPSigning", false),
        ("unknown extension", true),
    ] {
        let certificate = Certificate::from_pem(cases[name].pem.as_bytes()).unwrap();
        assert_eq!(certificate.allows_signatures(), may_sign, "{name}");
    }
}

#[test]
fn two_names_may_have_one_id() {
    let Some(cases) = Case::all("two_names_may_have_one_id") else {
        return;
    };
    let certificate = |name: &str| Certificate::from_pem(cases[name].pem.as_bytes()).unwrap();
    let (plain, usage) = (certificate("plain"), certificate("usage digitalSignature"));
    assert_eq!(plain.id(), usage.id());
    assert_ne!(plain, usage);
    assert_ne!(plain.thumbprint_sha256(), usage.thumbprint_sha256());
}

/// The same certificate, however it is wrapped.
#[test]
fn every_form_reads_the_same() {
    let expected = Certificate::from_pem(WORKER).unwrap();
    let text = std::str::from_utf8(WORKER).unwrap();
    let forms: [(&str, Vec<u8>); 9] = [
        ("as it is", WORKER.into()),
        ("line ends of CRLF", text.replace('\n', "\r\n").into()),
        ("no final line end", text.trim_end().into()),
        (
            "text before and after",
            format!("Subject: worker\n\n{text}\nthat was it\n").into(),
        ),
        (
            "other encodings around it",
            [b"B\xfccher\n".as_slice(), WORKER, b"\xff\n"].concat(),
        ),
        ("a key before it", [KEY, WORKER].concat()),
        ("a key after it", [WORKER, KEY].concat()),
        ("a line feed, then it", [b"\n".as_slice(), WORKER].concat()),
        ("its own PEM", expected.to_pem().into()),
    ];
    for (form, pem) in forms {
        let read = Certificate::from_pem(&pem).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(read, expected, "{form}");
        let all = Certificate::all_from_pem(&pem).unwrap();
        assert_eq!(all.as_slice(), std::slice::from_ref(&expected), "{form}");
        assert_eq!(
            Certificate::from_pem_or_der(&pem).unwrap(),
            expected,
            "{form}"
        );
    }
    assert_eq!(Certificate::from_der(expected.der()).unwrap(), expected);
    assert_eq!(
        Certificate::from_pem_or_der(expected.der()).unwrap(),
        expected
    );
}

#[test]
fn a_bundle_has_all_its_certificates() {
    let Some(cases) = Case::all("a_bundle_has_all_its_certificates") else {
        return;
    };
    let names = ["serial 1", "RSA-3072", "emoji issuer"];
    let bundle: String = names.map(|name| cases[name].pem.as_str()).concat();
    let ids: Vec<_> = Certificate::all_from_pem(bundle.as_bytes())
        .unwrap()
        .iter()
        .map(|certificate| certificate.id().to_owned())
        .collect();
    assert_eq!(ids, ["worker 1", "worker 7", "🦀🔏 7"]);
    // Celery takes the first one of a bundle.
    assert_eq!(
        Certificate::from_pem(bundle.as_bytes()).unwrap().id(),
        "worker 1"
    );

    let second_is_bad = format!("{}{}", cases["serial 1"].pem, cases["EC"].pem);
    assert!(matches!(
        Certificate::all_from_pem(second_is_bad.as_bytes()),
        Err(CertificateError::Key(_))
    ));
}

#[test]
fn what_is_no_certificate_is_refused() {
    let request = b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    let none: [&[u8]; 7] = [
        b"",
        b"\n",
        b"garbage",
        &[0; 1 << 20],
        KEY,
        request,
        b"-----BEGIN",
    ];
    for bytes in none {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]);
        let error = Certificate::from_pem(bytes).expect_err(&shown);
        assert!(
            matches!(error, CertificateError::NoCertificate),
            "{shown:?}: {error}"
        );
        assert!(Certificate::all_from_pem(bytes).is_err(), "{shown:?}");
        assert!(Certificate::from_der(bytes).is_err(), "{shown:?}");
        assert!(Certificate::from_pem_or_der(bytes).is_err(), "{shown:?}");
    }
    let wrapped = |inside: &str| {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n");
        Certificate::from_pem(pem.as_bytes()).expect_err(inside)
    };
    assert!(matches!(wrapped(""), CertificateError::Der(_)));
    assert!(matches!(wrapped("MAA="), CertificateError::Der(_)));
    assert!(matches!(wrapped("*"), CertificateError::Pem(_)));
    // Certificates are read only up to a size that none in use comes near.
    let large = "A".repeat(4 * (Certificate::MAX_LEN / 3 + 1));
    assert!(matches!(wrapped(&large), CertificateError::TooLarge { len } if len > 65536));
    assert!(matches!(
        Certificate::from_der(&vec![0x30; 1 << 20]),
        Err(CertificateError::TooLarge { .. })
    ));
}

#[test]
fn truncated_certificates_are_refused() {
    let der = Certificate::from_pem(WORKER).unwrap().der().to_vec();
    for len in 0..der.len() {
        assert!(
            Certificate::from_der(&der[..len]).is_err(),
            "DER cut to {len} bytes"
        );
    }
    let whole = WORKER.trim_ascii_end();
    for len in 0..whole.len() {
        assert!(
            Certificate::from_pem(&whole[..len]).is_err(),
            "PEM cut to {len} bytes"
        );
    }
}

/// Any byte may be wrong: an error or another certificate, but neither a panic nor the same one.
#[test]
fn damaged_certificates_do_not_panic() {
    let original = Certificate::from_pem(WORKER).unwrap();
    let mut der = original.der().to_vec();
    let mut refused = 0;
    for at in 0..der.len() {
        for flip in [0x01, 0x20, 0x80, 0xff] {
            der[at] ^= flip;
            match Certificate::from_der(&der) {
                Ok(read) => {
                    assert_ne!(read, original);
                    let _ = (read.subject(), read.issuer_name(), format!("{read:?}"));
                }
                Err(error) => {
                    assert!(error.to_string().len() < 500, "{error}");
                    refused += 1;
                }
            }
            der[at] ^= flip;
        }
    }
    // Most bytes are those of key and signature, where any value is as good as another.
    assert!(refused >= 500, "{refused} of {} refused", der.len() * 4);
}

/// Lengths that promise more than there is must not be believed.
#[test]
fn absurd_lengths_are_refused() {
    for header in [
        [0x30, 0x84, 0xff, 0xff, 0xff, 0xff].as_slice(),
        &[0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x30, 0x80],
        &[0x30, 0xff],
    ] {
        let mut der = Certificate::from_pem(WORKER).unwrap().der().to_vec();
        der.splice(..4, header.iter().copied());
        assert!(matches!(
            Certificate::from_der(&der),
            Err(CertificateError::Der(_))
        ));
    }
}

#[test]
fn debug_output_is_short_and_escaped() {
    let Some(cases) = Case::all("debug_output_is_short_and_escaped") else {
        return;
    };
    let odd = Certificate::from_pem(cases["NUL and newline in the issuer"].pem.as_bytes()).unwrap();
    let shown = format!("{odd:?}");
    assert!(shown.contains(r"a\0b\nc\rd 7"), "{shown}");
    assert!(!shown.contains('\n') && shown.len() < 300, "{shown}");
}

/// A certificate's key is the key of its `SubjectPublicKeyInfo`, whatever certificate it comes in.
#[test]
fn keys_compare_by_their_numbers() {
    let key = Certificate::from_pem(WORKER).unwrap().public_key().clone();
    let same = PublicKey::from_spki(key.spki()).unwrap();
    assert_eq!(same, key);
    assert_eq!(
        PublicKey::from_components(key.modulus(), key.exponent()).unwrap(),
        key
    );
    assert_ne!(
        PublicKey::from_components(key.modulus(), &[3]).unwrap(),
        key
    );
}

/// A certificate that the Python side made, and what stock Celery says of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    pem: String,
    facts: Option<Facts>,
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Facts {
    id: String,
    issuer: String,
    serial: String,
    not_before: i64,
    not_after: i64,
    expired: bool,
    bits: usize,
}

impl Case {
    /// Made once for all tests of this file.
    fn all(test: &str) -> Option<BTreeMap<String, Self>> {
        static CASES: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
        let python = Environment::Current.python(test)?;
        let cases = CASES.get_or_init(|| python::run_json(&python, "certificates.py", &[]));
        let cases = Vec::<Self>::deserialize(cases).unwrap();
        Some(
            cases
                .into_iter()
                .map(|case| (case.name.clone(), case))
                .collect(),
        )
    }
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs().try_into().unwrap(),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap(),
    }
}
