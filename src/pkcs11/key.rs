//! [`Pkcs11Key`]: choosing how the token signs, and signing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::Digest as LcDigest;
use zeroize::Zeroizing;

use super::builder::KeyOptions;
use super::connections::Connections;
use super::error::Error;
use super::find::{FoundKey, KeyFilter};
use super::health::{Health, Statistics};
use super::ladder::climbs;
use super::module::{Module as _, ModuleSession, ObjectHandle, SignMechanism};
use super::place::Place;
use super::process::Deadline;
use super::recovery::{Connection, Target};
use super::rv::Rv;
use super::session::Access;
use super::token::TokenInfo;
use crate::error::ErrorClass;
use crate::pss::{Hash, Scheme, emsa_pss_encode};
use crate::public_key::{PublicKey, lc_hash};
use crate::signer::{SignError, SigningKey};
use crate::tally::Tally;

/// A private RSA key on a token, found by its URI or attributes alone: what a self-signed certificate or a request is
/// made with. For messages use [`Pkcs11Signer`](super::Pkcs11Signer), which also checks the certificate.
///
/// May be used from many threads at once, and in a process that was forked after it was opened, where it opens
/// everything anew with its first signature. Dropping it waits at most 50 ms for its sessions to be closed.
pub struct Pkcs11Key {
    core: Arc<Core>,
    path: SignaturePath,
    connections: Connections<ObjectHandle>,
}

/// What a signature needs to know, on whatever thread it is made.
#[repr(align(128))] // Its owners are counted in another cache line than it is read from.
struct Core {
    target: Target<KeyFilter>,
    public_key: PublicKey,
    scheme: Scheme,
    salt_len: usize,
    /// Label and id, for errors and logs.
    name: String,
    thrown_away: Tally,
}

/// How the token makes a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignaturePath {
    /// The message is hashed here, the token pads and signs (`CKM_RSA_PKCS_PSS`).
    Pss,
    /// The message is hashed and padded here (EMSA-PSS, RFC 8017, 9.1.1), the token does the private-key operation
    /// (`CKM_RSA_X_509`): for tokens that do not offer the wanted salt.
    HostPadding,
    /// The token hashes, pads and signs (`CKM_SHA…_RSA_PKCS_PSS`): for keys that want a login for each signature
    /// (`CKA_ALWAYS_AUTHENTICATE`).
    HashOnToken,
}

impl SignaturePath {
    /// The mechanism, by its name in the standard.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pss => "CKM_RSA_PKCS_PSS",
            Self::HostPadding => "CKM_RSA_X_509 with padding on the host",
            Self::HashOnToken => "CKM_SHA…_RSA_PKCS_PSS",
        }
    }
}

/// A key that was found while everything for it was opened.
pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) connection: Arc<Connection<ObjectHandle>>,
    pub(super) access: Arc<Access>,
    pub(super) deadline: Deadline,
}

impl Pkcs11Key {
    /// How the token makes the signatures.
    #[must_use]
    pub const fn signature_path(&self) -> SignaturePath {
        self.path
    }

    /// The token as it was when the key was opened.
    #[must_use]
    pub fn token(&self) -> &TokenInfo {
        &self.core.target.token
    }

    /// How the key is, as its last signatures in this process showed. Makes no call.
    #[must_use]
    pub fn health(&self) -> Health {
        self.connections.health()
    }

