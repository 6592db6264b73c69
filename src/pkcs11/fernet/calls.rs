//! What Fernet asks of its keys, by a token.

use std::sync::Mutex;

use zeroize::Zeroizing;

use super::batch::Doing;
use super::cipher::{Work, tag};
use super::keys::Pkcs11FernetKeys;
use crate::fernet::{FernetError, FernetKeys, Token};
use crate::pkcs11::process::lock;

impl FernetKeys for Pkcs11FernetKeys {
    fn mac(&self, message: &[u8]) -> Result<[u8; 32], FernetError> {
        let message = message.to_vec();
        self.ask(move |access, session, keys| tag(access, session, keys.signing, &message))
    }

    fn encrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        let work = Mutex::new(Work::new(blocks.to_vec(), 0, iv));
        let cipher = self.ask(move |access, session, keys| {
            let mut work = lock(&work);
            work.encrypt(access, session, keys.encrypting)?;
            Ok(work.take())
        })?;
        blocks.copy_from_slice(&cipher);
        Ok(())
    }

    fn decrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        let work = Mutex::new(Work::new(blocks.to_vec(), 0, iv));
        let plain = self.ask(move |access, session, keys| {
            let mut work = lock(&work);
            work.decrypt(access, session, keys.encrypting)?;
            Ok(work.take())
        })?;
        blocks.copy_from_slice(&Zeroizing::new(plain));
        Ok(())
    }

    fn seal(
        &self,
        iv: [u8; 16],
        token: &mut Vec<u8>,
        header: usize,
    ) -> Result<[u8; 32], FernetError> {
        let work = Mutex::new(Work::new(std::mem::take(token), header, iv));
        let (sealed, tag) = self.ask(move |access, session, keys| {
            let mut work = lock(&work);
            let tag = work.seal(access, session, keys)?;
            Ok((work.take(), tag))
        })?;
        *token = sealed;
        Ok(tag)
    }

    fn open(
        &self,
        iv: [u8; 16],
        token: &mut Vec<u8>,
        header: usize,
        theirs: &[u8; 32],
    ) -> Result<(), FernetError> {
        let theirs = *theirs;
        let work = Mutex::new(Work::new(std::mem::take(token), header, iv));
        let (opened, verified) = self.ask(move |access, session, keys| {
            let mut work = lock(&work);
            let verified = work.open(access, session, keys, &theirs)?;
            Ok((work.take(), verified))
        })?;
        *token = opened;
        if verified {
            Ok(())
        } else {
            Err(FernetError::Refused)
        }
    }

    fn seal_all(
        &self,
        tokens: &mut dyn Iterator<Item = Token>,
        done: &mut dyn FnMut(Token),
    ) -> Result<(), FernetError> {
        self.in_batches(Doing::Seal, tokens, done)
    }

    fn open_all(
        &self,
        tokens: &mut dyn Iterator<Item = Token>,
        done: &mut dyn FnMut(Token),
    ) -> Result<(), FernetError> {
        self.in_batches(Doing::Open, tokens, done)
    }
}
