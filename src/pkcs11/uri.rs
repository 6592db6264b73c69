//! [`Uri`]: which module, token and object are meant (RFC 7512).

mod parse;

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret as _;

use super::filter::TokenFilter;
use super::pin::{Pin, PinSource};
use crate::error::{ErrorClass, Untrusted};

/// A PKCS#11 URI (RFC 7512).
///
/// Path attributes (before `?`, separated by `;`) name the token and the object: `token`, `manufacturer`, `serial`,
/// `model`, `slot-id`, `slot-description`, `slot-manufacturer`, `library-manufacturer`, `library-description`,
/// `library-version`, `object`, `id`, `type`. Query attributes (after `?`, separated by `&`) name the way there:
/// `module-path`, `module-name`, `pin-source`, `pin-value`, and this library's own `x-init-reserved` (see
/// [`Builder::init_reserved`](super::Builder::init_reserved)). An attribute that is unknown, stands twice or stands in the
/// wrong part is an error; other query attributes that start with `x-` are ignored.
///
/// `Display` writes it in one canonical form, and never the `pin-value`.
///
/// ```
/// # fn main() -> Result<(), taskseal::pkcs11::UriError> {
/// let uri: taskseal::pkcs11::Uri =
///     "pkcs11:token=payments;object=worker-7;type=private?pin-source=file:/run/secrets/pin".parse()?;
/// assert_eq!(uri.token(), Some("payments"));
/// assert_eq!(uri.object(), Some("worker-7"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Uri {
    pub(crate) filter: TokenFilter,
    pub(crate) library: LibraryFilter,
    pub(crate) object: Option<String>,
    pub(crate) id: Option<Vec<u8>>,
    pub(crate) object_type: Option<ObjectType>,
    pub(crate) module_path: Option<PathBuf>,
    pub(crate) module_name: Option<String>,
    pub(crate) init_reserved: Option<String>,
    pin_source: Option<String>,
    pin_value: Option<Pin>,
}

/// Which library is meant: the `library-…` attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LibraryFilter {
    pub(crate) manufacturer: Option<String>,
    pub(crate) description: Option<String>,
    /// Major, and minor when it was given.
    pub(crate) version: Option<(u8, Option<u8>)>,
}

/// The class of an object: the `type` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ObjectType {
    /// `private`: a private key.
    Private,
    /// `public`: a public key.
    Public,
    /// `cert`: a certificate.
    Certificate,
    /// `secret-key`: a secret key.
    SecretKey,
    /// `data`: a data object.
    Data,
}

impl ObjectType {
    const ALL: [Self; 5] = [
        Self::Private,
        Self::Public,
        Self::Certificate,
        Self::SecretKey,
        Self::Data,
    ];

    /// As it is written in a URI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
            Self::Certificate => "cert",
            Self::SecretKey => "secret-key",
            Self::Data => "data",
        }
    }
}

impl Uri {
    /// The longest URI that is read, in bytes.
    pub const MAX_LEN: usize = 8 * 1024;
    /// The longest label, id or other attribute that names something, in bytes. PKCS#11 itself has shorter fields for
    /// tokens (16 and 32 bytes), but the RFC's own examples do not fit into them.
    pub const MAX_TEXT_LEN: usize = 255;
    /// The longest path, in bytes.
    pub const MAX_PATH_LEN: usize = 4096;

