//! Fernet with keys in memory: the official vectors, and everything that has to be refused.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::Deserialize;
use taskseal::ErrorClass;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet, FernetError, MultiFernet};

/// A case of the specification's `generate.json`, `verify.json` or `invalid.json`.
#[derive(Deserialize)]
struct Vector {
    desc: Option<String>,
    token: String,
    now: String,
    iv: Option<[u8; 16]>,
    src: Option<String>,
    ttl_sec: Option<u64>,
    secret: String,
}

impl Vector {
    fn all(json: &str) -> Vec<Self> {
        let all: Vec<Self> = serde_json::from_str(json).unwrap();
        assert!(!all.is_empty());
        all
    }

    fn fernet(&self) -> Fernet {
        Fernet::new(SoftwareKeys::from_text(&self.secret).unwrap())
    }

    /// All of them lie on one day, in one time zone.
    fn now(&self) -> SystemTime {
        let time = self
            .now
            .strip_prefix("1985-10-26T")
            .unwrap()
            .strip_suffix("-07:00")
            .unwrap();
        let parts: Vec<u64> = time.split(':').map(|part| part.parse().unwrap()).collect();
        // 1985-10-26T00:00:00-07:00.
        let midnight = 499_158_000;
        UNIX_EPOCH + Duration::from_secs(midnight + parts[0] * 3600 + parts[1] * 60 + parts[2])
    }

    fn ttl(&self) -> Option<Duration> {
        self.ttl_sec.map(Duration::from_secs)
    }
}

