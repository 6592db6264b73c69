//! Stock Celery opens what taskseal seals, and taskseal opens what stock Celery seals.
//!
//! Two of them: the one of today, and Celery 5.4 with a `cryptography` of its time, whose wire form is another and which
//! takes the maximum salt alone.
#![cfg(feature = "software")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::celery::{
    BAD_SIGNATURE, Body, bytes, deserialize, major, old_opens_all, opens_all, peer, refuses_all,
    serialize, trust,
};
use support::python::{Environment, Peer};
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::{
    Certificate, Envelope, Format, FsCertStore, MemoryCertStore, OpenError, Opener, Policy, Sealer,
    Signer, SoftwareKey, SoftwareSigner,
};

#[test]
fn the_two_celeries_are_those_that_are_meant() {
    if let Some(mut peer) = peer(
        Environment::Current,
        "the_two_celeries_are_those_that_are_meant",
    ) {
        let versions = peer.ask(&json!({"op": "versions"})).unwrap();
        assert_eq!(versions["celery"], "5.7.0");
        assert!(major(&versions["cryptography"]) >= 48, "{versions}");
    }
    if let Some(mut peer) = peer(
        Environment::Old,
        "the_two_celeries_are_those_that_are_meant",
    ) {
        let versions = peer.ask(&json!({"op": "versions"})).unwrap();
        assert_eq!(versions["celery"], "5.4.0");
        assert_eq!(major(&versions["cryptography"]), 41, "{versions}");
    }
}

#[test]
fn celery_opens_what_taskseal_seals() {
    let Some(mut peer) = peer(Environment::Current, "celery_opens_what_taskseal_seals") else {
        return;
    };
    for bits in [2048, 3072, 4096] {
        let pair = Pair::make(&mut peer, json!({"bits": bits}));
        for digest in Digest::ALL {
            trust(&mut peer, "reader", digest, &pair.certificate);
            for salt in Salt::ALL {
                opens_all(
                    &mut peer,
                    "reader",
                    &pair.sealer(Scheme::new(digest, salt), Format::Celery),
                );
            }
        }
    }
}

#[test]
fn taskseal_opens_what_celery_seals() {
    let Some(mut peer) = peer(Environment::Current, "taskseal_opens_what_celery_seals") else {
        return;
    };
    for bits in [2048, 3072, 4096] {
        let pair = Pair::make(&mut peer, json!({"bits": bits}));
        for digest in Digest::ALL {
            for body in Body::all() {
                pair.sign(&mut peer, "writer", digest, body.inner());
                let wire = serialize(&mut peer, "writer", &body.loaded);
                let opener = pair.opener(digest);
                let opened = opener.open_message("application/data", &wire).unwrap();
                assert_eq!(opened.scheme(), Scheme::new(digest, Salt::Maximum));
                assert_eq!(opened.signer(), &pair.certificate);
                assert_eq!(opened.format(), Format::Celery);
                body.check(&opened, &format!("RSA-{bits} {digest}"));
            }
        }
    }
}

#[test]
fn odd_issuers_go_both_ways() {
    const COMMON_NAME: &str = "2.5.4.3";
    const ORGANISATION: &str = "2.5.4.10";
    let Some(mut peer) = peer(Environment::Current, "odd_issuers_go_both_ways") else {
        return;
    };
    let largest_serial = "730750818665451459101842416358141509827966271487";
    for (issuer, serial, id) in [
        (json!([]), "7", " 7"),
        (
            json!([[[ORGANISATION, "Example CA"]], [[COMMON_NAME, "worker 7"]]]),
            "1",
            "Example CA worker 7 1",
        ),
        (
            json!([[[ORGANISATION, "beta"], [COMMON_NAME, "alpha"]]]),
            "128",
            "beta alpha 128",
        ),
        (
            json!([[[COMMON_NAME, "Bücher-Žížala 本局"]]]),
            "7",
            "Bücher-Žížala 本局 7",
        ),
        (json!([[[COMMON_NAME, "🦀🔏"]]]), "7", "🦀🔏 7"),
        (json!([[[COMMON_NAME, "a\0b\nc"]]]), "7", "a\0b\nc 7"),
        (json!([[[COMMON_NAME, "a\0\x01b"]]]), "7", "a\0\x01b 7"),
        (
            json!([[[COMMON_NAME, " two  spaces "]]]),
            "7",
            " two  spaces  7",
        ),
        (
            json!([[[COMMON_NAME, "worker"]]]),
            largest_serial,
            &format!("worker {largest_serial}"),
        ),
    ] {
        let pair = Pair::make(
            &mut peer,
            json!({"bits": 2048, "issuer": issuer, "serial": serial}),
        );
        assert_eq!(pair.certificate.id(), id);
        pair.sign(&mut peer, "odd", Digest::Sha256, "json");
        let sealed = pair
            .sealer(Scheme::default(), Format::Celery)
            .seal(&["ours"])
            .unwrap();
        assert_eq!(
            deserialize(&mut peer, "odd", sealed.as_bytes()).unwrap(),
            json!(["ours"]),
            "{id:?}"
        );
        let wire = serialize(&mut peer, "odd", &json!(["theirs"]));
        let opener = pair.opener(Digest::Sha256);
        let opened = opener.open(&wire).unwrap();
        assert_eq!(opened.json::<Value>().unwrap(), json!(["theirs"]), "{id:?}");
        assert_eq!(opened.signer().id(), pair.id);
    }
}

