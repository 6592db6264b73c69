//! [`Builder`]: which module, token and key are meant, and how they are used.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::filter::TokenFilter;
use super::limits::{self, Limits, Rules};
use super::module::Module;
use super::pin::PinSource;
use super::place::{ModuleChoice, Place};
use super::process::Deadline;
use super::uri::{LibraryFilter, ObjectType, Uri};
use crate::certificate::Certificate;
use crate::pss::{KeySizes, Scheme};

/// Which module, token and key are meant, and how they are used.
#[derive(Clone)]
pub struct Builder {
    pub(super) place: Place,
    pub(super) label: Option<String>,
    pub(super) id: Option<Vec<u8>>,
    pub(super) object_type: Option<ObjectType>,
    pub(super) certificate: CertificateChoice,
    pub(super) options: KeyOptions,
    pub(super) provision_deadline: Duration,
}

/// What a key is opened with.
#[derive(Debug, Clone)]
pub(super) struct KeyOptions {
    pub(super) scheme: Scheme,
    pub(super) sizes: KeySizes,
    pub(super) allow_extractable: bool,
    pub(super) limits: Limits,
}

#[derive(Clone)]
pub(super) enum CertificateChoice {
    None,
    Given(Certificate),
    FromToken,
}

impl Builder {
    /// How many sessions a key has at most, unless [`max_sessions`](Self::max_sessions) says otherwise.
    pub const DEFAULT_MAX_SESSIONS: usize = limits::MAX_SESSIONS;
    /// How long a caller waits for a session, unless [`session_wait`](Self::session_wait) says otherwise.
    pub const DEFAULT_SESSION_WAIT: Duration = limits::SESSION_WAIT;

    /// How long a signature may take, unless [`deadline`](Self::deadline) says otherwise.
    pub const DEFAULT_DEADLINE: Duration = limits::DEADLINE;
    /// How long making, importing and listing what is on a token may take, unless
    /// [`provision_deadline`](Self::provision_deadline) says otherwise.
    pub const DEFAULT_PROVISION_DEADLINE: Duration = limits::PROVISION_DEADLINE;
    /// How many calls may hang in a module, unless [`max_stuck`](Self::max_stuck) says otherwise.
    pub const DEFAULT_MAX_STUCK: usize = limits::MAX_STUCK;
    /// Time between two new starts of a module, unless [`reload_interval`](Self::reload_interval) says otherwise.
    pub const DEFAULT_RELOAD_INTERVAL: Duration = limits::RELOAD_INTERVAL;

    /// The default choices: SHA-256 with a salt of its length, keys of 2048 to 8192 bits that cannot be read.
    #[must_use]
    pub fn new() -> Self {
        Self {
            place: Place {
                module: ModuleChoice::None,
                init_reserved: None,
                library: LibraryFilter::default(),
                token: TokenFilter::default(),
                pin_uri: None,
                pin: None,
                login_on_final_try: false,
                rules: Rules::default(),
            },
            label: None,
            id: None,
            object_type: None,
            certificate: CertificateChoice::None,
            options: KeyOptions {
                scheme: Scheme::default(),
                sizes: KeySizes::default(),
                allow_extractable: false,
                limits: Limits {
                    max_sessions: Self::DEFAULT_MAX_SESSIONS,
                    session_wait: Self::DEFAULT_SESSION_WAIT,
                    deadline: Self::DEFAULT_DEADLINE,
                    max_stuck: Self::DEFAULT_MAX_STUCK,
                },
            },
            provision_deadline: Self::DEFAULT_PROVISION_DEADLINE,
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
            self.place.module = ModuleChoice::Path(path.clone());
        } else if let Some(name) = &uri.module_name {
            self.place.module = ModuleChoice::Name(name.clone());
        }
        take(&mut self.place.init_reserved, &uri.init_reserved);
        take(
            &mut self.place.library.manufacturer,
            &uri.library.manufacturer,
        );
        take(
            &mut self.place.library.description,
            &uri.library.description,
        );
        take(&mut self.place.library.version, &uri.library.version);
        take(&mut self.place.token.label, &uri.filter.label);
        take(&mut self.place.token.manufacturer, &uri.filter.manufacturer);
        take(&mut self.place.token.serial, &uri.filter.serial);
        take(&mut self.place.token.model, &uri.filter.model);
        take(&mut self.place.token.slot_id, &uri.filter.slot_id);
        take(
            &mut self.place.token.slot_description,
            &uri.filter.slot_description,
        );
        take(
            &mut self.place.token.slot_manufacturer,
            &uri.filter.slot_manufacturer,
        );
        take(&mut self.label, &uri.object);
        take(&mut self.id, &uri.id);
        take(&mut self.object_type, &uri.object_type);
        if uri.has_pin() {
            self.place.pin_uri = Some(uri.clone());
        }
        self
    }

