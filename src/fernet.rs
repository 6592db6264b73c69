//! [`Fernet`]: encrypts and authenticates bytes under two symmetric keys, as Python's `cryptography.fernet` does.
//!
//! The format is version `0x80` of the [Fernet specification](https://github.com/fernet/spec/blob/master/Spec.md):
//!
//! ```text
//! base64url( 80 | seconds since 1970, 64-bit big-endian | IV, 16 bytes | AES-128-CBC, PKCS#7 | HMAC-SHA256, 32 bytes )
//! ```
//!
//! The tag covers everything before it and is verified, in constant time, before anything else is believed. Whatever is
//! wrong with a token, the answer is the same [`FernetError::Refused`]: an error that told more would be an oracle.
//!
//! Where the keys are is the matter of a [`FernetKeys`]; [`software::SoftwareKeys`] has them in memory.

pub mod body;
mod error;
mod keys;
mod many;
#[cfg(feature = "software")]
pub mod software;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use zeroize::Zeroize as _;

pub use self::error::FernetError;
pub use self::keys::{FernetKeys, tags_match};
pub use self::token::Token;
use self::token::{MAX_CLOCK_SKEW, MAX_TOKEN_LEN};

/// Encrypts and decrypts with one pair of keys. Cheap to clone.
///
/// ```
/// # #[cfg(feature = "software")] {
/// use std::time::Duration;
/// use taskseal::fernet::Fernet;
/// use taskseal::fernet::software::SoftwareKeys;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let fernet = Fernet::new(SoftwareKeys::generate()?);
/// let token = fernet.encrypt(b"a secret")?;
/// assert_eq!(fernet.decrypt(token.as_bytes(), Some(Duration::from_secs(60)))?, b"a secret");
/// # Ok(()) }
/// # main().unwrap();
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Fernet {
    keys: Arc<dyn FernetKeys>,
}

impl Fernet {
    /// The longest token that is read, and the longest that is made, in bytes of its text: 128 MiB.
    pub const MAX_TOKEN_LEN: usize = MAX_TOKEN_LEN;
    /// How far into the future a token's time may lie when a time to live is given: 60 s, as in the reference
    /// implementation.
    pub const MAX_CLOCK_SKEW: Duration = MAX_CLOCK_SKEW;

    /// Uses these keys.
    #[must_use]
    pub fn new(keys: impl FernetKeys + 'static) -> Self {
        Self::shared(Arc::new(keys))
    }

    /// Uses keys that somebody else holds as well, to ask them how they are.
    #[must_use]
    pub fn shared(keys: Arc<dyn FernetKeys>) -> Self {
        Self { keys }
    }

    /// Encrypts `data` under a random IV and the time of the system's clock.
    ///
    /// # Errors
    /// [`FernetError::TooLarge`], [`FernetError::Random`], or [`FernetError::Keys`].
    pub fn encrypt(&self, data: &[u8]) -> Result<String, FernetError> {
        self.encrypt_at(data, SystemTime::now())
    }

    /// Like [`encrypt`](Self::encrypt), as if it were `at`.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt).
    pub fn encrypt_at(&self, data: &[u8], at: SystemTime) -> Result<String, FernetError> {
        let mut iv = [0; 16];
        rand::fill(&mut iv).map_err(|_| FernetError::Random)?;
        self.dangerous_encrypt_with_iv(data, at, iv)
    }

    /// Encrypts under a given IV, for test vectors. Two messages under one IV and key tell whether they begin alike.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt).
    pub fn dangerous_encrypt_with_iv(
        &self,
        data: &[u8],
        at: SystemTime,
        iv: [u8; 16],
    ) -> Result<String, FernetError> {
        let mut token = Token::new(data, at, iv)?;
        token.seal_with(|iv, bytes, header| self.keys.seal(iv, bytes, header))?;
        Ok(token.into_text())
    }

    /// Decrypts a token. With a time to live it is refused when it is older than that, or from more than
    /// [`MAX_CLOCK_SKEW`](Self::MAX_CLOCK_SKEW) in the future; without one its age does not matter.
    ///
    /// # Errors
    /// [`FernetError::Refused`] whatever is wrong with the token; [`FernetError::Keys`] when the keys cannot be used.
    pub fn decrypt(&self, token: &[u8], ttl: Option<Duration>) -> Result<Vec<u8>, FernetError> {
        self.decrypt_at(token, ttl, SystemTime::now())
    }

