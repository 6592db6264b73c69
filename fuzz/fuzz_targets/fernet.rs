//! Fernet tokens: one is read, and as it was made, or refused alike; also with a tag that fits, as a key holder can make it.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use libfuzzer_sys::fuzz_target;
use taskseal::fernet::body::{BodyType, FernetBodies};
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{FernetError, FernetKeys as _};
use taskseal::{Fernet, MultiFernet};

const FIRST: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const OTHER: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

struct Fixture {
    keys: SoftwareKeys,
    first: Fernet,
    both: MultiFernet,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let keys = |key| SoftwareKeys::from_text(key).expect("it is one");
    let first = Fernet::new(keys(FIRST));
    Fixture {
        keys: keys(FIRST),
        both: MultiFernet::new(Fernet::new(keys(OTHER)), [first.clone()]),
        first,
    }
});

fuzz_target!(|data: &[u8]| {
    let Fixture { keys, first, both } = &*FIXTURE;
    match both.decrypt(data, None) {
        Ok(read) => assert!(read.len() < data.len()),
        Err(error) => assert!(matches!(error, FernetError::Refused)),
    }

    // The same bytes behind the first comparison: version, time, IV and blocks that somebody with the key has signed.
    let tag = keys.mac(data).expect("the key works");
    let token = URL_SAFE.encode([data, &tag].concat());
    match both.decrypt(token.as_bytes(), None) {
        Ok(read) => made_again(first, data, &token, &read),
        Err(error) => assert!(matches!(error, FernetError::Refused)),
    }

    // Bodies of a key holder.
    let bodies = FernetBodies::new(both.clone()).accept(BodyType::ALL);
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

/// What is read has one form: encrypted at the same time under the same IV it gives the same token.
fn made_again(fernet: &Fernet, signed: &[u8], token: &str, read: &[u8]) {
    let seconds = u64::from_be_bytes(signed[1..9].try_into().expect("a token has a time"));
    let iv = signed[9..25].try_into().expect("a token has an IV");
    // The system's clock does not reach as far as 64 bits do.
    let Some(at) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) else {
        return assert!(fernet.timestamp(token.as_bytes()).is_err());
    };
    assert_eq!(fernet.timestamp(token.as_bytes()).expect("it was read"), at);
    let again = fernet.dangerous_encrypt_with_iv(read, at, iv);
    assert_eq!(again.expect("it is not longer"), token);
    let ttl = Some(Duration::from_secs(60));
    assert!(fernet.decrypt_at(token.as_bytes(), ttl, at).is_ok());
    if let Some(late) = at.checked_add(Duration::from_secs(61)) {
        assert!(fernet.decrypt_at(token.as_bytes(), ttl, late).is_err());
    }
}
