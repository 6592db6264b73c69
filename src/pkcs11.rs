//! RSA keys on PKCS#11 tokens: [`Pkcs11Signer`], and what is needed to make and find keys.
//!
//! The private key never leaves the token; what crosses to it is a hash. See `docs/hsm.md` for what is known of the
//! modules.
//!
//! ```no_run
//! use taskseal::pkcs11::{Pkcs11Signer, Uri};
//! use taskseal::{Certificate, Signer};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let uri: Uri = "pkcs11:token=payments;object=worker-7?module-name=softhsm2&pin-source=file:/run/secrets/pin".parse()?;
//! let certificate = Certificate::from_pem(&std::fs::read("worker-7.pem")?)?;
//! let signer = Pkcs11Signer::open(&uri, certificate)?;
//! let signature = signer.sign(b"a message")?;
//! # let _ = signature;
//! # Ok(())
//! # }
//! ```
//!
//! Rules that hold whatever the module does:
//!
//! * **A wrong PIN costs one try.** A PIN that the token refused is not shown to it again by this process; with one try
//!   left no login is made.
//! * **Keys that can be read are refused**, unless the unsafe choice is named.
//! * **Each signature is verified before it is released**; one that is not this key's is an error.
//! * **One owner per module**: it is loaded and initialised once per process, never finalised, and no session but our
//!   own is ever closed or logged out.
//! * **Sessions are pooled**: at most `max_sessions`, opened one at a time, kept, and never put back after an error.

mod error;
mod inspect;
mod key;
#[doc(hidden)]
pub mod module;
mod pin;
mod provision;
mod rv;
mod session;
mod token;
mod uri;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::error::{Error, TokenWanted};
pub use self::inspect::{Inspection, Mechanism};
pub use self::key::{Pkcs11Key, SignaturePath};
pub use self::pin::{Pin, PinCallback, PinError, PinSource};
pub use self::provision::{
    KeyInfo, NewKey, TokenCertificate, find_certificates, generate_key, import_certificate,
    init_token, list_keys, list_tokens,
};
pub use self::rv::Rv;
pub use self::session::forget_refused_pins;
pub use self::token::{TokenFlags, TokenInfo};
pub use self::uri::{ObjectType, Uri, UriError};

use self::key::{FoundKey, KeyFilter, KeyOptions};
use self::module::{Module, ModuleSession};
use self::session::Access;
use self::token::TokenFilter;
use self::uri::LibraryFilter;
use crate::certificate::Certificate;
use crate::pss::{KeySizes, Scheme};
use crate::signer::{SignError, Signature, Signer, SigningKey, check_pair};

/// A [`Signer`] whose key is an object on a PKCS#11 token.
///
/// May be used from many threads at once; see [`Builder::max_sessions`].
#[derive(Debug)]
pub struct Pkcs11Signer {
    key: Pkcs11Key,
    certificate: Certificate,
}

impl Pkcs11Signer {
    /// Opens the key that `uri` names and that belongs to `certificate`, with the default choices of the [`Builder`].
    ///
    /// # Errors
    /// [`SignError::KeyMismatch`] when the key that the URI names is not the certificate's, else [`SignError::Token`]
    /// and [`SignError::Scheme`].
    pub fn open(uri: &Uri, certificate: Certificate) -> Result<Self, SignError> {
        Self::builder().uri(uri).open_signer(certificate)
    }

    /// Starts with the default choices.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The key without its certificate.
    #[must_use]
    pub const fn key(&self) -> &Pkcs11Key {
        &self.key
    }
}

impl Signer for Pkcs11Signer {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn scheme(&self) -> Scheme {
        self.key.scheme()
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        Ok(Signature::new(
            self.key.sign_message(message)?,
            self.certificate.clone(),
        ))
    }
}

/// Which module, token and key are meant, and how they are used.
#[derive(Clone)]
pub struct Builder {
    module: ModuleChoice,
    init_reserved: Option<String>,
    library: LibraryFilter,
    token: TokenFilter,
    label: Option<String>,
    id: Option<Vec<u8>>,
    object_type: Option<ObjectType>,
    /// Its PIN source is used when `pin` is not set.
    pin_uri: Option<Uri>,
    pin: Option<PinSource>,
    certificate: CertificateChoice,
    options: KeyOptions,
    login_on_final_try: bool,
}

#[derive(Clone)]
enum ModuleChoice {
    None,
    Path(PathBuf),
    Name(String),
    Given(Arc<dyn Module>),
}

#[derive(Clone)]
enum CertificateChoice {
    None,
    Given(Certificate),
    FromToken,
}