    /// Like [`decrypt`](Self::decrypt), as if it were `at`.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt).
    pub fn decrypt_at(
        &self,
        token: &[u8],
        ttl: Option<Duration>,
        at: SystemTime,
    ) -> Result<Vec<u8>, FernetError> {
        let mut token = Token::parse(token)?;
        self.open(&mut token)?;
        token.into_data(ttl, at)
    }

    /// The time that a token was made at, once its tag has been verified.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt).
    pub fn timestamp(&self, token: &[u8]) -> Result<SystemTime, FernetError> {
        let token = Token::parse(token)?;
        tags_match(&self.keys.mac(&token.signed)?, &token.tag)?;
        token.time().ok_or(FernetError::Refused)
    }

    /// Verifies the tag and decrypts the token in place; as it was when the tag is another's.
    fn open(&self, token: &mut Token) -> Result<(), FernetError> {
        token.open_with(|iv, bytes, header, tag| self.keys.open(iv, bytes, header, tag))
    }
}

/// Several pairs of keys: encrypts with the first, decrypts with any. For changing keys without losing what is on its way.
///
/// Every decryption tries the keys in their order, so it takes up to as many tags as there are keys.
#[derive(Debug, Clone)]
pub struct MultiFernet {
    first: Fernet,
    others: Vec<Fernet>,
}

impl MultiFernet {
    /// Encrypts with `first`, and decrypts with it and with `others`.
    #[must_use]
    pub fn new(first: Fernet, others: impl IntoIterator<Item = Fernet>) -> Self {
        Self {
            first,
            others: others.into_iter().collect(),
        }
    }

    /// Encrypts with the first keys.
    ///
    /// # Errors
    /// As for [`Fernet::encrypt`].
    pub fn encrypt(&self, data: &[u8]) -> Result<String, FernetError> {
        self.first.encrypt(data)
    }

    /// Like [`encrypt`](Self::encrypt), as if it were `at`.
    ///
    /// # Errors
    /// As for [`Fernet::encrypt`].
    pub fn encrypt_at(&self, data: &[u8], at: SystemTime) -> Result<String, FernetError> {
        self.first.encrypt_at(data, at)
    }

    /// Decrypts with whichever keys made the token.
    ///
    /// # Errors
    /// As for [`Fernet::decrypt`].
    pub fn decrypt(&self, token: &[u8], ttl: Option<Duration>) -> Result<Vec<u8>, FernetError> {
        self.decrypt_at(token, ttl, SystemTime::now())
    }

    /// Like [`decrypt`](Self::decrypt), as if it were `at`.
    ///
    /// # Errors
    /// As for [`Fernet::decrypt`].
    pub fn decrypt_at(
        &self,
        token: &[u8],
        ttl: Option<Duration>,
        at: SystemTime,
    ) -> Result<Vec<u8>, FernetError> {
        let mut token = Token::parse(token)?;
        self.open(&mut token)?;
        token.into_data(ttl, at)
    }

    /// The data of a token and its time, whatever its age is.
    pub(crate) fn decrypt_with_time(
        &self,
        token: &[u8],
    ) -> Result<(Vec<u8>, SystemTime), FernetError> {
        let mut token = Token::parse(token)?;
        self.open(&mut token)?;
        token.into_data_and_time()
    }

    /// Encrypts what is in a token anew, with the first keys and the token's own time, so that its age goes on counting.
    ///
    /// # Errors
    /// As for [`Fernet::decrypt`] and [`Fernet::encrypt`].
    pub fn rotate(&self, token: &[u8]) -> Result<String, FernetError> {
        let (mut data, time) = self.decrypt_with_time(token)?;
        let rotated = self.first.encrypt_at(&data, time);
        data.zeroize();
        rotated
    }

    /// Decrypts a token in place with whichever keys made it.
    fn open(&self, token: &mut Token) -> Result<(), FernetError> {
        for fernet in std::iter::once(&self.first).chain(&self.others) {
            match fernet.open(token) {
                Err(FernetError::Refused) => {}
                done => return done,
            }
        }
        Err(FernetError::Refused)
    }
}

impl From<Fernet> for MultiFernet {
    fn from(only: Fernet) -> Self {
        Self::new(only, [])
    }
}
