//! Stock Celery opens what a key on a PKCS#11 token signed. Needs no code that loads private keys on this side.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use support::celery::{old_opens_all, opens_all, peer, refuses_all, trust};
use support::python::Environment;
use support::softhsm;
use taskseal::issue;
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::{Format, MemoryCertStore, Opener, Policy, Sealer};

#[test]
fn celery_opens_what_a_token_signed() {
    softhsm::test(|hsm| {
        let Some(mut peer) = peer(Environment::Current, "celery_opens_what_a_token_signed") else {
            return;
        };
        let token = hsm.token("interop");
        for bits in [2048, 3072, 4096] {
            let (_, certificate) = token.generate_certified(bits, &format!("rsa-{bits}"));
            for digest in Digest::ALL {
                trust(&mut peer, "reader", digest, &certificate);
                for salt in Salt::ALL {
                    let builder = token.builder().scheme(Scheme::new(digest, salt));
                    let signer = builder.open_signer(certificate.clone()).unwrap();
                    opens_all(&mut peer, "reader", &Sealer::new(Arc::new(signer)));
                }
            }
        }
    });
}

#[test]
fn old_celery_opens_what_a_token_signed_for_it() {
    softhsm::test(|hsm| {
        let Some(mut peer) = peer(
            Environment::Old,
            "old_celery_opens_what_a_token_signed_for_it",
        ) else {
            return;
        };
        let token = hsm.token("interop");
        for bits in [2048, 3072, 4096] {
            let (_, certificate) = token.generate_certified(bits, &format!("rsa-{bits}"));
            for digest in Digest::ALL {
                trust(&mut peer, "reader", digest, &certificate);
                let with = |salt| {
                    let builder = token.builder().scheme(Scheme::new(digest, salt));
                    let signer = builder.open_signer(certificate.clone()).unwrap();
                    Sealer::new(Arc::new(signer)).with_format(Format::Celery54)
                };
                old_opens_all(&mut peer, "reader", &with(Salt::Maximum));
                refuses_all(&mut peer, "reader", &with(Salt::DigestLength));
            }
        }
    });
}

/// Certificates that were signed on the token, with names that others find hard.
#[test]
fn certificates_made_on_a_token_have_the_same_id_in_celery() {
    softhsm::test(|hsm| {
        let test = "certificates_made_on_a_token_have_the_same_id_in_celery";
        let Some(mut peer) = peer(Environment::Current, test) else {
            return;
        };
        let token = hsm.token("interop");
        token.generate(2048, "k");
        let builder = token.builder().object_label("k");
        let key = builder.open_key().unwrap();
        let (from, until) = (
            SystemTime::UNIX_EPOCH,
            SystemTime::now() + std::time::Duration::from_secs(60),
        );
        for (subject, issuer) in [
            ("CN=worker-7,O=Example", "Example worker-7"),
            ("CN=Bücher-Žížala 本局 🦀", "Bücher-Žížala 本局 🦀"),
            ("CN=a\\,b\\+c\\\"d", "a,b+c\"d"),
            ("CN=x+O=y,C=DE", "DE y x"),
        ] {
            let certificate = issue::self_sign(&key, subject, from, until).unwrap();
            // Celery finds the certificate by the id that the message carries, or not at all.
            trust(&mut peer, "named", Digest::Sha256, &certificate);
            let mut words: Vec<_> = certificate.issuer().split(' ').collect();
            let mut expected: Vec<_> = issuer.split(' ').collect();
            // DER orders the attributes of one RDN by their encoding.
            words.sort_unstable();
            expected.sort_unstable();
            assert_eq!(words, expected, "{subject}");
            let signer = builder.clone().open_signer(certificate.clone()).unwrap();
            let sealer = Sealer::new(Arc::new(signer));
            opens_all(&mut peer, "named", &sealer);

            let store = MemoryCertStore::new();
            store.add(certificate.clone()).unwrap();
            let sealed = sealer.seal(&[1]).unwrap();
            let opener = Opener::new(store).with_policy(Policy::new());
            assert_eq!(
                opener.open(sealed.as_bytes()).unwrap().signer(),
                &certificate
            );
        }
    });
}
