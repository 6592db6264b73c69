//! Secrets as people have them: in files, variables and settings, with a newline at the end or a mark at the beginning.
//!
//! Use this when you read a PIN, a password or a key yourself and want it taken as this library takes it. The rules are one
//! and the same for every source, so that a secret is never one thing in a file and another in a variable:
//!
//! | | PIN | password of a key file | Fernet key |
//! |---|---|---|---|
//! | UTF-8's byte order mark at the beginning | left out | left out | left out |
//! | one newline at the end (`\n`, `\r\n`) | left out | left out | left out |
//! | UTF-16 | refused | refused | refused |
//! | blanks at either end | refused | kept | left out, with one pair of quotes |
//! | blanks inside | kept | kept | refused |
//! | more lines, control characters and others that nobody sees | refused | kept | refused |
//! | none at all | refused | refused | refused |
//!
//! Of a file, the first line is the secret ([`first_line`]). A PIN that is refused has cost no try.

use crate::error::is_hidden;

/// What is in the first line of a file, its newline included.
#[must_use]
pub fn first_line(bytes: &[u8]) -> &[u8] {
    match bytes.iter().position(|byte| *byte == b'\n') {
        // UTF-16 has zero bytes beside its newlines. It is refused as a whole.
        Some(end) if !is_utf16(bytes) => bytes.get(..=end).unwrap_or(bytes),
        _ => bytes,
    }
}

/// A password: without a byte order mark at its beginning and one newline at its end.
///
/// # Errors
/// [`SecretError::Empty`] and [`SecretError::Utf16`].
pub fn password(bytes: &[u8]) -> Result<&[u8], SecretError> {
    if is_utf16(bytes) {
        return Err(SecretError::Utf16);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let bytes = match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    };
    match bytes {
        b"" => Err(SecretError::Empty),
        bytes => Ok(bytes),
    }
}

/// A PIN: as for [`password`], and text of one line that begins and ends with something that can be seen.
///
/// # Errors
/// [`SecretError`].
pub fn pin(bytes: &[u8]) -> Result<&str, SecretError> {
    let text = std::str::from_utf8(password(bytes)?).map_err(|_| SecretError::NotUtf8)?;
    if text.contains(['\n', '\r']) {
        return Err(SecretError::Lines);
    }
    if text.chars().any(is_hidden) {
        return Err(SecretError::Hidden);
    }
    if text.trim() != text {
        return Err(SecretError::Blanks);
    }
    Ok(text)
}

/// The text of a Fernet key: as for [`password`], without blanks and one pair of quotes around it.
///
/// # Errors
/// [`SecretError`].
pub fn fernet_key(bytes: &[u8]) -> Result<&str, SecretError> {
    let text = std::str::from_utf8(password(bytes)?).map_err(|_| SecretError::NotUtf8)?;
    let text = text.trim();
    let unquoted = ['"', '\''].iter().find_map(|quote| {
        text.strip_prefix(*quote)
            .and_then(|text| text.strip_suffix(*quote))
    });
    match unquoted.unwrap_or(text).trim() {
        "" => Err(SecretError::Empty),
        text => Ok(text),
    }
}

fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
}

/// A secret that is not taken as it is. Says nothing of what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
#[error("{}", self.as_str())]
pub enum SecretError {
    /// There are no characters.
    Empty,
    /// It is UTF-16, as some editors write it.
    Utf16,
    /// It is no text.
    NotUtf8,
    /// It has more than one line.
    Lines,
    /// It has control characters, or others that nobody sees.
    Hidden,
    /// It begins or ends with a blank, which nobody sees.
    Blanks,
}

impl SecretError {
    /// What is wrong, after "it is refused because".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::Utf16 => "it is UTF-16; write it as UTF-8",
            Self::NotUtf8 => "it is not UTF-8",
            Self::Lines => "it has more than one line",
            Self::Hidden => "it has a control character or another one that cannot be seen",
            Self::Blanks => "it begins or ends with a blank",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newlines_and_marks_are_left_out_and_the_rest_is_said() {
        for (given, wanted) in [
            (&b"1234"[..], Ok("1234")),
            (b"1234\n", Ok("1234")),
            (b"1234\r\n", Ok("1234")),
            (b"\xef\xbb\xbf1234\n", Ok("1234")),
            (b"12 34", Ok("12 34")),
            (b"user:p\xc3\xa4ss", Ok("user:päss")),
            (b"", Err(SecretError::Empty)),
            (b"\n", Err(SecretError::Empty)),
            (b"\xef\xbb\xbf", Err(SecretError::Empty)),
            (b"1234\n\n", Err(SecretError::Lines)),
            (b"1234\r", Err(SecretError::Lines)),
            (b"1234\n5678", Err(SecretError::Lines)),
            (b" 1234", Err(SecretError::Blanks)),
            (b"1234 \n", Err(SecretError::Blanks)),
            (b"1234\xc2\xa0", Err(SecretError::Blanks)),
            (b"12\x0034", Err(SecretError::Hidden)),
            (b"1234\t", Err(SecretError::Hidden)),
            (b"1234\xe2\x80\x8b", Err(SecretError::Hidden)),
            (b"12\xef\xbb\xbf34", Err(SecretError::Hidden)),
            (b"\xff\xfe1\x002\x00", Err(SecretError::Utf16)),
            (b"\xfe\xff\x001\x002", Err(SecretError::Utf16)),
            (b"12\xff", Err(SecretError::NotUtf8)),
        ] {
            assert_eq!(pin(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn a_password_keeps_what_can_be_meant() {
        for (given, wanted) in [
            (&b" pass word \n"[..], Ok(&b" pass word "[..])),
            (b"\xef\xbb\xbfa\r\n", Ok(b"a")),
            (b"a\nb", Ok(b"a\nb")),
            (b"\x01\xff", Ok(b"\x01\xff")),
            (b"\r\n", Err(SecretError::Empty)),
            (b"\xff\xfea\0", Err(SecretError::Utf16)),
        ] {
            assert_eq!(password(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn quotes_are_no_part_of_a_key() {
        for given in [
            "key",
            " key\r\n",
            "\"key\"",
            "'key'\n",
            " ' key ' \n",
            "\u{feff}key",
        ] {
            assert_eq!(fernet_key(given.as_bytes()), Ok("key"), "{given:?}");
        }
        assert_eq!(fernet_key(b"'key"), Ok("'key"));
        for empty in ["", "\n", "''", "\" \""] {
            assert_eq!(fernet_key(empty.as_bytes()), Err(SecretError::Empty));
        }
    }

    #[test]
    fn the_first_line_of_utf_16_is_refused_as_well() {
        assert_eq!(first_line(b"a\nb\n"), b"a\n");
        assert_eq!(first_line(b"a"), b"a");
        assert_eq!(pin(first_line(b"\xff\xfea\0\n\0")), Err(SecretError::Utf16));
    }
}
