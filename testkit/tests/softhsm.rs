//! Tokens of tests: side by side, apart from each other, gone afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;

use taskseal::Signer as _;
use taskseal::pkcs11::{Pkcs11Signer, list_tokens};
use taskseal_testkit::{Error, SoftHsm};

#[test]
fn a_token_signs_for_its_certificate() {
    let hsm = SoftHsm::start().unwrap();
    let signer = hsm.signer().unwrap();
    let signature = signer.sign(b"a message").unwrap();
    signer
        .certificate()
        .verify(b"a message", signature.as_bytes(), signer.scheme())
        .unwrap();
}

#[test]
fn two_tokens_in_one_process_do_not_see_each_other() {
    let one = SoftHsm::options().label("one").start().unwrap();
    let two = SoftHsm::options().label("two").start().unwrap();
    for (hsm, label) in [(&one, "one"), (&two, "two")] {
        let tokens = list_tokens(&hsm.module()).unwrap();
        let labels: Vec<_> = tokens.iter().map(|token| token.label.as_str()).collect();
        // SoftHSM always offers one more slot, for the next token.
        assert_eq!(labels, [label, ""]);
    }
    let (first, second) = (one.signer().unwrap(), two.signer().unwrap());
    let signatures = [&first, &second].map(|signer| signer.sign(b"a message").unwrap());
    let (key, scheme) = (first.certificate(), first.scheme());
    key.verify(b"a message", signatures[0].as_bytes(), scheme)
        .unwrap();
    key.verify(b"a message", signatures[1].as_bytes(), scheme)
        .unwrap_err();
}

#[test]
fn eight_threads_have_eight_tokens() {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    SoftHsm::start()
                        .unwrap()
                        .signer()
                        .unwrap()
                        .sign(b"x")
                        .unwrap()
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().as_bytes().len(), 256);
        }
    });
}

#[test]
fn the_uri_opens_the_key() {
    let hsm = SoftHsm::options()
        .label("a token; odd?")
        .key_label("50 % + 1")
        .start()
        .unwrap();
    let uri = hsm.uri().parse().unwrap();
    let signer = Pkcs11Signer::open(&uri, hsm.certificate().clone()).unwrap();
    assert_eq!(signer.sign(b"x").unwrap().as_bytes().len(), 256);
}

#[test]
fn the_certificate_is_in_a_file() {
    let hsm = SoftHsm::options()
        .subject("CN=worker-7,O=Example")
        .start()
        .unwrap();
    let pem = std::fs::read(hsm.certificate_file()).unwrap();
    let certificate = taskseal::Certificate::from_pem(&pem).unwrap();
    assert!(certificate.id().starts_with("Example worker-7 "));
    assert_eq!(
        certificate.thumbprint_hex(),
        hsm.certificate().thumbprint_hex()
    );
}

#[test]
fn another_key_has_a_certificate_of_its_own() {
    let hsm = SoftHsm::start().unwrap();
    let certificate = hsm.generate("other", "CN=other").unwrap();
    let other = hsm
        .builder()
        .object_label("other")
        .open_signer(certificate)
        .unwrap();
    let signature = other.sign(b"x").unwrap();
    hsm.certificate()
        .verify(b"x", signature.as_bytes(), other.scheme())
        .unwrap_err();
}

#[test]
fn softhsms_own_program_shows_the_token() {
    let hsm = SoftHsm::options().label("shown").start().unwrap();
    let (name, value) = hsm.environment();
    let output = Command::new("softhsm2-util")
        .arg("--show-slots")
        .env(name, value)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("Label:            shown").count(), 1, "{text}");
}

#[test]
fn nothing_is_left_of_a_dropped_token() {
    let hsm = SoftHsm::start().unwrap();
    let directory = hsm.directory().to_owned();
    let signer = hsm.signer().unwrap();
    signer.close().unwrap();
    drop(hsm);
    assert!(!directory.exists());
}

#[test]
fn the_reason_for_no_token_names_the_token() {
    let hsm = SoftHsm::start().unwrap();
    let error = hsm.generate("worker", "CN=worker").unwrap_err();
    assert!(matches!(error, Error::Token(_)), "{error}");
}
