//! PEM as it is found in the wild: everything is read that Python's `cryptography` reads, with which stock Celery reads its
//! certificates, and nothing that looks like a certificate is passed over.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use support::python::{self, Environment};
use taskseal::certificate::{CertificateError, PemError};
use taskseal::{Certificate, FsCertStore};

const WORKER: &[u8] = include_bytes!("../docs/examples/worker.pem");

/// What `cryptography` reads with a certificate missing, and what we say instead.
const MISSING_THERE: &[(&str, &str)] = &[
    ("second one has no end", "does not end"),
    ("second one cut", "does not end"),
    ("first one has no beginning", "BEGIN or END line is damaged"),
    ("small letters", "section \"certificate\" is not read"),
    (
        "second one with small begin and end",
        "outside of a section",
    ),
    ("second one with tabs", "outside of a section"),
    ("second one with hard blanks", "outside of a section"),
    ("second one misspelt", "outside of a section"),
    ("second one without begin and end", "outside of a section"),
    ("first one without begin and end", "outside of a section"),
    (
        "second one without begin and end, on one line",
        "outside of a section",
    ),
    ("four dashes before", "BEGIN or END line is damaged"),
    ("six dashes", "not base64"),
    ("typographic dashes", "BEGIN or END line is damaged"),
    ("a blank behind the dashes", "BEGIN or END line is damaged"),
    (
        "a blank behind the label",
        "section \"CERTIFICATE \" is not read",
    ),
    (
        "ATTRIBUTE CERTIFICATE",
        "section \"ATTRIBUTE CERTIFICATE\" is not read",
    ),
    ("PKCS7", "section \"PKCS7\" is not read"),
    ("UTF-16, then UTF-8", "UTF-16"),
    ("UTF-16 of the other order, then UTF-8", "UTF-16"),
    ("TRUSTED CERTIFICATE, rejected", "marked as rejected"),
    (
        "TRUSTED CERTIFICATE, more behind it",
        "the certificate is damaged",
    ),
];

/// What we read and `cryptography` does not: whole, or one certificate of it.
const READ_HERE: &[(&str, &[&str])] = &[
    // OpenSSL's own form.
    ("TRUSTED CERTIFICATE", &["CN=a", "CN=b"]),
    ("TRUSTED CERTIFICATE without settings", &["CN=a"]),
    ("blank lines", &["CN=a", "CN=b"]),
    // What is damaged is no certificate and does not look like one.
    ("a damaged key before", &["CN=a", "CN=b"]),
    ("a key without an end before", &["CN=a", "CN=b"]),
];

#[test]
fn we_read_what_cryptography_reads_and_never_less_in_silence() {
    let Some(cases) = Case::all("we_read_what_cryptography_reads_and_never_less_in_silence") else {
        return;
    };
    for (name, case) in &cases {
        let read = Certificate::all_from_pem(&case.pem)
            .map(|all| all.iter().map(|one| one.subject().to_owned()).collect());
        let missing = MISSING_THERE.iter().find(|(missing, _)| missing == name);
        let here = READ_HERE.iter().find(|(here, _)| here == name);
        match (read, &case.read) {
            (Ok::<Vec<_>, _>(ours), _) if here.is_some() => {
                assert_eq!(ours, here.unwrap().1, "{name}");
                assert_ne!(
                    Some(&ours),
                    case.read.as_ref(),
                    "{name} is not read here alone"
                );
            }
            (Ok(ours), Some(theirs)) => assert_eq!(ours, *theirs, "{name}"),
            (Ok(ours), None) => panic!("{name}: read here alone: {ours:?}"),
            (Err(error), Some(theirs)) => {
                let (_, text) = missing.unwrap_or_else(|| panic!("{name}: {error}"));
                assert!(error.to_string().contains(text), "{name}: {error}");
                assert!(theirs.len() < 2, "{name}: nothing is missing there");
            }
            (Err(_), None) => assert!(missing.is_none() && here.is_none(), "{name}"),
        }
    }
    assert!(cases.len() > 50);
}