fn fernet() -> Fernet {
    Fernet::new(SoftwareKeys::generate().unwrap())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn refused<T: std::fmt::Debug>(result: Result<T, FernetError>) -> bool {
    match result {
        Err(error) => {
            assert_eq!(error.class(), ErrorClass::Rejected);
            matches!(error, FernetError::Refused)
        }
        Ok(_) => false,
    }
}

#[test]
fn the_official_tokens_are_made() {
    for vector in Vector::all(include_str!("data/fernet/generate.json")) {
        let src = vector.src.as_ref().unwrap().as_bytes();
        let made = vector
            .fernet()
            .dangerous_encrypt_with_iv(src, vector.now(), vector.iv.unwrap());
        assert_eq!(made.unwrap(), vector.token);
    }
}

#[test]
fn the_official_tokens_are_read() {
    for vector in Vector::all(include_str!("data/fernet/verify.json")) {
        let read = vector
            .fernet()
            .decrypt_at(vector.token.as_bytes(), vector.ttl(), vector.now());
        assert_eq!(read.unwrap(), vector.src.as_ref().unwrap().as_bytes());
    }
}

#[test]
fn the_official_bad_tokens_are_refused_alike() {
    let all = Vector::all(include_str!("data/fernet/invalid.json"));
    assert_eq!(all.len(), 8);
    for vector in all {
        let read = vector
            .fernet()
            .decrypt_at(vector.token.as_bytes(), vector.ttl(), vector.now());
        assert!(refused(read), "{:?}", vector.desc);
    }
}

#[test]
fn every_length_round_trips() {
    let fernet = fernet();
    for len in (0..70).chain([1000, 65_535, 1 << 20]) {
        let data = vec![0x10; len];
        let token = fernet.encrypt(&data).unwrap();
        assert_eq!(token.len() % 4, 0);
        assert_eq!(
            fernet
                .decrypt(token.as_bytes(), Some(Duration::from_secs(60)))
                .unwrap(),
            data
        );
    }
    assert_ne!(
        fernet.encrypt(b"x").unwrap(),
        fernet.encrypt(b"x").unwrap(),
        "the IV is random"
    );
}

#[test]
fn the_time_to_live_counts_from_the_token_to_the_given_clock() {
    let fernet = fernet();
    let token = fernet.encrypt_at(b"x", at(1_000_000)).unwrap();
    let read = |ttl, now| fernet.decrypt_at(token.as_bytes(), ttl, at(now));
    let minute = Some(Duration::from_secs(60));
    assert!(read(minute, 1_000_060).is_ok());
    assert!(refused(read(minute, 1_000_061)));
    assert!(read(minute, 999_940).is_ok(), "60 s of skew");
    assert!(refused(read(minute, 999_939)));
    assert!(read(None, 0).is_ok() && read(None, u64::from(u32::MAX)).is_ok());
    assert_eq!(fernet.timestamp(token.as_bytes()).unwrap(), at(1_000_000));
    assert!(read(Some(Duration::MAX), 2_000_000).is_ok());
}

#[test]
fn a_flipped_bit_in_any_byte_is_refused() {
    let fernet = fernet();
    let token = fernet.encrypt(b"twenty bytes of data").unwrap();
    let bytes = URL_SAFE.decode(&token).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(
                refused(fernet.decrypt(URL_SAFE.encode(bad).as_bytes(), None)),
                "{at} {bit}"
            );
        }
    }
    for at in 0..token.len() {
        let mut bad = token.clone().into_bytes();
        bad[at] ^= 1;
        assert!(refused(fernet.decrypt(&bad, None)), "{at}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let fernet = fernet();
    let token = fernet.encrypt(b"x").unwrap();
    for len in 0..token.len() {
        assert!(refused(fernet.decrypt(&token.as_bytes()[..len], None)));
    }
    for bad in [
        format!("{token}\n"),
        format!("{token}="),
        token.replace('_', "/"),
        "%".repeat(140),
    ] {
        if bad != token {
            assert!(refused(fernet.decrypt(bad.as_bytes(), None)), "{bad}");
        }
    }
    // The same bytes with bits after the end: another text for one token.
    let mut loose = token.trim_end_matches('=').to_owned();
    let padding = token.len() - loose.len();
    if padding > 0 {
        let last = loose.pop().unwrap();
        let next = char::from_u32(u32::from(last) + 1).unwrap();
        let loose = format!("{loose}{next}{}", "=".repeat(padding));
        assert!(refused(fernet.decrypt(loose.as_bytes(), None)));
    }
    assert!(refused(fernet.decrypt(&vec![b'A'; 64 << 20], None)));
    assert!(refused(
        fernet.decrypt(&vec![b'g'; Fernet::MAX_TOKEN_LEN + 4], None)
    ));
    let other = Fernet::new(SoftwareKeys::generate().unwrap());
    assert!(refused(other.decrypt(token.as_bytes(), None)));
}

#[test]
fn several_hundred_keys_read_and_rotate() {
    let all: Vec<Fernet> = (0..300).map(|_| fernet()).collect();
    let multi = MultiFernet::new(all[0].clone(), all[1..].iter().cloned());
    for maker in [&all[0], &all[150], &all[299]] {
        let token = maker.encrypt_at(b"old", at(1_500_000_000)).unwrap();
        assert_eq!(multi.decrypt(token.as_bytes(), None).unwrap(), b"old");
        let rotated = multi.rotate(token.as_bytes()).unwrap();
        assert_eq!(all[0].decrypt(rotated.as_bytes(), None).unwrap(), b"old");
        assert_eq!(
            all[0].timestamp(rotated.as_bytes()).unwrap(),
            at(1_500_000_000)
        );
        let minute = Some(Duration::from_secs(60));
        assert!(
            refused(multi.decrypt_at(rotated.as_bytes(), minute, at(1_500_000_061))),
            "its age goes on counting"
        );
    }
    assert_eq!(
        all[0]
            .decrypt(multi.encrypt(b"new").unwrap().as_bytes(), None)
            .unwrap(),
        b"new"
    );
    let stranger = fernet().encrypt(b"x").unwrap();
    assert!(refused(multi.decrypt(stranger.as_bytes(), None)));
    assert!(refused(multi.rotate(stranger.as_bytes())));
    assert!(refused(multi.decrypt(b"", None)));
}

#[test]
fn keys_are_32_bytes_of_base64url_and_are_not_printed() {
    let keys = SoftwareKeys::generate().unwrap();
    let text = keys.expose_text().to_owned();
    assert!(!format!("{keys:?}").contains(&text));
    assert!(!format!("{:?}", Fernet::new(keys)).contains(&text));
    let again = SoftwareKeys::from_text(&text).unwrap();
    assert_eq!(again.expose_text(), text);
    for bad in [
        "",
        "short",
        &text[..43],
        &format!("{text}="),
        &"A".repeat(44),
        &text.replace('=', "A"),
    ] {
        let error = SoftwareKeys::from_text(bad).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{bad}");
        assert!(bad.len() < 10 || !error.to_string().contains(bad));
    }
}