/// The same parts packed by both give the same bytes.
#[test]
fn packing_is_celerys_bit_for_bit() {
    let test = "packing_is_celerys_bit_for_bit";
    for (environment, formats) in [
        (
            Environment::Current,
            [Format::Celery, Format::CeleryRaw].as_slice(),
        ),
        (Environment::Old, &[Format::Celery54]),
    ] {
        let Some(mut peer) = peer(environment, test) else {
            return;
        };
        for (at, signer_id) in ["worker 7", " 7", "Bücher 本局 🦀 128", "a\nb 1"]
            .into_iter()
            .enumerate()
        {
            for bits in [2048, 2056, 3072, 4096] {
                // Every byte value, and separators.
                let signature: Vec<u8> = (0..bits / 8).map(|byte| (byte * 7 + at) as u8).collect();
                for body in [
                    b"".as_slice(),
                    b"[[1], {}, {}]",
                    b"\0\x01",
                    b"a\0\x01b\0\x01",
                    &[0xff, 0, 1, 0],
                ] {
                    let envelope = Envelope {
                        signer_id,
                        signature: &signature,
                        content_type: "application/json",
                        content_encoding: "utf-8",
                        body,
                    };
                    let theirs = peer
                        .ask(&json!({
                            "op": "pack",
                            "signer": signer_id,
                            "signature": bytes(&signature),
                            "content_type": envelope.content_type,
                            "content_encoding": envelope.content_encoding,
                            "body": bytes(body),
                        }))
                        .unwrap();
                    let theirs = theirs.as_str().unwrap().as_bytes();
                    for format in formats {
                        let ours = format.pack(&envelope).unwrap();
                        let expected = match format {
                            Format::CeleryRaw => STANDARD.decode(theirs).unwrap(),
                            _ => theirs.to_vec(),
                        };
                        assert_eq!(
                            ours, expected,
                            "{format}, {signer_id:?}, {bits} bits, {body:?}"
                        );
                        let read = format.unpack(&ours, |_| Some(bits / 8)).unwrap();
                        assert_eq!(read.envelope(), envelope);
                    }
                }
            }
        }
    }
}

