//! Certificates: no panic, and one that is read has an id that does not depend on how it came in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskseal::pss::Scheme;
use taskseal::{CertStore as _, Certificate, MemoryCertStore};

fuzz_target!(|data: &[u8]| {
    let _ = Certificate::all_from_pem(data);
    let Ok(certificate) = Certificate::from_pem_or_der(data) else {
        return;
    };
    let id = certificate.id();
    assert_eq!(
        id,
        format!("{} {}", certificate.issuer(), certificate.serial_number())
    );
    let digits = certificate.serial_number().trim_start_matches('-');
    assert!(!digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()));

    let again = Certificate::from_der(certificate.der()).expect("its own DER is not read");
    assert_eq!((again.id(), &again), (id, &certificate));
    let again =
        Certificate::from_pem(certificate.to_pem().as_bytes()).expect("its own PEM is not read");
    assert_eq!((again.id(), &again), (id, &certificate));
    let _ = format!(
        "{certificate:?} {} {}",
        certificate.subject(),
        certificate.issuer_name()
    );

    let store = MemoryCertStore::new();
    store
        .add(certificate.clone())
        .expect("an empty store takes it");
    assert_eq!(store.get(id).as_ref(), Some(&certificate));
    // Whatever key is in it, using it does no harm.
    let signature = vec![1; certificate.public_key().signature_len()];
    assert!(
        certificate
            .verify(b"message", &signature, Scheme::default())
            .is_err()
    );
});