    /// Label of the token.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.filter.label.as_deref()
    }

    /// Manufacturer of the token.
    #[must_use]
    pub fn manufacturer(&self) -> Option<&str> {
        self.filter.manufacturer.as_deref()
    }

    /// Serial number of the token.
    #[must_use]
    pub fn serial(&self) -> Option<&str> {
        self.filter.serial.as_deref()
    }

    /// Model of the token.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.filter.model.as_deref()
    }

    /// Number of the slot.
    #[must_use]
    pub const fn slot_id(&self) -> Option<u64> {
        self.filter.slot_id
    }

    /// Label of the object (`CKA_LABEL`).
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// Id of the object (`CKA_ID`).
    #[must_use]
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// Class of the object.
    #[must_use]
    pub const fn object_type(&self) -> Option<ObjectType> {
        self.object_type
    }

    /// Path of the module.
    #[must_use]
    pub fn module_path(&self) -> Option<&std::path::Path> {
        self.module_path.as_deref()
    }

    /// Name of the module: `softhsm2` stands for `libsofthsm2.so`.
    #[must_use]
    pub fn module_name(&self) -> Option<&str> {
        self.module_name.as_deref()
    }

    /// What the module is given at initialisation (`x-init-reserved`).
    #[must_use]
    pub fn init_reserved(&self) -> Option<&str> {
        self.init_reserved.as_deref()
    }

    /// Whether it says where the PIN comes from.
    #[must_use]
    pub const fn has_pin(&self) -> bool {
        self.pin_source.is_some() || self.pin_value.is_some()
    }

    /// Where the PIN comes from: `pin-source=file:/path` or an absolute path, or `pin-value`, about which a warning is
    /// logged, because a URI ends up in process lists, shell histories and configuration stores.
    ///
    /// # Errors
    /// [`UriError::PinSource`] for any other `pin-source`.
    pub fn pin_source(&self) -> Result<Option<PinSource>, UriError> {
        if let Some(pin) = &self.pin_value {
            tracing::warn!(uri = %self, "the URI holds the PIN itself (pin-value); use pin-source=file:… instead");
            return Ok(Some(PinSource::Value(pin.clone())));
        }
        let Some(source) = &self.pin_source else {
            return Ok(None);
        };
        let refused = |reason| UriError::PinSource { reason };
        let path = match source.get(..5) {
            Some(scheme) if scheme.eq_ignore_ascii_case("file:") => {
                source.get(5..).unwrap_or_default()
            }
            _ => source,
        };
        if path.starts_with('|') {
            return Err(refused("commands are not run"));
        }
        // RFC 8089: file:/path, file:///path and file://localhost/path.
        let path = path
            .strip_prefix("//localhost")
            .or_else(|| path.strip_prefix("//"))
            .unwrap_or(path);
        if !path.starts_with('/') {
            return Err(refused("it must be an absolute path or file:/path"));
        }
        Ok(Some(PinSource::File(PathBuf::from(path))))
    }
}

/// Written as they are: what RFC 3986 calls unreserved, and ':' and ','.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b',');
/// In the query a path may keep its slashes.
const ESCAPED_IN_QUERY: &AsciiSet = &ESCAPED.remove(b'/');

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |value: &String| utf8_percent_encode(value, ESCAPED).to_string();
        let in_query = |value: &str| utf8_percent_encode(value, ESCAPED_IN_QUERY).to_string();
        let version = |(major, minor): (u8, Option<u8>)| match minor {
            Some(minor) => format!("{major}.{minor}"),
            None => major.to_string(),
        };
        let hex = |id: &Vec<u8>| {
            id.iter()
                .map(|byte| format!("%{byte:02X}"))
                .collect::<String>()
        };
        let path = [
            (
                "library-manufacturer",
                self.library.manufacturer.as_ref().map(escaped),
            ),
            (
                "library-description",
                self.library.description.as_ref().map(escaped),
            ),
            ("library-version", self.library.version.map(version)),
            (
                "slot-manufacturer",
                self.filter.slot_manufacturer.as_ref().map(escaped),
            ),
            (
                "slot-description",
                self.filter.slot_description.as_ref().map(escaped),
            ),
            ("slot-id", self.filter.slot_id.map(|slot| slot.to_string())),
            ("token", self.filter.label.as_ref().map(escaped)),
            (
                "manufacturer",
                self.filter.manufacturer.as_ref().map(escaped),
            ),
            ("serial", self.filter.serial.as_ref().map(escaped)),
            ("model", self.filter.model.as_ref().map(escaped)),
            ("object", self.object.as_ref().map(escaped)),
            ("id", self.id.as_ref().map(hex)),
            (
                "type",
                self.object_type.map(|kind| kind.as_str().to_owned()),
            ),
        ];
        let query = [
            (
                "module-path",
                self.module_path
                    .as_ref()
                    .map(|path| in_query(&path.to_string_lossy())),
            ),
            ("module-name", self.module_name.as_deref().map(in_query)),
            (
                "x-init-reserved",
                self.init_reserved.as_deref().map(in_query),
            ),
            ("pin-source", self.pin_source.as_deref().map(in_query)),
        ];
        f.write_str("pkcs11:")?;
        write_attributes(f, &path, "", ";")?;
        write_attributes(f, &query, "?", "&")
    }
}

