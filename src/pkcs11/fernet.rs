//! [`Pkcs11FernetKeys`]: the two keys of Fernet on a token.
//!
//! The signing key is a generic secret (`CKM_SHA256_HMAC`), the encryption key an AES key of 128 bits (`CKM_AES_CBC`).
//! They share a label and have ids of their own, because some tokens overwrite a secret key by one with its id. Padding
//! and the comparison of tags are done on the host: one module never checks padding.

mod find;
mod provision;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use self::find::{Handles, PairFilter};
pub use self::provision::{
    SecretKeyInfo, generate_fernet_keys, import_fernet_keys, list_secret_keys,
};
use super::error::Error;
use super::health::{Health, Statistics};
use super::module::{
    Answer, CallError, CipherMechanism, ModuleSession, ObjectHandle, SignMechanism,
};
use super::place::Place;
use super::pool::Ready;
use super::process::{Deadline, PerProcess};
use super::recovery::{Connection, Limits, Target};
use super::rv::Rv;
use super::session::Access;
use super::uri::ObjectType;
use super::{Builder, TokenInfo, Uri};
use crate::error::ErrorClass;
use crate::fernet::{FernetError, FernetKeys, tags_match};

/// Fernet's two keys on a token: they encrypt and decrypt as keys in memory do, and never leave it.
///
/// May be used from many threads at once, and in a process that was forked after they were opened. Sessions, deadlines
/// and recovery are those of [`Pkcs11Signer`](super::Pkcs11Signer); data in memory is at most four times the token's size.
///
/// ```no_run
/// use taskseal::fernet::Fernet;
/// use taskseal::pkcs11::{Pkcs11FernetKeys, Uri};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let uri: Uri = "pkcs11:token=payments;object=queue?module-name=softhsm2&pin-source=file:/run/secrets/pin".parse()?;
/// let fernet = Fernet::new(Pkcs11FernetKeys::open(&uri)?);
/// let token = fernet.encrypt(b"a secret")?;
/// # let _ = token;
/// # Ok(())
/// # }
/// ```
pub struct Pkcs11FernetKeys {
    core: Arc<Core>,
    limits: Limits,
    /// Nothing of it outlives a fork.
    connection: PerProcess<Arc<Connection<Handles>>>,
}

/// What is needed on whatever thread the calls are made.
struct Core {
    target: Target<PairFilter>,
}

/// How much data goes to the token at a time, in bytes. A multiple of 16.
const LARGE: usize = 1024 * 1024;
/// The same, where the token called that too much.
const SMALL: usize = 4096;

impl Pkcs11FernetKeys {
    /// Opens the keys whose label the URI names (`object`), with the default choices of the [`Builder`].
    ///
    /// # Errors
    /// As for [`Builder::open_fernet_keys`].
    pub fn open(uri: &Uri) -> Result<Self, Error> {
        Builder::new().uri(uri).open_fernet_keys()
    }

    /// The label of the two keys.
    #[must_use]
    pub fn label(&self) -> &str {
        self.core.target.filter.label()
    }

    /// The token as it was when the keys were opened.
    #[must_use]
    pub fn token(&self) -> &TokenInfo {
        &self.core.target.token
    }

    /// How the keys are, as their last use in this process showed. Makes no call.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.connection.get() {
            Some(connection) => connection.record().health(),
            None => Health::Usable,
        }
    }

    /// What the keys did so far in this process. `signatures` counts what was encrypted and decrypted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        match self.connection.get() {
            Some(connection) => {
                let guard = connection.guard();
                connection
                    .record()
                    .statistics(guard.reloads(), guard.stuck())
            }
            None => super::health::Record::default().statistics(0, 0),
        }
    }

    /// As [`Pkcs11Key::close`](super::Pkcs11Key::close).
    ///
    /// # Errors
    /// [`Error::Timeout`] when that took longer than the deadline; the rest is left to itself.
    pub fn close(&self) -> Result<(), Error> {
        let Some(connection) = self.connection.get() else {
            return Ok(());
        };
        let deadline = Deadline::after(self.limits.deadline);
        if connection.close(deadline) {
            return Ok(());
        }
        Err(Error::Timeout {
            on: self.token().to_string(),
            doing: "closing the sessions",
            waited: deadline.waited(),
        })
    }

    /// Asks the token, on a thread of its own, up the whole ladder, until the deadline.
    fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Access, &dyn ModuleSession, Handles) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, FernetError> {
        let deadline = Deadline::after(self.limits.deadline);
        let connection = self
            .connection
            .get_or_try(|_| Connection::new(&self.core.target.place, self.limits).map(Arc::new))
            .map_err(refused)?;
        let (core, theirs) = (self.core.clone(), connection.clone());
        let answer = connection.run(deadline, move |line, bell| {
            theirs.climb(line, &core.target, deadline, |access, session, keys| {
                let start = Instant::now();
                let answer = question(access, session, keys)?;
                bell.ring();
                theirs.record().token_took(start.elapsed());
                Ok(answer)
            })
        });
        match answer {
            Ok(answer) => {
                connection.record().signed();
                Ok(answer)
            }
            Err(error) => {
                connection.record().failed(&error);
                Err(refused(error))
            }
        }
    }
}

