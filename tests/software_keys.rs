//! Private keys in the forms that operators have: what is read, what is refused and with which words, and that what is
//! read signs.
#![cfg(feature = "software")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use support::pem_keys::{Made, schemes};
use taskseal::certificate::CertificateError;
use taskseal::error::ErrorClass;
use taskseal::pss::Scheme;
use taskseal::{Certificate, KeyError, SignError, Signer, SigningKey, SoftwareKey, SoftwareSigner};

const WORKER_KEY: &[u8] = include_bytes!("../docs/examples/worker.key");
const WORKER: &[u8] = include_bytes!("../docs/examples/worker.pem");

/// What is refused, with a part of the reason. Every other key of the Python side is read.
const REFUSED: &[(&str, &str, ErrorClass)] = &[
    (
        "PKCS#8 RSA-1024",
        "RSA keys of 2048 to 8192 bits",
        ErrorClass::Permanent,
    ),
    (
        "PKCS#1 RSA-1024",
        "RSA keys of 2048 to 8192 bits",
        ErrorClass::Permanent,
    ),
    (
        "PBES1 3DES",
        "is encrypted with pbeWithSHAAnd3-KeyTripleDES-CBC",
        ErrorClass::Permanent,
    ),
    (
        "PBES2 camellia",
        "id-PBKDF2 (1.2.840.113549.1.5.12) and 1.2.392.200011.61.1.1.1.4",
        ErrorClass::Permanent,
    ),
    (
        "traditional AES",
        "Proc-Type: 4,ENCRYPTED",
        ErrorClass::Permanent,
    ),
    (
        "traditional 3DES",
        "Proc-Type: 4,ENCRYPTED",
        ErrorClass::Permanent,
    ),
    (
        "password missing",
        "and none was given",
        ErrorClass::Credential,
    ),
    (
        "password empty",
        "and none was given",
        ErrorClass::Credential,
    ),
    (
        "password wrong",
        "the password is wrong",
        ErrorClass::Credential,
    ),
    (
        "password not wanted",
        "stored without one",
        ErrorClass::Permanent,
    ),
    (
        "password not wanted, PKCS#1",
        "stored without one",
        ErrorClass::Permanent,
    ),
    (
        "EC PKCS#8",
        "non-RSA keys are not supported; this one is id-ecPublicKey",
        ErrorClass::Permanent,
    ),
    (
        "EC traditional",
        "non-RSA keys are not supported; this one is EC",
        ErrorClass::Permanent,
    ),
    (
        "Ed25519",
        "non-RSA keys are not supported; this one is id-Ed25519",
        ErrorClass::Permanent,
    ),
    ("OpenSSH", "OpenSSH's own format", ErrorClass::Permanent),
    (
        "RSASSA-PSS SHA-512",
        "restricted to RSA-PSS sha512 with a salt of at least 64 bytes",
        ErrorClass::Permanent,
    ),
    (
        "RSASSA-PSS long salt",
        "restricted to RSA-PSS sha256 with a salt of at least 200 bytes",
        ErrorClass::Permanent,
    ),
    (
        "RSASSA-PSS SHA-1 mask",
        "openssl genpkey makes such keys unless rsa_pss_keygen_mgf1_md is given",
        ErrorClass::Permanent,
    ),
    (
        "RSASSA-PSS SHA-1",
        "another digest than SHA-256, SHA-384 or SHA-512",
        ErrorClass::Permanent,
    ),
    (
        "public key",
        "there is no private key in it",
        ErrorClass::Permanent,
    ),
    (
        "certificate alone",
        "there is no private key in it",
        ErrorClass::Permanent,
    ),
];

#[test]
fn keys_in_every_usual_form_are_read() {
    let Some(made) = Made::get("keys_in_every_usual_form_are_read") else {
        return;
    };
    let mut read = 0;
    for case in &made.keys {
        if REFUSED.iter().any(|(name, ..)| *name == case.name) {
            continue;
        }
        let key = case.load(Scheme::default());
        let key = key.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(case.celery, None, "{}: stock Celery refuses it", case.name);
        assert_eq!(
            hex(key.public_key().modulus()),
            *case.modulus.as_ref().unwrap(),
            "{}",
            case.name
        );
        assert_eq!(key.public_key().exponent(), [1, 0, 1]);
        read += 1;
    }
    assert!(read >= 30, "{read} read");
}

