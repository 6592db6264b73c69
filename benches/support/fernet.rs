//! Fernet in memory: against the same calls of `aws-lc-rs` and base64 by hand, and against Python's `cryptography`.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use taskseal::Fernet;
use taskseal::fernet::software::SoftwareKeys;

use super::celery::Celery;
use super::compare::{Effort, Outcome, Timed, compare, timed};
use super::{KIB, body};

/// What a careful programmer would write with the crates at hand.
struct ByHand {
    signing: hmac::Key,
    encrypting: PaddedBlockEncryptingKey,
    decrypting: PaddedBlockDecryptingKey,
}

impl ByHand {
    fn new(key: &[u8]) -> Self {
        let (signing, encrypting) = key.split_at(16);
        let cipher = || UnboundCipherKey::new(&AES_128, encrypting).unwrap();
        Self {
            signing: hmac::Key::new(hmac::HMAC_SHA256, signing),
            encrypting: PaddedBlockEncryptingKey::cbc_pkcs7(cipher()).unwrap(),
            decrypting: PaddedBlockDecryptingKey::cbc_pkcs7(cipher()).unwrap(),
        }
    }

    fn encrypt(&self, data: &[u8]) -> String {
        let mut iv = [0; 16];
        rand::fill(&mut iv).unwrap();
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut ciphertext = data.to_vec();
        let context = EncryptionContext::Iv128(iv.into());
        self.encrypting
            .less_safe_encrypt(&mut ciphertext, context)
            .unwrap();
        let mut token = Vec::with_capacity(ciphertext.len() + 57);
        token.push(0x80);
        token.extend_from_slice(&seconds.to_be_bytes());
        token.extend_from_slice(&iv);
        token.extend_from_slice(&ciphertext);
        let tag = hmac::sign(&self.signing, &token);
        token.extend_from_slice(tag.as_ref());
        URL_SAFE.encode(token)
    }

    fn decrypt(&self, token: &[u8]) -> Vec<u8> {
        let mut token = URL_SAFE.decode(token).unwrap();
        let (signed, tag) = token.split_at(token.len() - 32);
        hmac::verify(&self.signing, signed, tag).unwrap();
        let iv: [u8; 16] = token[9..25].try_into().unwrap();
        let end = token.len() - 32;
        let context = DecryptionContext::Iv128(iv.into());
        self.decrypting
            .decrypt(&mut token[25..end], context)
            .unwrap()
            .to_vec()
    }
}

pub fn compare_all() -> Vec<Outcome> {
    let keys = SoftwareKeys::generate().unwrap();
    let key = keys.expose_text().to_owned();
    let by_hand = ByHand::new(&URL_SAFE.decode(&key).unwrap());
    let fernet = Fernet::new(keys);
    let celery = Celery::start().map(RefCell::new);
    if celery.is_none() {
        super::skipped("no stock Python; ./scripts/bench installs it under target/venv");
    }
    let minute = Some(Duration::from_secs(60));
    let mut outcomes = Vec::new();
    for (name, len, python_target) in [
        ("200 B", 200, Some(4.0)),
        ("1 KiB", KIB, Some(4.0)),
        ("64 KiB", 64 * KIB, None),
    ] {
        let data = body(len);
        let token = fernet.encrypt(&data).unwrap();
        // Each reads what the other wrote.
        assert_eq!(by_hand.decrypt(token.as_bytes()), data);
        let theirs = by_hand.encrypt(&data);
        assert_eq!(fernet.decrypt(theirs.as_bytes(), minute).unwrap(), data);
        let (encrypt, decrypt) = (
            format!("Fernet encrypt {name}"),
            format!("Fernet decrypt {name}"),
        );
        outcomes.push(compare(
            Effort::usual(),
            &encrypt,
            timed(|| fernet.encrypt(&data).unwrap()),
            "`aws-lc-rs` + base64 by hand",
            timed(|| by_hand.encrypt(&data)),
            Some(0.9),
        ));
        outcomes.push(compare(
            Effort::usual(),
            &decrypt,
            timed(|| fernet.decrypt(token.as_bytes(), None).unwrap()),
            "`aws-lc-rs` + base64 by hand",
            timed(|| by_hand.decrypt(token.as_bytes())),
            Some(0.9),
        ));
        let Some(celery) = &celery else { continue };
        let python = celery.borrow_mut().keep_secret(name, &key, &data);
        assert_eq!(fernet.decrypt(python.as_bytes(), minute).unwrap(), data);
        let theirs = |what: &'static str| -> Timed<'_> {
            Box::new(move |times| celery.borrow_mut().time(what, name, times))
        };
        outcomes.push(compare(
            Effort::usual(),
            &encrypt,
            timed(|| fernet.encrypt(&data).unwrap()),
            "Python's `Fernet.encrypt`",
            theirs("fernet_encrypt"),
            python_target,
        ));
        outcomes.push(compare(
            Effort::usual(),
            &decrypt,
            timed(|| fernet.decrypt(token.as_bytes(), None).unwrap()),
            "Python's `Fernet.decrypt`",
            theirs("fernet_decrypt"),
            python_target,
        ));
    }
    outcomes
}