impl Builder {
    /// Opens the two keys of Fernet that have the chosen label.
    ///
    /// # Errors
    /// [`Error`]: module, token or PIN; [`Error::SecretKeyNotFound`]; [`Error::Extractable`] when one of them can be read
    /// or taken out; [`Error::FernetKeys`] when they are no pair that encrypts.
    pub fn open_fernet_keys(&self) -> Result<Pkcs11FernetKeys, Error> {
        let filter = PairFilter::new(self.fernet_label()?, self.options.allow_extractable);
        let limits = self.options.limits;
        let deadline = self.deadline_from_now();
        let connection = Arc::new(Connection::new(&self.place, limits)?);
        let (place, theirs): (Place, _) = (self.place.clone(), connection.clone());
        let (token, filter) = connection.run(deadline, move |line, _| {
            theirs.climb_to_open(deadline, |login| {
                let access = theirs.access(&place, None, true, deadline)?;
                let (session, stamp) = access.open(false, login, deadline)?;
                let (keys, filter) = filter.clone().check(&access, session.as_ref())?;
                line.ready = Some(Ready {
                    session,
                    keys,
                    stamp,
                });
                Ok((access.token.clone(), filter))
            })
        })?;
        tracing::info!(keys = filter.label(), token = %token, "Fernet keys opened: they are on a token");
        let per_process = PerProcess::new();
        per_process.get_or(|_| connection);
        Ok(Pkcs11FernetKeys {
            core: Arc::new(Core {
                target: Target {
                    place: self.place.clone(),
                    token,
                    filter,
                },
            }),
            limits,
            connection: per_process,
        })
    }

    /// The label that a pair of keys is known by.
    fn fernet_label(&self) -> Result<String, Error> {
        if let Some(other) = self
            .object_type
            .filter(|kind| *kind != ObjectType::SecretKey)
        {
            return Err(Error::Argument(format!(
                "type={} names no secret key; leave type out of the URI or write type=secret-key",
                other.as_str()
            )));
        }
        if self.id.is_some() {
            return Err(Error::Argument(
                "Fernet's two keys have ids of their own; name them by their label (object=…), without an id".to_owned(),
            ));
        }
        match &self.label {
            Some(label) if !label.is_empty() && label.len() <= Uri::MAX_TEXT_LEN => {
                Ok(label.clone())
            }
            _ => Err(Error::Argument(
                "Fernet's keys on a token need a label of 1 to 255 bytes (object=… in the URI)"
                    .to_owned(),
            )),
        }
    }
}

impl FernetKeys for Pkcs11FernetKeys {
    fn mac(&self, message: &[u8]) -> Result<[u8; 32], FernetError> {
        let message = message.to_vec();
        self.ask(move |access, session, keys| tag(access, session, keys.signing, &message))
    }