impl Builder {
    /// How many sessions a key has at most, unless [`max_sessions`](Self::max_sessions) says otherwise.
    pub const DEFAULT_MAX_SESSIONS: usize = 8;
    /// How long a caller waits for a session, unless [`session_wait`](Self::session_wait) says otherwise.
    pub const DEFAULT_SESSION_WAIT: Duration = Duration::from_secs(10);

    /// The default choices: SHA-256 with a salt of its length, keys of 2048 to 8192 bits that cannot be read.
    #[must_use]
    pub fn new() -> Self {
        Self {
            module: ModuleChoice::None,
            init_reserved: None,
            library: LibraryFilter::default(),
            token: TokenFilter::default(),
            label: None,
            id: None,
            object_type: None,
            pin_uri: None,
            pin: None,
            certificate: CertificateChoice::None,
            options: KeyOptions {
                scheme: Scheme::default(),
                sizes: KeySizes::default(),
                allow_extractable: false,
                max_sessions: Self::DEFAULT_MAX_SESSIONS,
                session_wait: Self::DEFAULT_SESSION_WAIT,
            },
            login_on_final_try: false,
        }
    }

    /// Takes over all that a URI says; what it does not say stays as it is.
    #[must_use]
    pub fn uri(mut self, uri: &Uri) -> Self {
        fn take<T: Clone>(place: &mut Option<T>, value: &Option<T>) {
            if value.is_some() {
                place.clone_from(value);
            }
        }
        if let Some(path) = &uri.module_path {
            self.module = ModuleChoice::Path(path.clone());
        } else if let Some(name) = &uri.module_name {
            self.module = ModuleChoice::Name(name.clone());
        }
        take(&mut self.init_reserved, &uri.init_reserved);
        take(&mut self.library.manufacturer, &uri.library.manufacturer);
        take(&mut self.library.description, &uri.library.description);
        take(&mut self.library.version, &uri.library.version);
        take(&mut self.token.label, &uri.filter.label);
        take(&mut self.token.manufacturer, &uri.filter.manufacturer);
        take(&mut self.token.serial, &uri.filter.serial);
        take(&mut self.token.model, &uri.filter.model);
        take(&mut self.token.slot_id, &uri.filter.slot_id);
        take(
            &mut self.token.slot_description,
            &uri.filter.slot_description,
        );
        take(
            &mut self.token.slot_manufacturer,
            &uri.filter.slot_manufacturer,
        );
        take(&mut self.label, &uri.object);
        take(&mut self.id, &uri.id);
        take(&mut self.object_type, &uri.object_type);
        if uri.has_pin() {
            self.pin_uri = Some(uri.clone());
        }
        self
    }

