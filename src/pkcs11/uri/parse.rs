//! Reading a PKCS#11 URI: its two parts, their attributes, and the values of these (RFC 7512, sections 2.3 and 2.4).

use std::path::PathBuf;
use std::str::FromStr;

use zeroize::Zeroize as _;

use super::{ObjectType, Uri, UriError};
use crate::pkcs11::pin::{Pin, PinError};

impl Uri {
    fn set_path_attribute(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        let known = PATH_ATTRIBUTES.iter().find(|known| **known == name);
        let Some(&name) = known else {
            if let Some(&name) = QUERY_ATTRIBUTES.iter().find(|known| **known == name) {
                return Err(UriError::WrongPart {
                    name,
                    belongs: "after the '?'",
                });
            }
            return Err(UriError::Unknown { name: name.into() });
        };
        if value.contains('/') {
            return Err(UriError::Character { found: '/' });
        }
        alone(name, value)?;
        match name {
            "token" => once(&mut self.filter.label, name, text(name, value)?),
            "manufacturer" => once(&mut self.filter.manufacturer, name, text(name, value)?),
            "serial" => once(&mut self.filter.serial, name, text(name, value)?),
            "model" => once(&mut self.filter.model, name, text(name, value)?),
            "slot-id" => once(&mut self.filter.slot_id, name, number(name, value)?),
            "slot-description" => once(&mut self.filter.slot_description, name, text(name, value)?),
            "slot-manufacturer" => {
                once(&mut self.filter.slot_manufacturer, name, text(name, value)?)
            }
            "library-manufacturer" => {
                once(&mut self.library.manufacturer, name, text(name, value)?)
            }
            "library-description" => once(&mut self.library.description, name, text(name, value)?),
            "library-version" => once(&mut self.library.version, name, version(name, value)?),
            "object" => once(&mut self.object, name, text(name, value)?),
            "id" => once(&mut self.id, name, bytes(name, value, Self::MAX_TEXT_LEN)?),
            _ => {
                let wanted = text(name, value)?;
                let found = ObjectType::ALL
                    .into_iter()
                    .find(|known| known.as_str() == wanted);
                let found = found.ok_or(UriError::Value {
                    name,
                    reason: "it must be private, public, cert, secret-key or data",
                })?;
                once(&mut self.object_type, name, found)
            }
        }
    }

    fn set_query_attribute(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        let known = QUERY_ATTRIBUTES.iter().find(|known| **known == name);
        let Some(&name) = known else {
            if let Some(&name) = PATH_ATTRIBUTES.iter().find(|known| **known == name) {
                return Err(UriError::WrongPart {
                    name,
                    belongs: "before the '?'",
                });
            }
            if name.starts_with("x-") {
                // Still no place to hide a bad escape in.
                bytes("x-…", value, Self::MAX_LEN)?;
                return Ok(());
            }
            return Err(UriError::Unknown { name: name.into() });
        };
        alone(name, value)?;
        match name {
            "module-path" => {
                let path = path(name, value)?;
                once(&mut self.module_path, name, PathBuf::from(path))
            }
            "module-name" => {
                let module = path(name, value)?;
                if module.contains('/') {
                    return Err(UriError::Value {
                        name,
                        reason: "it is a name, not a path; use module-path",
                    });
                }
                once(&mut self.module_name, name, module)
            }
            "x-init-reserved" => {
                let reserved = path(name, value)?;
                once(&mut self.init_reserved, name, reserved)
            }
            "pin-source" => {
                let source = path(name, value)?;
                once(&mut self.pin_source, name, source)
            }
            _ => {
                let pin = text_of(name, value, Pin::MAX_LEN)?;
                let pin = Pin::new(pin).map_err(|error| UriError::Value {
                    name,
                    reason: match error {
                        PinError::Form(error) => error.as_str(),
                        PinError::TooLong => "it is too long",
                        _ => "it is empty",
                    },
                })?;
                once(&mut self.pin_value, name, pin)
            }
        }
    }
}

