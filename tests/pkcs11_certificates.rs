//! Keys on a token and their certificates: what the token does not tell of a key comes from the certificate, and what signs
//! and opens can be imported.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use der::asn1::Any;
use der::{Decode as _, Encode as _, Tag};
use support::softhsm::{self, Token};
use support::spy::{self, Spy};
use taskseal::pkcs11::module::{Attribute, AttributeKind as Kind, ObjectClass};
use taskseal::pkcs11::{self, Builder, Error, Rv};
use taskseal::pss::Scheme;
use taskseal::signer::SigningKey as _;
use taskseal::{Certificate, ErrorClass, SignError, Signer as _};

/// A token with the key `k`, without the public half, that does not tell these attributes of a private key; and the
/// certificate of the key.
fn token_without_half(
    hsm: &softhsm::SoftHsm,
    hidden: &'static [Kind],
) -> (Token, Builder, Arc<Spy>, Certificate) {
    let token = hsm.token("lab");
    let (_, certificate) = token.generate_certified(2048, "k");
    let session = token.session();
    let public = [Attribute::class(ObjectClass::PublicKey)];
    for handle in session.find(&public).unwrap() {
        session.destroy(handle).unwrap();
    }
    let (builder, spy) = token.spied();
    spy.hooks.lock().unwrap().attributes = Some(Box::new(|mut attributes| {
        attributes
            .0
            .retain(|attribute| !hidden.contains(&attribute.kind));
        attributes
    }));
    (token, builder, spy, certificate)
}

fn signs(signer: &pkcs11::Pkcs11Signer) {
    let signature = signer.sign(b"m").unwrap();
    let certificate = signature.certificate();
    certificate
        .verify(b"m", signature.as_bytes(), Scheme::default())
        .unwrap();
}

#[test]
fn a_key_without_its_exponent_takes_it_from_the_certificate() {
    softhsm::test(|hsm| {
        let (_, builder, _spy, certificate) = token_without_half(hsm, &[Kind::PublicExponent]);
        let by_label = builder.clone().object_label("k");
        // Without a certificate nobody can tell, and the error says what helps.
        let error = by_label.open_key().unwrap_err();
        assert!(matches!(error, Error::PublicHalf { .. }), "{error}");
        assert!(
            error.to_string().contains("give the key's certificate"),
            "{error}"
        );

        signs(&by_label.clone().open_signer(certificate.clone()).unwrap());
        // No label and no id: the modulus is enough.
        signs(&builder.clone().open_signer(certificate.clone()).unwrap());
        let listed = pkcs11::list_keys(&builder).unwrap();
        assert_eq!(
            listed[0].modulus.as_deref(),
            Some(certificate.public_key().modulus())
        );
        assert_eq!((&listed[0].public_key, listed[0].certificates), (&None, 0));

        // On the token beside the key, the certificate tells it to everybody.
        pkcs11::import_certificate(&builder, &certificate, None).unwrap();
        signs(&by_label.clone().certificate_from_token().open().unwrap());
        let key = by_label.open_key().unwrap();
        assert_eq!(key.public_key(), certificate.public_key());
        let listed = pkcs11::list_keys(&builder).unwrap();
        assert_eq!(
            listed[0].public_key.as_ref(),
            Some(certificate.public_key())
        );
        assert_eq!(listed[0].certificates, 1);
    });
}

#[test]
fn another_certificate_is_told_by_its_modulus() {
    softhsm::test(|hsm| {
        let (token, builder, _spy, _) = token_without_half(hsm, &[Kind::PublicExponent]);
        let other = hsm.token("other");
        let (_, other) = other.generate_certified(2048, "k");
        let builder = builder.object_label("k");
        let error = builder.clone().open_signer(other.clone()).unwrap_err();
        assert!(matches!(error, SignError::KeyMismatch { .. }), "{error}");
        let error = pkcs11::import_certificate(&builder, &other, None).unwrap_err();
        // The key that is there is named, and trying again changes nothing.
        assert_eq!(error.class(), ErrorClass::Permanent);
        let text = error.to_string();
        assert!(
            matches!(error, Error::OtherKey { .. }) && text.contains("\"k\""),
            "{text}"
        );
        drop(token);
    });
}

