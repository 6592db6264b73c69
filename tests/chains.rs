//! Files with a leaf and its chain, as ACME clients, step-ca and cert-manager write them: the leaf is a signer, and nobody
//! else is trusted for having issued it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::python::{self, Environment};
use taskseal::store::Role;
use taskseal::store::fs::{FsCertStore, Options, survey};
use taskseal::{CertStore as _, StoreError};

use Role::{Authority, AuthorityOfOthers, Issuer, Signer};

/// Files by the certificates in them, and the role of each.
type Files<'a> = &'a [&'a [(&'a str, Role)]];

struct Made(BTreeMap<String, String>);

impl Made {
    fn get(test: &str) -> Option<Self> {
        static MADE: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
        let python = Environment::Current.python(test)?;
        let made = MADE.get_or_init(|| python::run_json(&python, "chains.py", &[]));
        Some(Self(serde_json::from_value(made.clone()).unwrap()))
    }

    fn store(&self, files: Files<'_>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (at, file) in files.iter().enumerate() {
            let text: String = file
                .iter()
                .map(|(name, _)| self.0[*name].as_str())
                .collect();
            std::fs::write(dir.path().join(format!("{at}.pem")), text).unwrap();
        }
        dir
    }

    /// Each certificate has its role, and the signers alone are in the store.
    #[track_caller]
    fn assert(&self, what: &str, files: Files<'_>) {
        let dir = self.store(files);
        let expected = files.iter().copied().flatten();
        let found: Vec<Role> = survey(dir.path())
            .unwrap()
            .iter()
            .map(|one| one.role.unwrap())
            .collect();
        let roles: Vec<Role> = expected.clone().map(|(_, role)| *role).collect();
        assert_eq!(found, roles, "{what}");
        let mut signers: Vec<&str> = expected
            .filter(|(_, role)| role.is_signer())
            .map(|(name, _)| self.0[*name].as_str())
            .collect();
        signers.sort_unstable();
        signers.dedup();
        let store = FsCertStore::open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut held: Vec<String> = store
            .certificates()
            .iter()
            .map(|one| one.to_pem())
            .collect();
        held.sort_unstable();
        assert_eq!(held, signers, "{what}");
    }
}

#[test]
fn a_leaf_is_a_signer_and_its_chain_is_not() {
    let Some(made) = Made::get("a_leaf_is_a_signer_and_its_chain_is_not") else {
        return;
    };
    for (what, files) in [
        (
            "a leaf and its chain",
            &[&[("leaf", Signer), ("intermediate", Issuer)][..]][..],
        ),
        (
            "an intermediate without key usage",
            &[&[("leaf", Signer), ("intermediate without usage", Issuer)]],
        ),
        (
            "an intermediate that may sign",
            &[&[("leaf", Signer), ("intermediate that signs too", Issuer)]],
        ),
        (
            "with the root",
            &[&[("leaf", Signer), ("intermediate", Issuer), ("root", Issuer)]],
        ),
        (
            "in no order",
            &[&[("root", Issuer), ("leaf", Signer), ("intermediate", Issuer)]],
        ),
        (
            "the root alone beside it",
            &[&[("leaf", Signer), ("root", Authority)]],
        ),
        (
            "an EC chain",
            &[&[
                ("leaf of EC", Signer),
                ("EC intermediate", Issuer),
                ("EC root", Issuer),
            ]],
        ),
        (
            "a cross-signed one",
            &[&[
                ("leaf", Signer),
                ("intermediate", Issuer),
                ("intermediate, cross-signed", Issuer),
                ("root", Issuer),
            ]],
        ),
        (
            "one of another key",
            &[&[("leaf", Signer), ("intermediate, other key", Authority)]],
        ),
        (
            "names that differ in capitals",
            &[&[
                ("leaf, name in capitals", Signer),
                ("intermediate without usage", Issuer),
            ]],
        ),
        (
            "no key identifiers",
            &[&[("leaf without ids", Signer), ("intermediate", Issuer)]],
        ),
        (
            "an old root without any extension",
            &[&[("old leaf", Signer), ("old root", Issuer)]],
        ),
        (
            "the leaf twice",
            &[
                &[("leaf", Signer)],
                &[("leaf", Signer), ("intermediate", Issuer)],
            ],
        ),
    ] {
        made.assert(what, files);
    }
}

#[test]
fn a_bundle_of_several_signers_is_possible() {
    let Some(made) = Made::get("a_bundle_of_several_signers_is_possible") else {
        return;
    };
    for (what, files) in [
        (
            "leaves",
            &[&[("leaf", Signer), ("other leaf", Signer)][..]][..],
        ),
        (
            "leaves with their chain",
            &[&[
                ("leaf", Signer),
                ("intermediate", Issuer),
                ("other leaf", Signer),
            ]],
        ),
        (
            "self-signed ones",
            &[&[
                ("self-signed", Signer),
                ("namesake", Signer),
                ("namesake 2", Signer),
            ]],
        ),
        (
            "self-signed ones as openssl makes them",
            &[&[
                ("self-signed CA", Signer),
                ("self-signed CA 2", Signer),
                ("self-signed", Signer),
            ]],
        ),
        // Who put an authority beside what somebody issued did not mean it to sign.
        (
            "both kinds",
            &[&[
                ("self-signed", Signer),
                ("leaf", Signer),
                ("self-signed CA", Authority),
            ]],
        ),
    ] {
        made.assert(what, files);
    }
}

