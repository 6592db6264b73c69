//! Project Wycheproof's RSA-PSS vectors, through [`PublicKey`]: every verdict on what is supported is theirs, and what
//! is not supported (other salt lengths, digests, masks) is refused even where it is valid.
//!
//! The vectors have no salt of the key's maximum length; that one is proven by signatures in `software_keys.rs` and by
//! stock Celery's in `interop_celery.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use taskseal::PublicKey;
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::public_key::PublicKeyError;
use wycheproof::rsa_pss_verify::{Test, TestGroup, TestGroupTypeId, TestName, TestSet};
use wycheproof::{HashFunction, Mgf, TestResult};

#[test]
fn supported_vectors_have_the_expected_verdicts() {
    let mut counted = Counts::default();
    for group in groups() {
        let key = plain_key(&group);
        let Some(scheme) = supported_scheme(&group, &key) else {
            continue;
        };
        for test in &group.tests {
            let verdict = key.verifies(&test.msg, &test.sig, scheme);
            assert_eq!(
                verdict,
                is_valid(test),
                "{scheme}, {}",
                describe(&group, test)
            );
            counted.add(scheme, verdict);
        }
    }
    // What the vectors of 2026 have; newer ones have more.
    assert!(counted.vectors >= 1186, "{} vectors", counted.vectors);
    assert!(counted.valid >= 300, "{} valid ones", counted.valid);
    assert_eq!(counted.schemes.len(), 3, "{:?}", counted.schemes);
}

/// A signature is taken under exactly its own scheme: not under the other salt, nor under another digest.
#[test]
fn valid_vectors_verify_under_no_other_scheme() {
    let mut refused = 0;
    for group in groups() {
        let key = plain_key(&group);
        let own = supported_scheme(&group, &key);
        for scheme in schemes().filter(|scheme| Some(*scheme) != own) {
            for test in group.tests.iter().filter(|test| is_valid(test)) {
                let verdict = key.verifies(&test.msg, &test.sig, scheme);
                assert!(!verdict, "{scheme}, {}", describe(&group, test));
                refused += 1;
            }
        }
    }
    assert!(refused >= 5000, "{refused} refusals");
}

/// The part of the above that an attacker or a sloppy peer would try first: right digest, right mask, another salt.
#[test]
fn valid_vectors_with_a_salt_of_another_length_are_refused() {
    let mut lengths = BTreeSet::new();
    let mut refused = 0;
    for group in groups() {
        let Some(digest) = common_digest(&group) else {
            continue;
        };
        let key = plain_key(&group);
        if supported_scheme(&group, &key).is_some() {
            continue;
        }
        for test in group.tests.iter().filter(|test| is_valid(test)) {
            for salt in Salt::ALL {
                let scheme = Scheme::new(digest, salt);
                assert!(
                    !key.verifies(&test.msg, &test.sig, scheme),
                    "{}",
                    describe(&group, test)
                );
            }
            lengths.insert((digest, group.salt_size));
            refused += 1;
        }
    }
    assert!(refused >= 100, "{refused} refusals");
    for expected in [
        (Digest::Sha256, 0),
        (Digest::Sha384, 32),
        (Digest::Sha512, 32),
    ] {
        assert!(
            lengths.contains(&expected),
            "{expected:?} is not among {lengths:?}"
        );
    }
}

/// Both kinds of `SubjectPublicKeyInfo`: `rsaEncryption`, and `id-RSASSA-PSS` with parameters.
#[test]
fn subject_public_key_infos_are_read() {
    let (mut plain, mut restricted, mut refused) = (0, 0, 0);
    for group in groups() {
        let expected = plain_key(&group);
        let read = PublicKey::from_spki(&spki(&group));
        if group.test_type == TestGroupTypeId::RsaPssVerify {
            assert_eq!(read.as_ref(), Ok(&expected));
            plain += 1;
        } else if common_digest(&group).is_some() {
            let key = read.expect("supported parameters");
            assert_eq!(key, expected);
            assert_eq!(key.bits(), group.key_size);
            restricted += 1;
        } else {
            assert_eq!(read, Err(PublicKeyError::Parameters), "{:?}", group.hash);
            refused += 1;
        }
    }
    assert!(
        plain >= 160 && restricted >= 20 && refused >= 100,
        "{plain} {restricted} {refused}"
    );
}

#[test]
fn vectors_for_restricted_keys_have_the_expected_verdicts() {
    let mut counted = Counts::default();
    for group in groups() {
        if group.test_type != TestGroupTypeId::RsaPssVerifyWithParam {
            continue;
        }
        let Ok(key) = PublicKey::from_spki(&spki(&group)) else {
            continue;
        };
        let Some(scheme) = supported_scheme(&group, &key) else {
            continue;
        };
        for test in &group.tests {
            let verdict = key.verifies(&test.msg, &test.sig, scheme);
            assert_eq!(
                verdict,
                is_valid(test),
                "{scheme}, {}",
                describe(&group, test)
            );
            counted.add(scheme, verdict);
        }
    }
    assert!(
        counted.vectors >= 390 && counted.valid >= 100,
        "{counted:?}"
    );
}

