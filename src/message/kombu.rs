//! [`KombuMessage`]: the JSON object that kombu's virtual transports (Redis, SQS, the file system …) store for a message.

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{ErrorClass, Untrusted};

/// A message as kombu's virtual transports store it: body, content type and encoding, headers and properties.
///
/// ```text
/// {"body": "…", "content-encoding": "utf-8", "content-type": "application/json", "headers": {…}, "properties": {…}}
/// ```
///
/// Everything in `headers` and `properties`, and every field besides these five, is kept as the text that it came as and
/// in its order. It is written as compact JSON in the order above.
#[derive(Clone)]
pub struct KombuMessage {
    body: String,
    content_encoding: Option<String>,
    content_type: Option<String>,
    headers: Fields,
    properties: Fields,
    others: Fields,
}

impl KombuMessage {
    /// The longest message that is read, in bytes of JSON: 64 MiB.
    pub const MAX_LEN: usize = 64 * 1024 * 1024;
    /// How deep a message may be nested.
    pub const MAX_DEPTH: usize = 128;

    /// A message with this body, no headers, and the one property that says how the body is written
    /// (`body_encoding`: `base64`).
    #[must_use]
    pub fn new(body: &[u8], content_type: &str, content_encoding: &str) -> Self {
        let mut properties = Fields::default();
        // Six letters have a JSON form.
        let _ = properties.set("body_encoding", "base64");
        Self {
            body: STANDARD.encode(body),
            content_encoding: Some(content_encoding.to_owned()),
            content_type: Some(content_type.to_owned()),
            headers: Fields::default(),
            properties,
            others: Fields::default(),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`KombuError`], which names what is wrong and quotes nothing.
    pub fn from_json(json: &[u8]) -> Result<Self, KombuError> {
        if json.len() > Self::MAX_LEN {
            return Err(KombuError::TooLong { len: json.len() });
        }
        check_depth(json)?;
        let mut field = "message";
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        Object { field: &mut field }
            .deserialize(&mut deserializer)
            .and_then(|message| deserializer.end().map(|()| message))
            .map_err(|error| KombuError::malformed(field, &error))
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`KombuError::TooLong`].
    pub fn to_json(&self) -> Result<Vec<u8>, KombuError> {
        let json =
            serde_json::to_vec(self).map_err(|error| KombuError::malformed("message", &error))?;
        if json.len() > Self::MAX_LEN {
            return Err(KombuError::TooLong { len: json.len() });
        }
        Ok(json)
    }

    /// The body as it is written in the message, mostly base64.
    #[must_use]
    pub fn body_text(&self) -> &str {
        &self.body
    }

    /// The body: what was given to [`new`](Self::new). Decodes base64 if `body_encoding` says so.
    ///
    /// # Errors
    /// [`KombuError::BodyEncoding`] when it is no base64, or `body_encoding` something else than `base64`.
    pub fn body(&self) -> Result<Vec<u8>, KombuError> {
        match self.properties.get::<Option<String>>("body_encoding") {
            None | Some(Ok(None)) => Ok(self.body.clone().into_bytes()),
            Some(Ok(Some(encoding))) if encoding == "base64" => STANDARD
                .decode(&self.body)
                .map_err(|_| KombuError::BodyEncoding),
            Some(_) => Err(KombuError::BodyEncoding),
        }
    }

    /// The content type; `None` for `null` or none.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// The content encoding; `None` for `null` or none.
    #[must_use]
    pub fn content_encoding(&self) -> Option<&str> {
        self.content_encoding.as_deref()
    }

    /// The headers: the task's name, its id, and so on.
    #[must_use]
    pub fn headers(&self) -> &Fields {
        &self.headers
    }

    /// The headers, to change them.
    #[must_use]
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.headers
    }

    /// The properties: delivery information, `reply_to`, and so on.
    #[must_use]
    pub fn properties(&self) -> &Fields {
        &self.properties
    }

    /// The properties, to change them.
    #[must_use]
    pub fn properties_mut(&mut self) -> &mut Fields {
        &mut self.properties
    }

    /// Fields that kombu does not know either.
    #[must_use]
    pub fn others(&self) -> &Fields {
        &self.others
    }
}

impl Serialize for KombuMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(5 + self.others.len()))?;
        map.serialize_entry("body", &self.body)?;
        map.serialize_entry("content-encoding", &self.content_encoding)?;
        map.serialize_entry("content-type", &self.content_type)?;
        map.serialize_entry("headers", &self.headers)?;
        map.serialize_entry("properties", &self.properties)?;
        for (name, value) in &self.others.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl fmt::Debug for KombuMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names, and no values: arguments stay out of logs.
        f.debug_struct("KombuMessage")
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("headers", &self.headers)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