/// What either refuses, the other refuses.
#[test]
fn both_refuse_the_same() {
    let Some(mut peer) = peer(Environment::Current, "both_refuse_the_same") else {
        return;
    };
    let pair = Pair::make(&mut peer, json!({"bits": 2048}));
    let stranger = Pair::make(&mut peer, json!({"bits": 2048, "serial": "8", "nth": 1}));
    // Another key under a trusted id.
    let imposter = Pair::make(&mut peer, json!({"bits": 2048, "nth": 1}));
    assert_eq!(imposter.id, pair.id);
    trust(&mut peer, "strict", Digest::Sha256, &pair.certificate);
    let opener = pair.opener(Digest::Sha256);

    let sealed_by = |pair: &Pair, digest| {
        let sealer = pair.sealer(Scheme::new(digest, Salt::DigestLength), Format::Celery);
        sealer.seal(&json!([[1, 2], {}, {}])).unwrap().into_bytes()
    };
    let good = sealed_by(&pair, Digest::Sha256);
    assert!(deserialize(&mut peer, "strict", &good).is_ok() && opener.open(&good).is_ok());

    let mut changed = STANDARD.decode(&good).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    let cases = [
        (
            "bad-signature",
            BAD_SIGNATURE,
            STANDARD.encode(changed).into_bytes(),
        ),
        (
            "bad-signature",
            BAD_SIGNATURE,
            sealed_by(&pair, Digest::Sha512),
        ),
        (
            "bad-signature",
            BAD_SIGNATURE,
            sealed_by(&imposter, Digest::Sha256),
        ),
        (
            "unknown-signer",
            "Unknown certificate",
            sealed_by(&stranger, Digest::Sha256),
        ),
        ("malformed", "Unable to deserialize", b"AAAA".to_vec()),
        ("malformed", "Unable to deserialize", Vec::new()),
        (
            "malformed",
            "Unable to deserialize",
            good[..good.len() - 3].to_vec(),
        ),
    ];
    for (ours, theirs, wire) in cases {
        let error = opener.open(&wire).unwrap_err();
        assert_eq!(error.reason(), ours, "{error}");
        let error = deserialize(&mut peer, "strict", &wire).unwrap_err();
        assert!(error.contains(theirs), "{error}");
    }
}

/// Both stores over one directory.
#[test]
fn one_directory_of_certificates_serves_both() {
    let Some(mut peer) = peer(
        Environment::Current,
        "one_directory_of_certificates_serves_both",
    ) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let pairs: Vec<_> = [2048, 3072]
        .map(|bits| Pair::make(&mut peer, json!({"bits": bits, "serial": bits.to_string()})))
        .into();
    for pair in &pairs {
        let file = directory
            .path()
            .join(format!("{}.pem", pair.certificate.serial_number()));
        std::fs::write(file, pair.certificate.to_pem()).unwrap();
    }
    let from_directory = json!({
        "op": "serializer", "name": "files", "digest": "sha256",
        "directory": directory.path().to_str().unwrap(),
    });
    let mut theirs = peer
        .ask(&from_directory)
        .unwrap()
        .as_array()
        .unwrap()
        .clone();
    theirs.sort_by_key(ToString::to_string);
    assert_eq!(theirs, ["worker 2048", "worker 3072"]);
    let opener = Opener::new(FsCertStore::open(directory.path()).unwrap());
    for pair in &pairs {
        let sealed = pair
            .sealer(Scheme::default(), Format::Celery)
            .seal(&1)
            .unwrap();
        assert_eq!(
            deserialize(&mut peer, "files", sealed.as_bytes()).unwrap(),
            1
        );
        assert_eq!(
            opener.open(sealed.as_bytes()).unwrap().signer(),
            &pair.certificate
        );
    }

    // One expired certificate, and neither loads the directory.
    let expired = Pair::make(&mut peer, json!({"bits": 2048, "serial": "9", "days": -1}));
    std::fs::write(directory.path().join("9.pem"), expired.certificate.to_pem()).unwrap();
    let error = peer.ask(&from_directory).unwrap_err();
    assert!(error.contains("Expired certificate: 'worker 9'"), "{error}");
    let error = FsCertStore::open(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("worker 9") && error.contains("expired"),
        "{error}"
    );
}

#[test]
fn old_celery_opens_what_taskseal_seals_for_it() {
    let Some(mut peer) = peer(
        Environment::Old,
        "old_celery_opens_what_taskseal_seals_for_it",
    ) else {
        return;
    };
    assert_eq!(Format::Celery54.default_salt(), Salt::Maximum);
    for bits in [2048, 3072, 4096] {
        let pair = Pair::make(&mut peer, json!({"bits": bits}));
        for digest in Digest::ALL {
            trust(&mut peer, "reader", digest, &pair.certificate);
            let with = |salt| pair.sealer(Scheme::new(digest, salt), Format::Celery54);
            old_opens_all(&mut peer, "reader", &with(Salt::Maximum));
            // The `cryptography` of that time takes the maximum salt alone.
            refuses_all(&mut peer, "reader", &with(Salt::DigestLength));
        }
    }
}

