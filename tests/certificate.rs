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

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::odd::{Case, read};
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
    assert!(compared >= 100, "{compared} compared");
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
    for name in READ_HERE_ALONE {
        read(&cases, name);
    }
    // What Celery refuses and this list has not is a gap of the list.
    for (name, case) in &cases {
        let listed = REFUSED.iter().any(|(listed, _)| listed == name)
            || READ_HERE_ALONE.contains(&name.as_str());
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
        "UniversalString with a surrogate",
        "attribute 2.5.4.3 is no text",
    ),
    (
        "UniversalString of odd length",
        "attribute 2.5.4.3 is no text",
    ),
    (
        "GeneralString in the issuer",
        "attribute 2.5.4.3 is no text",
    ),
    (
        "serial with a superfluous zero byte",
        "the certificate is damaged: its structure cannot be read",
    ),
    ("ends on 30 February", "its validity cannot be read"),
    ("ends at 24:00", "its validity cannot be read"),
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

/// What Celery takes and this does not: keys that are weak or that cost a verifier out of proportion, and a key usage that
/// cannot be told.
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
    ("usage twice", "key usage extension is damaged"),
    (
        "usage that is no BIT STRING",
        "key usage extension is damaged",
    ),
];

/// What Celery refuses and this reads. Nothing of it matters for who signed, and other programs read it too.
const READ_HERE_ALONE: &[&str] = &[
    "subject of BMPString of odd length",
    "critical FALSE is written",
];

/// Names are shown as far as there is a text for them (RFC 4514), and never a reason to refuse a certificate.
#[test]
fn every_subject_can_be_shown() {
    let Some(cases) = Case::all("every_subject_can_be_shown") else {
        return;
    };
    for (name, subject) in [
        ("plain", "CN=subject"),
        ("empty subject", ""),
        (
            "subject of TeletexString in Latin-1",
            "2.5.4.3=#140642fc63686572",
        ),
        ("subject of UniversalString", "CN=Žížala"),
        ("subject of BMPString", "CN=Žížala"),
        ("subject of BMPString of odd length", "2.5.4.3=#1e03006100"),
        ("subject of VideotexString", "2.5.4.3=#1508766964656f746578"),
        ("subject of GraphicString", "2.5.4.3=#190767726170686963"),
        ("subject of GeneralString", "2.5.4.3=#1b0767656e6572616c"),
        ("subject of INTEGER", "2.5.4.3=#020107"),
        ("subject of a tag of two bytes", "2.5.4.3=#9f2a00"),
    ] {
        let certificate = read(&cases, name);
        assert_eq!(certificate.subject(), subject, "{name}");
        assert_eq!(certificate.id(), "worker 7", "{name}");
    }
    for (name, issuer) in [
        ("UniversalString", "CN=worker 🦀"),
        (
            "e-mail and domain components",
            "emailAddress=ca@example.org,DC=example,DC=org",
        ),
        (
            "unknown attribute type",
            "CN=x,1.3.6.1.4.1.55555.1=#0c0770726976617465",
        ),
        (
            "quotes and commas in the issuer",
            r#"CN=a\,b=\"c\"\\\+\<\;\>#"#,
        ),
        ("spaces in the issuer", r"CN=\ a  b\ "),
        ("NUL and newline in the issuer", r"CN=a\00b\0ac\0dd"),
    ] {
        assert_eq!(read(&cases, name).issuer_name(), issuer, "{name}");
    }
}

/// The parts that a token wants beside a certificate are those that are in it.
#[test]
fn encoded_parts_are_those_of_the_certificate() {
    let Some(cases) = Case::all("encoded_parts_are_those_of_the_certificate") else {
        return;
    };
    let certificate = read(&cases, "serial of 24 bytes");
    let serial = certificate.serial_number_der();
    assert_eq!(serial[..3], [0x02, 0x18, 0x40]);
    assert_eq!(serial.len(), 26);
    let name = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        let value = [
            &[0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, length],
            text.as_bytes(),
        ]
        .concat();
        let wrap = |tag: u8, inside: Vec<u8>| {
            [&[tag, u8::try_from(inside.len()).unwrap()], &*inside].concat()
        };
        wrap(0x30, wrap(0x31, wrap(0x30, value)))
    };
    assert_eq!(certificate.issuer_der(), name("worker"));
    assert_eq!(certificate.subject_der(), name("subject"));
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
    assert!(matches!(wrapped(""), CertificateError::Damaged { .. }));
    assert!(matches!(wrapped("MAA="), CertificateError::Damaged { .. }));
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
            Err(CertificateError::Damaged { .. })
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

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs().try_into().unwrap(),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap(),
    }
}