#[test]
fn files_of_one_store_belong_together() {
    let Some(made) = Made::get("files_of_one_store_belong_together") else {
        return;
    };
    for (what, files) in [
        (
            "a shared intermediate",
            &[
                &[("leaf", Signer), ("intermediate", Issuer)][..],
                &[("other leaf", Signer), ("intermediate", Issuer)],
            ][..],
        ),
        // `tls.crt` and `ca.crt`, or certbot's `cert.pem` and `chain.pem`.
        (
            "an authority in a file of its own",
            &[
                &[("leaf", Signer)],
                &[("intermediate that signs too", AuthorityOfOthers)],
            ],
        ),
        (
            "a root in a file of its own",
            &[
                &[("leaf", Signer), ("intermediate", Issuer)],
                &[("root", AuthorityOfOthers)],
            ],
        ),
        (
            "an EC root in a file of its own",
            &[
                &[("leaf of EC", Signer), ("EC intermediate", Issuer)],
                &[("EC root", AuthorityOfOthers)],
            ],
        ),
        (
            "a chain in a file of its own",
            &[
                &[("leaf", Signer)],
                &[("intermediate", Authority), ("root", Issuer)],
            ],
        ),
        // Nobody makes a signer so. certbot's `chain.pem` stays where it is when `cert.pem` goes.
        (
            "an intermediate that issued nothing here",
            &[
                &[("self-signed", Signer)],
                &[("intermediate that signs too", Authority)],
            ],
        ),
        // Nobody issued anything: as today, it counts.
        ("an authority alone", &[&[("self-signed CA", Signer)]]),
        (
            "an authority that issued nothing here",
            &[&[("self-signed CA", Signer)], &[("leaf", Signer)]],
        ),
    ] {
        made.assert(what, files);
    }
}

#[test]
fn a_store_without_a_signer_is_refused() {
    let Some(made) = Made::get("a_store_without_a_signer_is_refused") else {
        return;
    };
    let error = |files: Files<'_>| {
        let dir = made.store(files);
        FsCertStore::open(dir.path()).map(drop).unwrap_err()
    };
    let chain: Files<'_> = &[&[("intermediate", Authority), ("root", Issuer)]];
    assert!(matches!(error(chain), StoreError::NoSigner { .. }));
    let alone: Files<'_> = &[&[("intermediate without usage", Authority)]];
    assert!(matches!(error(alone), StoreError::NoSigner { .. }));
    // A signer has to be one that can be used.
    for name in ["EC leaf", "EC root"] {
        let text = error(&[&[(name, Signer)]]).to_string();
        assert!(text.contains("non-RSA keys are not supported"), "{text}");
    }
    let text = error(&[&[("EC leaf", Signer), ("intermediate", Issuer)]]).to_string();
    assert!(text.contains("0.pem, line 1: "), "{text}");
}

/// While a part of a file cannot be read, an authority in it may belong to just that part.
#[test]
fn a_damaged_leaf_does_not_make_its_authority_a_signer() {
    let Some(made) = Made::get("a_damaged_leaf_does_not_make_its_authority_a_signer") else {
        return;
    };
    let dir = made.store(&[&[("self-signed", Signer)], &[("other leaf", Signer)]]);
    let store = FsCertStore::open(dir.path()).unwrap();
    for authority in ["root", "self-signed CA"] {
        let leaf = made.0["leaf"].replacen("MII", "?II", 1);
        for text in [
            format!("{leaf}{}", made.0[authority]),
            format!("{}{leaf}", made.0[authority]),
        ] {
            std::fs::write(dir.path().join("1.pem"), text).unwrap();
            let change = store.reload();
            assert_eq!((change.added.len(), change.removed.len()), (0, 0));
            assert_eq!(change.left_out.len(), 1);
        }
    }
}

/// A root beside its leaf is no signer, and does not become one because the leaf's file cannot be read for too long.
#[test]
fn a_leaf_in_trouble_does_not_make_its_authority_a_signer() {
    let Some(made) = Made::get("a_leaf_in_trouble_does_not_make_its_authority_a_signer") else {
        return;
    };
    let dir = made.store(&[&[("leaf of root", Signer)], &[("root", AuthorityOfOthers)]]);
    let interval = Duration::from_secs(5);
    let store = Options::new().reload_interval(interval).open(dir.path());
    let store = store.unwrap();
    let mut now = Instant::now() + Duration::from_secs(24 * 3600);
    let mut signers = |seconds| {
        now += Duration::from_secs(seconds);
        store.refresh_at(now);
        store.certificates().len()
    };
    assert_eq!(signers(5), 1);
    let leaf = dir.path().join("0.pem");
    for trouble in ["", "-----BEGIN CERTIFICATE-----\n"] {
        std::fs::write(&leaf, trouble).unwrap();
        assert_eq!(signers(5), 1);
        for seconds in [300, 5, 3600] {
            assert_eq!(signers(seconds), 0);
        }
        std::fs::write(&leaf, &made.0["leaf of root"]).unwrap();
        assert_eq!(signers(5), 1);
    }
}
