//! The whole way of a message: what an opener hands out is a body that was signed, whatever came in.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use taskseal::{Certificate, ErrorClass, Format, MemoryCertStore, Opener, Policy};

#[path = "../signed.rs"]
mod signed;

static OPENER: LazyLock<(Opener, SystemTime)> = LazyLock::new(|| {
    let certificate =
        Certificate::from_pem(include_bytes!("../../docs/examples/worker.pem")).expect("it is one");
    let at = certificate.not_before() + Duration::from_secs(3600);
    let store = MemoryCertStore::new();
    store.add(certificate).expect("the store is empty");
    let policy = Policy::new().formats(Format::ALL);
    (Opener::new(store).with_policy(policy), at)
});

fuzz_target!(|data: &[u8]| {
    let (opener, at) = &*OPENER;
    for wire in [data, STANDARD.encode(data).as_bytes()] {
        match opener.open_at(wire, *at) {
            Ok(opened) => {
                assert!(signed::BODIES.contains(&opened.body()));
                assert_eq!(opened.content_type(), "application/json");
                let _ = opened.json::<Vec<u8>>();
            }
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::Rejected);
                assert!(error.to_string().len() < 2000);
            }
        }
    }
});