fn write_attributes(
    f: &mut fmt::Formatter<'_>,
    attributes: &[(&str, Option<String>)],
    first: &str,
    other: &str,
) -> fmt::Result {
    let mut before = first;
    for (name, value) in attributes {
        if let Some(value) = value {
            write!(f, "{before}{name}={value}")?;
            before = other;
        }
    }
    Ok(())
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pin = if self.pin_value.is_some() {
            ", pin-value [redacted]"
        } else {
            ""
        };
        write!(f, "Uri({self}{pin})")
    }
}

impl PartialEq for Uri {
    fn eq(&self, other: &Self) -> bool {
        fn pin(uri: &Uri) -> Option<&str> {
            uri.pin_value
                .as_ref()
                .map(|pin| pin.secret().expose_secret())
        }
        self.to_string() == other.to_string() && pin(self) == pin(other)
    }
}

impl Eq for Uri {}

/// A text that is no PKCS#11 URI. Never shows the text itself, which may hold a PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// Another scheme, or none.
    #[error("a PKCS#11 URI starts with \"pkcs11:\", as in pkcs11:token=LABEL;object=KEY")]
    Scheme,
    /// Longer than [`Uri::MAX_LEN`].
    #[error("a PKCS#11 URI of {len} bytes is refused; {} are read", Uri::MAX_LEN)]
    TooLong {
        /// Length, in bytes.
        len: usize,
    },
    /// A character that must be escaped.
    #[error(
        "the character {found:?} must be written as %XX in this place of a PKCS#11 URI (RFC 7512, section 2.3)"
    )]
    Character {
        /// The character.
        found: char,
    },
    /// An attribute without `=`, or an empty one.
    #[error(
        "an attribute of the PKCS#11 URI has no value; attributes are name=value, path attributes separated by ';'"
    )]
    NoValue,
    /// An attribute that is not known.
    #[error("the attribute {name} of the PKCS#11 URI is not known (RFC 7512, section 2.3)")]
    Unknown {
        /// Its name.
        name: Untrusted,
    },
    /// An attribute that stands twice.
    #[error("the attribute {name} stands twice in the PKCS#11 URI")]
    Duplicate {
        /// Its name.
        name: &'static str,
    },
    /// A path attribute in the query, or the other way round.
    #[error("the attribute {name} of the PKCS#11 URI belongs {belongs}")]
    WrongPart {
        /// Its name.
        name: &'static str,
        /// Where it belongs.
        belongs: &'static str,
    },
    /// A value that cannot be used.
    #[error("the value of {name} in the PKCS#11 URI cannot be used: {reason}")]
    Value {
        /// Name of the attribute.
        name: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A `pin-source` that is not supported.
    #[error("the pin-source of the PKCS#11 URI cannot be used: {reason}")]
    PinSource {
        /// Why not. What it says is not shown: somebody may have put the PIN itself there.
        reason: &'static str,
    },
    /// `pin-source` and `pin-value` at once.
    #[error("the PKCS#11 URI has both pin-source and pin-value; leave pin-value out")]
    TwoPins,
}

impl UriError {
    /// Always [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}