/// A key that tells neither modulus nor exponent and is named: the trial signature says whose it is.
#[test]
fn a_key_that_tells_nothing_is_proved_by_its_trial_signature() {
    softhsm::test(|hsm| {
        const HIDDEN: &[Kind] = &[Kind::Modulus, Kind::PublicExponent];
        let (_, builder, spy, certificate) = token_without_half(hsm, HIDDEN);
        let by_label = builder.clone().object_label("k");
        signs(&by_label.clone().open_signer(certificate.clone()).unwrap());
        let other = hsm.token("other");
        let (_, other) = other.generate_certified(2048, "k");
        let error = by_label.clone().open_signer(other).unwrap_err();
        assert!(
            matches!(error, SignError::Token(Error::PublicHalf { .. })),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("no signature verifies under the certificate"),
            "{text}"
        );
        // Nothing says that it is the one, where it is not named.
        let error = builder
            .clone()
            .open_signer(certificate.clone())
            .unwrap_err();
        assert!(
            matches!(error, SignError::Token(Error::KeyNotFound { .. })),
            "{error}"
        );
        // A certificate on the token has the id of its key.
        pkcs11::import_certificate(&by_label, &certificate, None).unwrap();
        signs(&by_label.certificate_from_token().open().unwrap());
        drop(spy);
    });
}

/// The key of such a token is found again when its session is lost.
#[test]
fn a_key_without_its_half_is_found_again() {
    softhsm::test(|hsm| {
        const HIDDEN: &[Kind] = &[Kind::Modulus, Kind::PublicExponent];
        let (_, builder, spy, certificate) = token_without_half(hsm, HIDDEN);
        let signer = builder.object_label("k").open_signer(certificate).unwrap();
        signs(&signer);
        let opened = spy.count("C_OpenSession");
        let lost = AtomicBool::new(true);
        spy.hooks.lock().unwrap().sign = Some(Box::new(move |_| {
            let lost = lost.swap(false, Ordering::SeqCst);
            lost.then(|| Err(spy::failed("C_Sign", Rv::SESSION_HANDLE_INVALID)))
        }));
        signs(&signer);
        assert!(
            spy.count("C_OpenSession") > opened,
            "no other session was opened"
        );
    });
}

/// What signs and opens can be put on the token: a serial number longer than RFC 5280 allows, and a name of a string type
/// that hardly anybody knows.
#[test]
fn odd_certificates_are_imported() {
    softhsm::test(|hsm| {
        let token = hsm.token("lab");
        let (_, plain) = token.generate_certified(2048, "k");
        for (number, odd) in [with_long_serial(&plain), with_universal_string(&plain)]
            .iter()
            .enumerate()
        {
            let signer = token
                .builder()
                .object_label("k")
                .open_signer(odd.clone())
                .unwrap();
            signs(&signer);
            pkcs11::import_certificate(&token.builder(), odd, Some(&format!("odd {number}")))
                .unwrap();
            let found = pkcs11::find_certificates(&token.builder()).unwrap();
            assert!(found.iter().any(|found| found.certificate == *odd));
            let again = pkcs11::import_certificate(&token.builder(), odd, None).unwrap_err();
            assert!(matches!(again, Error::Exists { .. }), "{again}");
        }
        // The token got the parts as they are in the certificate.
        let session = token.session();
        let template = [Attribute::bytes(Kind::Label, b"odd 0")];
        let [handle] = session.find(&template).unwrap()[..] else {
            panic!("one object")
        };
        let kinds = [Kind::SerialNumber, Kind::Issuer, Kind::Subject];
        let attributes = session.attributes(handle, &kinds).unwrap();
        let odd = with_long_serial(&plain);
        assert_eq!(
            attributes.bytes(Kind::SerialNumber),
            Some(odd.serial_number_der())
        );
        assert_eq!(attributes.bytes(Kind::Issuer), Some(odd.issuer_der()));
        assert_eq!(attributes.bytes(Kind::Subject), Some(odd.subject_der()));
    });
}

fn with_long_serial(certificate: &Certificate) -> Certificate {
    with_field(certificate, 1, Any::new(Tag::Integer, [0x55; 24]).unwrap())
}

fn with_universal_string(certificate: &Certificate) -> Certificate {
    let value = [&[0x1c, 0x04][..], &u32::from('w').to_be_bytes()].concat();
    let attribute = [&[0x06, 0x03, 0x55, 0x04, 0x03][..], &value].concat();
    let attribute = Any::new(Tag::Sequence, attribute)
        .unwrap()
        .to_der()
        .unwrap();
    let rdn = Any::new(Tag::Set, attribute).unwrap().to_der().unwrap();
    let name = Any::new(Tag::Sequence, rdn).unwrap();
    // The subject, then the issuer.
    with_field(&with_field(certificate, 5, name.clone()), 3, name)
}

/// With another field of the `TBSCertificate`. Its own signature no longer verifies, which nobody here looks at.
fn with_field(certificate: &Certificate, index: usize, field: Any) -> Certificate {
    let mut parts = Vec::<Any>::from_der(certificate.der()).unwrap();
    let mut tbs: Vec<Any> = parts[0].decode_as().unwrap();
    tbs[index] = field;
    parts[0] = Any::encode_from(&tbs).unwrap();
    Certificate::from_der(&parts.to_der().unwrap()).unwrap()
}
