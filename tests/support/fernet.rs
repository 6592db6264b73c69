//! Fernet's official vectors, and tokens that were changed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::Deserialize;
use taskseal::Fernet;

/// A case of the specification's `generate.json`, `verify.json` or `invalid.json`.
#[derive(Clone, Deserialize)]
pub struct Vector {
    desc: Option<String>,
    token: String,
    now: String,
    iv: Option<[u8; 16]>,
    src: Option<String>,
    ttl_sec: Option<u64>,
    /// The key; all of them have the same.
    pub secret: String,
}

impl Vector {
    fn all(json: &str) -> Vec<Self> {
        let all: Vec<Self> = serde_json::from_str(json).unwrap();
        assert!(!all.is_empty());
        all
    }

    /// Of the tokens that have to be made.
    pub fn generate() -> Vec<Self> {
        Self::all(include_str!("../data/fernet/generate.json"))
    }

    /// Of the tokens that have to be read.
    pub fn verify() -> Vec<Self> {
        Self::all(include_str!("../data/fernet/verify.json"))
    }

    /// Of the tokens that have to be refused.
    pub fn invalid() -> Vec<Self> {
        let all = Self::all(include_str!("../data/fernet/invalid.json"));
        assert_eq!(all.len(), 8);
        all
    }

    /// Makes, reads or refuses the token as the specification says, with this vector's key.
    pub fn check(&self, fernet: &Fernet) {
        if let Some(iv) = self.iv {
            let src = self.src.as_ref().unwrap().as_bytes();
            let made = fernet.dangerous_encrypt_with_iv(src, self.now(), iv);
            assert_eq!(made.unwrap(), self.token);
            return;
        }
        let ttl = self.ttl_sec.map(Duration::from_secs);
        let read = fernet.decrypt_at(self.token.as_bytes(), ttl, self.now());
        match &self.src {
            Some(src) => assert_eq!(read.unwrap(), src.as_bytes()),
            None => {
                let error = read.unwrap_err();
                assert!(
                    matches!(error, taskseal::FernetError::Refused),
                    "{:?}: {error}",
                    self.desc
                );
            }
        }
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
}

/// The token with one bit changed: each bit of each of its bytes, and of each character of its text the lowest.
pub fn flipped(token: &str) -> impl Iterator<Item = String> {
    let bytes = URL_SAFE.decode(token).unwrap();
    let in_bytes = (0..bytes.len() * 8).map(move |at| {
        let mut bad = bytes.clone();
        bad[at / 8] ^= 1 << (at % 8);
        URL_SAFE.encode(bad)
    });
    let text = token.as_bytes().to_vec();
    let in_text = (0..text.len()).map(move |at| {
        let mut bad = text.clone();
        bad[at] ^= 1;
        String::from_utf8(bad).unwrap()
    });
    in_bytes.chain(in_text)
}
