//! PINs: where they come from, and the rule that a wrong one costs one try.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::process::PerProcess;
use super::token::TokenInfo;
use crate::secret::{self, SecretError};

/// A PIN. Cleared from memory when dropped; never shown by `Debug`.
#[derive(Clone)]
pub struct Pin(SecretString);

impl Pin {
    /// The longest PIN that is taken, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Takes a PIN. A newline at its end is left out, and so is a byte order mark at its beginning ([`secret`]).
    ///
    /// # Errors
    /// [`PinError::Empty`], [`PinError::TooLong`] or [`PinError::Form`]. An empty PIN, or one with something that nobody sees,
    /// is never what was meant, and costs a try.
    pub fn new(pin: impl Into<SecretString>) -> Result<Self, PinError> {
        let given = pin.into();
        let pin = secret::pin(given.expose_secret().as_bytes()).map_err(|error| match error {
            SecretError::Empty => PinError::Empty,
            error => PinError::Form(error),
        })?;
        match pin.len() {
            len if len > Self::MAX_LEN => Err(PinError::TooLong),
            len if len == given.expose_secret().len() => Ok(Self(given)),
            _ => Ok(Self(SecretString::from(pin.to_owned()))),
        }
    }

    pub(crate) const fn secret(&self) -> &SecretString {
        &self.0
    }

    /// What is remembered of a PIN that a token refused: a hash with a salt that lives as long as the process.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        static SALT: PerProcess<[u8; 32]> = PerProcess::new();
        let salt = SALT.get_or(|_| {
            let mut salt = [0; 32];
            // Without randomness the fingerprint still tells PINs apart, which is all it has to do.
            let _ = aws_lc_rs::rand::fill(&mut salt);
            salt
        });
        Fingerprint(
            Sha256::new()
                .chain_update(salt)
                .chain_update(self.0.expose_secret())
                .finalize()
                .into(),
        )
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin([redacted])")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

/// Asks somebody for the PIN of a token.
pub type PinCallback = dyn Fn(&TokenInfo) -> Result<Pin, PinError> + Send + Sync;

/// Where the PIN comes from. It is read each time a login is needed, and not kept in between.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum PinSource {
    /// There is none: right for tokens with a protected authentication path (a PIN pad) and for those that need no
    /// login. On any other token an error says that a PIN is missing.
    #[default]
    None,
    /// The PIN itself.
    Value(Pin),
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// Whatever the caller does, for instance a prompt. Called from the thread that needs the login.
    Callback(Arc<PinCallback>),
}

impl PinSource {
    /// The largest PIN file that is read, in bytes.
    const MAX_FILE: u64 = 4096;

    /// A source that calls `ask`.
    pub fn callback(
        ask: impl Fn(&TokenInfo) -> Result<Pin, PinError> + Send + Sync + 'static,
    ) -> Self {
        Self::Callback(Arc::new(ask))
    }

    /// Reads the PIN for `token`.
    ///
    /// # Errors
    /// [`PinError`]: missing, unreadable, empty. Never an empty PIN instead.
    pub fn pin(&self, token: &TokenInfo) -> Result<Pin, PinError> {
        match self {
            Self::None => Err(PinError::Missing),
            Self::Value(pin) => Ok(pin.clone()),
            Self::File(path) => from_file(path),
            Self::Env(name) => match std::env::var(name) {
                Ok(value) => Pin::new(value).map_err(|error| PinError::Env {
                    name: name.clone(),
                    reason: error.reason(),
                }),
                Err(std::env::VarError::NotPresent) => Err(PinError::Env {
                    name: name.clone(),
                    reason: "it is not set".to_owned(),
                }),
                Err(std::env::VarError::NotUnicode(_)) => Err(PinError::Env {
                    name: name.clone(),
                    reason: "it is not UTF-8".to_owned(),
                }),
            },
            Self::Callback(ask) => ask(token),
        }
    }
}

impl fmt::Debug for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no PIN source"),
            Self::Value(_) => f.write_str("a PIN given as value"),
            Self::File(path) => write!(f, "the PIN file {}", path.display()),
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::Callback(_) => f.write_str("a PIN callback"),
        }
    }
}