#[test]
fn other_keys_are_refused_with_the_reason() {
    let Some(made) = Made::get("other_keys_are_refused_with_the_reason") else {
        return;
    };
    for (name, reason, class) in REFUSED {
        let case = made
            .keys
            .iter()
            .find(|case| case.name == *name)
            .expect(name);
        let error = case.load(Scheme::default()).expect_err(name);
        assert!(error.to_string().contains(reason), "{name}: {error}");
        assert_eq!(error.class(), *class, "{name}");
        if let Some(password) = case
            .password
            .as_ref()
            .filter(|password| !password.is_empty())
        {
            let shown = format!("{error} {error:?}");
            assert!(
                !shown.contains(password),
                "{name}: the password is in {shown}"
            );
        }
    }
    // The reasons of the class Credential that have variants of their own.
    let load = |name: &str| {
        let case = made.keys.iter().find(|case| case.name == name).unwrap();
        case.load(Scheme::default()).unwrap_err()
    };
    assert!(matches!(
        load("password missing"),
        KeyError::PasswordMissing
    ));
    assert!(matches!(load("password wrong"), KeyError::WrongPassword));
    assert!(matches!(
        load("password not wanted"),
        KeyError::PasswordNotWanted
    ));
    assert!(matches!(
        load("traditional 3DES"),
        KeyError::TraditionalEncryption
    ));
    assert!(matches!(load("PKCS#8 RSA-1024"), KeyError::Size));
}

#[test]
fn what_is_read_signs_for_its_certificate() {
    let Some(made) = Made::get("what_is_read_signs_for_its_certificate") else {
        return;
    };
    let message = b"[[1, 2], {}, {}]";
    for bits in [2048, 3072, 4096] {
        let case = made
            .keys
            .iter()
            .find(|case| case.name == format!("PKCS#1 RSA-{bits}"))
            .unwrap();
        for scheme in schemes() {
            let signer =
                SoftwareSigner::new(case.load(scheme).unwrap(), made.certificate(bits)).unwrap();
            assert_eq!(signer.scheme(), scheme);
            let signature = signer.sign(message).unwrap();
            assert_eq!(signature.as_bytes().len(), bits / 8);
            assert_eq!(signature.certificate(), signer.certificate());
            for other in schemes() {
                let verdict = signer
                    .certificate()
                    .verify(message, signature.as_bytes(), other);
                assert_eq!(
                    verdict.is_ok(),
                    other == scheme,
                    "RSA-{bits}: {scheme} read as {other}"
                );
            }
            let mut bent = signature.as_bytes().to_vec();
            bent[bits / 16] ^= 1;
            assert!(signer.certificate().verify(message, &bent, scheme).is_err());
            assert!(
                signer
                    .certificate()
                    .verify(b"[[1, 3], {}, {}]", signature.as_bytes(), scheme)
                    .is_err()
            );
            // The salt is random, so no signature comes twice.
            assert_ne!(
                signer.sign(message).unwrap().as_bytes(),
                signature.as_bytes()
            );
        }
    }
}

#[test]
fn one_key_signs_under_several_schemes() {
    let first = support::keys::key(2048, Scheme::default());
    let public = first.public_key().clone();
    for scheme in schemes() {
        let again = first.with_scheme(scheme).unwrap();
        assert_eq!(again.scheme(), scheme);
        let signature = again.sign_message(b"a message").unwrap();
        assert!(public.verifies(b"a message", &signature, scheme));
    }
    assert_eq!(first.scheme(), Scheme::default());
}

#[test]
fn a_key_needs_its_own_certificate() {
    let Some(made) = Made::get("a_key_needs_its_own_certificate") else {
        return;
    };
    let key = || SoftwareKey::from_pem(WORKER_KEY, None, Scheme::default()).unwrap();
    let error = SoftwareSigner::new(key(), made.certificate(2048)).unwrap_err();
    assert!(
        matches!(&error, SignError::KeyMismatch { certificate } if certificate == "worker-2048 2048")
    );
    assert!(
        error
            .to_string()
            .contains("use the certificate that was issued for this key"),
        "{error}"
    );
    assert!(SoftwareSigner::new(key(), Certificate::from_pem(WORKER).unwrap()).is_ok());
}

#[test]
fn what_is_no_key_is_refused() {
    let zeros = vec![0; 1 << 20];
    for bytes in [
        b"".as_slice(),
        b"\n",
        b"garbage",
        &zeros,
        WORKER,
        b"-----BEGIN",
        b"\xff\xfe",
    ] {
        let error = SoftwareKey::from_pem(bytes, None, Scheme::default()).unwrap_err();
        assert!(matches!(error, KeyError::NoKey), "{error}");
        assert!(matches!(
            Certificate::from_pem(bytes),
            Ok(_) | Err(CertificateError::NoCertificate)
        ));
    }
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        for inside in ["", "MAA=", "*", "MIIB"] {
            let pem = format!("-----BEGIN {label}-----\n{inside}\n-----END {label}-----\n");
            let password = label.starts_with("ENCRYPTED").then_some(b"pw".as_slice());
            let error =
                SoftwareKey::from_pem(pem.as_bytes(), password, Scheme::default()).unwrap_err();
            assert!(
                matches!(error, KeyError::Malformed),
                "{label}, {inside:?}: {error}"
            );
        }
    }
    let odd = b"-----BEGIN \x1b[31mPRIVATE KEY-----\nMAA=\n-----END \x1b[31mPRIVATE KEY-----\n";
    let error = SoftwareKey::from_pem(odd, None, Scheme::default()).unwrap_err();
    assert!(!error.to_string().contains('\x1b'), "{error}");
}