#[test]
fn taskseal_opens_what_old_celery_seals() {
    let Some(mut peer) = peer(Environment::Old, "taskseal_opens_what_old_celery_seals") else {
        return;
    };
    for bits in [2048, 3072, 4096] {
        let pair = Pair::make(&mut peer, json!({"bits": bits}));
        for digest in Digest::ALL {
            let both = [Format::Celery, Format::Celery54];
            let opener = pair.opener_with(Policy::new().digest(digest).formats(both));
            for body in Body::all()
                .iter()
                .filter(|body| body.sealed_by_old_celery())
            {
                pair.sign(&mut peer, "writer", digest, body.inner());
                let wire = serialize(&mut peer, "writer", &body.loaded);
                let opened = opener.open(&wire).unwrap();
                assert_eq!(
                    opened.format(),
                    Format::Celery54,
                    "each message tells which it is"
                );
                assert_eq!(opened.scheme(), Scheme::new(digest, Salt::Maximum));
                assert_eq!(opened.signer(), &pair.certificate);
                body.check(&opened, &format!("RSA-{bits} {digest}"));
            }
        }
    }
}

/// Why a rolling upgrade of Celery loses messages, and what an opener for both is good for.
#[test]
fn the_two_forms_do_not_mix_in_celery() {
    let test = "the_two_forms_do_not_mix_in_celery";
    let Some(mut current) = peer(Environment::Current, test) else {
        return;
    };
    let Some(mut old) = peer(Environment::Old, test) else {
        return;
    };
    let pair = Pair::make(&mut current, json!({"bits": 2048}));
    for peer in [&mut current, &mut old] {
        pair.sign(peer, "mixed", Digest::Sha256, "json");
    }
    let new_wire = serialize(&mut current, "mixed", &json!(["new"]));
    let old_wire = serialize(&mut old, "mixed", &json!(["old"]));
    let error = deserialize(&mut current, "mixed", &old_wire).unwrap_err();
    assert!(error.contains("Unable to deserialize"), "{error}");
    let error = deserialize(&mut old, "mixed", &new_wire).unwrap_err();
    assert!(error.contains("Unknown certificate"), "{error}");

    let both = pair.opener_with(Policy::new().formats([Format::Celery, Format::Celery54]));
    for (wire, format, value) in [
        (&new_wire, Format::Celery, json!(["new"])),
        (&old_wire, Format::Celery54, json!(["old"])),
    ] {
        let opened = both.open(wire).unwrap();
        assert_eq!(opened.format(), format);
        assert_eq!(opened.json::<Value>().unwrap(), value);
    }
    let one = pair.opener(Digest::Sha256);
    assert!(matches!(one.open(&old_wire), Err(OpenError::Malformed(_))));
}

/// A key with its certificate, made by the Python side.
struct Pair {
    key: String,
    certificate: Certificate,
    id: String,
}

impl Pair {
    fn make(peer: &mut Peer, mut how: Value) -> Self {
        how["op"] = "make".into();
        let made = peer.ask(&how).unwrap();
        let certificate =
            Certificate::from_pem(made["certificate"].as_str().unwrap().as_bytes()).unwrap();
        let id = made["id"].as_str().unwrap().to_owned();
        assert_eq!(certificate.id(), id);
        Self {
            key: made["key"].as_str().unwrap().to_owned(),
            certificate,
            id,
        }
    }

    fn sealer(&self, scheme: Scheme, format: Format) -> Sealer {
        let key = SoftwareKey::from_pem(self.key.as_bytes(), None, scheme).unwrap();
        let signer: Arc<dyn Signer> =
            Arc::new(SoftwareSigner::new(key, self.certificate.clone()).unwrap());
        Sealer::new(signer).with_format(format)
    }

    fn opener(&self, digest: Digest) -> Opener {
        self.opener_with(Policy::new().digest(digest))
    }

    /// An opener that trusts this certificate, and that takes bytes as they are too.
    fn opener_with(&self, policy: Policy) -> Opener {
        let store = MemoryCertStore::new();
        store.add(self.certificate.clone()).unwrap();
        Opener::new(store).with_policy(policy.accept_content_type("application/data"))
    }

    /// Makes a serialiser in Celery that signs with this key and trusts this certificate.
    fn sign(&self, peer: &mut Peer, name: &str, digest: Digest, inner: &str) {
        let pem = self.certificate.to_pem();
        let request = json!({
            "op": "serializer", "name": name, "digest": digest.as_str(), "inner": inner,
            "key": self.key, "certificate": pem, "trusted": [pem],
        });
        peer.ask(&request).unwrap();
    }
}
