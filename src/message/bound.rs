//! Bound content: a payload together with what it is, what it is for, when it was sealed, and a number of its own.
//!
//! This, and not the bare payload, is what a whole message's signature covers. `docs/wire-format.md` shows every byte:
//!
//! ```text
//! c1 "taskseal" 00 | version 01 | purpose | issued at, ms | id | context | payload
//! ```
//!
//! The prefix separates it from the bodies of tasks, which the same keys sign: no JSON, YAML, MessagePack or pickle begins
//! with it, a [`Sealer`](crate::Sealer) does not sign a body that does, and an [`Opener`](crate::Opener) does not open one.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What every bound content begins with. `c1` is never used in UTF-8 and MessagePack, and is no opcode of pickle.
pub(crate) const PREFIX: [u8; 10] = *b"\xc1taskseal\0";

/// The inner content type of an envelope that holds bound content.
pub const BOUND_CONTENT_TYPE: &str = "application/x-taskseal-bound";
/// The inner content encoding that goes with it.
pub(crate) const BOUND_CONTENT_ENCODING: &str = "binary";

/// The purpose of a whole message.
pub(crate) const MESSAGE: &str = "message";

const VERSION: u8 = 1;
/// The longest purpose and the longest name in the context, in bytes.
const MAX_NAME: usize = 64;
/// The longest value in the context, in bytes.
const MAX_VALUE: usize = 4096;
/// The most entries that the context has.
const MAX_ENTRIES: usize = 8;

/// What a payload is bound to: a list of names and values, the names ascending.
pub(crate) type Context = Vec<(String, String)>;

/// The name that a domain goes by in the context.
const DOMAIN: &str = "domain";

/// Adds the domain to a context, unless there is none.
pub(super) fn with_domain(mut context: Context, domain: Option<&str>) -> Context {
    if let Some(domain) = domain {
        context.push((DOMAIN.to_owned(), domain.to_owned()));
        context.sort();
    }
    context
}

/// Takes the domain out of a context.
pub(super) fn take_domain(context: &mut Context) -> Option<String> {
    let at = context.iter().position(|(name, _)| name == DOMAIN)?;
    Some(context.remove(at).1)
}

/// What bound content says before its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) purpose: String,
    /// Milliseconds since 1970.
    pub(crate) issued_at: u64,
    pub(crate) id: MessageId,
    pub(crate) context: Context,
}

impl Header {
    /// The time, unless it lies outside of what the system's clock can say.
    pub(crate) fn time(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.issued_at))
    }

    /// Joins header and payload.
    pub(crate) fn bind(&self, payload: &[u8]) -> Result<Vec<u8>, BoundError> {
        check_name(&self.purpose)?;
        if self.context.len() > MAX_ENTRIES {
            return Err(BoundError::Context);
        }
        let context: usize = self
            .context
            .iter()
            .map(|(name, value)| 3 + name.len() + value.len())
            .sum();
        let fixed = PREFIX.len() + 1 + 1 + self.purpose.len() + 8 + 16 + 1;
        let mut bytes = Vec::with_capacity(fixed + context + payload.len());
        bytes.extend_from_slice(&PREFIX);
        bytes.push(VERSION);
        push_short(&mut bytes, &self.purpose);
        bytes.extend_from_slice(&self.issued_at.to_be_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.push(short_len(self.context.len()));
        for (name, value) in &self.context {
            check_name(name)?;
            let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
            if value.len() > MAX_VALUE {
                return Err(BoundError::Context);
            }
            push_short(&mut bytes, name);
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes.extend_from_slice(payload);
        Ok(bytes)
    }

    /// Takes header and payload apart. One content has one form: anything else is an error.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), BoundError> {
        let mut reader = Reader(bytes);
        if reader.take(PREFIX.len())? != PREFIX {
            return Err(BoundError::Malformed);
        }
        if reader.byte()? != VERSION {
            return Err(BoundError::Version);
        }
        let purpose = reader.name()?;
        let issued_at = u64::from_be_bytes(reader.array()?);
        let id = MessageId(reader.array()?);
        let entries = usize::from(reader.byte()?);
        if entries > MAX_ENTRIES {
            return Err(BoundError::Malformed);
        }
        let mut context = Context::with_capacity(entries);
        for _ in 0..entries {
            let name = reader.name()?;
            let len = usize::from(u16::from_be_bytes(reader.array()?));
            if len > MAX_VALUE || context.last().is_some_and(|(last, _)| *last >= name) {
                return Err(BoundError::Malformed);
            }
            let value = std::str::from_utf8(reader.take(len)?);
            context.push((name, value.map_err(|_| BoundError::Malformed)?.to_owned()));
        }
        let header = Self {
            purpose,
            issued_at,
            id,
            context,
        };
        Ok((header, reader.0))
    }
}

/// Whether `body` claims to be bound content.
pub(crate) fn is_bound(body: &[u8]) -> bool {
    body.starts_with(&PREFIX)
}

