//! PEM (RFC 7468) as it is found in the wild: all that OpenSSL and Python's `cryptography` read, and what they pass over
//! without a word is a section that is damaged here.
//!
//! A section may begin anywhere: after a byte order mark, after blanks, behind the end of another one on the same line. Its
//! base64 may be broken up by white space in any way. Everything takes time in proportion to the text, once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const DASHES: &[u8] = b"-----";
/// The longest label that is taken for one. The longest in use has half of it.
const MAX_LABEL: usize = 64;

/// The shortest line of base64 that is taken for one outside of a section. Those of a section have 64 characters, or 76.
const MIN_BASE64: usize = 60;

/// The sections of a text, in their order, good or damaged.
pub(crate) struct Sections<'a> {
    text: &'a [u8],
    at: usize,
    /// What is at `at` belongs to a section that did not end.
    open: bool,
    lines: Lines<'a>,
}

/// What stands between a BEGIN and an END, or what is left of such a thing.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    /// The line that it begins in, counted from 1.
    pub(crate) line: usize,
    /// The label of its BEGIN; of a lone END, that one's.
    pub(crate) label: &'a str,
    /// The label of the END, if it is another one.
    pub(crate) other_label: Option<&'a str>,
    inside: Result<&'a [u8], PemError>,
}

/// PEM that is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// There is a beginning, and no end before the next beginning.
    #[error("a section begins and does not end")]
    NoEnd,
    /// The section ends with another label than it begins with.
    #[error("a section begins with one label and ends with another")]
    OtherEnd,
    /// An end without a beginning, or a line that looks like either and is damaged itself.
    #[error("a BEGIN or END line is damaged, stands alone, or is written in UTF-16")]
    Marker,
    /// Base64 as of a certificate or a key, with nothing before it that would begin a section.
    #[error("base64 stands outside of a section; the BEGIN line before it is missing or damaged")]
    Outside,
    /// What is between beginning and end is not base64.
    #[error("what is in the section is not base64")]
    Base64,
}

impl<'a> Sections<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            open: false,
            lines: Lines {
                text,
                seen: 0,
                line: 1,
            },
        }
    }

    fn section(
        &mut self,
        start: usize,
        label: &'a str,
        inside: Result<&'a [u8], PemError>,
    ) -> Section<'a> {
        Section {
            line: self.lines.of(start),
            label,
            other_label: None,
            inside,
        }
    }

    /// What has begun at `begin`: up to its end, or up to where the next one begins.
    fn rest_of(&mut self, begin: &Marker<'a>) -> Section<'a> {
        let end = markers(self.text, begin.after).next();
        let Some(end) = end.filter(|end| !end.begins) else {
            // Anything may have been meant to be inside, so it is looked through for lone ends as well.
            self.at = begin.after;
            self.open = true;
            return self.section(begin.start, begin.label, Err(PemError::NoEnd));
        };
        self.at = end.after;
        let inside = self.text.get(begin.after..end.start).unwrap_or_default();
        if end.label == begin.label {
            return self.section(begin.start, begin.label, Ok(inside));
        }
        Section {
            other_label: Some(end.label),
            ..self.section(begin.start, begin.label, Err(PemError::OtherEnd))
        }
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Section<'a>;

    fn next(&mut self) -> Option<Section<'a>> {
        let from = self.at;
        let next = markers(self.text, from).next();
        let gap_end = next.as_ref().map_or(self.text.len(), |next| next.start);
        let gap = self.text.get(from..gap_end).unwrap_or_default();
        if let Some((offset, label)) = damaged_marker(gap) {
            self.at = gap_end;
            return Some(self.section(from + offset, label, Err(PemError::Marker)));
        }
        // A lone END says the same of what is before it, and a section without an end has been said.
        let was_open = std::mem::take(&mut self.open);
        let is_alone = !was_open && next.as_ref().is_none_or(|next| next.begins);
        if let Some(offset) = is_alone.then(|| lone_base64(gap)).flatten() {
            self.at = gap_end;
            return Some(self.section(from + offset, "CERTIFICATE", Err(PemError::Outside)));
        }
        let next = next?;
        if next.begins {
            return Some(self.rest_of(&next));
        }
        self.at = next.after;
        Some(self.section(next.start, next.label, Err(PemError::Marker)))
    }
}

impl Section<'_> {
    /// Whether either label has that word, in capitals or not.
    pub(crate) fn mentions(&self, word: &str) -> bool {
        let has = |label: &str| label.to_ascii_uppercase().contains(word);
        has(self.label) || self.other_label.is_some_and(has)
    }

    /// Whether its header says that it is encrypted in OpenSSL's traditional way (RFC 1421, 4.6.1.1).
    #[cfg(feature = "software")]
    pub(crate) fn is_encrypted(&self) -> bool {
        let header = self.inside.map_or(&[][..], |inside| split_header(inside).0);
        find(header, b"Proc-Type:").is_some() && find(header, b"ENCRYPTED").is_some()
    }

    /// About how many bytes its base64 stands for: what it has at most.
    pub(crate) fn max_len(&self) -> usize {
        let body = self.inside.map_or(&[][..], |inside| split_header(inside).1);
        let characters = body.iter().filter(|byte| !is_blank(**byte)).count();
        characters.div_ceil(4) * 3
    }

    /// Its bytes, in memory that is cleared when it is dropped.
    pub(crate) fn decode(&self) -> Result<Zeroizing<Vec<u8>>, PemError> {
        let (_, body) = split_header(self.inside?);
        // As large as it will ever be, so that no copy stays behind uncleared.
        let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
        text.extend(body.iter().filter(|byte| !is_blank(**byte)));
        STANDARD
            .decode(&*text)
            .map(Zeroizing::new)
            .map_err(|_| PemError::Base64)
    }
}

