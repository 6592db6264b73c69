//! [`Token`]: the bytes of a token, on their way through the keys.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroize as _;

use super::error::FernetError;
use crate::base64::{decode_url, encode_url, encoded_len};

/// The longest token, in bytes of its text.
pub(super) const MAX_TOKEN_LEN: usize = 128 * 1024 * 1024;
/// How far in the future a token may have been made.
pub(super) const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);
/// The tag, in bytes.
const TAG: usize = 32;
/// A block of AES, in bytes.
const BLOCK: usize = 16;
/// The one version there is.
const VERSION: u8 = 0x80;

/// The bytes of a token of the right version and of a possible length, sealed or open. What is open and not handed out is
/// zeroised.
pub struct Token {
    /// What the tag covers; with the padded data instead of the ciphertext while it is open.
    pub(crate) signed: Vec<u8>,
    pub(crate) tag: [u8; TAG],
    pub(crate) open: bool,
    /// Where it stands among others.
    pub(super) place: usize,
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.open {
            self.signed.zeroize();
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.open { "open" } else { "sealed" };
        write!(f, "Token({state}, {} bytes)", self.signed.len())
    }
}

impl Token {
    /// Version, time and IV: what stands before the ciphertext, in bytes.
    pub(crate) const HEADER: usize = 1 + 8 + 16;

    /// A token to be sealed.
    #[expect(
        clippy::expect_used,
        reason = "other padding would make a token that nobody opens"
    )]
    pub(crate) fn new(data: &[u8], at: SystemTime, iv: [u8; 16]) -> Result<Self, FernetError> {
        let len = Self::check_len(data)?;
        // A clock before 1970 has no Fernet time; such a token would be refused as too old anyway.
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut signed = Vec::with_capacity(len);
        signed.push(VERSION);
        signed.extend_from_slice(&seconds.to_be_bytes());
        signed.extend_from_slice(&iv);
        signed.extend_from_slice(data);
        let padding = len - TAG - signed.len();
        let byte = u8::try_from(padding).expect("padding is 1 to 16 bytes long");
        signed.resize(len - TAG, byte);
        Ok(Self {
            signed,
            tag: [0; TAG],
            open: true,
            place: 0,
        })
    }

    /// How many bytes a token with this data has, if it may have so many.
    pub(super) fn check_len(data: &[u8]) -> Result<usize, FernetError> {
        let padding = BLOCK - data.len() % BLOCK;
        let len = Self::HEADER + data.len() + padding + TAG;
        if encoded_len(len) > MAX_TOKEN_LEN {
            return Err(FernetError::TooLarge { len: data.len() });
        }
        Ok(len)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, FernetError> {
        if text.len() > MAX_TOKEN_LEN {
            return Err(FernetError::Refused);
        }
        let mut signed = decode_url(text).ok_or(FernetError::Refused)?;
        let (rest, tag) = signed.split_last_chunk().ok_or(FernetError::Refused)?;
        let (len, tag) = (rest.len(), *tag);
        signed.truncate(len);
        let blocks = len
            .checked_sub(Self::HEADER)
            .filter(|len| *len >= BLOCK && len.is_multiple_of(BLOCK));
        if blocks.is_none() || signed.first() != Some(&VERSION) {
            return Err(FernetError::Refused);
        }
        Ok(Self {
            signed,
            tag,
            open: false,
            place: 0,
        })
    }

    /// Whether its blocks hold the data, not the ciphertext.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Seals it with a function that is called as [`FernetKeys::seal`](super::FernetKeys::seal) is.
    ///
    /// # Errors
    /// Those of the function; the token is worth nothing then.
    pub fn seal_with(
        &mut self,
        seal: impl FnOnce([u8; 16], &mut Vec<u8>, usize) -> Result<[u8; 32], FernetError>,
    ) -> Result<(), FernetError> {
        self.tag = seal(self.iv(), &mut self.signed, Self::HEADER)?;
        self.open = false;
        Ok(())
    }

    /// Opens it with a function that is called as [`FernetKeys::open`](super::FernetKeys::open) is.
    ///
    /// # Errors
    /// Those of the function. After [`FernetError::Refused`] the token is as it was, after another it is worth nothing.
    pub fn open_with(
        &mut self,
        open: impl FnOnce([u8; 16], &mut Vec<u8>, usize, &[u8; 32]) -> Result<(), FernetError>,
    ) -> Result<(), FernetError> {
        let opened = open(self.iv(), &mut self.signed, Self::HEADER, &self.tag);
        // What failed on the way may have left some of the data.
        self.open = !matches!(opened, Err(FernetError::Refused));
        opened
    }

    #[expect(
        clippy::expect_used,
        reason = "an IV of zeros would tell which tokens begin alike"
    )]
    pub(crate) fn iv(&self) -> [u8; 16] {
        let iv = self.signed.get(9..Self::HEADER);
        let iv = iv.and_then(|iv| iv.try_into().ok());
        iv.expect("a token is made with its header")
    }

    fn seconds(&self) -> u64 {
        let seconds = self
            .signed
            .get(1..9)
            .and_then(|bytes| bytes.try_into().ok());
        seconds.map_or(0, u64::from_be_bytes)
    }

    pub(super) fn time(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.seconds()))
    }

    /// The text of a token that is sealed.
    pub(super) fn into_text(mut self) -> String {
        self.signed.extend_from_slice(&self.tag);
        encode_url(&self.signed)
    }

    /// The data of a token that is open, if it is of its time and rightly padded.
    pub(super) fn into_data(
        mut self,
        ttl: Option<Duration>,
        at: SystemTime,
    ) -> Result<Vec<u8>, FernetError> {
        let fresh = self.check_age(ttl, at).is_ok();
        let data = &mut self.signed;
        let padding = usize::from(data.last().copied().unwrap_or_default());
        let start = data
            .len()
            .checked_sub(padding)
            .filter(|start| *start >= Self::HEADER);
        let good = fresh
            && (1..=BLOCK).contains(&padding)
            && start
                .and_then(|start| data.get(start..))
                .is_some_and(|bytes| bytes.iter().all(|byte| usize::from(*byte) == padding));
        let Some(start) = start.filter(|_| good) else {
            return Err(FernetError::Refused);
        };
        data.truncate(start);
        data.drain(..Self::HEADER);
        Ok(std::mem::take(data))
    }

    /// The same, whatever its age is, and its time.
    pub(super) fn into_data_and_time(self) -> Result<(Vec<u8>, SystemTime), FernetError> {
        let time = self.time().ok_or(FernetError::Refused)?;
        Ok((self.into_data(None, time)?, time))
    }

    fn check_age(&self, ttl: Option<Duration>, at: SystemTime) -> Result<(), FernetError> {
        let Some(ttl) = ttl else { return Ok(()) };
        let now = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let made = self.seconds();
        let too_old = made.saturating_add(ttl.as_secs()) < now;
        let too_new = made > now.saturating_add(MAX_CLOCK_SKEW.as_secs());
        if too_old || too_new {
            Err(FernetError::Refused)
        } else {
            Ok(())
        }
    }
}