const PATH_ATTRIBUTES: [&str; 13] = [
    "token",
    "manufacturer",
    "serial",
    "model",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
    "library-manufacturer",
    "library-description",
    "library-version",
    "object",
    "id",
    "type",
];
const QUERY_ATTRIBUTES: [&str; 5] = [
    "module-path",
    "module-name",
    "x-init-reserved",
    "pin-source",
    "pin-value",
];

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        if uri.len() > Self::MAX_LEN {
            return Err(UriError::TooLong { len: uri.len() });
        }
        let rest = match uri.split_at_checked("pkcs11:".len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(UriError::Scheme),
        };
        if let Some(found) = rest.chars().find(|c| !is_uri_character(*c)) {
            return Err(UriError::Character { found });
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut parsed = Self::default();
        for attribute in path.split(';').filter(|_| !path.is_empty()) {
            let (name, value) = attribute.split_once('=').ok_or(UriError::NoValue)?;
            parsed.set_path_attribute(name, value)?;
        }
        for attribute in query
            .unwrap_or_default()
            .split('&')
            .filter(|_| query.is_some_and(|q| !q.is_empty()))
        {
            let (name, value) = attribute.split_once('=').ok_or(UriError::NoValue)?;
            parsed.set_query_attribute(name, value)?;
        }
        if parsed.pin_source.is_some() && parsed.pin_value.is_some() {
            return Err(UriError::TwoPins);
        }
        Ok(parsed)
    }
}

/// What may stand in a URI unescaped (RFC 7512, section 2.3), and '%'.
const fn is_uri_character(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(
            c,
            '-' | '.'
                | '_'
                | '~'
                | ':'
                | '['
                | ']'
                | '@'
                | '!'
                | '$'
                | '\''
                | '('
                | ')'
                | '*'
                | '+'
                | ','
                | '='
                | '&'
                | '/'
                | '?'
                | '|'
                | ';'
                | '%'
        )
}

/// RFC 7512 lets '&' stand in the path, and '?' in the query. Who wrote one of them, or ';', before a name and '=' meant
/// another attribute: a PIN, perhaps, which would be shown as a part of this one.
fn alone(name: &'static str, value: &str) -> Result<(), UriError> {
    let mut parts = value.split(['&', '?', ';']).skip(1);
    let begins_one = |part: &str| {
        part.split_once('=').is_some_and(|(name, _)| {
            let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            // A vendor's is no PIN.
            !name.is_empty() && !name.starts_with("x-") && name.bytes().all(in_name)
        })
    };
    match parts.any(begins_one) {
        true => Err(UriError::Value {
            name,
            reason: "another attribute seems to be in it; before the one '?' they are separated by ';', after it by '&'",
        }),
        false => Ok(()),
    }
}

fn once<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    if place.is_some() {
        return Err(UriError::Duplicate { name });
    }
    *place = Some(value);
    Ok(())
}

fn text(name: &'static str, value: &str) -> Result<String, UriError> {
    text_of(name, value, Uri::MAX_TEXT_LEN)
}

fn text_of(name: &'static str, value: &str, max: usize) -> Result<String, UriError> {
    let bytes = bytes(name, value, max)?;
    String::from_utf8(bytes).map_err(|error| {
        // It may be a PIN.
        error.into_bytes().zeroize();
        UriError::Value {
            name,
            reason: "it is not UTF-8",
        }
    })
}

fn path(name: &'static str, value: &str) -> Result<String, UriError> {
    let path = text_of(name, value, Uri::MAX_PATH_LEN)?;
    if path.is_empty() {
        return Err(UriError::Value {
            name,
            reason: "it is empty",
        });
    }
    if path.contains('\0') {
        return Err(UriError::Value {
            name,
            reason: "it contains a zero byte",
        });
    }
    Ok(path)
}

fn number(name: &'static str, value: &str) -> Result<u64, UriError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| value.parse().ok())
        .flatten()
        .ok_or(UriError::Value {
            name,
            reason: "it is not a number",
        })
}

fn version(name: &'static str, value: &str) -> Result<(u8, Option<u8>), UriError> {
    let part = |text: &str| {
        number(name, text)
            .ok()
            .and_then(|number| u8::try_from(number).ok())
            .ok_or(UriError::Value {
                name,
                reason: "it is not a version such as 2 or 2.40",
            })
    };
    match value.split_once('.') {
        Some((major, minor)) => Ok((part(major)?, Some(part(minor)?))),
        None => Ok((part(value)?, None)),
    }
}

/// Decodes `%XX`; unlike the usual decoders it refuses what is no escape.
fn bytes(name: &'static str, value: &str, max: usize) -> Result<Vec<u8>, UriError> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let byte = high
            .zip(low)
            .and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(byte.ok_or(UriError::Value {
            name,
            reason: "a '%' is not followed by two hexadecimal digits",
        })?);
    }
    if decoded.len() > max {
        decoded.zeroize();
        return Err(UriError::Value {
            name,
            reason: "it is longer than PKCS#11 or this library allows",
        });
    }
    Ok(decoded)
}
