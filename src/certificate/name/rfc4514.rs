//! Distinguished names in text (RFC 4514): read strictly, so that what is made is what was meant.

use std::fmt::{self, Write as _};

use const_oid::ObjectIdentifier;
use der::{Any, Decode as _};

use super::attribute::{BadValue, Kind};
use crate::certificate::asn1::{Element, tag};

/// A text that is no distinguished name, and the character at which that shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {reason}")]
#[non_exhaustive]
pub struct NameError {
    /// Which character, counted from 1. One more than there are at the end of the text.
    pub position: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a name such as `CN=worker-7,O=Example`; returns its DER.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, NameError> {
    let mut parser = Parser {
        chars: text.chars().collect(),
        at: 0,
    };
    let mut rdns = vec![parser.rdn()?];
    while parser.skip(',') {
        rdns.push(parser.rdn()?);
    }
    // The last one in text is the first one in DER.
    rdns.reverse();
    Ok(encode(tag::SEQUENCE, &rdns.concat()))
}

/// Writes the text of a value with what RFC 4514, 2.4 escapes, and control characters.
pub(super) fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        match c {
            '#' if at == 0 => f.write_str("\\#")?,
            ' ' if at == 0 || at == last => f.write_str("\\ ")?,
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{c}")?,
            '\0'..='\x1f' | '\x7f' => write!(f, "\\{:02x}", u32::from(c))?,
            _ => f.write_char(c)?,
        }
    }
    Ok(())
}