    fn encrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        let plain = Zeroizing::new(blocks.to_vec());
        let cipher = self.ask(move |access, session, keys| {
            let mut cipher = Vec::with_capacity(plain.len());
            let key = keys.encrypting;
            encrypt(access, session, key, iv, &plain, &mut cipher)?;
            Ok(cipher)
        })?;
        copy(blocks, &cipher)
    }

    fn decrypt_blocks(&self, iv: [u8; 16], blocks: &mut [u8]) -> Result<(), FernetError> {
        let cipher = blocks.to_vec();
        let plain = self.ask(move |access, session, keys| {
            decrypt(access, session, keys.encrypting, iv, &cipher)
        })?;
        copy(blocks, &plain)
    }

    fn seal(&self, iv: [u8; 16], token: &mut [u8], header: usize) -> Result<[u8; 32], FernetError> {
        let plain = Zeroizing::new(token.to_vec());
        let (sealed, tag) = self.ask(move |access, session, keys| {
            let (header, blocks) = plain.split_at(header.min(plain.len()));
            let mut sealed = Vec::with_capacity(plain.len());
            sealed.extend_from_slice(header);
            let key = keys.encrypting;
            encrypt(access, session, key, iv, blocks, &mut sealed)?;
            let tag = tag(access, session, keys.signing, &sealed)?;
            Ok((sealed, tag))
        })?;
        copy(token, &sealed)?;
        Ok(tag)
    }

    fn open(
        &self,
        iv: [u8; 16],
        token: &mut [u8],
        header: usize,
        theirs: &[u8],
    ) -> Result<(), FernetError> {
        let (sealed, theirs) = (token.to_vec(), theirs.to_vec());
        let plain = self.ask(move |access, session, keys| {
            let ours = tag(access, session, keys.signing, &sealed)?;
            if tags_match(&ours, &theirs).is_err() {
                return Ok(None);
            }
            let blocks = sealed.get(header..).unwrap_or_default();
            decrypt(access, session, keys.encrypting, iv, blocks).map(Some)
        })?;
        let plain = plain.ok_or(FernetError::Refused)?;
        copy(token.get_mut(header..).unwrap_or_default(), &plain)
    }
}

impl fmt::Debug for Pkcs11FernetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11FernetKeys")
            .field("label", &self.label())
            .field("token", &self.token().to_string())
            .finish_non_exhaustive()
    }
}

fn copy(to: &mut [u8], from: &[u8]) -> Result<(), FernetError> {
    if to.len() != from.len() {
        return Err(FernetError::Keys {
            class: ErrorClass::Permanent,
            source: "an answer of another length than was asked for".into(),
        });
    }
    to.copy_from_slice(from);
    Ok(())
}

fn refused(error: Error) -> FernetError {
    FernetError::Keys {
        class: error.class(),
        source: Box::new(error),
    }
}

/// HMAC-SHA256 on the token.
fn tag(
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

/// AES-128-CBC over whole blocks on the token, added to `out`.
fn encrypt(
    access: &Access,
    session: &dyn ModuleSession,
    key: ObjectHandle,
    mut iv: [u8; 16],
    blocks: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    in_parts(access, "C_Encrypt", blocks, |part| {
        let done = session.encrypt(CipherMechanism::AesCbc { iv }, key, part)?;
        out.extend_from_slice(&done);
        // The last block of ciphertext of one part is the initialisation vector of the next.
        iv = done.last_chunk().copied().unwrap_or(iv);
        Ok(done.len())
    })
}

/// The reverse of [`encrypt`].
fn decrypt(
    access: &Access,
    session: &dyn ModuleSession,
    key: ObjectHandle,
    mut iv: [u8; 16],
    blocks: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut all = Zeroizing::new(Vec::new());
    in_parts(access, "C_Decrypt", blocks, |part| {
        let done = session.decrypt(CipherMechanism::AesCbc { iv }, key, part)?;
        let len = done.len();
        if part.len() == blocks.len() {
            *all = done;
        } else {
            let missing = blocks.len() - all.len();
            all.reserve_exact(missing);
            all.extend_from_slice(&Zeroizing::new(done));
        }
        iv = part.last_chunk().copied().unwrap_or(iv);
        Ok(len)
    })?;
    Ok(all)
}

/// Does something with all of `blocks`, as much at a time as the token takes; it gives the length of what came out, which
/// is that of what went in.
fn in_parts(
    access: &Access,
    function: &'static str,
    blocks: &[u8],
    mut call: impl FnMut(&[u8]) -> Result<usize, CallError>,
) -> Result<(), Error> {
    let mut left = blocks;
    let mut most = LARGE;
    while !left.is_empty() {
        let (part, rest) = left.split_at(most.min(left.len()));
        match call(part) {
            Ok(len) if len == part.len() => left = rest,
            Ok(len) => {
                let what = format!("{len} bytes for {}", part.len());
                return Err(malformed(access, function, what));
            }
            Err(error) if is_too_much(&error) && part.len() > SMALL => most = SMALL,
            Err(error) => return Err(access.failed(error)),
        }
    }
    Ok(())
}

fn malformed(access: &Access, function: &'static str, what: String) -> Error {
    access.failed(CallError {
        function,
        answer: Answer::Malformed(what),
    })
}
