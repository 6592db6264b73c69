//! Keys that are for RSASSA-PSS alone (RFC 4055, 3.3), which is all that is signed with here.
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
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::{Certificate, Signer, SoftwareKey, SoftwareSigner};

/// Keys of the algorithm id-RSASSA-PSS, as `openssl genpkey -algorithm RSA-PSS` makes them, with certificates of the same
/// algorithm: what their parameters say holds when they sign, and when signatures are verified.
#[test]
fn pss_keys_sign_what_their_parameters_allow() {
    let Some(made) = Made::get("pss_keys_sign_what_their_parameters_allow") else {
        return;
    };
    let all: Vec<_> = schemes().collect();
    let only = |digest, salts: &[Salt]| {
        let of = |scheme: &Scheme| scheme.digest == digest && salts.contains(&scheme.salt);
        all.iter().copied().filter(of).collect::<Vec<_>>()
    };
    for (name, allowed) in [
        ("RSASSA-PSS", all.clone()),
        ("RSASSA-PSS SHA-256", only(Digest::Sha256, &Salt::ALL)),
        ("RSASSA-PSS SHA-512", only(Digest::Sha512, &Salt::ALL)),
        (
            "RSASSA-PSS long salt",
            only(Digest::Sha256, &[Salt::Maximum]),
        ),
    ] {
        let case = made.key(name);
        let certificate = Certificate::from_pem(case.certificate.as_ref().unwrap().as_bytes());
        let certificate = certificate.unwrap_or_else(|error| panic!("{name}: {error}"));
        for scheme in &all {
            let key = case.load(*scheme);
            assert_eq!(key.is_ok(), allowed.contains(scheme), "{name}: {scheme}");
            let Ok(key) = key else { continue };
            for other in &all {
                let again = key.with_scheme(*other);
                assert_eq!(again.is_ok(), allowed.contains(other), "{name}: {other}");
            }
            let signer = SoftwareSigner::new(key, certificate.clone()).unwrap();
            let signature = signer.sign(b"a message").unwrap();
            certificate
                .verify(b"a message", signature.as_bytes(), *scheme)
                .unwrap();
        }
    }
}

/// A plain key whose certificate is restricted: what it signed otherwise would not verify, so it does not begin.
#[test]
fn a_restricted_certificate_restricts_its_key() {
    let Some(made) = Made::get("a_restricted_certificate_restricts_its_key") else {
        return;
    };
    let restricted = made.key("RSASSA-PSS SHA-512");
    let certificate =
        Certificate::from_pem(restricted.certificate.as_ref().unwrap().as_bytes()).unwrap();
    let sha512 = Scheme::new(Digest::Sha512, Salt::DigestLength);
    // The RSAPrivateKey inside of it, as a file of the other kind has it.
    let plain = |scheme| {
        let pkcs8 = pem_body(&restricted.pem);
        let at = pkcs8.windows(2).skip(4).position(|two| two == [0x30, 0x82]);
        SoftwareKey::from_pkcs1(&pkcs8[at.unwrap() + 4..], scheme).unwrap()
    };
    let error = SoftwareSigner::new(plain(Scheme::default()), certificate.clone()).unwrap_err();
    assert!(
        error.to_string().contains("restricted to RSA-PSS sha512"),
        "{error}"
    );
    assert!(SoftwareSigner::new(plain(sha512), certificate).is_ok());
}

fn pem_body(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let text: String = lines.collect();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}
