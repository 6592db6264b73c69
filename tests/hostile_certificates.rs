//! Bad certificates: an error, or a certificate that is all of one piece; never a panic, and no key that costs minutes.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use der::asn1::{Any, BitString, UintRef};
use der::{Decode, Encode, Sequence, Tag};
use support::keys::{certificate, key};
use support::mutate::{Random, mutate};
use taskseal::pss::Scheme;
use taskseal::{
    CertStore, Certificate, CertificateError, ErrorClass, Format, MemoryCertStore, Opener,
    PublicKeyError, SigningKey,
};

const BODY: &[u8] = br#"[[1, "two"], {"three": 3}, {}]"#;

/// `RSAPublicKey` (RFC 8017, A.1.1), with any numbers.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// The certificate with another RSA key in it. Its own signature is that of the key it had, and nothing here looks at it:
/// a store trusts certificates as they are.
fn with_key(certificate: &Certificate, modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = RsaPublicKey {
        modulus: UintRef::new(modulus).unwrap(),
        exponent: UintRef::new(exponent).unwrap(),
    };
    with_key_der(certificate, &key.to_der().unwrap())
}

/// The certificate with these bytes as its `subjectPublicKey`.
fn with_key_der(certificate: &Certificate, key: &[u8]) -> Vec<u8> {
    let mut parts = Vec::<Any>::from_der(certificate.der()).unwrap();
    let mut tbs: Vec<Any> = parts[0].decode_as().unwrap();
    // version, serial number, signature, issuer, validity, subject, subjectPublicKeyInfo
    let mut spki: Vec<Any> = tbs[6].decode_as().unwrap();
    spki[1] = Any::encode_from(&BitString::from_bytes(key).unwrap()).unwrap();
    tbs[6] = Any::encode_from(&spki).unwrap();
    parts[0] = Any::encode_from(&tbs).unwrap();
    parts.to_der().unwrap()
}

#[test]
fn absurd_rsa_keys_are_refused() {
    let template = certificate(&key(2048, Scheme::default()), "CN=template");
    let good = template.public_key().modulus().to_vec();
    let f4 = [1, 0, 1];
    let refusal = |modulus: &[u8], exponent: &[u8]| {
        let der = with_key(&template, modulus, exponent);
        let started = Instant::now();
        let error = Certificate::from_der(&der).unwrap_err();
        assert!(started.elapsed() < Duration::from_millis(100), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        match error {
            CertificateError::Key(error) => error,
            other => panic!("{other}"),
        }
    };

    let same = with_key(&template, &good, &f4);
    assert_eq!(
        same,
        template.der(),
        "the test's own encoding is not the original's"
    );

    let modulus_of = |bits: usize| {
        let mut modulus = vec![0xa5; bits / 8];
        modulus[0] = 0x80;
        modulus
    };
    for bits in [8, 512, 1016, 8200, 16_384, 65_536, 262_144] {
        assert_eq!(
            refusal(&modulus_of(bits), &f4),
            PublicKeyError::Size { bits }
        );
    }
    assert!(Certificate::from_der(&with_key(&template, &modulus_of(8192), &f4)).is_ok());
    assert_eq!(refusal(&[0], &f4), PublicKeyError::Size { bits: 0 });

    let mut even = good.clone();
    *even.last_mut().unwrap() &= 0xfe;
    assert_eq!(refusal(&even, &f4), PublicKeyError::EvenModulus);

    let huge_exponent = modulus_of(2048);
    for (exponent, bits) in [
        (&[0][..], 0),
        (&[1], 1),
        (&[2], 2),
        (&[1, 0, 0], 17),
        (&[3, 0, 0, 0, 1], 34),
        (&[0x80, 0, 0, 0, 0, 0, 0, 1], 64),
        (&huge_exponent, 2048),
        (&good, 2048),
    ] {
        assert_eq!(
            refusal(&good, exponent),
            PublicKeyError::Exponent { bits },
            "{exponent:02x?}"
        );
    }
    for exponent in [
        &[3][..],
        &[1, 0, 1],
        &[1, 0, 0, 0, 1],
        &[1, 255, 255, 255, 255],
    ] {
        assert!(Certificate::from_der(&with_key(&template, &good, exponent)).is_ok());
    }

    // Negative, not minimal, empty, nested, trailing bytes, nothing.
    for key in [
        &b"\x30\x06\x02\x01\xff\x02\x01\x03"[..],
        b"\x30\x07\x02\x02\x00\x01\x02\x01\x03",
        b"\x30\x04\x02\x00\x02\x00",
        b"\x30\x02\x30\x00",
        b"\x30\x06\x02\x01\x03\x02\x01\x03\x00",
        b"\x30\x84\xff\xff\xff\xff",
        b"",
    ] {
        match Certificate::from_der(&with_key_der(&template, key)).unwrap_err() {
            CertificateError::Key(PublicKeyError::Malformed) => {}
            other => panic!("{key:02x?}: {other}"),
        }
    }
}

/// A key with valid sizes and nonsense inside can be in a store; no signature verifies under it, quickly.
#[test]
fn nonsense_keys_of_a_good_size_verify_nothing() {
    let template = certificate(&key(2048, Scheme::default()), "CN=template");
    for (bits, fill) in [(2048, 0xff), (2048, 0), (4096, 0x55), (8192, 0xff)] {
        for exponent in [&[3][..], &[1, 255, 255, 255, 255]] {
            let mut modulus = vec![fill; bits / 8];
            modulus[0] |= 0x80;
            *modulus.last_mut().unwrap() |= 1;
            let certificate =
                Certificate::from_der(&with_key(&template, &modulus, exponent)).unwrap();
            let store = MemoryCertStore::new();
            store.add(certificate.clone()).unwrap();
            let opener = Opener::new(store);
            for signature in [vec![0; bits / 8], vec![1; bits / 8], vec![0xff; bits / 8]] {
                let wire = Format::Celery
                    .pack(&taskseal::Envelope {
                        signer_id: certificate.id(),
                        signature: &signature,
                        content_type: "application/json",
                        content_encoding: "utf-8",
                        body: BODY,
                    })
                    .unwrap();
                let started = Instant::now();
                assert_eq!(opener.open(&wire).unwrap_err().reason(), "bad-signature");
                assert!(started.elapsed() < Duration::from_millis(500));
            }
        }
    }
}

#[test]
fn mutated_certificates_are_refused_or_consistent() {
    const ROUNDS: usize = 20_000;
    let signing = key(2048, Scheme::default());
    let signature = signing.sign_message(BODY).unwrap();
    let templates = [
        certificate(&signing, "CN=worker,O=Example"),
        certificate(
            &key(3072, Scheme::default()),
            "CN=w\u{f6}rker+O=Example,C=DE",
        ),
    ];
    let mut random = Random::new(0xce27);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let template = &templates[round % templates.len()];
        let bytes = if random.below(4) == 0 {
            mutate(&mut random, template.to_pem().as_bytes())
        } else {
            mutate(&mut random, template.der())
        };
        // Each of these has its own way through the bytes.
        let _ = Certificate::from_pem(&bytes);
        let _ = Certificate::all_from_pem(&bytes);
        match Certificate::from_pem_or_der(&bytes) {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().len() < 1000, "{error}");
            }
            Ok(certificate) => {
                accepted += 1;
                consistent(&certificate);
                let verified = certificate.verify(BODY, &signature, Scheme::default());
                assert_eq!(
                    verified.is_ok(),
                    certificate.public_key() == signing.public_key()
                );
            }
        }
    }
    assert!(
        accepted > 1000 && refused > 1000,
        "{accepted} accepted, {refused} refused"
    );
}

