//! [`SoftHsm`]: a token for one test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use taskseal::pkcs11::{self, Builder, NewKey, Pin, PinSource, Pkcs11Signer, TokenInfo};
use taskseal::{Certificate, issue};
use tempfile::TempDir;

use crate::error::Error;
use crate::faults::{Faults, faulty};
use crate::library::Library;

const HOUR: Duration = Duration::from_secs(3600);

/// A SoftHSM token of its own, with a key and a certificate; gone when dropped.
///
/// Use this when a test needs a token. Each one has its own directory, configuration and copy of SoftHSM's module, so any
/// number of them live in one process, and no test sees the tokens, sessions and logins of another.
///
/// No environment variable is read by the copy, not even `SOFTHSM2_CONF`: [`uri`](Self::uri) works in any process of the
/// same user, whatever its environment. The programs of SoftHSM itself, and the original module, need
/// [`environment`](Self::environment).
///
/// Drop signers first: those that are left find no token any more.
#[derive(Debug)]
pub struct SoftHsm {
    directory: TempDir,
    original: PathBuf,
    token: TokenInfo,
    builder: Builder,
    options: SoftHsmOptions,
    certificate: Certificate,
}

/// What a [`SoftHsm`] is made with.
#[derive(Debug, Clone)]
pub struct SoftHsmOptions {
    label: String,
    key_label: String,
    bits: usize,
    subject: String,
    valid: Duration,
    pin: String,
}

impl Default for SoftHsmOptions {
    fn default() -> Self {
        Self {
            label: "testkit".to_owned(),
            key_label: "worker".to_owned(),
            bits: 2048,
            subject: "CN=worker".to_owned(),
            valid: 24 * HOUR,
            pin: "12345678".to_owned(),
        }
    }
}

impl SoftHsmOptions {
    /// The token's label, at most 32 bytes; `testkit` unless given.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The label of the key; `worker` unless given.
    #[must_use]
    pub fn key_label(mut self, label: impl Into<String>) -> Self {
        self.key_label = label.into();
        self
    }

    /// The size of the RSA key in bits; 2048 unless given.
    #[must_use]
    pub fn bits(mut self, bits: usize) -> Self {
        self.bits = bits;
        self
    }

    /// The subject and issuer of the certificate, as RFC 4514 writes it; `CN=worker` unless given.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// For how long the certificate is valid from now on; 24 hours unless given. It began an hour ago.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.valid = time;
        self
    }

    /// The user's PIN, 4 to 255 bytes; `12345678` unless given.
    #[must_use]
    pub fn pin(mut self, pin: impl Into<String>) -> Self {
        self.pin = pin.into();
        self
    }

    /// Makes the token, its key and its certificate.
    ///
    /// # Errors
    ///
    /// SoftHSM is not installed, or one of the three could not be made.
    pub fn start(self) -> Result<SoftHsm, Error> {
        let original = SoftHsm::find_module().ok_or(Error::NotInstalled)?;
        let library = Library::read(&original)?;
        let directory = short_directory(library.room())?;
        let write = |name: &str, text: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).map_err(Error::file(path))
        };
        let tokens = directory.path().join("tokens");
        std::fs::create_dir(&tokens).map_err(Error::file(&tokens))?;
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        write(CONFIGURATION, configuration.as_bytes())?;
        write(PIN, self.pin.as_bytes())?;
        let module = directory.path().join(MODULE);
        library.write(&directory.path().join(CONFIGURATION), &module)?;
        let so_pin = Pin::new(SO_PIN)?;
        let pin = Pin::new(self.pin.as_str())?;
        let token = pkcs11::init_token(&module, &self.label, &so_pin, &pin)?;
        let builder = Builder::new()
            .module_path(&module)
            .token_label(&token.label)
            .pin(PinSource::Value(pin));
        let certificate = self.generate(&builder, &self.key_label, &self.subject)?;
        write(CERTIFICATE, certificate.to_pem().as_bytes())?;
        Ok(SoftHsm {
            directory,
            original,
            token,
            builder,
            options: self,
            certificate,
        })
    }

    fn generate(
        &self,
        builder: &Builder,
        label: &str,
        subject: &str,
    ) -> Result<Certificate, Error> {
        let key = NewKey {
            bits: self.bits,
            label: label.to_owned(),
            id: None,
        };
        pkcs11::generate_key(builder, &key)?;
        let key = builder.clone().object_label(label).open_key()?;
        let now = SystemTime::now();
        Ok(issue::self_sign(
            &key,
            subject,
            now - HOUR,
            now + self.valid,
        )?)
    }
}

impl SoftHsm {
    /// Makes a token with a key of 2048 bits and a certificate `CN=worker` that is valid for a day.
    ///
    /// # Errors
    /// SoftHSM is not installed ([`Error::NotInstalled`]), or the token, the key or the certificate could not be made.
    pub fn start() -> Result<Self, Error> {
        Self::options().start()
    }

    /// What [`start`](Self::start) makes, to be changed.
    #[must_use]
    pub fn options() -> SoftHsmOptions {
        SoftHsmOptions::default()
    }

