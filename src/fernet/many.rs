//! Many tokens in one go: `encrypt_all`, `decrypt_all` and `rotate_all` of [`Fernet`] and [`MultiFernet`].
//!
//! The tokens are those that one call after the other would make and take. What is saved is what each call costs besides:
//! with keys on a token, the way to the session's thread and back, which takes longer than the calls of a fast token.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::token::Token;
use super::{Fernet, FernetError, MultiFernet};

impl Fernet {
    /// As [`encrypt`](Self::encrypt) for each of `data`, in their order.
    ///
    /// With keys on a token, a deadline counts for the tokens that are made in some milliseconds, not for all.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt); [`FernetError::TooLarge`] before anything is encrypted.
    pub fn encrypt_all<D: AsRef<[u8]>>(&self, data: &[D]) -> Result<Vec<String>, FernetError> {
        for data in data {
            Token::check_len(data.as_ref())?;
        }
        let data = data.iter().map(|data| (data.as_ref(), SystemTime::now()));
        self.seal_all(data)
    }

    /// As [`decrypt`](Self::decrypt) for each of `tokens`, in their order, at the time of the call.
    ///
    /// # Errors
    /// [`FernetError::Refused`] in the place of a token, whatever is wrong with it; [`FernetError::Keys`] for all, when the
    /// keys cannot be used.
    pub fn decrypt_all<T: AsRef<[u8]>>(
        &self,
        tokens: &[T],
        ttl: Option<Duration>,
    ) -> Result<Vec<Result<Vec<u8>, FernetError>>, FernetError> {
        MultiFernet::from(self.clone()).decrypt_all(tokens, ttl)
    }

    fn seal_all<'a>(
        &self,
        data: impl Iterator<Item = (&'a [u8], SystemTime)>,
    ) -> Result<Vec<String>, FernetError> {
        let mut texts = Vec::with_capacity(data.size_hint().0);
        let mut ivs = Ivs::default();
        let mut failed = None;
        let tokens = data.map_while(|(data, at)| {
            let token = ivs.take().and_then(|iv| Token::new(data, at, iv));
            token.map_err(|error| failed = Some(error)).ok()
        });
        self.keys.seal_all(&mut tokens.fuse(), &mut |token| {
            texts.push(token.into_text());
        })?;
        failed.map_or(Ok(texts), Err)
    }
}

impl MultiFernet {
    /// As [`encrypt`](Self::encrypt) for each of `data`, in their order.
    ///
    /// # Errors
    /// As for [`Fernet::encrypt_all`].
    pub fn encrypt_all<D: AsRef<[u8]>>(&self, data: &[D]) -> Result<Vec<String>, FernetError> {
        self.first.encrypt_all(data)
    }

    /// As [`decrypt`](Self::decrypt) for each of `tokens`, in their order, at the time of the call.
    ///
    /// # Errors
    /// As for [`Fernet::decrypt_all`].
    pub fn decrypt_all<T: AsRef<[u8]>>(
        &self,
        tokens: &[T],
        ttl: Option<Duration>,
    ) -> Result<Vec<Result<Vec<u8>, FernetError>>, FernetError> {
        let now = SystemTime::now();
        let opened = self.open_all(tokens, |token| {
            token.into_data(ttl, now).map(Zeroizing::new)
        })?;
        let opened = opened.into_iter();
        Ok(opened
            .map(|data| data.map(|mut data| std::mem::take(&mut *data)))
            .collect())
    }

    /// As [`rotate`](Self::rotate) for each of `tokens`, in their order.
    ///
    /// # Errors
    /// As for [`Fernet::decrypt_all`].
    pub fn rotate_all<T: AsRef<[u8]>>(
        &self,
        tokens: &[T],
    ) -> Result<Vec<Result<String, FernetError>>, FernetError> {
        let opened = self.open_all(tokens, |token| {
            let (data, time) = token.into_data_and_time()?;
            Ok((Zeroizing::new(data), time))
        })?;
        let data = opened.iter().flatten();
        let data = data.map(|(data, time)| (data.as_slice(), *time));
        let mut texts = self.first.seal_all(data)?.into_iter();
        let rotated = opened.into_iter();
        Ok(rotated
            .map(|opened| opened.and_then(|_| texts.next().ok_or(FernetError::Refused)))
            .collect())
    }

    /// Opens each token with whichever keys made it: what `read` makes of them, in their order.
    fn open_all<T: AsRef<[u8]>, R>(
        &self,
        tokens: &[T],
        read: impl Fn(Token) -> Result<R, FernetError>,
    ) -> Result<Vec<Result<R, FernetError>>, FernetError> {
        let mut all: Vec<_> = tokens.iter().map(|_| Err(FernetError::Refused)).collect();
        let parsed = tokens.iter().enumerate().filter_map(|(place, text)| {
            let mut token = Token::parse(text.as_ref()).ok()?;
            token.place = place;
            Some(token)
        });
        let mut left: Box<dyn Iterator<Item = Token> + '_> = Box::new(parsed);
        for fernet in std::iter::once(&self.first).chain(&self.others) {
            let mut refused = Vec::new();
            fernet.keys.open_all(&mut left, &mut |token| {
                if !token.is_open() {
                    refused.push(token);
                } else if let Some(place) = all.get_mut(token.place) {
                    *place = read(token);
                }
            })?;
            if refused.is_empty() {
                break;
            }
            left = Box::new(refused.into_iter());
        }
        Ok(all)
    }
}

/// Random IVs for one batch, fetched so many at a time: to fetch one takes half as long as a small token in software.
struct Ivs {
    bytes: [u8; 16 * Self::AT_A_TIME],
    taken: usize,
}

impl Ivs {
    const AT_A_TIME: usize = 64;

    fn take(&mut self) -> Result<[u8; 16], FernetError> {
        if self.taken == Self::AT_A_TIME {
            rand::fill(&mut self.bytes).map_err(|_| FernetError::Random)?;
            self.taken = 0;
        }
        let (ivs, _) = self.bytes.as_chunks();
        let iv = ivs.get(self.taken).copied().ok_or(FernetError::Random)?;
        self.taken += 1;
        Ok(iv)
    }
}

impl Default for Ivs {
    fn default() -> Self {
        Self {
            bytes: [0; 16 * Self::AT_A_TIME],
            taken: Self::AT_A_TIME,
        }
    }
}