/// Keys take the liberties that certificates take.
#[test]
fn keys_in_odd_pem_are_read() {
    let text = String::from_utf8(WORKER_KEY.to_vec()).unwrap();
    let certificate = String::from_utf8(WORKER.to_vec()).unwrap();
    let one_line = |text: &str| {
        let (first, rest) = text.trim().split_once('\n').unwrap();
        let (body, last) = rest.rsplit_once('\n').unwrap();
        format!("{first}{}{last}", body.replace('\n', ""))
    };
    let whole = SoftwareKey::from_pem(WORKER_KEY, None, Scheme::default()).unwrap();
    for (form, pem) in [
        ("a byte order mark", format!("\u{feff}{text}")),
        (
            "indented",
            text.lines().map(|line| format!("    {line}\n")).collect(),
        ),
        ("one line", one_line(&text)),
        ("glued", certificate.trim().to_owned() + &text),
        (
            "glued on one line",
            one_line(&certificate) + &one_line(&text),
        ),
        ("CRLF", text.replace('\n', "\r\n")),
        ("CR", text.replace('\n', "\r")),
        ("blank lines", text.replace('\n', "\n\n")),
        (
            "a damaged certificate before",
            certificate.replacen("MII", "?II", 1) + &text,
        ),
        (
            "a certificate without an end",
            certificate.replace("-----END", "") + &text,
        ),
    ] {
        let read = SoftwareKey::from_pem(pem.as_bytes(), None, Scheme::default());
        let read = read.unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(read.public_key(), whole.public_key(), "{form}");
    }
    // The first one that must have been meant is the one, good or not.
    for (form, pem) in [
        ("damaged", text.replacen("MII", "?II", 1) + &text),
        ("no end", text.replace("-----END", "") + &text),
        (
            "no beginning",
            text.replace("-----BEGIN", "--BEGIN") + &text,
        ),
    ] {
        let error = SoftwareKey::from_pem(pem.as_bytes(), None, Scheme::default()).unwrap_err();
        assert!(matches!(error, KeyError::Malformed), "{form}: {error}");
    }
}

#[test]
fn truncated_keys_are_refused() {
    let whole = WORKER_KEY.trim_ascii_end();
    for len in 0..whole.len() {
        let cut = SoftwareKey::from_pem(&whole[..len], None, Scheme::default());
        assert!(cut.is_err(), "PEM cut to {len} bytes");
    }
    let der = der::pem::decode_vec(WORKER_KEY).unwrap().1;
    for len in 0..der.len() {
        assert!(
            SoftwareKey::from_pkcs8(&der[..len], Scheme::default()).is_err(),
            "DER cut to {len} bytes"
        );
        assert!(
            SoftwareKey::from_pkcs1(&der[..len], Scheme::default()).is_err(),
            "DER cut to {len} bytes"
        );
    }
}

/// A key whose numbers do not fit together would sign wrongly, and a wrong CRT signature gives the key away.
#[test]
fn keys_with_damaged_numbers_are_refused() {
    let mut der = der::pem::decode_vec(WORKER_KEY).unwrap().1;
    let mut refused = 0;
    // From the modulus on, in steps that hit each of the eight numbers.
    for at in (40..der.len()).step_by(37) {
        der[at] ^= 0x10;
        let error = SoftwareKey::from_pkcs8(&der, Scheme::default()).expect_err("damaged");
        assert!(
            matches!(error, KeyError::Malformed | KeyError::Size),
            "byte {at}: {error}"
        );
        der[at] ^= 0x10;
        refused += 1;
    }
    assert!(refused >= 30, "{refused}");
    assert!(SoftwareKey::from_pkcs8(&der, Scheme::default()).is_ok());
}

#[test]
fn debug_output_has_no_key() {
    let key = SoftwareKey::from_pem(WORKER_KEY, None, Scheme::default()).unwrap();
    let shown = format!("{key:?}");
    assert!(shown.contains("2048 bits") && shown.len() < 200, "{shown}");
    let signer = SoftwareSigner::new(key, Certificate::from_pem(WORKER).unwrap()).unwrap();
    assert!(format!("{signer:?}").len() < 500, "{signer:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