    /// The module's file.
    #[must_use]
    pub fn module_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.place.module = ModuleChoice::Path(path.into());
        self
    }

    /// The module's name, as in `module-name`: `softhsm2` stands for `libsofthsm2.so` in one of the usual directories.
    #[must_use]
    pub fn module_name(mut self, name: impl Into<String>) -> Self {
        self.place.module = ModuleChoice::Name(name.into());
        self
    }

    /// A text for the module at its initialisation: `pReserved` of `C_Initialize`, where the standard has NULL and NSS
    /// softokn wants its configuration, such as `configdir='sql:/etc/nssdb' certPrefix='' keyPrefix='' secmod='secmod.db'
    /// flags=`. At most 4096 bytes in a URI, without a zero byte.
    ///
    /// It is the whole process's: a module is initialised once. Without it, a module that is there is taken as it was
    /// initialised; another text than that one is an error ([`Error::ModuleLoad`](super::Error::ModuleLoad)). No secret belongs into it.
    #[must_use]
    pub fn init_reserved(mut self, text: impl Into<String>) -> Self {
        self.place.init_reserved = Some(text.into());
        self
    }

    /// An implementation of the module instead of a shared library. Not covered by the version promise of this crate.
    #[doc(hidden)]
    #[must_use]
    pub fn module_implementation(mut self, module: Arc<dyn Module>) -> Self {
        self.place.module = ModuleChoice::Given(module);
        self
    }

    /// Label of the token.
    #[must_use]
    pub fn token_label(mut self, label: impl Into<String>) -> Self {
        self.place.token.label = Some(label.into());
        self
    }

    /// Serial number of the token.
    #[must_use]
    pub fn token_serial(mut self, serial: impl Into<String>) -> Self {
        self.place.token.serial = Some(serial.into());
        self
    }

    /// Manufacturer of the token.
    #[must_use]
    pub fn token_manufacturer(mut self, manufacturer: impl Into<String>) -> Self {
        self.place.token.manufacturer = Some(manufacturer.into());
        self
    }

    /// Model of the token.
    #[must_use]
    pub fn token_model(mut self, model: impl Into<String>) -> Self {
        self.place.token.model = Some(model.into());
        self
    }

    /// Number of the slot. Many modules change it.
    #[must_use]
    pub const fn slot_id(mut self, slot: u64) -> Self {
        self.place.token.slot_id = Some(slot);
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

    /// Where the PIN comes from, if no [`uri`](Self::uri) names a source: one that does goes before it, in whatever order the
    /// two are given.
    #[must_use]
    pub fn pin(mut self, source: PinSource) -> Self {
        self.place.pin = Some(source);
        self
    }

    /// Whether a PIN source is set, here or by a URI.
    #[must_use]
    pub const fn has_pin(&self) -> bool {
        self.place.pin.is_some() || self.place.pin_uri.is_some()
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
        self.options.limits.max_sessions = sessions;
        self
    }

    /// How long a caller waits for a session at most; after that, or at its deadline, the answer is [`Error::Busy`](super::Error::Busy).
    #[must_use]
    pub const fn session_wait(mut self, wait: Duration) -> Self {
        self.options.limits.session_wait = wait;
        self
    }

    /// How long opening a key and making a signature may take, with all waiting and trying again. A call in the module
    /// that is not back by then is written off: its caller gets [`Error::Timeout`](super::Error::Timeout), and its thread and session are left
    /// to themselves.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.options.limits.deadline = deadline;
        self
    }

    /// How long making, importing and listing keys and certificates on the token may take: longer than a signature, because
    /// an RSA key of 4096 bits takes some devices a minute, and because a person may be asked for the PIN. Nothing of it is
    /// tried again. After [`Error::Timeout`](super::Error::Timeout), what the token makes too late is destroyed again when its call comes back.
    #[must_use]
    pub const fn provision_deadline(mut self, deadline: Duration) -> Self {
        self.provision_deadline = deadline;
        self
    }

    /// How many calls in a module may be written off and not back before callers get [`Error::Stuck`](super::Error::Stuck) at once instead of
    /// one more thread that hangs; at least 1. The calls in progress when that number is reached may still hang too.
    #[must_use]
    pub const fn max_stuck(mut self, calls: usize) -> Self {
        self.options.limits.max_stuck = if calls == 0 { 1 } else { calls };
        self
    }

    /// Time from one new start of the module (`C_Finalize`, `C_Initialize`) to the next, at least. The first is made at
    /// once when it is needed. Counts for all keys of the module in the process.
    ///
    /// It protects the sessions of others. While the module shows no token at all nobody has one, and the pauses are from 100
    /// to 500 ms, so that a server is used again soon after its return.
    #[must_use]
    pub const fn reload_interval(mut self, interval: Duration) -> Self {
        self.place.rules.reload_interval = interval;
        self
    }

    /// Whether the module may be started anew when nothing else helps; yes, unless chosen otherwise. Choose no when
    /// another part of the process uses the same module: it would lose its sessions.
    #[must_use]
    pub const fn allow_reload(mut self, allow: bool) -> Self {
        self.place.rules.reload = allow;
        self
    }

    /// Finalises and initialises a module that a forked child inherited although the module is not known to bear it.
    /// On a TPM the child hangs and the parent's TPM gets locked.
    #[must_use]
    pub const fn dangerous_reinitialize_after_fork(mut self) -> Self {
        self.place.rules.reinitialize_after_fork = true;
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
        self.place.login_on_final_try = allow;
        self
    }

    pub(super) fn deadline_from_now(&self) -> Deadline {
        Deadline::after(self.options.limits.deadline)
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
            .field("token", &self.place.token.to_string())
            .field("label", &self.label)
            .field("id", &self.id)
            .field("pin", &self.place.pin)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