fn encode(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match u8::try_from(value.len()) {
        Ok(len @ 0..0x80) => der.push(len),
        _ => {
            let len = value.len().to_be_bytes();
            let zeros = len.iter().take_while(|byte| **byte == 0).count();
            let (_, len) = len.split_at(zeros);
            // At most as many bytes as a usize has.
            der.push(0x80 | len.len() as u8);
            der.extend_from_slice(len);
        }
    }
    der.extend_from_slice(value);
    der
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

/// An attribute type: one that is known by name, or any number.
#[derive(Clone, Copy)]
struct Type {
    oid: ObjectIdentifier,
    kind: Option<&'static Kind>,
}

/// A value without its escapes, and where each byte of it was.
#[derive(Default)]
struct Value {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Value {
    fn push(&mut self, bytes: &[u8], place: usize) {
        self.bytes.extend_from_slice(bytes);
        self.places.resize(self.bytes.len(), place);
    }
}

impl Parser {
    /// Attributes that are joined by `+`, none of a type twice (X.501, 9.3).
    fn rdn(&mut self) -> Result<Vec<u8>, NameError> {
        let mut seen = Vec::new();
        let mut encoded = Vec::new();
        loop {
            let start = self.at;
            let kind = self.attribute_type()?;
            if seen.contains(&kind.oid) {
                let reason = "an attribute type is twice in parts that '+' joins; ',' separates";
                return Err(error(start, reason));
            }
            seen.push(kind.oid);
            let value = if self.peek() == Some('#') {
                self.hex_value(kind)?
            } else {
                self.text_value(kind)?
            };
            let oid = encode(tag::OID, kind.oid.as_bytes());
            encoded.push(encode(tag::SEQUENCE, &[oid, value].concat()));
            if !self.skip('+') {
                break;
            }
        }
        // DER's order of a SET OF (X.690, 11.6).
        encoded.sort();
        Ok(encode(tag::SET, &encoded.concat()))
    }

    /// A type and the `=` after it.
    fn attribute_type(&mut self) -> Result<Type, NameError> {
        let start = self.at;
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| is_of_type(*c)) {
            name.push(c);
            self.at += 1;
        }
        if name.is_empty() {
            return Err(error(start, self.why_no_type()));
        }
        let found = Type::find(&name).ok_or_else(|| {
            let reason = if name.starts_with(|c: char| c.is_ascii_digit()) {
                format!("{name:?} is no object identifier")
            } else {
                format!(
                    "{name:?} is no attribute type that is known here; write its object identifier"
                )
            };
            error(start, reason)
        });
        if !self.skip('=') {
            let reason = "'=' is missing: an attribute is written as in CN=worker-7";
            return Err(error(self.at, reason));
        }
        found
    }

    fn why_no_type(&self) -> String {
        match self.peek() {
            None => "an attribute such as CN=worker-7 is missing".to_owned(),
            Some(' ') => "no blank may stand before an attribute type".to_owned(),
            Some('/') => "parts of a name are separated by ',' and not by '/'".to_owned(),
            Some(c) => format!("{c:?} begins no attribute type"),
        }
    }

    /// `#` and the DER of a value in hexadecimal.
    fn hex_value(&mut self, of: Type) -> Result<Vec<u8>, NameError> {
        let start = self.at;
        self.at += 1;
        let mut der = Vec::new();
        while !matches!(self.peek(), None | Some(',' | '+')) {
            der.push(self.hex_byte()?);
        }
        let (Ok(element), Ok(_)) = (Element::only(&der), Any::from_der(&der)) else {
            return Err(error(start, "these bytes are no DER of a value"));
        };
        let Some(kind) = of.kind else {
            return Ok(der);
        };
        if !kind.allows(element.tag()) {
            let reason = format!("{} must not have a value of this type", kind.name());
            return Err(error(start, reason));
        }
        let text = std::str::from_utf8(element.value())
            .map_err(|_| error(start, "the text of this value is no UTF-8"))?;
        let checked = kind.check(text, element.tag());
        checked.map_err(|BadValue { reason, .. }| error(start, reason))?;
        Ok(der)
    }

    fn text_value(&mut self, of: Type) -> Result<Vec<u8>, NameError> {
        let start = self.at;
        let value = self.unescaped()?;
        let text = std::str::from_utf8(&value.bytes)
            .map_err(|bad| error(value.place(bad.valid_up_to(), start), "this is no UTF-8"))?;
        let Some(kind) = of.kind else {
            if text.is_empty() {
                return Err(error(start, "a value must not be empty"));
            }
            return Ok(encode(tag::UTF8_STRING, &value.bytes));
        };
        let checked = kind.check(text, kind.tag());
        checked.map_err(|BadValue { at, reason }| error(value.place(at, start), reason))?;
        Ok(encode(kind.tag(), &value.bytes))
    }

    fn unescaped(&mut self) -> Result<Value, NameError> {
        let start = self.at;
        let mut value = Value::default();
        while let Some(c) = self.peek().filter(|c| !matches!(c, ',' | '+')) {
            let place = self.at;
            match c {
                '\\' => {
                    let byte = self.escape()?;
                    value.push(&byte, place);
                    continue;
                }
                ' ' if place == start || self.is_before_end(place) => {
                    let reason = "a blank at an end of a value is left out, or written as \"\\ \"";
                    return Err(error(place, reason));
                }
                ';' => {
                    let reason = "parts of a name are separated by ','; a ';' in a value is written \
                                  as \"\\;\"";
                    return Err(error(place, reason));
                }
                '"' | '<' | '>' => {
                    return Err(error(place, format!("{c:?} is written as \"\\{c}\"")));
                }
                '\0'..='\x1f' | '\x7f' => {
                    let reason = format!("{c:?} is written as \"\\{:02x}\"", u32::from(c));
                    return Err(error(place, reason));
                }
                '=' => self.refuse_other_separator(start)?,
                _ => {}
            }
            value.push(c.encode_utf8(&mut [0; 4]).as_bytes(), place);
            self.at += 1;
        }
        Ok(value)
    }

    /// `\` and what it makes of the one or two characters after it.
    fn escape(&mut self) -> Result<Vec<u8>, NameError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(c) if " \"#+,;<=>\\".contains(c) => {
                self.at += 1;
                Ok(c.to_string().into_bytes())
            }
            _ => self.hex_byte().map(|byte| vec![byte]).map_err(|_| {
                let reason =
                    "'\\' stands before a blank, one of \"#+,;<=>\\ or two hexadecimal digits";
                error(start, reason)
            }),
        }
    }

    fn hex_byte(&mut self) -> Result<u8, NameError> {
        let mut byte = 0;
        for _ in 0..2 {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let digit = digit.and_then(|digit| u8::try_from(digit).ok());
            let reason = "two hexadecimal digits are wanted for each byte";
            byte = (byte << 4) | digit.ok_or_else(|| error(self.at, reason))?;
            self.at += 1;
        }
        Ok(byte)
    }

    /// `=` is allowed in a value. After something that separates in other notations, and an attribute type, the whole name
    /// was meant otherwise, and one attribute would be made of it.
    fn refuse_other_separator(&self, start: usize) -> Result<(), NameError> {
        let before = self.chars.get(start..self.at).unwrap_or_default();
        let name: String = before
            .iter()
            .rev()
            .take_while(|c| is_of_type(**c))
            .collect();
        let name: String = name.chars().rev().collect();
        let separator = (before.len().checked_sub(name.len() + 1)).and_then(|at| before.get(at));
        match separator {
            Some(c) if "/|& ".contains(*c) && Type::find(&name).is_some() => {
                let reason = format!(
                    "parts of a name are separated by ',' and not by {c:?}; if this is all one value, write \
                     \"{name}\\=\""
                );
                Err(error(self.at - name.len() - 1, reason))
            }
            _ => Ok(()),
        }
    }

    fn is_before_end(&self, place: usize) -> bool {
        matches!(self.chars.get(place + 1), None | Some(',' | '+'))
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip(&mut self, c: char) -> bool {
        let is_next = self.peek() == Some(c);
        self.at += usize::from(is_next);
        is_next
    }
}