/// The parameters of an `id-RSASSA-PSS` key name its digest and the shortest salt (RFC 4055, section 3.3). Keys that
/// share a modulus are crossed: each one's signatures under each other's restriction.
#[test]
fn restrictions_of_keys_are_honoured() {
    let groups = groups();
    let (mut taken, mut wrong_digest, mut short_salt) = (0, 0, 0);
    for restricting in &groups {
        if restricting.test_type != TestGroupTypeId::RsaPssVerifyWithParam {
            continue;
        }
        let Some(only) = common_digest(restricting) else {
            continue;
        };
        let key = PublicKey::from_spki(&spki(restricting)).unwrap();
        for signing in groups.iter().filter(|group| group.key == restricting.key) {
            let Some(scheme) = supported_scheme(signing, &key) else {
                continue;
            };
            for test in signing.tests.iter().filter(|test| is_valid(test)) {
                let expected = scheme.digest == only && signing.salt_size >= restricting.salt_size;
                let verdict = key.verifies(&test.msg, &test.sig, scheme);
                assert_eq!(
                    verdict,
                    expected,
                    "{scheme}, {}",
                    describe(restricting, test)
                );
                match verdict {
                    true => taken += 1,
                    false if scheme.digest != only => wrong_digest += 1,
                    false => short_salt += 1,
                }
            }
        }
    }
    assert!(taken >= 100, "{taken} taken");
    assert!(
        wrong_digest >= 30,
        "{wrong_digest} refused for their digest"
    );
    assert!(short_salt >= 4, "{short_salt} refused for their salt");
}

/// How much a test really looked at.
#[derive(Debug, Default)]
struct Counts {
    vectors: usize,
    valid: usize,
    schemes: BTreeSet<Scheme>,
}

impl Counts {
    fn add(&mut self, scheme: Scheme, valid: bool) {
        self.vectors += 1;
        self.valid += usize::from(valid);
        self.schemes.insert(scheme);
    }
}

fn groups() -> Vec<TestGroup> {
    let groups: Vec<_> = TestName::all()
        .into_iter()
        .flat_map(|name| TestSet::load(name).unwrap().test_groups)
        .collect();
    assert!(groups.len() >= 320, "{} groups", groups.len());
    groups
}

fn plain_key(group: &TestGroup) -> PublicKey {
    PublicKey::from_components(&group.key.n, &group.key.e).unwrap()
}

/// The DER `SubjectPublicKeyInfo`, out of the PEM text, which all files have.
fn spki(group: &TestGroup) -> Vec<u8> {
    der::pem::decode_vec(group.pem.trim().as_bytes()).unwrap().1
}

/// The digest, when message and mask have the same and it is a supported one.
fn common_digest(group: &TestGroup) -> Option<Digest> {
    let supported = |hash| match hash {
        HashFunction::Sha2_256 => Some(Digest::Sha256),
        HashFunction::Sha2_384 => Some(Digest::Sha384),
        HashFunction::Sha2_512 => Some(Digest::Sha512),
        _ => None,
    };
    let digest = supported(group.hash)?;
    (group.mgf == Mgf::Mgf1 && group.mgf_hash == Some(group.hash)).then_some(digest)
}

/// The scheme of a group's signatures, when it is one of ours.
fn supported_scheme(group: &TestGroup, key: &PublicKey) -> Option<Scheme> {
    let digest = common_digest(group)?;
    schemes()
        .filter(|scheme| scheme.digest == digest)
        .find(|scheme| scheme.salt_len(key.bits()) == Ok(group.salt_size))
}

fn schemes() -> impl Iterator<Item = Scheme> {
    Digest::ALL
        .into_iter()
        .flat_map(|digest| Salt::ALL.map(|salt| Scheme::new(digest, salt)))
}

fn is_valid(test: &Test) -> bool {
    match test.result {
        TestResult::Valid => true,
        TestResult::Invalid => false,
        TestResult::Acceptable => panic!("a vector without a verdict: {}", test.comment),
    }
}

fn describe(group: &TestGroup, test: &Test) -> String {
    let TestGroup {
        key_size,
        hash,
        mgf_hash,
        salt_size,
        ..
    } = group;
    format!(
        "vector {} ({:?}): RSA-{key_size}, {hash:?}, mask {mgf_hash:?}, salt {salt_size}",
        test.tc_id, test.comment
    )
}
