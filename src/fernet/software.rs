//! [`SoftwareKeys`]: Fernet keys in memory (feature `software`).

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE};
use base64::{Engine as _, alphabet};
use zeroize::Zeroizing;

use super::error::FernetError;
use super::keys::FernetKeys;
use crate::error::ErrorClass;
use crate::secret;

/// A Fernet key in memory: 16 bytes to sign with and 16 bytes to encrypt with.
///
/// Its bytes are cleared when it is dropped, and are in no `Debug` form.
pub struct SoftwareKeys {
    bytes: Zeroizing<[u8; 32]>,
    text: Zeroizing<String>,
    signing: hmac::Key,
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
}

/// As Python reads base64: the bits that are left over at the end may be anything.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

impl SoftwareKeys {
    /// Makes a random key.
    ///
    /// # Errors
    /// [`FernetError::Random`] when the system gives no randomness.
    pub fn generate() -> Result<Self, FernetError> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| FernetError::Random)?;
        Self::from_bytes(&bytes)
    }

    /// Reads the usual text of a key: 32 bytes in base64 with padding, 44 characters. Both alphabets are read, as Python's
    /// `cryptography` reads them, and a newline or quotes around it are left out ([`secret::fernet_key`]).
    ///
    /// # Errors
    /// [`FernetError::Keys`] when it is something else; the text is not in the error.
    pub fn from_text(text: &str) -> Result<Self, FernetError> {
        let malformed = || FernetError::Keys {
            class: ErrorClass::Permanent,
            source: "a Fernet key is 32 bytes in base64url with padding, 44 characters".into(),
        };
        let text = secret::fernet_key(text.as_bytes()).map_err(|_| malformed())?;
        let mut url_safe = Zeroizing::new([0; 44]);
        if text.len() != url_safe.len() {
            return Err(malformed());
        }
        for (to, from) in url_safe.iter_mut().zip(text.bytes()) {
            *to = match from {
                b'+' => b'-',
                b'/' => b'_',
                other => other,
            };
        }
        // One byte more than wanted, so that a longer text shows.
        let mut bytes = Zeroizing::new([0; 33]);
        let len = LENIENT
            .decode_slice(url_safe.as_ref(), bytes.as_mut())
            .map_err(|_| malformed())?;
        let key = bytes
            .first_chunk::<32>()
            .filter(|_| len == 32)
            .ok_or_else(malformed)?;
        Self::from_bytes(key)
    }

    /// Takes the 32 bytes of a key: 16 to sign with, then 16 to encrypt with.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when `aws-lc-rs` does not take them.
    pub fn from_bytes(key: &[u8; 32]) -> Result<Self, FernetError> {
        let (signing, encrypting) = key.split_at(16);
        let cipher = || UnboundCipherKey::new(&AES_128, encrypting).map_err(|_| failed());
        Ok(Self {
            bytes: Zeroizing::new(*key),
            text: Zeroizing::new(URL_SAFE.encode(key)),
            signing: hmac::Key::new(hmac::HMAC_SHA256, signing),
            encrypting: EncryptingKey::cbc(cipher()?).map_err(|_| failed())?,
            decrypting: DecryptingKey::cbc(cipher()?).map_err(|_| failed())?,
        })
    }

    /// The key's 32 bytes, for storing it: 16 to sign with, then 16 to encrypt with. Whoever has them reads and writes
    /// everything under this key.
    #[must_use]
    pub fn expose_bytes(&self) -> [u8; 32] {
        *self.bytes
    }

    /// The key's text, for storing it. Whoever has it reads and writes everything under this key.
    #[must_use]
    pub fn expose_text(&self) -> &str {
        &self.text
    }
}

impl FernetKeys for SoftwareKeys {
    fn mac(&self, message: &[u8]) -> Result<[u8; 32], FernetError> {
        hmac::sign(&self.signing, message)
            .as_ref()
            .try_into()
            .map_err(|_| failed())
    }

    fn encrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.encrypting
            .less_safe_encrypt(blocks, context)
            .map_err(|_| failed())?;
        Ok(())
    }

    fn decrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        self.decrypting
            .decrypt(blocks, context)
            .map_err(|_| failed())?;
        Ok(())
    }
}

impl fmt::Debug for SoftwareKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SoftwareKeys(in memory)")
    }
}

fn failed() -> FernetError {
    FernetError::Keys {
        class: ErrorClass::Permanent,
        source: "aws-lc-rs did not do it".into(),
    }
}