/// 16 random bytes that tell one sealed message from every other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub(crate) [u8; 16]);

impl MessageId {
    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::hex(&self.0))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes that are no bound content, or a purpose or context that it cannot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BoundError {
    /// Not what the wire format says.
    #[error("it does not have the form of bound content")]
    Malformed,
    /// Another version than 1.
    #[error("it is bound content of a version that is not known here")]
    Version,
    /// A purpose or a name that is not 1 to 64 bytes of visible ASCII.
    #[error("a purpose is 1 to 64 characters of visible ASCII")]
    Name,
    /// The purpose of whole messages, which payloads cannot have.
    #[error("the purpose \"message\" is that of whole messages alone")]
    Purpose,
    /// More context than fits.
    #[error("a context value (domain, exchange, routing key, queue …) is longer than 4096 bytes")]
    Context,
    /// A message that is encrypted alone was to be sealed for a domain.
    #[error("a message that is encrypted and not signed has no place for a domain")]
    NoDomain,
}

pub(crate) fn check_name(name: &str) -> Result<(), BoundError> {
    let good = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    good.then_some(()).ok_or(BoundError::Name)
}

/// A length that its caller has checked.
#[expect(clippy::expect_used, reason = "a length of zero would be signed")]
fn short_len(len: usize) -> u8 {
    u8::try_from(len).expect("MAX_ENTRIES and MAX_NAME are below 256")
}

/// A text of at most 255 bytes, behind its length. The caller has checked it.
fn push_short(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(short_len(text.len()));
    bytes.extend_from_slice(text.as_bytes());
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], BoundError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BoundError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BoundError> {
        self.take(N)?.try_into().map_err(|_| BoundError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, BoundError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn name(&mut self) -> Result<String, BoundError> {
        let len = usize::from(self.byte()?);
        let name = std::str::from_utf8(self.take(len)?).map_err(|_| BoundError::Malformed)?;
        check_name(name).map_err(|_| BoundError::Malformed)?;
        Ok(name.to_owned())
    }
}

pub(super) fn domain_of(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A purpose that payloads may have.
pub(super) fn check_purpose(purpose: &str) -> Result<(), BoundError> {
    check_name(purpose)?;
    if purpose == MESSAGE {
        return Err(BoundError::Purpose);
    }
    Ok(())
}

/// The name that the context of a payload goes by.
pub(super) const PAYLOAD_CONTEXT: &str = "context";

pub(super) fn payload_context(context: &str) -> Context {
    vec![(PAYLOAD_CONTEXT.to_owned(), context.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            purpose: "message".into(),
            issued_at: 0x0102_0304_0506_0708,
            id: MessageId([0xab; 16]),
            context: vec![("a".into(), "ä".into()), ("b".into(), String::new())],
        }
    }

    #[test]
    fn binds_byte_for_byte_and_parses_it_back() {
        let bytes = header().bind(b"{}").unwrap();
        let mut expected =
            b"\xc1taskseal\0\x01\x07message\x01\x02\x03\x04\x05\x06\x07\x08".to_vec();
        expected.extend([0xab; 16]);
        expected.extend(b"\x02\x01a\0\x02\xc3\xa4\x01b\0\0{}");
        assert_eq!(bytes, expected);
        assert_eq!(Header::parse(&bytes), Ok((header(), &b"{}"[..])));
    }

    #[test]
    fn every_truncation_of_the_header_is_refused() {
        let bytes = header().bind(b"").unwrap();
        for len in 0..bytes.len() {
            assert!(Header::parse(bytes.get(..len).unwrap()).is_err(), "{len}");
        }
        assert!(Header::parse(&bytes).is_ok());
    }

    #[test]
    fn a_second_form_of_one_content_is_refused() {
        let bound = |context: &[(&str, &str)]| {
            let context = context.iter().map(|(n, v)| ((*n).into(), (*v).into()));
            let header = Header {
                context: context.collect(),
                ..header()
            };
            header.bind(b"")
        };
        for bad in [[("b", ""), ("a", "")], [("a", ""), ("a", "")]] {
            let bytes = bound(&bad).unwrap();
            assert_eq!(Header::parse(&bytes), Err(BoundError::Malformed));
        }
        assert_eq!(bound(&[("a b", "")]), Err(BoundError::Name));
        assert_eq!(bound(&[("", "")]), Err(BoundError::Name));
        assert_eq!(bound(&[("a", ""); 9]), Err(BoundError::Context));
        assert!(bound(&[("a", &"x".repeat(4096))]).is_ok());
        assert_eq!(bound(&[("a", &"x".repeat(4097))]), Err(BoundError::Context));
        let mut other = header().bind(b"").unwrap();
        *other.get_mut(10).unwrap() = 2;
        assert_eq!(Header::parse(&other), Err(BoundError::Version));
    }
}