/// Names and JSON values in the order in which they came. No name is there twice.
#[derive(Clone, Default)]
pub struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// The most fields that one object of a message may have.
    pub const MAX: usize = 4096;

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and the JSON text of the values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.get()))
    }

    /// The JSON text of a value.
    #[must_use]
    pub fn json(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// A value; `None` when it is not there.
    ///
    /// # Errors
    /// [`KombuError::Malformed`] when it is not of that type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<Result<T, KombuError>> {
        let malformed = |error| KombuError::malformed("value", &error);
        self.json(name)
            .map(|value| serde_json::from_str(value).map_err(malformed))
    }

    /// Sets a value; a new name comes last.
    ///
    /// # Errors
    /// [`KombuError::Malformed`] when the value has no JSON form; [`KombuError::TooMany`].
    pub fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), KombuError> {
        let value = serde_json::value::to_raw_value(value)
            .map_err(|error| KombuError::malformed("value", &error))?;
        if let Some((_, old)) = self.0.iter_mut().find(|(found, _)| found == name) {
            *old = value;
        } else if self.len() < Self::MAX {
            self.0.push((name.to_owned(), value));
        } else {
            return Err(KombuError::TooMany);
        }
        Ok(())
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    check_name(&mut names, &name)?;
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| Untrusted::new(name)))
            .finish()
    }
}

/// A whole message; says in `field` where it is, for the error.
struct Object<'f> {
    field: &'f mut &'static str,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = KombuMessage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<KombuMessage, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = KombuMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KombuMessage, A::Error> {
        let (mut body, mut content_encoding, mut content_type) = (None, None, None);
        let (mut headers, mut properties) = (Fields::default(), Fields::default());
        let mut others = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            check_name(&mut names, &name)?;
            let known = KNOWN.iter().find(|known| **known == name);
            *self.field = known.unwrap_or(&"message");
            match *self.field {
                "body" => body = Some(map.next_value()?),
                "content-encoding" => content_encoding = map.next_value()?,
                "content-type" => content_type = map.next_value()?,
                "headers" => headers = map.next_value()?,
                "properties" => properties = map.next_value()?,
                _ => others.push((name, map.next_value()?)),
            }
        }
        *self.field = "body";
        Ok(KombuMessage {
            body: body.ok_or_else(|| A::Error::custom("missing"))?,
            content_encoding,
            content_type,
            headers,
            properties,
            others: Fields(others),
        })
    }
}

/// The fields that kombu writes.
const KNOWN: [&str; 5] = [
    "body",
    "content-encoding",
    "content-type",
    "headers",
    "properties",
];

/// Readers differ in which of two fields of one name they take, and names cost memory.
fn check_name<E: serde::de::Error>(names: &mut HashSet<String>, name: &str) -> Result<(), E> {
    if names.len() >= Fields::MAX {
        return Err(E::custom("too many fields"));
    }
    if !names.insert(name.to_owned()) {
        return Err(E::custom("a field is there twice"));
    }
    Ok(())
}

/// Values that are kept as text are not parsed, so `serde_json`'s own limit does not see them.
fn check_depth(json: &[u8]) -> Result<(), KombuError> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > KombuMessage::MAX_DEPTH {
            return Err(KombuError::TooDeep);
        }
    }
    Ok(())
}

/// Bytes that are no message of kombu's virtual transports, or a value that does not fit into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KombuError {
    /// Not the expected JSON. The values are not quoted.
    #[error(
        "the {field} is missing or is not what kombu writes (line {line}, column {column} of the JSON)"
    )]
    Malformed {
        /// The field that it is about; `message` for the whole of it.
        field: &'static str,
        /// Line, from 1; 0 when it is not known.
        line: usize,
        /// Column, from 1; 0 when it is not known.
        column: usize,
    },
    /// Longer than [`KombuMessage::MAX_LEN`].
    #[error(
        "a message of {len} bytes is longer than {} bytes",
        KombuMessage::MAX_LEN
    )]
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// Nested deeper than [`KombuMessage::MAX_DEPTH`].
    #[error("the message is nested more than {} deep", KombuMessage::MAX_DEPTH)]
    TooDeep,
    /// More than [`Fields::MAX`] fields in one object.
    #[error("there are more than {} fields in one object", Fields::MAX)]
    TooMany,
    /// `body_encoding` is not `base64`, or the body is not.
    #[error("the body is not in the encoding that body_encoding names, or that is not base64")]
    BodyEncoding,
}

impl KombuError {
    /// serde_json's own text may quote a value, so the place alone is kept.
    fn malformed(field: &'static str, error: &serde_json::Error) -> Self {
        Self::Malformed {
            field,
            line: error.line(),
            column: error.column(),
        }
    }

    /// [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}