/// `-----BEGIN LABEL-----` or `-----END LABEL-----`.
struct Marker<'a> {
    start: usize,
    after: usize,
    begins: bool,
    label: &'a str,
}

impl<'a> Marker<'a> {
    fn at(text: &'a [u8], start: usize) -> Option<Self> {
        let rest = text.get(start..)?.strip_prefix(DASHES)?;
        let (begins, rest) = match rest.strip_prefix(b"BEGIN ") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix(b"END ")?),
        };
        let window = rest
            .get(..MAX_LABEL + DASHES.len())
            .unwrap_or(rest)
            .split(|byte| byte.is_ascii_control())
            .next()?;
        let len = find(window, DASHES)?;
        let label = std::str::from_utf8(window.get(..len)?).ok()?;
        let after = text.len() - rest.len() + len + DASHES.len();
        Some(Self {
            start,
            after,
            begins,
            label,
        })
    }
}

/// The markers from `from` on.
fn markers(text: &[u8], from: usize) -> impl Iterator<Item = Marker<'_>> {
    let rest = text.get(from..).unwrap_or_default();
    let dashes = rest.iter().enumerate().filter(|(_, byte)| **byte == b'-');
    dashes.filter_map(move |(at, _)| Marker::at(text, from + at))
}

/// Something in a text without markers that must have been meant as one: `BEGIN` or `END`, behind a dash of any kind, and
/// before the name of something that matters.
fn damaged_marker(text: &[u8]) -> Option<(usize, &'static str)> {
    ["CERTIFICATE", "PRIVATE KEY"]
        .into_iter()
        .filter_map(|label| Some((damaged_marker_of(text, label)?, label)))
        .min()
}

fn damaged_marker_of(text: &[u8], label: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = find(text.get(from..)?, label.as_bytes()) {
        let at = from + found;
        if let Some(start) = begin_before(text.get(..at)?) {
            return Some(start);
        }
        from = at + label.len();
    }
    // As PowerShell writes files, in either order of bytes.
    let wide: Vec<u8> = label.bytes().flat_map(|byte| [byte, 0]).collect();
    find(text, wide.strip_suffix(&[0])?)
}

/// A line of base64 as certificates begin: a long SEQUENCE. However the line before it was spoilt, this one tells.
fn lone_base64(text: &[u8]) -> Option<usize> {
    let lines = text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r'));
    let mut at = 0;
    for line in lines {
        let word = line.trim_ascii();
        let len = word.iter().take_while(|byte| is_base64(**byte)).count();
        if word.starts_with(b"MI") && len >= MIN_BASE64 && len == word.len() {
            return Some(at);
        }
        at += line.len();
    }
    None
}

const fn is_base64(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'=')
}

/// Where the BEGIN or END of a label starts that follows this text. It looks back a few words only.
fn begin_before(text: &[u8]) -> Option<usize> {
    let near = text.len().saturating_sub(MAX_LABEL);
    let words = text.get(near..)?;
    let at = ["BEGIN ", "END "]
        .into_iter()
        .filter_map(|word| rfind(words, word.as_bytes()))
        .max()?;
    let between = words.get(at..)?;
    let before = words.get(..at)?.trim_ascii_end().last()?;
    // Dashes that a word processor made longer are not ASCII.
    let marks = *before == b'-' || *before >= 0x80;
    (marks && !between.iter().any(u8::is_ascii_control)).then_some(near + at)
}

/// The header (RFC 1421, 4.4) and the base64 of a section. A header has colons, and a blank line after it.
fn split_header(inside: &[u8]) -> (&[u8], &[u8]) {
    let mut lines = inside.split_inclusive(|byte| *byte == b'\n');
    let mut len = 0;
    let mut in_header = false;
    for line in &mut lines {
        let blank = line.iter().all(|byte| is_blank(*byte));
        match (blank, in_header) {
            (true, true) => return inside.split_at(len),
            (true, false) => {}
            (false, true) => {}
            (false, false) if line.contains(&b':') => in_header = true,
            (false, false) => break,
        }
        len += line.len();
    }
    match in_header {
        // It has no end, so there is nothing after it.
        true => (inside, &[]),
        false => (&[], inside),
    }
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let (first, _) = wanted.split_first()?;
    let places = text.iter().enumerate().filter(|(_, byte)| *byte == first);
    places
        .map(|(at, _)| at)
        .find(|at| text.get(*at..).is_some_and(|rest| rest.starts_with(wanted)))
}

fn rfind(text: &[u8], wanted: &[u8]) -> Option<usize> {
    (0..text.len())
        .rev()
        .find(|at| text.get(*at..).is_some_and(|rest| rest.starts_with(wanted)))
}

/// Counts lines as it goes, so that the whole text is looked at once.
struct Lines<'a> {
    text: &'a [u8],
    seen: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, at: usize) -> usize {
        let new = self.text.get(self.seen..at).unwrap_or_default();
        self.line += new.iter().filter(|byte| **byte == b'\n').count();
        self.seen = self.seen.max(at);
        self.line
    }
}
