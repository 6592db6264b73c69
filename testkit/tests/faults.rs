//! Tokens that fail as they are told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use std::sync::Arc;
use taskseal::pkcs11::Rv;
use taskseal::{Signer, pkcs11::Pkcs11Signer};
use taskseal_testkit::SoftHsm;
use taskseal_testkit::faults::Faults;

fn faulty() -> (SoftHsm, Pkcs11Signer, Arc<Faults>) {
    let hsm = SoftHsm::start().unwrap();
    let (builder, faults) = hsm.faulty().unwrap();
    let builder = builder.object_label(hsm.key_label());
    let signer = builder.open_signer(hsm.certificate().clone()).unwrap();
    (hsm, signer, faults)
}

#[test]
fn two_failures_and_a_hang_in_this_order() {
    let (_hsm, signer, faults) = faulty();
    let time = Duration::from_millis(400);
    faults
        .next("C_Sign")
        .fail(Rv::DEVICE_ERROR, 2)
        .hang_for(time);
    let (start, before) = (Instant::now(), faults.count("C_Sign"));
    signer.sign(b"a message").unwrap();
    assert_eq!(faults.count("C_Sign") - before, 3);
    assert!(start.elapsed() >= time);
}

#[test]
fn a_failure_that_nobody_can_mend_comes_out() {
    let (_hsm, signer, faults) = faulty();
    faults.next("C_Sign").pass(1).fail(Rv::MECHANISM_INVALID, 1);
    signer.sign(b"first").unwrap();
    let error = signer.sign(b"second").unwrap_err().to_string();
    assert!(error.contains("CKR_MECHANISM_INVALID"), "{error}");
    signer.sign(b"third").unwrap();
}

#[test]
fn a_call_that_hangs_goes_on_when_it_is_released() {
    let (_hsm, signer, faults) = faulty();
    faults.next("C_Sign").hang();
    std::thread::scope(|scope| {
        let signing = scope.spawn(|| signer.sign(b"a message").map(drop));
        while faults.hanging() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!signing.is_finished());
        faults.release();
        signing.join().expect("no panic").unwrap();
    });
}
