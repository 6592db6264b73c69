//! What the token does: HMAC-SHA256 and AES-128-CBC, as much in one call as it takes.
//!
//! Whole blocks go in and whole blocks come out, whichever mechanism the token has for it: padding is the host's matter in
//! every case. See [`Padding`] for a token that will not leave it to us.

use zeroize::Zeroizing;

use crate::fernet::tags_match;
use crate::pkcs11::error::Error;
use crate::pkcs11::module::{
    Answer, CallError, CipherMechanism, MechanismKind, ModuleSession, ObjectHandle, SignMechanism,
};
use crate::pkcs11::rv::Rv;
use crate::pkcs11::session::Access;

/// How much data goes to the token at a time, in bytes. A multiple of 16.
const LARGE: usize = 1024 * 1024;
/// The same, where the token called that too much.
const SMALL: usize = 4096;

/// A block of AES, in bytes.
const BLOCK: usize = 16;

/// An AES key, and who pads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CipherKey {
    pub(super) handle: ObjectHandle,
    pub(super) padding: Padding,
}

/// The handles of a pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handles {
    pub(super) signing: ObjectHandle,
    pub(super) encrypting: CipherKey,
}

/// Whether the token's mechanism pads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// `CKM_AES_CBC` does not.
    Host,
    /// `CKM_AES_CBC_PAD` does. Blocks that are whole already get one block more, which is cut off again; and before they are
    /// decrypted that block is put back behind them, so that what the token looks at is always its own padding. What it
    /// thinks of ours, nobody learns.
    Token,
}

impl Padding {
    /// The first one is taken that a token offers.
    pub(super) const ALL: [Self; 2] = [Self::Host, Self::Token];

    pub(super) const fn mechanism(self) -> MechanismKind {
        self.with([0; BLOCK]).kind()
    }

    const fn with(self, iv: [u8; BLOCK]) -> CipherMechanism {
        match self {
            Self::Host => CipherMechanism::AesCbc { iv },
            Self::Token => CipherMechanism::AesCbcPad { iv },
        }
    }

    /// How many bytes a call has beyond the blocks that are asked for.
    const fn extra(self) -> usize {
        match self {
            Self::Host => 0,
            Self::Token => BLOCK,
        }
    }
}

impl CipherKey {
    fn encrypt(
        self,
        session: &dyn ModuleSession,
        iv: [u8; BLOCK],
        blocks: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let mut cipher = session.encrypt(self.padding.with(iv), self.handle, blocks)?;
        cipher.truncate(cipher.len().saturating_sub(self.padding.extra()));
        Ok(cipher)
    }

    fn decrypt(
        self,
        session: &dyn ModuleSession,
        iv: [u8; BLOCK],
        blocks: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CallError> {
        let plain = match (self.padding, blocks.last_chunk()) {
            (Padding::Token, Some(last)) => {
                // A block of padding, encrypted as the one that follows these blocks.
                let padding = self.encrypt(session, *last, &[0x10; BLOCK])?;
                let padded = [blocks, &padding].concat();
                session.decrypt(self.padding.with(iv), self.handle, &padded)?
            }
            _ => session.decrypt(self.padding.with(iv), self.handle, blocks)?,
        };
        Ok(Zeroizing::new(plain))
    }
}

/// Data on its way through the token. When a call fails, another session goes on where this one came to.
pub(super) struct Work {
    data: Zeroizing<Vec<u8>>,
    verified: bool,
    /// So many bytes are done, or are none of the blocks.
    done: usize,
    /// For the next block: the last block of ciphertext before it.
    iv: [u8; BLOCK],
}

impl Work {
    /// Whole blocks after `header` bytes.
    pub(super) fn new(data: Vec<u8>, header: usize, iv: [u8; BLOCK]) -> Self {
        Self {
            data: Zeroizing::new(data),
            verified: false,
            done: header,
            iv,
        }
    }

    /// The data, when all is done.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut *self.data)
    }

    /// Encrypts the blocks in place, and the tag of all of it.
    pub(super) fn seal(
        &mut self,
        access: &Access,
        session: &dyn ModuleSession,
        keys: Handles,
    ) -> Result<[u8; 32], Error> {
        self.encrypt(access, session, keys.encrypting)?;
        tag(access, session, keys.signing, &self.data)
    }

