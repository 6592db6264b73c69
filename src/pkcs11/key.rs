//! [`Pkcs11Key`]: finding the key, checking it, choosing how the token signs, and signing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::Digest as LcDigest;
use zeroize::Zeroizing;

use super::error::{Error, object_name};
use super::module::{
    Attribute, AttributeKind as Kind, MechanismKind, ModuleSession, ObjectClass, ObjectHandle,
    SignMechanism,
};
use super::provision::KeyInfo;
use super::session::{Access, Lease, Pool};
use super::{Builder, Uri};
use crate::error::ErrorClass;
use crate::pss::{Hash, Scheme, emsa_pss_encode};
use crate::public_key::{PublicKey, lc_hash};
use crate::signer::{SignError, SigningKey};

/// A private RSA key on a token, found by its URI or attributes alone: what a self-signed certificate or a request is
/// made with. For messages use [`Pkcs11Signer`](super::Pkcs11Signer), which also checks the certificate.
///
/// May be used from many threads at once.
pub struct Pkcs11Key {
    public_key: PublicKey,
    scheme: Scheme,
    salt_len: usize,
    path: SignaturePath,
    /// Label and id, for errors and logs.
    name: String,
    pool: Pool<ObjectHandle>,
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

impl Pkcs11Key {
    /// Opens the key that `uri` names, with the default choices of the [`Builder`].
    ///
    /// # Errors
    /// [`Error`]: module, token, PIN, key or scheme.
    pub fn open(uri: &Uri) -> Result<Self, Error> {
        Builder::new().uri(uri).open_key()
    }

    /// How the token makes the signatures.
    #[must_use]
    pub const fn signature_path(&self) -> SignaturePath {
        self.path
    }

    /// The token as it was when the key was opened.
    #[must_use]
    pub const fn token(&self) -> &super::TokenInfo {
        &self.pool.access().token
    }