/// What holds for every certificate that can be read.
fn consistent(certificate: &Certificate) {
    let again = Certificate::from_der(certificate.der()).unwrap();
    assert_eq!(&again, certificate);
    assert_eq!(again.id(), certificate.id());
    assert_eq!(
        certificate.id(),
        format!("{} {}", certificate.issuer(), certificate.serial_number())
    );
    assert_eq!(
        &Certificate::from_pem(certificate.to_pem().as_bytes()).unwrap(),
        certificate
    );
    let _ = format!(
        "{certificate:?} {} {}",
        certificate.subject(),
        certificate.issuer_name()
    );
    let store = MemoryCertStore::new();
    store.add(certificate.clone()).unwrap();
    assert_eq!(store.get(certificate.id()).as_ref(), Some(certificate));
}

/// Numbers as long as a certificate may be cost no more than reading it: serial numbers, and object identifiers that are shown.
#[test]
fn long_numbers_are_read_quickly() {
    let template = certificate(&key(2048, Scheme::default()), "CN=template");
    let with = |index: usize, field: Any| {
        let mut parts = Vec::<Any>::from_der(template.der()).unwrap();
        let mut tbs: Vec<Any> = parts[0].decode_as().unwrap();
        tbs[index] = field;
        parts[0] = Any::encode_from(&tbs).unwrap();
        parts.to_der().unwrap()
    };
    let wrap = |tag: Tag, inside: Vec<u8>| Any::new(tag, inside).unwrap().to_der().unwrap();
    let oid = [&[0x55, 0xff][..], &vec![0xff; 60_000], &[0x7f]].concat();
    let oid = wrap(Tag::ObjectIdentifier, oid);
    let attribute = wrap(Tag::Sequence, [&oid[..], &[0x0c, 1, b'x']].concat());
    let name = wrap(Tag::Set, attribute);
    let subject = with(5, Any::new(Tag::Sequence, name).unwrap());
    let started = Instant::now();
    let read = Certificate::from_der(&subject).unwrap();
    assert!(read.subject().starts_with("#55ffff"));
    for (len, is_read) in [(1024, true), (1025, false), (60_000, false)] {
        let serial = with(1, Any::new(Tag::Integer, vec![0x55; len]).unwrap());
        match Certificate::from_der(&serial) {
            Ok(read) => assert!(is_read && read.serial_number().len() == 2466, "{len}"),
            Err(CertificateError::SerialNumber { len: refused }) => {
                assert!(!is_read && refused == len);
            }
            Err(other) => panic!("{len}: {other}"),
        }
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}
