//! [`FernetBodies`]: encrypted bodies under the content types of the Python package `kombu-fernet-serializers`.
//!
//! The body of a task is one Fernet token; everything else of the message stays as it is, and stays readable:
//! `argsrepr` and `kwargsrepr` among the headers repeat the arguments in clear. [`message`](crate::message) encrypts all of it.
//!
//! | content type | what is in the token | here |
//! |---|---|---|
//! | `application/x-fernet-json` | JSON | any `serde` type |
//! | `application/x-fernet-msgpack` | MessagePack | any `serde` type |
//! | `application/x-fernet-yaml` | YAML | bytes |
//! | `application/x-fernet-python-serialize` | a pickle | bytes, and only for whoever lists it |
//!
//! The content encoding is `utf-8` with all four. No content type is covered by the token: list only what the application
//! would take from a key holder under *any* listed type.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{FernetError, MultiFernet};
use crate::error::{ErrorClass, Untrusted};

/// What an encrypted body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum BodyType {
    /// JSON.
    Json,
    /// MessagePack.
    MsgPack,
    /// YAML. Opaque here.
    Yaml,
    /// A pickle. Opaque here; whoever unpickles it runs what its maker wants.
    PythonSerialize,
}

impl BodyType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::MsgPack, Self::Yaml, Self::PythonSerialize];

    /// The content type that the message carries.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/x-fernet-json",
            Self::MsgPack => "application/x-fernet-msgpack",
            Self::Yaml => "application/x-fernet-yaml",
            Self::PythonSerialize => "application/x-fernet-python-serialize",
        }
    }

    /// The content encoding that the message carries, which is that of the token.
    #[must_use]
    pub const fn content_encoding(self) -> &'static str {
        "utf-8"
    }

    /// The one of that content type, compared byte by byte.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| one.content_type() == content_type)
    }
}

impl fmt::Display for BodyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content_type())
    }
}

/// Encrypts and decrypts the bodies of tasks.
///
/// ```
/// # #[cfg(feature = "software")] {
/// # let key = taskseal::fernet::software::SoftwareKeys::generate().unwrap().expose_text().to_owned();
/// # let environment = |name: &str| (name == "KOMBU_FERNET_KEY").then(|| key.clone());
/// use taskseal::fernet::body::{FernetBodies, keys_from};
/// # fn main() {}
/// # fn example(environment: impl Fn(&str) -> Option<String>) -> Result<(), Box<dyn std::error::Error>> {
/// // In a program: `keys_from_env()?`.
/// let bodies = FernetBodies::new(keys_from(environment)?);
/// let sealed = bodies.seal_json(&(["Alice"], (), ()))?;
/// assert_eq!(sealed.content_type(), "application/x-fernet-json");
///
/// let opened = bodies.open(sealed.content_type(), sealed.as_bytes())?;
/// let (args, (), ()): ([String; 1], (), ()) = opened.json()?;
/// assert_eq!(args, ["Alice"]);
/// # Ok(()) }
/// # example(environment).unwrap();
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FernetBodies {
    fernet: MultiFernet,
    accepted: Vec<BodyType>,
    max_len: usize,
    ttl: Option<Duration>,
}

impl FernetBodies {
    /// The longest token that is opened unless [`with_max_len`](Self::with_max_len) says otherwise: 64 MiB.
    pub const MAX_LEN: usize = 64 * 1024 * 1024;

    /// Uses these keys, opens JSON and nothing else, and does not look at a token's age.
    #[must_use]
    pub fn new(fernet: impl Into<MultiFernet>) -> Self {
        Self {
            fernet: fernet.into(),
            accepted: vec![BodyType::Json],
            max_len: Self::MAX_LEN,
            ttl: None,
        }
    }

    /// Opens bodies of these types and no others.
    #[must_use]
    pub fn accept(mut self, types: impl IntoIterator<Item = BodyType>) -> Self {
        self.accepted = types.into_iter().collect();
        self
    }