    /// What the key did so far in this process.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.connections.statistics()
    }

    /// Waits for the signatures in progress, closes all sessions and ends their threads. Later signatures fail with
    /// [`Error::Closed`]. The module stays initialised, for others.
    ///
    /// # Errors
    /// [`Error::Timeout`] when that took longer than the deadline; the rest is left to itself.
    pub fn close(&self) -> Result<(), Error> {
        self.connections.close(self.token())
    }

    /// Checks the key and makes a trial signature.
    pub(super) fn new(
        opened: Opened,
        found: FoundKey,
        options: &KeyOptions,
    ) -> Result<Self, Error> {
        let access = &opened.access;
        found.check(access, options.allow_extractable)?;
        let public_key = found.public_key(access)?.clone();
        options.sizes.check(public_key.bits())?;
        // The length of the salt is checked here: a module was seen to hang on to the operation after a salt too long.
        let salt_len = public_key.salt_len(options.scheme)?;
        let core = Arc::new(Core {
            target: Target {
                place: opened.place,
                token: access.token.clone(),
                filter: found.filter(&public_key),
            },
            public_key,
            scheme: options.scheme,
            salt_len,
            name: found.info.name(),
            thrown_away: Tally::new(Duration::from_secs(10)),
        });
        let always_authenticate = found.info.always_authenticate == Some(true);
        let path = choose_path(
            &core,
            &opened.connection,
            always_authenticate,
            opened.deadline,
        );
        let path = path.map_err(|error| match error {
            Error::Unsupported { token, tried, .. } if found.half_is_assumed => Error::PublicHalf {
                key: found.info.name(),
                token,
                reason: format!(
                    "the token does not tell it, and no signature verifies under the certificate that was given ({}); \
                     use the certificate that was issued for this key",
                    tried.join("; ")
                ),
            },
            other => other,
        })?;
        Ok(Self {
            core,
            path,
            connections: Connections::new(opened.connection, options.limits),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.core.name
    }
}

impl SigningKey for Pkcs11Key {
    fn public_key(&self) -> &PublicKey {
        &self.core.public_key
    }

    fn scheme(&self) -> Scheme {
        self.core.scheme
    }

    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let (connection, deadline) = self.connections.begin(&self.core.target.place)?;
        let content = Content::new(&self.core, self.path, message);
        let (core, theirs) = (self.core.clone(), connection.clone());
        let signed = connection.run_again(deadline, move |line, bell| {
            theirs.climb(line, &core.target, deadline, |access, session, key| {
                let start = Instant::now();
                let signature = core.ask_token(access, session, key, &content, deadline)?;
                bell.ring();
                theirs.record().token_took(start.elapsed());
                core.check(access, &content, signature)
            })
        });
        match signed {
            Ok(signature) => {
                connection.signed(1);
                tracing::debug!(key = %self.core.name, token = %self.token().label, bytes = message.len(), "signed");
                Ok(signature)
            }
            Err(error) => {
                connection.failed(&error);
                Err(error.into())
            }
        }
    }
}

/// What is signed.
struct Content {
    path: SignaturePath,
    /// Made before a session is taken: hashing 64 MiB must not keep one from the others.
    hash: LcDigest,
    /// A copy of the message, if the token hashes: the call may outlive its caller.
    message: Vec<u8>,
}

impl Content {
    fn new(core: &Core, path: SignaturePath, message: &[u8]) -> Self {
        Self {
            path,
            hash: lc_hash(core.scheme.digest, message),
            message: match path {
                SignaturePath::HashOnToken => message.to_vec(),
                SignaturePath::Pss | SignaturePath::HostPadding => Vec::new(),
            },
        }
    }
}

/// Finds out how the token signs. A token that fails meanwhile is tried again as in every other step of opening.
fn choose_path(
    core: &Arc<Core>,
    connection: &Arc<Connection<ObjectHandle>>,
    always_authenticate: bool,
    deadline: Deadline,
) -> Result<SignaturePath, Error> {
    // A login between C_SignInit and C_Sign is possible here only when signing in parts, and then the token hashes.
    let paths: &[SignaturePath] = if always_authenticate {
        &[SignaturePath::HashOnToken]
    } else {
        &[SignaturePath::Pss, SignaturePath::HostPadding]
    };
    let (core, theirs) = (core.clone(), connection.clone());
    connection.run(deadline, move |line, _| {
        theirs.climb_to_open(deadline, |step| {
            core.first_that_works(paths, |path| {
                let trial = core.trial(path, deadline);
                theirs.attempt(line, &core.target, step, deadline, &trial)
            })
        })
    })
}

impl Core {
    /// The first of these ways that the token offers and that gives a signature which verifies. Neither the list of
    /// mechanisms nor any one error code can be trusted: seven modules had five codes for "not this salt", some of which
    /// stand for a lost session as well.
    fn first_that_works(
        &self,
        paths: &[SignaturePath],
        mut trial: impl FnMut(SignaturePath) -> Result<Offered, Error>,
    ) -> Result<SignaturePath, Error> {
        let mut failed = Vec::new();
        let mut tried = Vec::new();
        for path in paths.iter().copied() {
            let kind = self.mechanism(path).kind();
            match trial(path) {
                Ok(Offered::Yes) => {
                    // The token is well: what failed before and fails again is refused.
                    let unsure = failed.iter().filter(|(_, error)| climbs(error));
                    let mut earlier = unsure.map(|(path, _)| *path);
                    let works = earlier.find(|path| matches!(trial(*path), Ok(Offered::Yes)));
                    return Ok(works.unwrap_or(path));
                }
                Ok(Offered::No) => tried.push(format!("{kind} is not offered")),
                Err(error) if is_of_path(&error) => {
                    tracing::debug!(mechanism = %kind, %error, "trial signature failed");
                    tried.push(format!("{kind}: {}", brief(&error)));
                    failed.push((path, error));
                }
                Err(error) => return Err(error),
            }
        }
        match failed.into_iter().find(|(_, error)| !refuses(error)) {
            Some((_, error)) => Err(error),
            None => Err(Error::Unsupported {
                token: Box::new(self.target.token.clone()),
                scheme: self.scheme,
                salt_len: self.salt_len,
                tried,
            }),
        }
    }

