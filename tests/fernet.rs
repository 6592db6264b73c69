//! Fernet with keys in memory: the official vectors, and everything that has to be refused.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::fernet::{Vector, flipped};
use taskseal::ErrorClass;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet, FernetError, FernetKeys, MultiFernet};

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
fn the_official_vectors_hold() {
    for vector in [Vector::generate(), Vector::verify(), Vector::invalid()].concat() {
        vector.check(&Fernet::new(
            SoftwareKeys::from_text(&vector.secret).unwrap(),
        ));
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
fn large_tokens_round_trip_up_to_their_limit() {
    const MIB: usize = 1 << 20;
    let fernet = fernet();
    let data: Vec<u8> = (0..=250).cycle().take(64 * MIB).collect();
    let token = fernet.encrypt(&data).unwrap();
    assert!(token.len() > 64 * MIB);
    assert!(fernet.decrypt(token.as_bytes(), None).unwrap() == data);
    let mut bad = token.into_bytes();
    for at in [40 * MIB, bad.len() - 8] {
        bad[at] ^= 1;
        assert!(refused(fernet.decrypt(&bad, None)), "{at}");
        bad[at] ^= 1;
    }
    // Header, tag and one byte of padding at least.
    let most = Fernet::MAX_TOKEN_LEN / 4 * 3 - 25 - 32 - 1;
    let error = fernet.encrypt(&vec![0; most + 1]).unwrap_err();
    assert!(matches!(error, FernetError::TooLarge { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Permanent);
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
    for len in [0, 20] {
        let token = fernet.encrypt(&vec![b'x'; len]).unwrap();
        assert!(fernet.decrypt(token.as_bytes(), None).is_ok());
        for bad in flipped(&token) {
            assert!(refused(fernet.decrypt(bad.as_bytes(), None)), "{bad}");
        }
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
fn many_at_once_are_what_one_after_the_other_are() {
    let [new, old, other] = [fernet(), fernet(), fernet()];
    let keys = MultiFernet::new(new.clone(), [old.clone()]);
    // More than there are IVs in one fetch, of all lengths around a block.
    let data: Vec<Vec<u8>> = (0..200).map(|at| vec![at; usize::from(at)]).collect();
    let now = SystemTime::now();
    let tokens = keys.encrypt_all(&data).unwrap();
    let ivs: BTreeSet<String> = tokens
        .iter()
        .map(|token| token[12..34].to_owned())
        .collect();
    assert_eq!((tokens.len(), ivs.len()), (200, 200));
    for (token, data) in tokens.iter().zip(&data) {
        assert_eq!(&new.decrypt(token.as_bytes(), None).unwrap(), data);
        let made = new.timestamp(token.as_bytes()).unwrap();
        assert!(
            made.duration_since(now - Duration::from_secs(1)).unwrap() < Duration::from_secs(60)
        );
    }

    // Of both keys, of another one, and what is no token.
    let mixed: Vec<String> = data
        .iter()
        .enumerate()
        .map(|(place, data)| match place % 4 {
            0 => new.encrypt_at(data, at(1000)).unwrap(),
            1 => old.encrypt_at(data, at(2000)).unwrap(),
            2 => other.encrypt(data).unwrap(),
            _ => "no token".to_owned(),
        })
        .collect();
    let opened = keys.decrypt_all(&mixed, None).unwrap();
    let rotated = keys.rotate_all(&mixed).unwrap();
    assert_eq!((opened.len(), rotated.len()), (200, 200));
    for (place, (opened, rotated)) in opened.into_iter().zip(rotated).enumerate() {
        match place % 4 {
            first @ (0 | 1) => {
                assert_eq!(opened.unwrap(), data[place]);
                let rotated = rotated.unwrap();
                assert_eq!(new.decrypt(rotated.as_bytes(), None).unwrap(), data[place]);
                let made = if first == 0 { at(1000) } else { at(2000) };
                assert_eq!(new.timestamp(rotated.as_bytes()).unwrap(), made);
                assert_ne!(rotated, mixed[place]);
            }
            _ => assert!(refused(opened) && refused(rotated), "{place}"),
        }
    }
    // Their time counts, of each for itself.
    let minute = Some(Duration::from_secs(60));
    let both = [mixed[0].as_str(), tokens[7].as_str()];
    let [stale, fresh] = keys.decrypt_all(&both, minute).unwrap().try_into().unwrap();
    assert!(refused(stale));
    assert_eq!(fresh.unwrap(), data[7]);

    assert!(keys.encrypt_all::<&[u8]>(&[]).unwrap().is_empty());
    assert!(keys.decrypt_all::<&[u8]>(&[], None).unwrap().is_empty());
    assert!(keys.rotate_all::<&[u8]>(&[]).unwrap().is_empty());
}

/// Keys that work so many times.
#[derive(Debug)]
struct Failing(SoftwareKeys, AtomicUsize);

impl FernetKeys for Failing {
    fn mac(&self, message: &[u8]) -> Result<[u8; 32], FernetError> {
        let left = |left: usize| left.checked_sub(1);
        self.1
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
            .map_err(|_| FernetError::Keys {
                class: ErrorClass::Busy,
                source: "enough".into(),
            })?;
        self.0.mac(message)
    }

    fn encrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        self.0.encrypt_blocks(iv, blocks)
    }

    fn decrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        self.0.decrypt_blocks(iv, blocks)
    }
}

#[test]
fn keys_that_fail_fail_all_and_what_is_too_large_is_not_begun() {
    let failing = |uses| {
        let keys = SoftwareKeys::generate().unwrap();
        Fernet::new(Failing(keys, AtomicUsize::new(uses)))
    };
    let error = failing(5).encrypt_all(&[b"data"; 6]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Busy);
    let fernet = failing(9);
    let tokens = fernet.encrypt_all(&[b"data"; 6]).unwrap();
    // Not a single one as refused, which it may not be.
    let error = fernet.decrypt_all(&tokens, None).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Busy);

    let fernet = failing(1);
    let large = vec![0; Fernet::MAX_TOKEN_LEN];
    let error = fernet
        .encrypt_all(&[b"data", large.as_slice()])
        .unwrap_err();
    assert!(matches!(error, FernetError::TooLarge { .. }), "{error}");
    fernet.encrypt(b"the one use is left").unwrap();
}

#[test]
fn keys_are_32_bytes_of_base64url_and_are_not_printed() {
    let keys = SoftwareKeys::generate().unwrap();
    let text = keys.expose_text().to_owned();
    assert!(!format!("{keys:?}").contains(&text));
    assert!(!format!("{:?}", Fernet::new(keys)).contains(&text));
    for (before, after) in [("", ""), ("", "\n"), (" '", "'\r\n"), ("\u{feff}\"", "\"")] {
        for key in [text.clone(), text.replace('-', "+").replace('_', "/")] {
            let again = SoftwareKeys::from_text(&format!("{before}{key}{after}")).unwrap();
            assert_eq!(again.expose_text(), text);
        }
    }
    for bad in [
        "",
        "short",
        &text[..43],
        &format!("{text}="),
        &format!("'{text}"),
        &format!("{} {}", &text[..20], &text[20..]),
        &text.replacen(char::is_alphanumeric, "ä", 1),
        &"A".repeat(44),
        &text.replace('=', "A"),
    ] {
        let error = SoftwareKeys::from_text(bad).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{bad}");
        assert!(bad.len() < 10 || !error.to_string().contains(bad));
    }
}
