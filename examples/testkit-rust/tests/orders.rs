//! The shop on SoftHSM: when the token works, when it is slow, and when it fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use taskseal::pkcs11::Rv;
use taskseal::{MemoryCertStore, Opener};
use taskseal_testkit::SoftHsm;
use testkit_example::Orders;

type Tested = Result<(), Box<dyn std::error::Error>>;

#[test]
fn an_order_opens_with_the_certificate() -> Tested {
    let hsm = SoftHsm::start()?;
    let orders = Orders::new(Arc::new(hsm.signer()?));
    let store = MemoryCertStore::new();
    store.add(hsm.certificate().clone())?;
    let opener = Opener::new(store);
    let order = orders.order("tea", 3)?;
    let opened = opener.open(&order)?;
    assert_eq!(
        opened.json::<serde_json::Value>()?[0],
        serde_json::json!(["tea", 3])
    );
    Ok(())
}

#[test]
fn an_order_survives_two_failures_and_a_slow_token() -> Tested {
    let hsm = SoftHsm::start()?;
    let (builder, faults) = hsm.faulty()?;
    let signer = builder
        .object_label(hsm.key_label())
        .open_signer(hsm.certificate().clone())?;
    let orders = Orders::new(Arc::new(signer));
    let start = Instant::now();
    faults
        .next("C_Sign")
        .fail(Rv::DEVICE_ERROR, 2)
        .hang_for(Duration::from_millis(300));
    orders.order("tea", 3)?;
    assert!(start.elapsed() >= Duration::from_millis(300));
    Ok(())
}

#[test]
fn an_order_ends_within_the_deadline_when_the_token_hangs() -> Tested {
    let hsm = SoftHsm::start()?;
    let (builder, faults) = hsm.faulty()?;
    let builder = builder
        .object_label(hsm.key_label())
        .deadline(Duration::from_millis(500));
    let orders = Orders::new(Arc::new(builder.open_signer(hsm.certificate().clone())?));
    faults.next("C_Sign").hang();
    let start = Instant::now();
    assert!(orders.order("tea", 3).is_err());
    assert!(start.elapsed() < Duration::from_secs(10));
    faults.release();
    Ok(())
}