    /// Makes a signature that is never released.
    fn trial(
        &self,
        path: SignaturePath,
        deadline: Deadline,
    ) -> impl Fn(&Access, &dyn ModuleSession, ObjectHandle) -> Result<Offered, Error> + use<'_>
    {
        const TRIAL: &[u8] =
            b"taskseal trial signature: made when a key is opened, authorises nothing\0";
        let kind = self.mechanism(path).kind();
        let content = Content::new(self, path, TRIAL);
        move |access, session, key| {
            let listed = access.module.mechanism(access.token.slot_id, kind);
            let listed = listed.map_err(|call| access.failed(call))?;
            if !listed.is_some_and(|info| info.sign) {
                return Ok(Offered::No);
            }
            let signature = self.ask_token(access, session, key, &content, deadline)?;
            self.check(access, &content, signature)?;
            Ok(Offered::Yes)
        }
    }
}

/// Whether the token lists a mechanism for signing.
enum Offered {
    Yes,
    No,
}

/// Whether an error may be due to the way of signing, so that another way may do.
fn is_of_path(error: &Error) -> bool {
    matches!(error, Error::Call { .. } | Error::WrongSignature { .. })
        && error.class() != ErrorClass::Credential
}

/// Whether such an error says that the token will not sign in this way. That it is of the wrong type is said of a key that
/// was found in the same session a moment ago (GNOME Keyring, of every salt).
fn refuses(error: &Error) -> bool {
    match error {
        Error::WrongSignature { .. } => true,
        Error::Call { call, .. } if call.is(Rv::KEY_TYPE_INCONSISTENT) => true,
        error => !climbs(error),
    }
}

impl Core {
    const fn mechanism(&self, path: SignaturePath) -> SignMechanism {
        let (digest, salt_len) = (self.scheme.digest, self.salt_len);
        match path {
            SignaturePath::Pss => SignMechanism::RsaPkcsPss { digest, salt_len },
            SignaturePath::HostPadding => SignMechanism::RsaX509,
            SignaturePath::HashOnToken => SignMechanism::HashRsaPkcsPss { digest, salt_len },
        }
    }

    fn ask_token(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
        key: ObjectHandle,
        content: &Content,
        deadline: Deadline,
    ) -> Result<Vec<u8>, Error> {
        /// How much of a message goes to the token at a time.
        const CHUNK: usize = 32 * 1024;
        let mechanism = self.mechanism(content.path);
        let signed = match content.path {
            SignaturePath::Pss => session.sign(mechanism, key, content.hash.as_ref()),
            SignaturePath::HostPadding => session.sign(mechanism, key, &self.pad(&content.hash)?),
            SignaturePath::HashOnToken => {
                session
                    .sign_init(mechanism, key)
                    .map_err(|call| access.failed(call))?;
                access.log_in_for_operation(session, deadline)?;
                for chunk in content.message.chunks(CHUNK) {
                    session
                        .sign_update(chunk)
                        .map_err(|call| access.failed(call))?;
                }
                session.sign_final()
            }
        };
        signed.map_err(|call| access.failed(call))
    }

    /// Lets only this key's signature of the content through.
    fn check(
        &self,
        access: &Access,
        content: &Content,
        signature: Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        let right = signature.len() == self.public_key.signature_len()
            && self
                .public_key
                .verifies_hash(&content.hash, &signature, self.scheme);
        if right {
            return Ok(signature);
        }
        let error = Error::WrongSignature {
            key: self.name.clone(),
            token: Box::new(access.token.clone()),
            len: signature.len(),
        };
        let counted = self
            .thrown_away
            .count("wrong signature", None, Instant::now());
        if counted.first {
            tracing::warn!(%error, "a signature was thrown away");
        }
        if let Some(thrown_away) = counted.summary {
            tracing::warn!(key = %self.name, thrown_away, "signatures were thrown away");
        }
        Err(error)
    }

    /// EMSA-PSS with a fresh salt.
    fn pad(&self, hash: &LcDigest) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut salt = Zeroizing::new(vec![0; self.salt_len]);
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| Error::Random)?;
        let bits = self.public_key.bits();
        let too_small = crate::pss::SchemeError::KeyTooSmall {
            bits,
            scheme: self.scheme,
        };
        let hash = Hash::from_slice(self.scheme.digest, hash.as_ref()).ok_or(too_small)?;
        Ok(Zeroizing::new(emsa_pss_encode(&hash, &salt, bits)?))
    }
}

impl fmt::Debug for Pkcs11Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Key")
            .field("name", &self.core.name)
            .field("token", &self.token().to_string())
            .field("public_key", &self.core.public_key)
            .field("scheme", &self.core.scheme)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What came back, without the token's name, which the error around it has.
fn brief(error: &Error) -> String {
    match error {
        Error::Call { call, .. } => call.to_string(),
        Error::WrongSignature { len, .. } => format!("{len} bytes that do not verify"),
        other => other.to_string(),
    }
}