    /// Checks the key and makes a trial signature.
    pub(super) fn new(
        access: Access,
        session: (Box<dyn ModuleSession>, u64),
        key: FoundKey,
        options: &KeyOptions,
    ) -> Result<Self, Error> {
        key.check(&access, options)?;
        let public_key = key.public_key(&access)?.clone();
        options.sizes.check(public_key.bits())?;
        // The length of the salt is checked here: a module was seen to hang on to the operation after a salt too long.
        let salt_len = options.scheme.salt_len(public_key.bits())?;
        let locator = key.locator(&public_key, &access);
        let pool = Pool::new(
            access,
            session,
            key.handle,
            options.max_sessions,
            options.session_wait,
            Box::new(move |session| locator.find(session)),
        );
        let mut opened = Self {
            public_key,
            scheme: options.scheme,
            salt_len,
            path: SignaturePath::Pss,
            name: key.info.name(),
            pool,
        };
        opened.path = opened.choose_path(key.info.always_authenticate == Some(true))?;
        Ok(opened)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The first way of signing that the token offers and that gives a signature which verifies. Neither the list of
    /// mechanisms nor any one error code can be trusted: seven modules had five codes for "not this salt".
    fn choose_path(&self, always_authenticate: bool) -> Result<SignaturePath, Error> {
        /// Signed when a key is opened and never released.
        const TRIAL: &[u8] =
            b"taskseal trial signature: made when a key is opened, authorises nothing\0";
        // A login between C_SignInit and C_Sign is possible here only when signing in parts, and then the token hashes.
        let paths: &[SignaturePath] = if always_authenticate {
            &[SignaturePath::HashOnToken]
        } else {
            &[SignaturePath::Pss, SignaturePath::HostPadding]
        };
        let access = self.pool.access();
        let mut tried = Vec::new();
        for path in paths.iter().copied() {
            let kind = self.mechanism(path).kind();
            match access.module.mechanism(access.token.slot_id, kind) {
                Ok(Some(info)) if info.sign => {}
                Ok(_) => {
                    tried.push(format!("{kind} is not offered"));
                    continue;
                }
                Err(call) => {
                    tried.push(format!("{kind}: {call}"));
                    continue;
                }
            }
            match self.sign_by(path, TRIAL) {
                Ok(_) => return Ok(path),
                Err(error) if error.class() == ErrorClass::Credential => return Err(error),
                Err(error) => {
                    tracing::debug!(token = %access.token, mechanism = %kind, %error, "trial signature failed");
                    tried.push(format!("{kind}: {}", brief(&error)));
                }
            }
        }
        Err(Error::Unsupported {
            token: Box::new(access.token.clone()),
            scheme: self.scheme,
            salt_len: self.salt_len,
            tried,
        })
    }

    const fn mechanism(&self, path: SignaturePath) -> SignMechanism {
        let (digest, salt_len) = (self.scheme.digest, self.salt_len);
        match path {
            SignaturePath::Pss => SignMechanism::RsaPkcsPss { digest, salt_len },
            SignaturePath::HostPadding => SignMechanism::RsaX509,
            SignaturePath::HashOnToken => SignMechanism::HashRsaPkcsPss { digest, salt_len },
        }
    }

    /// One signature, verified. The session goes back only if all went well.
    fn sign_by(&self, path: SignaturePath, message: &[u8]) -> Result<Vec<u8>, Error> {
        // Before a session is taken: hashing 64 MiB must not keep one from the others.
        let hash = lc_hash(self.scheme.digest, message);
        let lease = self.pool.lease()?;
        let signature = self.ask_token(&lease, path, &hash, message)?;
        let right = signature.len() == self.public_key.signature_len()
            && self
                .public_key
                .verifies_hash(&hash, &signature, self.scheme);
        if !right {
            let token = Box::new(self.pool.access().token.clone());
            let error = Error::WrongSignature {
                key: self.name.clone(),
                token,
                len: signature.len(),
            };
            tracing::warn!(%error, "a signature was thrown away");
            return Err(error);
        }
        lease.give_back();
        Ok(signature)
    }

    fn ask_token(
        &self,
        lease: &Lease<'_, ObjectHandle>,
        path: SignaturePath,
        hash: &LcDigest,
        message: &[u8],
    ) -> Result<Vec<u8>, Error> {
        /// How much of a message goes to the token at a time.
        const CHUNK: usize = 32 * 1024;
        let (session, key) = lease.parts()?;
        let mechanism = self.mechanism(path);
        let access = self.pool.access();
        let signed = match path {
            SignaturePath::Pss => session.sign(mechanism, key, hash.as_ref()),
            SignaturePath::HostPadding => session.sign(mechanism, key, &self.pad(hash)?),
            SignaturePath::HashOnToken => {
                session
                    .sign_init(mechanism, key)
                    .map_err(|call| access.failed(call))?;
                access.log_in_for_operation(session)?;
                for chunk in message.chunks(CHUNK) {
                    session
                        .sign_update(chunk)
                        .map_err(|call| access.failed(call))?;
                }
                session.sign_final()
            }
        };
        signed.map_err(|call| access.failed(call))
    }

    /// EMSA-PSS with a fresh salt.
    fn pad(&self, hash: &LcDigest) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut salt = Zeroizing::new(vec![0; self.salt_len]);
        aws_lc_rs::rand::fill(&mut salt)
            .map_err(|_| Error::Argument("the operating system gives no randomness".to_owned()))?;
        let bits = self.public_key.bits();
        let too_small = crate::pss::SchemeError::KeyTooSmall {
            bits,
            scheme: self.scheme,
        };
        let hash = Hash::from_slice(self.scheme.digest, hash.as_ref()).ok_or(too_small)?;
        Ok(Zeroizing::new(emsa_pss_encode(&hash, &salt, bits)?))
    }
}

impl SigningKey for Pkcs11Key {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn scheme(&self) -> Scheme {
        self.scheme
    }

    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.sign_by(self.path, message)?;
        tracing::debug!(key = %self.name, token = %self.token().label, bytes = message.len(), "signed");
        Ok(signature)
    }
}

impl fmt::Debug for Pkcs11Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Key")
            .field("name", &self.name)
            .field("token", &self.token().to_string())
            .field("public_key", &self.public_key)
            .field("scheme", &self.scheme)
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

/// What a key is opened with.
#[derive(Debug, Clone)]
pub(super) struct KeyOptions {
    pub(super) scheme: Scheme,
    pub(super) sizes: crate::pss::KeySizes,
    pub(super) allow_extractable: bool,
    pub(super) max_sessions: usize,
    pub(super) session_wait: Duration,
}

/// Which private key is meant.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyFilter {
    pub(super) label: Option<String>,
    pub(super) id: Option<Vec<u8>>,
    /// The public half that it must have: that of a certificate.
    pub(super) public_key: Option<PublicKey>,
}