    /// Where SoftHSM is: what `SOFTHSM2_MODULE` says, else one of the usual places. A variable that names no file means that
    /// there is none.
    #[must_use]
    pub fn find_module() -> Option<PathBuf> {
        if let Some(given) = std::env::var_os("SOFTHSM2_MODULE").map(PathBuf::from) {
            return given.is_file().then_some(given);
        }
        let multiarch = format!(
            "/usr/lib/{}-linux-gnu/softhsm/libsofthsm2.so",
            std::env::consts::ARCH
        );
        [
            "/usr/lib/softhsm/libsofthsm2.so",
            &multiarch,
            "/usr/lib64/pkcs11/libsofthsm2.so",
            "/usr/lib64/softhsm/libsofthsm.so",
            "/usr/local/lib/softhsm/libsofthsm2.so",
        ]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
    }

    /// The module of this token: a copy of SoftHSM's that knows its configuration.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        self.directory.path().join(MODULE)
    }

    /// A directory for the test's own files, removed with the token.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The token as PKCS#11 describes it: label, serial number, slot.
    #[must_use]
    pub const fn token(&self) -> &TokenInfo {
        &self.token
    }

    /// The label of the key.
    #[must_use]
    pub fn key_label(&self) -> &str {
        &self.options.key_label
    }

    /// The user's PIN.
    #[must_use]
    pub fn pin(&self) -> &str {
        &self.options.pin
    }

    /// The security officer's PIN.
    #[must_use]
    pub const fn so_pin(&self) -> &'static str {
        SO_PIN
    }

    /// A file with the user's PIN, such as `pin-source` names.
    #[must_use]
    pub fn pin_file(&self) -> PathBuf {
        self.directory.path().join(PIN)
    }

    /// The certificate of the key.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A file with the certificate in PEM.
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.directory.path().join(CERTIFICATE)
    }

    /// The key's URI with module, token, label and PIN file: all that another process needs.
    #[must_use]
    pub fn uri(&self) -> String {
        let text = |text: &str| -> String {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            let encoded = text.as_bytes().iter().map(|byte| match plain(byte) {
                true => char::from(*byte).to_string(),
                false => format!("%{byte:02X}"),
            });
            encoded.collect()
        };
        format!(
            "pkcs11:token={};object={};type=private?module-path={}&pin-source=file:{}",
            text(&self.token.label),
            text(&self.options.key_label),
            self.module().display(),
            self.pin_file().display()
        )
    }

    /// What SoftHSM's own programs, such as `softhsm2-util`, and its [original module](Self::original_module) need in their
    /// environment to show this token.
    #[must_use]
    pub fn environment(&self) -> (&'static str, OsString) {
        let configuration = self.directory.path().join(CONFIGURATION);
        ("SOFTHSM2_CONF", configuration.into_os_string())
    }

    /// SoftHSM's module as it is installed, which shows the tokens of [`environment`](Self::environment).
    #[must_use]
    pub fn original_module(&self) -> &Path {
        &self.original
    }

    /// A builder with the module, the token and the PIN, to be told the key.
    #[must_use]
    pub fn builder(&self) -> Builder {
        self.builder.clone()
    }

    /// A builder as [`builder`](Self::builder), behind faults, of which there are none yet.
    ///
    /// # Errors
    /// The module cannot be loaded.
    pub fn faulty(&self) -> Result<(Builder, Arc<Faults>), Error> {
        let (module, faults) = faulty(&self.module())?;
        Ok((self.builder().module_implementation(module), faults))
    }

    /// The signer with the key and the certificate.
    ///
    /// # Errors
    /// The token does not let the key be opened.
    pub fn signer(&self) -> Result<Pkcs11Signer, Error> {
        let builder = self.builder().object_label(&self.options.key_label);
        Ok(builder.open_signer(self.certificate.clone())?)
    }

    /// Makes another key with a certificate for this subject, `CN=…`.
    ///
    /// # Errors
    /// The token did not make the key, the label is taken, or the subject is not a name.
    pub fn generate(&self, label: &str, subject: &str) -> Result<Certificate, Error> {
        self.options.generate(&self.builder, label, subject)
    }
}

/// A temporary directory in which the configuration's path is short enough for the module.
fn short_directory(room: usize) -> Result<TempDir, Error> {
    let roots = [std::env::temp_dir(), "/tmp".into(), "/dev/shm".into()];
    for root in roots {
        // Two letters, six by chance, two slashes.
        if root.as_os_str().len() + 10 + CONFIGURATION.len() > room {
            continue;
        }
        if let Ok(directory) = tempfile::Builder::new().prefix("ts").tempdir_in(root) {
            return Ok(directory);
        }
    }
    Err(Error::PathTooLong { at_most: room })
}

const SO_PIN: &str = "87654321";
// Short, because the module has little room for the path.
const CONFIGURATION: &str = "c";
const MODULE: &str = "libsofthsm2.so";
const PIN: &str = "pin";
const CERTIFICATE: &str = "certificate.pem";