    /// The longest token that is opened, in bytes.
    #[must_use]
    pub const fn with_max_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes;
        self
    }

    /// Refuses tokens that are older. The Python package never does.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Serializes as JSON and encrypts.
    ///
    /// # Errors
    /// [`BodyError::Serialize`] when the value has no JSON form, else as for [`seal_bytes`](Self::seal_bytes).
    pub fn seal_json<T: Serialize + ?Sized>(&self, value: &T) -> Result<SealedBody, BodyError> {
        // The error's text may quote the value.
        let body = serde_json::to_vec(value).map_err(|_| BodyError::Serialize {
            body_type: BodyType::Json,
        })?;
        self.seal_bytes(BodyType::Json, &body)
    }

    /// Serializes as MessagePack, structs as maps with the names of their fields, and encrypts.
    ///
    /// # Errors
    /// [`BodyError::Serialize`] when the value has no such form, else as for [`seal_bytes`](Self::seal_bytes).
    pub fn seal_msgpack<T: Serialize + ?Sized>(&self, value: &T) -> Result<SealedBody, BodyError> {
        let body = rmp_serde::to_vec_named(value).map_err(|_| BodyError::Serialize {
            body_type: BodyType::MsgPack,
        })?;
        self.seal_bytes(BodyType::MsgPack, &body)
    }

    /// Encrypts what is serialized already.
    ///
    /// # Errors
    /// [`BodyError::Fernet`].
    pub fn seal_bytes(&self, body_type: BodyType, body: &[u8]) -> Result<SealedBody, BodyError> {
        Ok(SealedBody {
            body_type,
            token: self.fernet.encrypt(body)?,
        })
    }

    /// Decrypts a body that came under this content type.
    ///
    /// # Errors
    /// [`BodyError::ContentType`], before a byte of the token is looked at, [`BodyError::TooLarge`], or
    /// [`BodyError::Fernet`].
    pub fn open(&self, content_type: &str, token: &[u8]) -> Result<OpenedBody, BodyError> {
        self.open_at(content_type, token, SystemTime::now())
    }

    /// Like [`open`](Self::open), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_at(
        &self,
        content_type: &str,
        token: &[u8],
        at: SystemTime,
    ) -> Result<OpenedBody, BodyError> {
        let body_type = BodyType::from_content_type(content_type)
            .filter(|found| self.accepted.contains(found))
            .ok_or_else(|| BodyError::ContentType {
                found: content_type.into(),
                accepted: self.accepted.iter().map(|one| one.content_type()).collect(),
            })?;
        if token.len() > self.max_len {
            return Err(BodyError::TooLarge {
                len: token.len(),
                max: self.max_len,
            });
        }
        Ok(OpenedBody {
            body_type,
            body: self.fernet.decrypt_at(token, self.ttl, at)?,
        })
    }
}

/// An encrypted body, ready for the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBody {
    body_type: BodyType,
    token: String,
}

impl SealedBody {
    /// The token: ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.token
    }

    /// The token.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.token.as_bytes()
    }

    /// The token.
    #[must_use]
    pub fn into_string(self) -> String {
        self.token
    }

    /// What is in it.
    #[must_use]
    pub fn body_type(&self) -> BodyType {
        self.body_type
    }

    /// The content type that the message has to carry.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        self.body_type.content_type()
    }

    /// The content encoding that the message has to carry: `utf-8`.
    #[must_use]
    pub fn content_encoding(&self) -> &'static str {
        self.body_type.content_encoding()
    }
}

/// A body that was decrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenedBody {
    body_type: BodyType,
    body: Vec<u8>,
}

impl OpenedBody {
    /// How deep MessagePack may be nested; JSON has the same limit.
    pub const MAX_DEPTH: usize = 128;

    /// What the message says that it is. Not covered by the token.
    #[must_use]
    pub fn body_type(&self) -> BodyType {
        self.body_type
    }

    /// The serialized body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The serialized body.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Deserializes JSON; strings may borrow from the body.
    ///
    /// # Errors
    /// [`BodyError::NotThat`] for another type; [`BodyError::Deserialize`]. Python's `NaN` and `Infinity` are no JSON.
    pub fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, BodyError> {
        self.is(BodyType::Json)?;
        serde_json::from_slice(&self.body).map_err(|_| self.shapeless())
    }

    /// Deserializes MessagePack: one value, and nothing after it.
    ///
    /// # Errors
    /// [`BodyError::NotThat`] for another type; [`BodyError::Deserialize`].
    pub fn msgpack<T: DeserializeOwned>(&self) -> Result<T, BodyError> {
        self.is(BodyType::MsgPack)?;
        let mut rest = self.body.as_slice();
        let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
        deserializer.set_max_depth(Self::MAX_DEPTH);
        let value = T::deserialize(&mut deserializer).map_err(|_| self.shapeless())?;
        match rest.is_empty() {
            true => Ok(value),
            false => Err(self.shapeless()),
        }
    }