impl Type {
    fn find(name: &str) -> Option<Self> {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let oid = ObjectIdentifier::new(name).ok()?;
            let kind = Kind::of(oid.as_bytes());
            return Some(Self { oid, kind });
        }
        let kind = Kind::named(name)?;
        let oid = kind.oid();
        Some(Self {
            oid,
            kind: Some(kind),
        })
    }
}

impl Value {
    /// Where a byte of it was; the start of the value if there is none.
    fn place(&self, byte: usize, start: usize) -> usize {
        self.places.get(byte).copied().unwrap_or(start)
    }
}

const fn is_of_type(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
}

fn error(at: usize, reason: impl Into<String>) -> NameError {
    NameError {
        position: at + 1,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Name;
    use super::*;

    fn shown(text: &str) -> String {
        let der = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let name = Name::read(Element::only(&der).unwrap()).unwrap();
        name.to_string()
    }

    fn refused(text: &str) -> (usize, String) {
        let error = parse(text).expect_err(text);
        (error.position, error.reason)
    }

    /// The examples of RFC 4514, 4, and forms that show as they were read.
    #[test]
    fn names_read_and_show_the_same() {
        for text in [
            "UID=jsmith,DC=example,DC=net",
            "OU=Sales+CN=J.  Smith,DC=example,DC=net",
            r#"CN=James \"Jim\" Smith\, III,DC=example,DC=net"#,
            r"CN=Before\0dAfter,DC=example,DC=net",
            "1.3.6.1.4.1.1466.0=#04024869",
            "CN=worker-7,OU=a,OU=b,O=Example,C=DE",
            r"CN=\ a\ ",
            r"CN=\#1",
            "CN=a#1",
            "CN=a=b/c",
            "CN=http://x/?q=1",
            "CN=本局-🦀",
            "emailAddress=ca@example.org",
            "serialNumber=0815",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn other_spellings_of_the_same_name() {
        for (text, expected) in [
            (r"CN=Lu\C4\8Di\C4\87", "CN=Lučić"),
            ("cn=a,Organizationname=b", "CN=a,O=b"),
            ("2.5.4.3=a", "CN=a"),
            ("2.5.4.6=DE", "C=DE"),
            ("CN=#0c0161", "CN=a"),
            ("CN=#130161", "CN=a"),
            // Attributes of one RDN come in DER's order.
            ("CN=longer+OU=b", "OU=b+CN=longer"),
            ("E=a@b.c", "emailAddress=a@b.c"),
            (r"CN=a\=b", "CN=a=b"),
            (r"CN=w/O\=x", "CN=w/O=x"),
            ("1.2.3.4=text", "1.2.3.4=#0c0474657874"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    /// Each is refused at the character that is wrong.
    #[test]
    fn what_is_no_name_is_refused_where_it_is_wrong() {
        for (text, position, reason) in [
            ("", 1, "missing"),
            ("CN=a,", 6, "missing"),
            ("CN=a+", 6, "missing"),
            (",CN=a", 1, "begins no attribute type"),
            ("worker-7", 9, "'=' is missing"),
            ("C=US;O=Example;CN=w", 5, "separated by ','"),
            ("C=US; O=Example", 5, "separated by ','"),
            ("/C=US/O=Example/CN=w", 1, "not by '/'"),
            ("O=Example/CN=w", 10, "not by '/'"),
            ("CN=w|O=Example", 5, "not by '|'"),
            ("CN=w O=Example", 5, "not by ' '"),
            ("CN=w/2.5.4.10=Example", 5, "not by '/'"),
            ("C=US/O=Example", 5, "not by '/'"),
            ("C=US/Example", 5, "C must not have '/'"),
            ("CN=a, O=b", 6, "no blank"),
            ("CN =a", 3, "'=' is missing"),
            ("CN= a", 4, "blank"),
            ("CN=a ,O=b", 5, "blank"),
            ("CN=a ", 5, "blank"),
            ("FOO=a", 1, "\"FOO\" is no attribute type"),
            ("O=b,FOO=a", 5, "\"FOO\" is no attribute type"),
            ("9.1=a", 1, "no object identifier"),
            ("1.2.=a", 1, "no object identifier"),
            ("CN=", 4, "CN must not be empty"),
            ("O=,CN=w", 3, "O must not be empty"),
            ("1.2.3.4=", 9, "must not be empty"),
            ("CN=\"a, b\"", 4, "is written as"),
            ("CN=a<b", 5, "is written as"),
            ("CN=a\nO=b", 5, "\"\\0a\""),
            ("CN=a\u{7f}", 5, "\"\\7f\""),
            (r"CN=a\q", 5, "hexadecimal"),
            (r"CN=a\", 5, "hexadecimal"),
            (r"CN=a\f", 5, "hexadecimal"),
            (r"CN=aö\ff", 6, "no UTF-8"),
            ("C=USA", 5, "at most 2"),
            ("C=U", 3, "two letters"),
            ("C=U1", 4, "two letters"),
            (r"C=\55\53\41", 9, "at most 2"),
            ("serialNumber=a_b", 15, "must not have '_'"),
            ("DC=bücher", 5, "ASCII"),
            ("emailAddress=ü@b", 14, "ASCII"),
            ("CN=a+CN=b", 6, "twice"),
            ("CN=a+2.5.4.3=b", 6, "twice"),
            ("CN=#", 4, "no DER"),
            ("CN=#0", 6, "hexadecimal digits"),
            ("CN=#0c0261", 4, "no DER"),
            ("CN=#0c016100", 4, "no DER"),
            ("CN=#020101", 4, "of this type"),
            ("CN=#1e020061", 4, "of this type"),
            ("C=#0c025553", 3, "of this type"),
            ("C=#1303555341", 3, "at most 2"),
            ("CN=#0c01ff", 4, "no UTF-8"),
            ("CN=#0c00", 4, "must not be empty"),
        ] {
            let (found, why) = refused(text);
            assert_eq!(found, position, "{text:?}: {why}");
            assert!(why.contains(reason), "{text:?}: {why}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        for (kind, max) in [("CN", 64), ("O", 64), ("OU", 64), ("L", 128), ("UID", 256)] {
            let longest = format!("{kind}={}", "ü".repeat(max));
            assert_eq!(shown(&longest), longest);
            let (position, reason) = refused(&format!("{longest}ü"));
            assert_eq!(position, longest.chars().count() + 1);
            assert!(reason.contains("at most"), "{reason}");
        }
    }

    #[test]
    fn long_values_have_long_lengths() {
        for len in [127, 128, 255, 256, 1024] {
            let text = format!("description={}", "x".repeat(len));
            assert_eq!(shown(&text), text);
        }
    }
}
