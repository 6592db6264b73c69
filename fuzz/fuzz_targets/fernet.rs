//! Fernet tokens: one is read, and as it was made, or refused alike; also with a tag that fits, as a key holder can make it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use taskseal::fernet::body::{BodyType, FernetBodies};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::{ErrorClass, Fernet, MultiFernet};

static FERNET: LazyLock<MultiFernet> = LazyLock::new(|| {
    let keys = [
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    ];
    let [first, other] =
        keys.map(|key| Fernet::new(SoftwareKeys::from_text(key).expect("it is one")));
    MultiFernet::new(first, [other])
});

fuzz_target!(|data: &[u8]| {
    match FERNET.decrypt(data, None) {
        Ok(read) => assert!(read.len() < data.len()),
        Err(error) => assert_eq!(error.class(), ErrorClass::Rejected),
    }
    // Bodies of a key holder.
    let bodies = FernetBodies::new(FERNET.clone()).accept(BodyType::ALL);
    for body_type in BodyType::ALL {
        let sealed = bodies.seal_bytes(body_type, data).expect("the keys work");
        let opened = bodies
            .open(body_type.content_type(), sealed.as_bytes())
            .expect("it was just made");
        assert_eq!(opened.body(), data);
        let _ = opened.json::<Vec<String>>();
        let _ = opened.msgpack::<Vec<Option<String>>>();
    }
});