impl fmt::Display for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.label.as_ref().map(|label| format!("label {label:?}")));
        parts.extend(
            self.id
                .as_ref()
                .map(|id| format!("id {}", crate::certificate::hex(id))),
        );
        parts.extend(
            self.public_key
                .as_ref()
                .map(|_| "the certificate's public key".to_owned()),
        );
        if parts.is_empty() {
            return f.write_str("any attributes (none are given)");
        }
        f.write_str(&parts.join(", "))
    }
}

impl KeyFilter {
    /// Finds the one key that is meant. `Ok(None)` when keys have the label and id, but another public half.
    pub(super) fn find(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
    ) -> Result<Option<FoundKey>, Error> {
        let named = read_keys(access, session, &self.template())?;
        let any_named = !named.is_empty();
        let mut matching: Vec<FoundKey> = named
            .into_iter()
            .filter(|key| self.public_key.is_none() || self.public_key == key.info.public_key)
            .collect();
        let token = || Box::new(access.token.clone());
        match (matching.pop(), matching.is_empty()) {
            (Some(key), true) => Ok(Some(key)),
            (Some(key), false) => {
                matching.push(key);
                let found = matching.into_iter().map(|key| key.info).collect();
                Err(Error::SeveralKeys {
                    wanted: self.to_string(),
                    token: token(),
                    found,
                })
            }
            (None, _) if any_named && (self.label.is_some() || self.id.is_some()) => Ok(None),
            (None, _) => {
                let all = read_keys(
                    access,
                    session,
                    &[Attribute::class(ObjectClass::PrivateKey)],
                )?;
                let found = all.into_iter().map(|key| key.info).collect();
                Err(Error::KeyNotFound {
                    wanted: self.to_string(),
                    token: token(),
                    found,
                })
            }
        }
    }

    fn template(&self) -> Vec<Attribute> {
        let mut template = vec![Attribute::class(ObjectClass::PrivateKey), Attribute::rsa()];
        template.extend(
            self.label
                .as_ref()
                .map(|label| Attribute::bytes(Kind::Label, label.as_bytes())),
        );
        template.extend(self.id.as_ref().map(|id| Attribute::bytes(Kind::Id, id)));
        template
    }
}

/// A private key on the token, as it was found in one session.
#[derive(Debug, Clone)]
pub(super) struct FoundKey {
    pub(super) handle: ObjectHandle,
    pub(super) info: KeyInfo,
}

impl FoundKey {
    /// Keys that could leave the token are refused, and so is a key of which that is not known.
    fn check(&self, access: &Access, options: &KeyOptions) -> Result<(), Error> {
        let info = &self.info;
        let token = || Box::new(access.token.clone());
        if info.sign == Some(false) {
            return Err(Error::NotForSigning {
                key: info.name(),
                token: token(),
            });
        }
        let reason = match (info.sensitive, info.extractable) {
            (Some(true), Some(false)) => None,
            (Some(false), _) => Some("CKA_SENSITIVE is false, so its value can be read in plain"),
            (_, Some(true)) => Some("CKA_EXTRACTABLE is true, so it can be wrapped and taken out"),
            (None, _) => {
                Some("CKA_SENSITIVE cannot be read, so nobody knows whether its value can")
            }
            (_, None) => {
                Some("CKA_EXTRACTABLE cannot be read, so nobody knows whether it can be taken out")
            }
        };
        match reason {
            Some(reason) if options.allow_extractable => {
                tracing::warn!(key = %info.name(), reason, "an unsafe key is used, as asked for");
            }
            Some(reason) => {
                return Err(Error::Extractable {
                    key: info.name(),
                    token: token(),
                    reason,
                });
            }
            None => {}
        }
        // Only warnings: two of seven modules report these wrongly.
        if info.always_sensitive == Some(false) || info.never_extractable == Some(false) {
            tracing::warn!(
                key = %info.name(),
                "the token says that the key was readable or extractable once (CKA_ALWAYS_SENSITIVE, \
                 CKA_NEVER_EXTRACTABLE); it may have been imported"
            );
        }
        Ok(())
    }

    fn public_key(&self, access: &Access) -> Result<&PublicKey, Error> {
        self.info.public_key.as_ref().ok_or_else(|| Error::PublicHalf {
            key: self.info.name(),
            token: Box::new(access.token.clone()),
            reason: "modulus and public exponent cannot be read, or are no RSA key that is supported".to_owned(),
        })
    }