    /// Decrypts the blocks in place if the tag is right; whether it is.
    pub(super) fn open(
        &mut self,
        access: &Access,
        session: &dyn ModuleSession,
        keys: Handles,
        theirs: &[u8; 32],
    ) -> Result<bool, Error> {
        if !self.verified {
            let ours = tag(access, session, keys.signing, &self.data)?;
            if tags_match(&ours, theirs).is_err() {
                return Ok(false);
            }
            self.verified = true;
        }
        self.decrypt(access, session, keys.encrypting)?;
        Ok(true)
    }

    /// Encrypts the blocks in place.
    pub(super) fn encrypt(
        &mut self,
        access: &Access,
        session: &dyn ModuleSession,
        key: CipherKey,
    ) -> Result<(), Error> {
        self.in_parts(access, "C_Encrypt", key.padding, |iv, part| {
            let cipher = key.encrypt(session, iv, part)?;
            let next = cipher.last_chunk().copied().unwrap_or(iv);
            Ok((replace(part, &cipher), next))
        })
    }

    /// Decrypts the blocks in place.
    pub(super) fn decrypt(
        &mut self,
        access: &Access,
        session: &dyn ModuleSession,
        key: CipherKey,
    ) -> Result<(), Error> {
        self.in_parts(access, "C_Decrypt", key.padding, |iv, part| {
            let plain = key.decrypt(session, iv, part)?;
            let next = part.last_chunk().copied().unwrap_or(iv);
            Ok((replace(part, &plain), next))
        })
    }

    fn in_parts(
        &mut self,
        access: &Access,
        function: &'static str,
        padding: Padding,
        call: impl Fn([u8; BLOCK], &mut [u8]) -> Result<(usize, [u8; BLOCK]), CallError>,
    ) -> Result<(), Error> {
        let most_of = |len: usize| len - padding.extra();
        let mut most = most_of(LARGE);
        while let Some(left) = self
            .data
            .get_mut(self.done..)
            .filter(|left| !left.is_empty())
        {
            let len = most.min(left.len());
            let part = left.split_at_mut(len).0;
            let (answered, next) = match call(self.iv, part) {
                Ok(done) => done,
                Err(error) if is_too_much(&error) && len > most_of(SMALL) => {
                    most = most_of(SMALL);
                    continue;
                }
                Err(error) => return Err(access.failed(error)),
            };
            if answered != len {
                let what = format!("{answered} bytes for {len}");
                return Err(malformed(access, function, what));
            }
            self.iv = next;
            self.done += len;
        }
        Ok(())
    }
}

/// Puts the answer in the place of what was asked, if it is as long; how long it is.
fn replace(part: &mut [u8], answer: &[u8]) -> usize {
    if part.len() == answer.len() {
        part.copy_from_slice(answer);
    }
    answer.len()
}

/// HMAC-SHA256 on the token.
pub(super) fn tag(
    access: &Access,
    session: &dyn ModuleSession,
    key: ObjectHandle,
    message: &[u8],
) -> Result<[u8; 32], Error> {
    let mechanism = SignMechanism::Sha256Hmac;
    let in_parts = |len| {
        session.sign_init(mechanism, key)?;
        for part in message.chunks(len) {
            session.sign_update(part)?;
        }
        session.sign_final()
    };
    let tag = match message.len() {
        0..=LARGE => session.sign(mechanism, key, message),
        _ => in_parts(LARGE),
    };
    let tag = match tag {
        Err(call) if is_too_much(&call) && message.len() > SMALL => in_parts(SMALL),
        tag => tag,
    };
    let tag = tag.map_err(|call| access.failed(call))?;
    let len = tag.len();
    tag.try_into()
        .map_err(|_| malformed(access, "C_Sign", format!("a tag of {len} bytes")))
}

/// Whether the token wants less data in one call.
fn is_too_much(call: &CallError) -> bool {
    call.is(Rv::DATA_LEN_RANGE) || call.is(Rv::ENCRYPTED_DATA_LEN_RANGE)
}

fn malformed(access: &Access, function: &'static str, what: String) -> Error {
    access.failed(CallError {
        function,
        answer: Answer::Malformed(what),
    })
}
