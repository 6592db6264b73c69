//! Where keys are: what `--key` and `--encrypt-key` name.

use std::path::PathBuf;
use std::str::FromStr;

/// What `--key` names. A PEM file is used when one is named, never in place of a token.
#[derive(Debug, Clone)]
pub(crate) enum KeySource {
    #[cfg(feature = "pkcs11")]
    Token(Box<taskseal::pkcs11::Uri>),
    Pem(PathBuf),
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty".to_owned()),
            uri if is_uri(uri) => Self::token(uri),
            path => Ok(Self::Pem(path.into())),
        }
    }
}

/// Whether it names something on a token, and no file.
pub(crate) fn is_uri(text: &str) -> bool {
    text.trim_start()
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("pkcs11:"))
}

#[cfg(not(feature = "pkcs11"))]
pub(crate) const NO_TOKENS: &str =
    "this taskseal was built without support for PKCS#11 tokens (feature pkcs11)";

impl KeySource {
    #[cfg(feature = "pkcs11")]
    fn token(text: &str) -> Result<Self, String> {
        token_uri(text).map(Self::Token)
    }

    #[cfg(not(feature = "pkcs11"))]
    fn token(_: &str) -> Result<Self, String> {
        Err(NO_TOKENS.to_owned())
    }
}

/// Parses the URI of a token.
#[cfg(feature = "pkcs11")]
pub(crate) fn token_uri(text: &str) -> Result<Box<taskseal::pkcs11::Uri>, String> {
    match text.trim().parse() {
        Ok(uri) => Ok(Box::new(uri)),
        Err(error) => Err(taskseal::pkcs11::UriError::to_string(&error)),
    }
}

/// Where Fernet keys are. The key itself is never an argument: other processes can read the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FernetSource {
    Variable(String),
    File(PathBuf),
    /// Two keys on a token.
    #[cfg(feature = "pkcs11")]
    Token(Box<taskseal::pkcs11::Uri>),
    /// A key on the command line, which is refused.
    KeyItself,
}

impl FromStr for FernetSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("env:") {
            return match name {
                "" => Err("env: needs the name of a variable".to_owned()),
                name => Ok(Self::Variable(name.to_owned())),
            };
        }
        if is_uri(text) {
            return Self::token(text);
        }
        match text {
            "" => Err("it is empty".to_owned()),
            // The parser's own error would quote it.
            text if is_key(text) => Ok(Self::KeyItself),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// Whether a text has the form of a key, in either alphabet and with or without its quotes, which no file should have as its name.
fn is_key(text: &str) -> bool {
    let text = taskseal::secret::fernet_key(text.as_bytes()).unwrap_or_default();
    let digits = text.trim_end_matches('=');
    digits.len() == 43
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}

impl FernetSource {
    #[cfg(feature = "pkcs11")]
    fn token(text: &str) -> Result<Self, String> {
        token_uri(text).map(Self::Token)
    }

    #[cfg(not(feature = "pkcs11"))]
    fn token(_: &str) -> Result<Self, String> {
        Err(NO_TOKENS.to_owned())
    }
}
