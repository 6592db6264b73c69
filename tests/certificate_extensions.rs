//! What the extensions of a signer's certificate allow, and what of them must be understood.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use support::odd::{Case, read};
use taskseal::Policy;
use taskseal::error::ErrorClass;

/// The table of docs/wire-format.md: extension by extension, whether a critical one lets a certificate be used.
#[test]
fn critical_extensions_are_judged_one_by_one() {
    let Some(cases) = Case::all("critical_extensions_are_judged_one_by_one") else {
        return;
    };
    let ignored = [
        "2.5.29.9",
        "2.5.29.14",
        "2.5.29.17",
        "2.5.29.18",
        "2.5.29.30",
        "2.5.29.31",
        "2.5.29.32",
        "2.5.29.33",
        "2.5.29.35",
        "2.5.29.36",
        "2.5.29.46",
        "2.5.29.54",
        "2.5.29.56",
        "1.3.6.1.5.5.7.1.1",
        "1.3.6.1.5.5.7.1.11",
        "1.3.6.1.5.5.7.1.12",
        "1.3.6.1.5.5.7.1.24",
        "1.3.6.1.5.5.7.48.1.5",
        "1.3.6.1.4.1.11129.2.4.2",
        "1.3.6.1.4.1.311.21.7",
        "2.16.840.1.113730.1.1",
        "2.16.840.1.113730.1.13",
    ];
    let refused = [
        "2.5.29.16",
        "1.3.6.1.5.5.7.1.3",
        "1.3.6.1.5.5.7.1.14",
        "1.3.6.1.5.5.7.1.31",
        "1.3.6.1.4.1.311.21.10",
        "1.3.6.1.4.1.99999.4294967296",
    ];
    let table = include_str!("../docs/wire-format.md");
    for oid in ignored.iter().chain(&refused) {
        let certificate = read(&cases, &format!("critical {oid}"));
        let at = certificate.not_before();
        let judged = |policy: &Policy| policy.check_certificate(&certificate, at);
        if ignored.contains(oid) {
            assert_eq!(certificate.refused_extensions().len(), 0, "{oid}");
            judged(&Policy::new()).unwrap();
            assert!(
                table.contains(&format!("`{oid}`")),
                "{oid} is not in the table"
            );
            assert!(
                Policy::new().dangerous_ignore_critical([*oid]).is_err(),
                "{oid}"
            );
            continue;
        }
        assert_eq!(certificate.refused_extensions(), [(*oid).into()]);
        let error = judged(&Policy::new()).unwrap_err();
        assert_eq!(error.reason(), "critical-extension");
        assert_eq!(error.class(), ErrorClass::Rejected);
        assert!(error.to_string().contains(oid), "{error}");
        // The way out, which names what it lets through.
        let ignoring = |oid| Policy::new().dangerous_ignore_critical([oid]).unwrap();
        judged(&ignoring(*oid)).unwrap();
        assert!(judged(&ignoring("1.3.6.1.4.1.99999.7")).is_err());
    }
    let both = read(&cases, "two critical");
    let ignoring = |oids: &[&str]| {
        let policy = Policy::new().dangerous_ignore_critical(oids.iter().copied());
        policy.unwrap().check_certificate(&both, both.not_before())
    };
    assert!(ignoring(&["1.3.6.1.4.1.99999.1"]).is_err());
    ignoring(&["1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.2"]).unwrap();
}

/// A precertificate is none, whether the extension that says so is critical or not, and nobody can choose otherwise.
#[test]
fn precertificates_are_refused() {
    let Some(cases) = Case::all("precertificates_are_refused") else {
        return;
    };
    const POISON: &str = "1.3.6.1.4.1.11129.2.4.3";
    for name in [
        &format!("critical {POISON}"),
        "precertificate, not critical",
    ] {
        let certificate = read(&cases, name);
        let error = Policy::new()
            .check_certificate(&certificate, certificate.not_before())
            .unwrap_err();
        assert!(error.to_string().contains("precertificate"), "{error}");
        assert_eq!(error.reason(), "critical-extension");
    }
    assert!(Policy::new().dangerous_ignore_critical([POISON]).is_err());
}

#[test]
fn authorities_are_told_from_others() {
    let Some(cases) = Case::all("authorities_are_told_from_others") else {
        return;
    };
    for (name, is_authority) in [
        ("plain", false),
        ("version 1", false),
        ("for an authority, critical", true),
        ("for an authority, damaged", true),
    ] {
        assert_eq!(read(&cases, name).is_authority(), is_authority, "{name}");
    }
}

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
        ("usage of four bytes", true),
        ("usage of four bytes without a signature", false),
        ("usage with bits that DER leaves out", false),
        ("usage of no bits", false),
        ("critical FALSE is written", true),
        ("for an authority, critical", true),
        ("unknown critical extension", true),
        ("purposes clientAuth and timeStamping", true),
        ("purpose timeStamping", false),
        ("purposes timeStamping and OCSPSigning", false),
        ("unknown extension", true),
    ] {
        assert_eq!(read(&cases, name).allows_signatures(), may_sign, "{name}");
    }
}