    /// How the same key is found again in another session.
    fn locator(&self, public_key: &PublicKey, access: &Access) -> Locator {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let id = Some(self.info.id.clone()).filter(|id| !id.is_empty());
        Locator {
            access: access.clone(),
            filter: Arc::new(KeyFilter {
                label: some(&self.info.label).filter(|label| !label.contains('\u{fffd}')),
                id,
                public_key: Some(public_key.clone()),
            }),
        }
    }
}

struct Locator {
    access: Access,
    filter: Arc<KeyFilter>,
}

impl Locator {
    fn find(&self, session: &dyn ModuleSession) -> Result<ObjectHandle, Error> {
        match self.filter.find(&self.access, session)? {
            Some(key) => Ok(key.handle),
            None => Err(Error::KeyNotFound {
                wanted: self.filter.to_string(),
                token: Box::new(self.access.token.clone()),
                found: Vec::new(),
            }),
        }
    }
}

/// Reads every private key that a template finds.
pub(super) fn read_keys(
    access: &Access,
    session: &dyn ModuleSession,
    template: &[Attribute],
) -> Result<Vec<FoundKey>, Error> {
    let handles = session.find(template).map_err(|call| access.failed(call))?;
    handles
        .into_iter()
        .map(|handle| read_key(access, session, handle))
        .collect()
}

fn read_key(
    access: &Access,
    session: &dyn ModuleSession,
    handle: ObjectHandle,
) -> Result<FoundKey, Error> {
    const KINDS: [Kind; 12] = [
        Kind::KeyType,
        Kind::Label,
        Kind::Id,
        Kind::Modulus,
        Kind::PublicExponent,
        Kind::Sensitive,
        Kind::Extractable,
        Kind::AlwaysSensitive,
        Kind::NeverExtractable,
        Kind::AlwaysAuthenticate,
        Kind::Local,
        Kind::Sign,
    ];
    let attributes = session
        .attributes(handle, &KINDS)
        .map_err(|call| access.failed(call))?;
    let label = attributes.text(Kind::Label).unwrap_or_default();
    let id = attributes.bytes(Kind::Id).unwrap_or_default().to_vec();
    let mut halves = attributes
        .bytes(Kind::Modulus)
        .zip(attributes.bytes(Kind::PublicExponent));
    halves = halves.filter(|(modulus, exponent)| !modulus.is_empty() && !exponent.is_empty());
    let public_key = match halves {
        Some((modulus, exponent)) => PublicKey::from_components(modulus, exponent).ok(),
        // Some tokens keep the exponent only in the public object.
        None => public_half(access, session, &id)?,
    };
    Ok(FoundKey {
        handle,
        info: KeyInfo {
            label,
            id,
            is_rsa: attributes.flag(Kind::KeyType),
            public_key,
            sensitive: attributes.flag(Kind::Sensitive),
            extractable: attributes.flag(Kind::Extractable),
            always_sensitive: attributes.flag(Kind::AlwaysSensitive),
            never_extractable: attributes.flag(Kind::NeverExtractable),
            always_authenticate: attributes.flag(Kind::AlwaysAuthenticate),
            local: attributes.flag(Kind::Local),
            sign: attributes.flag(Kind::Sign),
            certificates: 0,
        },
    })
}

fn public_half(
    access: &Access,
    session: &dyn ModuleSession,
    id: &[u8],
) -> Result<Option<PublicKey>, Error> {
    if id.is_empty() {
        return Ok(None);
    }
    let template = [
        Attribute::class(ObjectClass::PublicKey),
        Attribute::rsa(),
        Attribute::bytes(Kind::Id, id),
    ];
    let found = session
        .find(&template)
        .map_err(|call| access.failed(call))?;
    let [only] = found.as_slice() else {
        return Ok(None);
    };
    let attributes = session
        .attributes(*only, &[Kind::Modulus, Kind::PublicExponent])
        .map_err(|call| access.failed(call))?;
    let halves = attributes
        .bytes(Kind::Modulus)
        .zip(attributes.bytes(Kind::PublicExponent));
    Ok(halves.and_then(|(modulus, exponent)| PublicKey::from_components(modulus, exponent).ok()))
}

/// Label and id, as errors show them.
impl KeyInfo {
    pub(super) fn name(&self) -> String {
        object_name(&self.label, &self.id)
    }
}

/// `CKM_RSA_PKCS_KEY_PAIR_GEN` is asked about where keys are made.
pub(super) const KEY_GENERATION: MechanismKind = MechanismKind::RsaKeyPairGen;
