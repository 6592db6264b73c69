//! What a token, its module or its configuration did wrong.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::info::{KeyInfo, SecretKeyInfo};
use super::module::{Answer, CallError, LoadError};
use super::pin::PinError;
use super::rv::Rv;
use super::token::TokenInfo;
use super::uri::UriError;
use crate::certificate::CertificateError;
use crate::error::ErrorClass;
use crate::pss::{Scheme, SchemeError};

/// What a token, its module or its configuration did wrong.
///
/// Each error of a call names the function (`C_Sign`), the return value (`CKR_DEVICE_ERROR`) and the token, and says
/// what to do. None holds a PIN.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URI cannot be used.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// Nothing says which module to load.
    #[error("no PKCS#11 module is named; add ?module-path=/path/to/module.so to the URI")]
    NoModule,
    /// No module of that name.
    #[error(
        "no PKCS#11 module {name:?} was found; looked for {}; give module-path instead",
        paths(looked)
    )]
    ModuleNotFound {
        /// The name, as in `module-name`.
        name: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The module cannot be loaded or initialised.
    #[error("the PKCS#11 module {} cannot be used: {reason}", path.display())]
    ModuleLoad {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// `C_Initialize` failed.
    #[error("{call}: the PKCS#11 module {} does not start; {}", path.display(), advice(call))]
    ModuleStart {
        /// The file.
        path: PathBuf,
        /// What came back.
        call: CallError,
    },
    /// The module is not the one that the URI's `library-…` attributes describe.
    #[error("the module {} is not the library that the URI describes: it says {is}", path.display())]
    LibraryMismatch {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        is: String,
    },
    /// A call failed.
    #[error("{call}{}; {}", at(token.as_deref()), advice(call))]
    Call {
        /// The function and what came back.
        call: CallError,
        /// On which token.
        token: Option<Box<TokenInfo>>,
    },
    /// No token has the attributes.
    #[error("no token with {wanted}; {}", present(found))]
    TokenNotFound {
        /// What was looked for.
        wanted: TokenWanted,
        /// What was there.
        found: Vec<TokenInfo>,
    },
    /// More than one token has the attributes.
    #[error("{} tokens have {wanted}; add serial or slot-id to say which: {}", found.len(), list(found))]
    SeveralTokens {
        /// What was looked for.
        wanted: TokenWanted,
        /// Which they are.
        found: Vec<TokenInfo>,
    },
    /// No private RSA key fits.
    #[error("no private RSA key with {wanted} on {token}; {}", keys(found))]
    KeyNotFound {
        /// What was looked for.
        wanted: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// The private keys that are there.
        found: Vec<KeyInfo>,
    },
    /// A private RSA key that was there before is gone from a token that is well otherwise.
    #[error(
        "the private RSA key with {wanted} is not on {token} any more, which was looked at anew and has other keys; {}; \
         restore it, or open the signer with another key",
        keys(found)
    )]
    KeyGone {
        /// What was looked for.
        wanted: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// The private keys that are there.
        found: Vec<KeyInfo>,
    },
    /// A token with the same name answers in the place of the one on which the key was opened, and does not have the key.
    #[error(
        "{is} answers in the place of {was} and does not have its key; bring that token back (a moved address, another \
         token directory), or open the key on this one"
    )]
    OtherToken {
        /// The token on which the key was opened.
        was: Box<TokenInfo>,
        /// The token that is there now.
        is: Box<TokenInfo>,
    },
    /// The keys of that label or id have other public halves than the certificate.
    #[error(
        "the private RSA key with {wanted} on {token} has another public half: {}; use the certificate that was issued for \
         this key, or name the key that it belongs to",
        list(found)
    )]
    OtherKey {
        /// What was looked for.
        wanted: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// The private keys of that label or id.
        found: Vec<KeyInfo>,
    },
    /// More than one private RSA key fits.
    #[error("{} private RSA keys on {token} have {wanted}; say which by id: {}", found.len(), list(found))]
    SeveralKeys {
        /// What was looked for.
        wanted: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// Which they are.
        found: Vec<KeyInfo>,
    },
    /// One of Fernet's two keys is not there.
    #[error("no {what} with label {label:?} on {token}; {}", secret_keys(found))]
    SecretKeyNotFound {
        /// Which of the two.
        what: &'static str,
        /// The label that both have.
        label: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// The secret keys that are there.
        found: Vec<SecretKeyInfo>,
    },
    /// The keys of that label are no pair that Fernet can use.
    #[error("the secret keys with label {label:?} on {token} cannot be used for Fernet: {reason}")]
    FernetKeys {
        /// The label that both have.
        label: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// Why not.
        reason: String,
    },
    /// The key's modulus or exponent cannot be read, or is absurd.
    #[error("the public half of key {key} on {token} cannot be used: {reason}")]
    PublicHalf {
        /// Label and id of the key.
        key: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// Why not.
        reason: String,
    },
    /// The key can leave the token, or may be able to.
    #[error(
        "the key {key} on {token} is refused: {reason}; generate a key in the token (sensitive, not extractable), or \
         name the unsafe choice (dangerous_allow_extractable)"
    )]
    Extractable {
        /// Label and id of the key.
        key: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// Which attribute says so.
        reason: &'static str,
    },
    /// The key must not sign.
    #[error("the key {key} on {token} has CKA_SIGN = false and cannot sign; use a signing key")]
    NotForSigning {
        /// Label and id of the key.
        key: String,
        /// On which token.
        token: Box<TokenInfo>,
    },
    /// The key or its size does not fit the scheme.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// The token makes no signature of this scheme, by no way that is known.
    #[error("{token} cannot sign with {scheme} (salt of {salt_len} bytes): {}; use the other salt or another token", tried.join("; "))]
    Unsupported {
        /// On which token.
        token: Box<TokenInfo>,
        /// What was wanted.
        scheme: Scheme,
        /// Length of the salt, in bytes.
        salt_len: usize,
        /// Which mechanisms were tried and what came back.
        tried: Vec<String>,
    },
    /// The token gave a signature that is not this key's.
    #[error(
        "{token} answered with {len} bytes that are no signature of key {key}; they are thrown away and the session is \
         given up: a stale handle may have named another key"
    )]
    WrongSignature {
        /// Label and id of the key.
        key: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// How many bytes came.
        len: usize,
    },
    /// There is no PIN to log in with.
    #[error("no PIN for {token}: {source}")]
    NoPin {
        /// For which token.
        token: Box<TokenInfo>,
        /// Why not.
        #[source]
        source: PinError,
    },
    /// The token called the PIN wrong, just now.
    #[error("{call}: {token} refused the PIN from {origin}; {}", advice(call))]
    PinRefused {
        /// What came back.
        call: CallError,
        /// Which token.
        token: Box<TokenInfo>,
        /// Where the PIN came from.
        origin: String,
    },
    /// The token called this PIN wrong before; it was not shown to it again.
    #[error(
        "{token} refused the PIN from {origin} before ({rv}), so it was not tried again; provide another PIN, or, if the \
         token's PIN was set to this one since, restart the process or call forget_refused_pins"
    )]
    PinRefusedBefore {
        /// Which token.
        token: Box<TokenInfo>,
        /// Where the PIN came from.
        origin: String,
        /// What the token said then.
        rv: Rv,
    },
    /// One more wrong PIN would lock the token.
    #[error(
        "{token} has one PIN try left, so no login was made; log in with the right PIN by the token's own tool, or name \
         the unsafe choice (dangerous_login_on_final_try)"
    )]
    FinalTry {
        /// Which token.
        token: Box<TokenInfo>,
    },
    /// The PIN is locked.
    #[error("the PIN of {token} is locked; the security officer must set a new one")]
    Locked {
        /// Which token.
        token: Box<TokenInfo>,
    },
    /// Every session is in use.
    #[error(
        "no session on {on} became free within {waited:?}; all {sessions} are in use: raise max_sessions or \
         session_wait, or sign less at once"
    )]
    Busy {
        /// On which token.
        on: String,
        /// How long the caller waited.
        waited: Duration,
        /// How many sessions there are.
        sessions: usize,
    },
    /// So many calls hang in the module that no more are made.
    #[error(
        "{stuck} calls on {on} have not come back, so no more are made until one does; check the device, its connection \
         and its server, and restart this process if they stay"
    )]
    Stuck {
        /// On which token.
        on: String,
        /// How many calls.
        stuck: usize,
    },
    /// No answer within the deadline.
    #[error(
        "no answer from {on} within {waited:?} ({doing}); check the device, its connection and its server, or choose a \
         longer deadline"
    )]
    Timeout {
        /// Which token or module.
        on: String,
        /// What was waited for.
        doing: &'static str,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The operating system gave no thread to make calls on.
    #[error(
        "no thread for a session with the token could be started: {reason}; raise the limit of threads"
    )]
    Thread {
        /// What it said.
        #[source]
        reason: std::io::Error,
    },
    /// Something that was called back, such as a PIN callback, panicked.
    #[error("a panic ended the job on the token; its message is on standard error")]
    Panicked,
    /// This process was forked from one that uses the module, and the module is not known to bear that.
    #[error(
        "the module {} ({library}) was in use when this process was forked, and is not known to bear a new start in a \
         child; open the key after the fork, in the child alone, or name the unsafe choice \
         (dangerous_reinitialize_after_fork)",
        path.display()
    )]
    Forked {
        /// The module.
        path: PathBuf,
        /// What it says of itself.
        library: String,
    },
    /// The key was closed.
    #[error("the key was closed; open it again")]
    Closed,
    /// No certificate on the token belongs to the key.
    #[error(
        "no certificate for key {key} on {token}; import it, or give the certificate as a file"
    )]
    CertificateNotFound {
        /// Label and id of the key.
        key: String,
        /// On which token.
        token: Box<TokenInfo>,
    },
    /// Several certificates on the token belong to the key.
    #[error("{} certificates on {token} belong to key {key}: {}; give the one that is meant as a file", found.len(), found.join(", "))]
    SeveralCertificates {
        /// Label and id of the key.
        key: String,
        /// On which token.
        token: Box<TokenInfo>,
        /// Their ids.
        found: Vec<String>,
    },
    /// A certificate could not be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Neither a certificate nor the wish for the token's was given.
    #[error(
        "the signer has no certificate; give one, or ask for the token's (certificate_from_token)"
    )]
    NoCertificate,
    /// What was to be made is there already.
    #[error("{what} is already on {on}; nothing was changed")]
    Exists {
        /// What is there.
        what: String,
        /// Where.
        on: String,
    },
    /// Every slot holds an initialised token.
    #[error("no uninitialised token in {}; {}", module.display(), present(found))]
    NoBlankToken {
        /// The module.
        module: PathBuf,
        /// What was there.
        found: Vec<TokenInfo>,
    },
    /// The token does not do, or did not do, what it was asked for, and says nothing of an error.
    #[error("{on} {what}; ask its vendor for a newer module")]
    Misbehaved {
        /// Which token or module.
        on: String,
        /// What it does.
        what: String,
    },
    /// The random generator of the system failed.
    #[error("the operating system gives no randomness")]
    Random,
    /// Something that was asked for makes no sense.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    pub(crate) fn call(call: CallError, token: Option<&TokenInfo>) -> Self {
        Self::Call {
            call,
            token: token.cloned().map(Box::new),
        }
    }

    /// Whether a key was not found, and then whether the token shows other keys of its kind.
    pub(super) const fn missing_key(&self) -> Option<bool> {
        match self {
            Self::KeyNotFound { found, .. } => Some(!found.is_empty()),
            Self::SecretKeyNotFound { found, .. } => Some(!found.is_empty()),
            // Whatever keys that one has.
            Self::OtherToken { .. } => Some(false),
            _ => None,
        }
    }

    /// What a caller may do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Call { call, .. } => call.class(),
            // Retrying works once its daemon, its server or its files are back. What needs a change is said at once.
            Self::ModuleStart { call, .. } => call.class(),
            // An empty token store or a dead server look exactly like this, and come back.
            Self::TokenNotFound { .. }
            | Self::OtherToken { .. }
            | Self::KeyNotFound { .. }
            | Self::SecretKeyNotFound { .. }
            | Self::Random => ErrorClass::Transient,
            Self::WrongSignature { .. } => ErrorClass::SessionLost,
            Self::NoPin { .. }
            | Self::PinRefused { .. }
            | Self::PinRefusedBefore { .. }
            | Self::FinalTry { .. }
            | Self::Locked { .. } => ErrorClass::Credential,
            Self::Busy { .. } | Self::Stuck { .. } | Self::Thread { .. } => ErrorClass::Busy,
            Self::Timeout { .. } => ErrorClass::Timeout,
            _ => ErrorClass::Permanent,
        }
    }
}

