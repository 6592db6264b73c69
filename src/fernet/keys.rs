//! [`FernetKeys`]: the two keys, wherever they are.

use std::fmt;

use aws_lc_rs::constant_time;

use super::error::FernetError;
use super::token::Token;
use crate::error::ErrorClass;

/// The two keys of Fernet, wherever they are.
///
/// Implementers owe: calls from many threads at once, no panic, no secret in an error. Padding is not theirs: both
/// block operations get whole blocks, because a token has been seen that never checks it.
pub trait FernetKeys: Send + Sync + fmt::Debug {
    /// HMAC-SHA256 of `message` under the signing key.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when the keys cannot be used.
    fn mac(&self, message: &[u8]) -> Result<[u8; 32], FernetError>;

    /// AES-128-CBC encryption in place; `blocks` is a multiple of 16 bytes long.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when the keys cannot be used.
    fn encrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError>;

    /// AES-128-CBC decryption in place; `blocks` is a multiple of 16 bytes long.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when the keys cannot be used.
    fn decrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError>;

    /// Encrypts everything of `token` after its first `header` bytes in place and returns the tag of all of it. For keys
    /// that do both for the price of one call. After an error `token` may hold anything.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when the keys cannot be used.
    fn seal(
        &self,
        iv: [u8; 16],
        token: &mut Vec<u8>,
        header: usize,
    ) -> Result<[u8; 32], FernetError> {
        self.encrypt_blocks(iv, behind(token, header)?)?;
        self.mac(token)
    }

    /// Verifies the tag of `token` with [`tags_match`], and only then decrypts everything after its first `header` bytes
    /// in place. A token that is refused stays as it is; after another error it may hold anything.
    ///
    /// # Errors
    /// [`FernetError::Refused`] when the tag is not these keys', [`FernetError::Keys`] when the keys cannot be used.
    fn open(
        &self,
        iv: [u8; 16],
        token: &mut Vec<u8>,
        header: usize,
        tag: &[u8; 32],
    ) -> Result<(), FernetError> {
        tags_match(&self.mac(token)?, tag)?;
        self.decrypt_blocks(iv, behind(token, header)?)
    }

    /// As [`seal`](Self::seal) for one token after the other, each of which goes to `done` in its turn. For keys that do
    /// many in one go; these may take some from `tokens` before the earlier ones are done.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when the keys cannot be used; what went to `done` before is sealed.
    fn seal_all(
        &self,
        tokens: &mut dyn Iterator<Item = Token>,
        done: &mut dyn FnMut(Token),
    ) -> Result<(), FernetError> {
        for mut token in tokens {
            token.seal_with(|iv, bytes, header| self.seal(iv, bytes, header))?;
            done(token);
        }
        Ok(())
    }

    /// As [`open`](Self::open) for one token after the other, each of which goes to `done` in its turn: those that are
    /// refused as they were, so that [`Token::is_open`] tells which these are.
    ///
    /// # Errors
    /// [`FernetError::Keys`] when the keys cannot be used; what went to `done` before is opened or refused.
    fn open_all(
        &self,
        tokens: &mut dyn Iterator<Item = Token>,
        done: &mut dyn FnMut(Token),
    ) -> Result<(), FernetError> {
        for mut token in tokens {
            match token.open_with(|iv, bytes, header, tag| self.open(iv, bytes, header, tag)) {
                Ok(()) | Err(FernetError::Refused) => done(token),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What stands behind the header. A token without it is not sealed as if it were empty.
fn behind(token: &mut [u8], header: usize) -> Result<&mut [u8], FernetError> {
    token.get_mut(header..).ok_or_else(|| FernetError::Keys {
        class: ErrorClass::Permanent,
        source: "the token is shorter than its header".into(),
    })
}

/// Compares two tags in constant time.
///
/// # Errors
/// [`FernetError::Refused`] when they differ.
pub fn tags_match(ours: &[u8; 32], theirs: &[u8; 32]) -> Result<(), FernetError> {
    constant_time::verify_slices_are_equal(ours, theirs).map_err(|_| FernetError::Refused)
}