    /// The module's file.
    #[must_use]
    pub fn module_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.module = ModuleChoice::Path(path.into());
        self
    }

    /// The module's name, as in `module-name`: `softhsm2` stands for `libsofthsm2.so` in one of the usual directories.
    #[must_use]
    pub fn module_name(mut self, name: impl Into<String>) -> Self {
        self.module = ModuleChoice::Name(name.into());
        self
    }

    /// A text for the module at its initialisation: `pReserved` of `C_Initialize`, where the standard has NULL and NSS
    /// softokn wants its configuration, such as `configdir='sql:/etc/nssdb' certPrefix='' keyPrefix='' secmod='secmod.db'
    /// flags=`. At most 4096 bytes in a URI, without a zero byte.
    ///
    /// It is the whole process's: a module is initialised once. Without it, a module that is there is taken as it was
    /// initialised; another text than that one is an error ([`Error::ModuleLoad`]). No secret belongs into it.
    #[must_use]
    pub fn init_reserved(mut self, text: impl Into<String>) -> Self {
        self.init_reserved = Some(text.into());
        self
    }

    /// An implementation of the module instead of a shared library. Not covered by the version promise of this crate.
    #[doc(hidden)]
    #[must_use]
    pub fn module_implementation(mut self, module: Arc<dyn Module>) -> Self {
        self.module = ModuleChoice::Given(module);
        self
    }

    /// Label of the token.
    #[must_use]
    pub fn token_label(mut self, label: impl Into<String>) -> Self {
        self.token.label = Some(label.into());
        self
    }

    /// Serial number of the token.
    #[must_use]
    pub fn token_serial(mut self, serial: impl Into<String>) -> Self {
        self.token.serial = Some(serial.into());
        self
    }

    /// Manufacturer of the token.
    #[must_use]
    pub fn token_manufacturer(mut self, manufacturer: impl Into<String>) -> Self {
        self.token.manufacturer = Some(manufacturer.into());
        self
    }

    /// Model of the token.
    #[must_use]
    pub fn token_model(mut self, model: impl Into<String>) -> Self {
        self.token.model = Some(model.into());
        self
    }

    /// Number of the slot. Many modules change it.
    #[must_use]
    pub const fn slot_id(mut self, slot: u64) -> Self {
        self.token.slot_id = Some(slot);
        self
    }

    /// Label of the key (`CKA_LABEL`).
    #[must_use]
    pub fn object_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Id of the key (`CKA_ID`).
    #[must_use]
    pub fn object_id(mut self, id: impl Into<Vec<u8>>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Where the PIN comes from. Goes before what a URI says.
    #[must_use]
    pub fn pin(mut self, source: PinSource) -> Self {
        self.pin = Some(source);
        self
    }

    /// Whether a PIN source is set, here or by a URI.
    #[must_use]
    pub const fn has_pin(&self) -> bool {
        self.pin.is_some() || self.pin_uri.is_some()
    }

    /// The certificate of the key.
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = CertificateChoice::Given(certificate);
        self
    }

    /// The certificate is on the token: the one X.509 certificate with the key's public half.
    #[must_use]
    pub fn certificate_from_token(mut self) -> Self {
        self.certificate = CertificateChoice::FromToken;
        self
    }

    /// Digest and salt of the signatures.
    #[must_use]
    pub const fn scheme(mut self, scheme: Scheme) -> Self {
        self.options.scheme = scheme;
        self
    }

    /// How many sessions, and so how many signatures at once, the key has at most; at least 1. Sessions beyond the
    /// first are opened when they are needed.
    #[must_use]
    pub const fn max_sessions(mut self, sessions: usize) -> Self {
        self.options.max_sessions = sessions;
        self
    }

    /// How long a caller waits for a session at most; after that the answer is [`Error::Busy`].
    #[must_use]
    pub const fn session_wait(mut self, wait: Duration) -> Self {
        self.options.session_wait = wait;
        self
    }

    /// Takes a key although it can be read or taken out of the token, or although nobody knows.
    #[must_use]
    pub const fn dangerous_allow_extractable(mut self) -> Self {
        self.options.allow_extractable = true;
        self
    }

    /// Takes keys of other sizes than 2048 to 8192 bits.
    #[must_use]
    pub const fn dangerous_allow_small_keys(mut self, sizes: KeySizes) -> Self {
        self.options.sizes = sizes;
        self
    }

    /// Logs in although one more wrong PIN locks the token.
    #[must_use]
    pub const fn dangerous_login_on_final_try(mut self, allow: bool) -> Self {
        self.login_on_final_try = allow;
        self
    }

    /// Opens the key that the label and id name, without a certificate.
    ///
    /// # Errors
    /// [`Error`]: module, token, PIN, key or scheme.
    pub fn open_key(&self) -> Result<Pkcs11Key, Error> {
        let filter = self.key_filter()?;
        let access = self.access()?;
        let session = access.open(false)?;
        let key = self.find_key(&access, session.0.as_ref(), &filter)?;
        let key = Pkcs11Key::new(access, session, key, &self.options)?;
        tracing::info!(key = key.name(), token = %key.token(), scheme = %key.scheme(), path = key.signature_path().as_str(), "key opened");
        Ok(key)
    }

    /// Opens the signer with this certificate.
    ///
    /// # Errors
    /// As for [`Pkcs11Signer::open`].
    pub fn open_signer(self, certificate: Certificate) -> Result<Pkcs11Signer, SignError> {
        self.certificate(certificate).open()
    }

    /// Opens the signer with the certificate that was chosen by [`certificate`](Self::certificate) or
    /// [`certificate_from_token`](Self::certificate_from_token).
    ///
    /// # Errors
    /// As for [`Pkcs11Signer::open`]; [`Error::NoCertificate`] when none was chosen.
    pub fn open(&self) -> Result<Pkcs11Signer, SignError> {
        let mut filter = self.key_filter()?;
        let access = self.access()?;
        let session = access.open(false)?;
        let (key, certificate) = match &self.certificate {
            CertificateChoice::None => return Err(Error::NoCertificate.into()),
            CertificateChoice::Given(certificate) => {
                filter.public_key = Some(certificate.public_key().clone());
                let key = filter.find(&access, session.0.as_ref())?.ok_or_else(|| {
                    SignError::KeyMismatch {
                        certificate: certificate.id().to_owned(),
                    }
                })?;
                (key, certificate.clone())
            }
            CertificateChoice::FromToken => {
                let key = self.find_key(&access, session.0.as_ref(), &filter)?;
                let certificate =
                    provision::certificate_of(&access, session.0.as_ref(), &key.info)?;
                (key, certificate)
            }
        };
        let sizes = self.options.sizes;
        let key = Pkcs11Key::new(access, session, key, &self.options)?;
        check_pair(key.public_key(), &certificate, key.scheme(), sizes)?;
        tracing::info!(
            signer = certificate.id(),
            key = key.name(),
            token = %key.token(),
            bits = key.public_key().bits(),
            scheme = %key.scheme(),
            path = key.signature_path().as_str(),
            "signer opened: the key is on a token"
        );
        Ok(Pkcs11Signer { key, certificate })
    }

    /// The token that is meant, without logging in.
    ///
    /// # Errors
    /// [`Error`]: the module, or none or several tokens.
    pub fn token(&self) -> Result<TokenInfo, Error> {
        self.token.find(self.load()?.as_ref())
    }

    fn find_key(
        &self,
        access: &Access,
        session: &dyn ModuleSession,
        filter: &KeyFilter,
    ) -> Result<FoundKey, Error> {
        filter
            .find(access, session)?
            .ok_or_else(|| Error::KeyNotFound {
                wanted: filter.to_string(),
                token: Box::new(access.token.clone()),
                found: Vec::new(),
            })
    }

    fn key_filter(&self) -> Result<KeyFilter, Error> {
        if let Some(other) = self.object_type.filter(|kind| *kind != ObjectType::Private) {
            return Err(Error::Argument(format!(
                "type={} names no private key; leave type out of the URI or write type=private",
                other.as_str()
            )));
        }
        Ok(KeyFilter {
            label: self.label.clone(),
            id: self.id.clone(),
            public_key: None,
        })
    }

    fn access(&self) -> Result<Access, Error> {
        let module = self.load()?;
        let token = self.token.find(module.as_ref())?;
        let pin = match (&self.pin, &self.pin_uri) {
            (Some(pin), _) => pin.clone(),
            (None, Some(uri)) => uri.pin_source()?.unwrap_or_default(),
            (None, None) => PinSource::None,
        };
        Ok(Access::new(module, token, pin, self.login_on_final_try))
    }

    fn load(&self) -> Result<Arc<dyn Module>, Error> {
        let module = match &self.module {
            ModuleChoice::None => return Err(Error::NoModule),
            ModuleChoice::Path(path) => module::load_with(path, self.init_reserved.as_deref())?,
            ModuleChoice::Name(name) => {
                module::load_with(&find_module(name)?, self.init_reserved.as_deref())?
            }
            ModuleChoice::Given(module) => module.clone(),
        };
        self.check_library(module.as_ref())?;
        Ok(module)
    }

    fn check_library(&self, module: &dyn Module) -> Result<(), Error> {
        let wanted = &self.library;
        if *wanted == LibraryFilter::default() {
            return Ok(());
        }
        let is = module.library().map_err(|call| Error::call(call, None))?;
        let version = wanted.version.is_none_or(|(major, minor)| {
            major == is.version.0 && minor.is_none_or(|minor| minor == is.version.1)
        });
        let same =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        if version
            && same(&wanted.manufacturer, &is.manufacturer)
            && same(&wanted.description, &is.description)
        {
            return Ok(());
        }
        Err(Error::LibraryMismatch {
            path: module.path().to_owned(),
            is: format!(
                "{:?} by {:?}, version {}.{}",
                is.description, is.manufacturer, is.version.0, is.version.1
            ),
        })
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("token", &self.token.to_string())
            .field("label", &self.label)
            .field("id", &self.id)
            .field("pin", &self.pin)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Finds a module by its name, as p11-kit does: `lib<name>.so`, then `<name>.so`, in the usual directories.
fn find_module(name: &str) -> Result<PathBuf, Error> {
    const DIRECTORIES: [&str; 11] = [
        "/usr/lib/softhsm",
        "/usr/local/lib/softhsm",
        "/usr/lib64/softhsm",
        "/usr/lib64/pkcs11",
        "/usr/lib/pkcs11",
        "/usr/local/lib/pkcs11",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib",
        "/opt/homebrew/lib/softhsm",
        "/opt/homebrew/lib",
    ];
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let directories = [
        format!("{multiarch}/pkcs11"),
        format!("{multiarch}/softhsm"),
        multiarch,
    ];
    let directories = directories.iter().map(String::as_str).chain(DIRECTORIES);
    let looked: Vec<PathBuf> = directories.map(PathBuf::from).collect();
    if name.contains(['/', '\0']) || name.is_empty() {
        return Err(Error::Argument(format!(
            "{name:?} is no name of a module; use the path instead"
        )));
    }
    let endings: &[&str] = if cfg!(target_os = "macos") {
        &["so", "dylib"]
    } else {
        &["so"]
    };
    let found = looked.iter().find_map(|directory: &PathBuf| {
        endings.iter().find_map(|ending| {
            [format!("lib{name}.{ending}"), format!("{name}.{ending}")]
                .iter()
                .map(|file| directory.join(file))
                .find(|path: &PathBuf| Path::is_file(path))
        })
    });
    found.ok_or_else(|| Error::ModuleNotFound {
        name: name.to_owned(),
        looked,
    })
}