impl From<LoadError> for Error {
    fn from(LoadError { path, reason }: LoadError) -> Self {
        Self::ModuleLoad { path, reason }
    }
}

impl CallError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match &self.answer {
            Answer::Rv(rv) => rv.class(),
            Answer::NoFunction => ErrorClass::Permanent,
            Answer::Malformed(_) => ErrorClass::SessionLost,
        }
    }
}

/// Which token was looked for, and in which module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWanted {
    /// The module.
    pub module: PathBuf,
    /// The attributes, as text.
    pub attributes: String,
}

impl fmt::Display for TokenWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.attributes, self.module.display())
    }
}

fn at(token: Option<&TokenInfo>) -> String {
    token
        .map(|token| format!(" on {token}"))
        .unwrap_or_default()
}

fn advice(call: &CallError) -> &'static str {
    match call.answer {
        Answer::Rv(rv) => rv.advice(),
        Answer::NoFunction => "the module lacks what is needed; ask its vendor for a newer one",
        Answer::Malformed(_) => {
            "the module answers against the standard; ask its vendor for a newer one"
        }
    }
}

fn present(found: &[TokenInfo]) -> String {
    if found.is_empty() {
        return "it shows no token at all: check the module's configuration (for SoftHSM, SOFTHSM2_CONF) and that its \
                device or server is there"
            .to_owned();
    }
    format!("there is: {}", list(found))
}

fn keys(found: &[KeyInfo]) -> String {
    if found.is_empty() {
        "it shows no private key".to_owned()
    } else {
        format!("there is: {}", list(found))
    }
}

fn secret_keys(found: &[SecretKeyInfo]) -> String {
    if found.is_empty() {
        "it shows no secret key; `taskseal fernet key generate` makes both".to_owned()
    } else {
        format!("there is: {}", list(found))
    }
}

/// The most that an error lists.
const MAX_LISTED: usize = 20;

fn list<T: fmt::Display>(items: &[T]) -> String {
    let mut text = items
        .iter()
        .take(MAX_LISTED)
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > MAX_LISTED {
        text.push_str(&format!(" and {} more", items.len() - MAX_LISTED));
    }
    text
}

fn paths(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