/// Celery takes the first certificate of a file. Where we take one, it is the same.
#[test]
fn the_first_one_is_the_same_as_stock_celerys() {
    let Some(cases) = Case::all("the_first_one_is_the_same_as_stock_celerys") else {
        return;
    };
    let mut compared = 0;
    for (name, case) in cases {
        if let (Ok(ours), Some(theirs)) = (Certificate::from_pem(&case.pem), &case.read)
            && name != "TRUSTED CERTIFICATE"
        {
            assert_eq!(Some(&ours.subject().to_owned()), theirs.first(), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared} compared");
}

/// A store says of each file the same as the reader of certificates, and in which line.
#[test]
fn a_store_refuses_what_is_damaged_and_names_the_line() {
    let Some(cases) = Case::all("a_store_refuses_what_is_damaged_and_names_the_line") else {
        return;
    };
    for (name, case) in &cases {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &case.pem).unwrap();
        let store = FsCertStore::open(file.path());
        let read = Certificate::all_from_pem(&case.pem);
        assert_eq!(store.is_ok(), read.is_ok(), "{name}: {store:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &cases["second one damaged"].pem).unwrap();
    let error = FsCertStore::open(file.path()).unwrap_err().to_string();
    let first = String::from_utf8_lossy(&cases["second one damaged"].pem).into_owned();
    let line = first.lines().position(|line| line.contains("END")).unwrap() + 2;
    assert!(error.contains(&format!("line {line}: ")), "{error}");
}

/// As large a file as a store reads takes a moment and no memory to speak of, whatever is in it.
#[test]
fn hostile_pem_takes_time_in_proportion() {
    const LEN: usize = 2 << 20;
    let begin = b"-----BEGIN CERTIFICATE-----";
    let long_label = [b"-----BEGIN ".as_slice(), &[b'A'; 60], b"\n"].concat();
    for (name, unit) in [
        ("dashes", b"-".as_slice()),
        ("beginnings", begin),
        ("beginnings of something else", b"-----BEGIN X-----"),
        ("ends", b"-----END CERTIFICATE-----"),
        ("almost beginnings", b"-----BEGIN "),
        ("long labels", &long_label),
        ("words", b"CERTIFICATE"),
        ("damaged beginnings", b"--BEGIN CERTIFICATE--"),
        ("headers", b"A: b\n"),
        ("base64", b"AAAA"),
    ] {
        for start in [&b""[..], begin] {
            let text: Vec<u8> = start
                .iter()
                .chain(unit.iter().cycle())
                .copied()
                .take(LEN)
                .collect();
            let started = Instant::now();
            assert!(Certificate::all_from_pem(&text).is_err(), "{name}");
            let slow = started.elapsed() > Duration::from_secs(30);
            assert!(!slow, "{name}: {:?}", started.elapsed());
        }
    }
}

/// Each way in which a section can be damaged has a name of its own.
#[test]
fn damaged_pem_has_a_reason() {
    let worker = String::from_utf8(WORKER.to_vec()).unwrap();
    let reason = |text: String| match Certificate::from_pem(text.as_bytes()).unwrap_err() {
        CertificateError::Pem(reason) => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(worker.replace("-----END", "END")), PemError::NoEnd);
    assert_eq!(
        reason(worker.replace("END CERT", "END X509 CERT")),
        PemError::OtherEnd
    );
    assert_eq!(
        reason(worker.replace("-----BEGIN", "---BEGIN")),
        PemError::Marker
    );
    assert_eq!(reason(worker.replacen("MII", "?II", 1)), PemError::Base64);
    let bare = worker.lines().filter(|line| !line.contains("--"));
    let bare: Vec<_> = bare.collect();
    assert_eq!(reason(bare.join("\n")), PemError::Outside);
}

/// A form of PEM that the Python side made, and what `cryptography` reads of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(deserialize_with = "base64")]
    pem: Vec<u8>,
    read: Option<Vec<String>>,
}

impl Case {
    fn all(test: &str) -> Option<BTreeMap<String, Self>> {
        static CASES: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
        let python = Environment::Current.python(test)?;
        let cases = CASES.get_or_init(|| python::run_json(&python, "pem.py", &[]));
        let cases = Vec::<Self>::deserialize(cases).unwrap();
        Some(
            cases
                .into_iter()
                .map(|case| (case.name.clone(), case))
                .collect(),
        )
    }
}

fn base64<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    use base64::Engine as _;
    let text = String::deserialize(deserializer)?;
    Ok(base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap())
}