fn from_file(path: &Path) -> Result<Pin, PinError> {
    let failed = |reason: String| PinError::File {
        path: path.to_owned(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    warn_if_readable_by_all(path, &file);
    let mut bytes = Zeroizing::new(Vec::with_capacity(PinSource::MAX_FILE as usize + 1));
    file.take(PinSource::MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > PinSource::MAX_FILE {
        return Err(failed(format!(
            "it is larger than {} bytes",
            PinSource::MAX_FILE
        )));
    }
    let pin = secret::pin(secret::first_line(&bytes)).map_err(|error| match error {
        SecretError::Empty => failed("its first line is empty".to_owned()),
        error => failed(error.to_string()),
    })?;
    Pin::new(pin).map_err(|error| failed(error.reason()))
}

#[cfg(unix)]
fn warn_if_readable_by_all(path: &Path, file: &std::fs::File) {
    use std::os::unix::fs::PermissionsExt as _;
    let open = file
        .metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o004 != 0);
    if open {
        tracing::warn!(file = %path.display(), "every user of this machine can read the PIN file; chmod it to 0600");
    }
}

#[cfg(not(unix))]
fn warn_if_readable_by_all(_: &Path, _: &std::fs::File) {}

/// A PIN that cannot be had. Says where it was looked for, never what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// No source is configured.
    #[error(
        "no PIN is configured; name a source: pin-source=file:/path in the URI, or a PIN file, an environment variable \
         or a callback in the builder"
    )]
    Missing,
    /// The PIN has no characters.
    #[error("the PIN is empty")]
    Empty,
    /// The PIN has something in it that nobody sees.
    #[error("the PIN cannot be used: {0}")]
    Form(SecretError),
    /// The PIN is longer than [`Pin::MAX_LEN`].
    #[error("the PIN is longer than {} bytes", Pin::MAX_LEN)]
    TooLong,
    /// The PIN file cannot be used.
    #[error("the PIN file {} cannot be used: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The environment variable cannot be used.
    #[error("the environment variable {name} gives no PIN: {reason}")]
    Env {
        /// Name of the variable.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Nobody answered a callback.
    #[error("no PIN was entered: {0}")]
    Callback(String),
}

impl PinError {
    /// Why a PIN is not taken, of a source that is named beside it.
    fn reason(&self) -> String {
        match self {
            Self::Empty => SecretError::Empty.to_string(),
            Self::Form(error) => error.to_string(),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &PinSource) -> Result<String, PinError> {
        source
            .pin(&TokenInfo::new(0))
            .map(|pin| pin.secret().expose_secret().to_owned())
    }

    #[test]
    fn a_pin_file_gives_its_first_line_and_nothing_else_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        let source = PinSource::File(path.clone());
        assert!(matches!(shown(&source), Err(PinError::File { .. })));
        for (content, pin) in [
            (&b"1234"[..], Some("1234")),
            (b"1234\n", Some("1234")),
            (b"1234\r\n5678\n", Some("1234")),
            (b"\xef\xbb\xbf12 34\n", Some("12 34")),
            (b" 1234\n", None),
            (b"1234 ", None),
            (b"12\x0034", None),
            (b"\xff\xfe1\x002\x00", None),
            (b"", None),
            (b"\n1234", None),
            (b"\xff\xfe", None),
            (&[b'1'; 5000], None),
            (&[b'1'; 2000], None),
        ] {
            std::fs::write(&path, content).unwrap();
            match pin {
                Some(pin) => assert_eq!(shown(&source).unwrap(), pin),
                None => {
                    let text = shown(&source).unwrap_err().to_string();
                    assert!(text.contains(path.to_str().unwrap()), "{text}");
                    assert!(!text.contains("1234"), "{text}");
                }
            }
        }
        assert!(shown(&PinSource::File(dir.path().to_owned())).is_err());
    }

    #[test]
    fn other_sources() {
        assert_eq!(shown(&PinSource::None), Err(PinError::Missing));
        assert_eq!(Pin::new("").unwrap_err(), PinError::Empty);
        assert!(matches!(
            shown(&PinSource::Env("TASKSEAL_NO_SUCH_VARIABLE".into())),
            Err(PinError::Env { .. })
        ));
        let asked = PinSource::callback(|token| Pin::new(format!("pin of {}", token.slot_id)));
        assert_eq!(shown(&asked).unwrap(), "pin of 0");
    }

    #[test]
    fn nothing_shows_a_pin() {
        let pin = Pin::new("s3cret").unwrap();
        let source = PinSource::Value(pin.clone());
        assert!(!format!("{pin:?} {source:?} {source}").contains("s3cret"));
        assert!(pin.fingerprint() == Pin::new("s3cret").unwrap().fingerprint());
        assert!(pin.fingerprint() != Pin::new("s3cres").unwrap().fingerprint());
    }
}
