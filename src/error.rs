//! What can go wrong, and what a caller may do about it.
//!
//! Each boundary has an error type of its own, next to the code that raises it; the crate's front page lists them. All of
//! them answer `class()` with one of the [`ErrorClass`]es below, so that a caller decides by class and never by the text.
//!
//! No error, log line or `Debug` form holds a PIN, a password, a key or the body of a message. Text that came out of a
//! message is quoted, escaped and cut ([`Untrusted`]).

use std::fmt;

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Try again, at once or a little later; nothing is known to be broken.
    Transient,
    /// The session or the token went away; the next call opens anew.
    SessionLost,
    /// All sessions are in use; try again when the load is lower.
    Busy,
    /// No answer within the deadline.
    Timeout,
    /// The PIN is wrong, locked, expired or missing. Never retry without a new PIN.
    Credential,
    /// Configuration, arguments or an object are wrong; trying again changes nothing.
    Permanent,
    /// A message failed verification. It must not be used.
    Rejected,
}

impl ErrorClass {
    /// Whether the same call may be tried again without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Transient | Self::SessionLost | Self::Busy | Self::Timeout
        )
    }

    /// The class in one lower-case word, for logs and metrics labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::SessionLost => "session-lost",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Credential => "credential",
            Self::Permanent => "permanent",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that somebody else wrote (a field of a message, a name in a certificate), made safe to log.
///
/// `Display` quotes it, escapes control characters (no forged log lines, no terminal sequences) and cuts it after
/// [`Untrusted::MAX_CHARS`] characters. At most that much of it is kept.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Untrusted {
    shown: String,
    cut: bool,
}

impl Untrusted {
    /// How many characters are kept.
    pub const MAX_CHARS: usize = 120;

    /// Keeps the start of `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let end = text
            .char_indices()
            .nth(Self::MAX_CHARS)
            .map_or(text.len(), |(at, _)| at);
        Self {
            shown: text.get(..end).unwrap_or_default().to_owned(),
            cut: end < text.len(),
        }
    }

    /// Keeps the start of `bytes`; what is not UTF-8 shows as U+FFFD.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        // Four bytes a character at the most: enough of the input for what is shown, and one more to see the cut.
        let head = bytes.get(..Self::MAX_CHARS * 4 + 4).unwrap_or(bytes);
        let mut text = Self::new(&String::from_utf8_lossy(head));
        text.cut |= head.len() < bytes.len();
        text
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.shown, if self.cut { "…" } else { "" })
    }
}

impl fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<&str> for Untrusted {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Whether a character is one that nobody sees, or that changes how those around it are shown: control characters, marks of
/// direction, separators of lines, zero-width and other format characters (Unicode's Cc, Cf, Zl and Zp).
///
/// Text that somebody else wrote is shown with these escaped.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::{Untrusted, is_hidden};

    #[test]
    fn hidden_characters_are_escaped_in_untrusted_text() {
        let mut hidden = 0;
        for c in ('\0'..=char::MAX).filter(|c| is_hidden(*c)) {
            let shown = Untrusted::new(&format!("a{c}b")).to_string();
            assert!(!shown.contains(c), "{:x}", u32::from(c));
            hidden += 1;
        }
        assert!(hidden > 200);
        assert!("aä ñ漢\u{301}\u{5d0}😀".chars().all(|c| !is_hidden(c)));
    }

    #[test]
    fn untrusted_text_is_escaped_and_cut() {
        assert_eq!(
            Untrusted::new("a\nb\u{1b}[31m").to_string(),
            r#""a\nb\u{1b}[31m""#
        );
        let long = Untrusted::new(&"ä".repeat(1000)).to_string();
        assert_eq!(
            long.chars().filter(|c| *c == 'ä').count(),
            Untrusted::MAX_CHARS
        );
        assert!(long.ends_with('…'));
        assert_eq!(
            Untrusted::from_bytes(b"\xff\x00").to_string(),
            "\"\u{fffd}\\0\""
        );
        assert!(
            Untrusted::from_bytes(&[b'x'; 100_000])
                .to_string()
                .ends_with('…')
        );
    }
}