    fn is(&self, asked: BodyType) -> Result<(), BodyError> {
        match self.body_type == asked {
            true => Ok(()),
            false => Err(BodyError::NotThat {
                asked,
                found: self.body_type,
            }),
        }
    }

    /// Their own errors may quote the body.
    fn shapeless(&self) -> BodyError {
        BodyError::Deserialize {
            body_type: self.body_type,
        }
    }
}

impl fmt::Debug for OpenedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "OpenedBody({}, {} bytes)",
            self.body_type,
            self.body.len()
        )
    }
}

/// The variable with the key that encrypts.
#[cfg(feature = "software")]
pub const KEY_VARIABLE: &str = "KOMBU_FERNET_KEY";
/// The variable with the key before it, which decrypts too while there are tokens of it.
#[cfg(feature = "software")]
pub const PREVIOUS_KEY_VARIABLE: &str = "KOMBU_FERNET_KEY_PREVIOUS";

/// The keys of the environment variables that the Python package reads. They are read now, and not before and not again.
///
/// # Errors
/// [`FernetError::Keys`], which names the variable that is not set or holds no key.
#[cfg(feature = "software")]
pub fn keys_from_env() -> Result<MultiFernet, FernetError> {
    // One that is no text is no key, and not one that is missing.
    keys_from(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
}

/// Like [`keys_from_env`], with the variables from somewhere else.
///
/// # Errors
/// As for [`keys_from_env`].
#[cfg(feature = "software")]
pub fn keys_from(lookup: impl Fn(&str) -> Option<String>) -> Result<MultiFernet, FernetError> {
    use super::Fernet;
    use super::software::SoftwareKeys;
    use zeroize::Zeroizing;

    let wrong = |name: &str, what: &str| FernetError::Keys {
        class: ErrorClass::Permanent,
        source: format!("the environment variable {name} {what}").into(),
    };
    let key = |name| {
        let text = lookup(name).map(Zeroizing::new);
        // An empty variable is how some say that there is none.
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            return Ok(None);
        };
        let keys = SoftwareKeys::from_text(&text).map_err(|_| {
            wrong(
                name,
                "holds no Fernet key (32 bytes in base64url, 44 characters)",
            )
        })?;
        Ok(Some(Fernet::new(keys)))
    };
    let first = key(KEY_VARIABLE)?.ok_or_else(|| wrong(KEY_VARIABLE, "is not set or empty"))?;
    Ok(MultiFernet::new(first, key(PREVIOUS_KEY_VARIABLE)?))
}

/// A body that could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The token was refused, or not made, or the keys cannot be used.
    #[error(transparent)]
    Fernet(#[from] FernetError),
    /// The content type is none of the accepted ones.
    #[error("the content type {found} is not accepted; accepted: {}", accepted.join(", "))]
    ContentType {
        /// The content type that the message names.
        found: Untrusted,
        /// What is accepted.
        accepted: Vec<&'static str>,
    },
    /// The token is longer than is allowed here.
    #[error("a token of {len} bytes is refused; the limit is {max} bytes")]
    TooLarge {
        /// Length of the token, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The value cannot be said in this type.
    #[error("the value has no form as {body_type}")]
    Serialize {
        /// The type.
        body_type: BodyType,
    },
    /// The body is of another type than the one that was asked for.
    #[error("the body is {found}, not {asked}")]
    NotThat {
        /// What was asked for.
        asked: BodyType,
        /// What it is.
        found: BodyType,
    },
    /// The decrypted body does not have the wanted shape.
    #[error("the decrypted body is no {body_type} of the expected shape")]
    Deserialize {
        /// The type.
        body_type: BodyType,
    },
}

impl BodyError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Fernet(error) => error.class(),
            Self::ContentType { .. } | Self::TooLarge { .. } => ErrorClass::Rejected,
            Self::Serialize { .. } | Self::NotThat { .. } | Self::Deserialize { .. } => {
                ErrorClass::Permanent
            }
        }
    }

    /// The reason in one stable lower-case word.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Fernet(FernetError::Refused) => "token",
            Self::Fernet(_) => "keys",
            Self::ContentType { .. } => "content-type",
            Self::TooLarge { .. } => "too-large",
            Self::Serialize { .. } => "serialize",
            Self::NotThat { .. } => "not-that-type",
            Self::Deserialize { .. } => "deserialize",
        }
    }
}
