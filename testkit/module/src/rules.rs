//! What the file says: which calls are delayed, and which fail.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// The file, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) module: Option<PathBuf>,
    turns: HashMap<String, VecDeque<Turn>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    what: What,
    /// How often; `None` for always.
    left: Option<u32>,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Pass,
    Fail(u64),
    Delay(Duration),
}

impl Rules {
    /// Reads the text of a file; an error is the line that cannot be read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            rules.line(line).ok_or_else(|| line.to_owned())?;
        }
        Ok(rules)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(path) = line.strip_prefix("module ") {
            self.module = Some(path.trim().into());
            return Some(());
        }
        let mut words = line.split_whitespace();
        let function = words.next().filter(|name| crate::HOOKED.contains(name))?;
        let what = match words.next()? {
            "pass" => What::Pass,
            "fail" => What::Fail(code(words.next()?)?),
            "delay" => What::Delay(Duration::from_millis(words.next()?.parse().ok()?)),
            _ => return None,
        };
        let left = match words.next() {
            None => Some(1),
            Some("always") => None,
            Some(times) => Some(times.parse().ok()?),
        };
        if words.next().is_some() {
            return None;
        }
        let turns = self.turns.entry(function.to_owned()).or_default();
        turns.push_back(Turn { what, left });
        Some(())
    }

    /// What happens to the next call of the function.
    pub(crate) fn next(&mut self, function: &str) -> What {
        let Some(turns) = self.turns.get_mut(function) else {
            return What::Pass;
        };
        while let Some(turn) = turns.front_mut() {
            match &mut turn.left {
                None => return turn.what,
                Some(0) => drop(turns.pop_front()),
                Some(left) => {
                    *left -= 1;
                    return turn.what;
                }
            }
        }
        What::Pass
    }
}

/// A return value by its name in the standard, or by its number.
fn code(word: &str) -> Option<u64> {
    if let Some(hex) = word.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let (_, code) = CODES.iter().find(|(name, _)| *name == word)?;
    Some(*code)
}

/// The values that tokens come back with when something is wrong with them.
const CODES: [(&str, u64); 31] = [
    ("CKR_HOST_MEMORY", 0x2),
    ("CKR_SLOT_ID_INVALID", 0x3),
    ("CKR_GENERAL_ERROR", 0x5),
    ("CKR_FUNCTION_FAILED", 0x6),
    ("CKR_ARGUMENTS_BAD", 0x7),
    ("CKR_DATA_LEN_RANGE", 0x21),
    ("CKR_DEVICE_ERROR", 0x30),
    ("CKR_DEVICE_MEMORY", 0x31),
    ("CKR_DEVICE_REMOVED", 0x32),
    ("CKR_FUNCTION_CANCELED", 0x50),
    ("CKR_FUNCTION_NOT_SUPPORTED", 0x54),
    ("CKR_KEY_HANDLE_INVALID", 0x60),
    ("CKR_KEY_FUNCTION_NOT_PERMITTED", 0x68),
    ("CKR_MECHANISM_INVALID", 0x70),
    ("CKR_MECHANISM_PARAM_INVALID", 0x71),
    ("CKR_OBJECT_HANDLE_INVALID", 0x82),
    ("CKR_OPERATION_ACTIVE", 0x90),
    ("CKR_OPERATION_NOT_INITIALIZED", 0x91),
    ("CKR_PIN_INCORRECT", 0xa0),
    ("CKR_PIN_EXPIRED", 0xa3),
    ("CKR_PIN_LOCKED", 0xa4),
    ("CKR_SESSION_CLOSED", 0xb0),
    ("CKR_SESSION_COUNT", 0xb1),
    ("CKR_SESSION_HANDLE_INVALID", 0xb3),
    ("CKR_TOKEN_NOT_PRESENT", 0xe0),
    ("CKR_TOKEN_NOT_RECOGNIZED", 0xe1),
    ("CKR_USER_ALREADY_LOGGED_IN", 0x100),
    ("CKR_USER_NOT_LOGGED_IN", 0x101),
    ("CKR_CRYPTOKI_NOT_INITIALIZED", 0x190),
    ("CKR_CRYPTOKI_ALREADY_INITIALIZED", 0x191),
    ("CKR_VENDOR_DEFINED", 0x8000_0000),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_take_turns_in_their_order() {
        let text = "# first\nC_Sign fail CKR_DEVICE_ERROR 2\nC_Sign delay 30\n C_Sign pass 1\nC_Sign fail 0x5 always\n";
        let mut rules = Rules::parse(text).unwrap();
        let drawn: Vec<What> = (0..6).map(|_| rules.next("C_Sign")).collect();
        let (device, general) = (What::Fail(0x30), What::Fail(5));
        let delay = What::Delay(Duration::from_millis(30));
        assert_eq!(drawn, [device, device, delay, What::Pass, general, general]);
        assert_eq!(rules.next("C_Login"), What::Pass);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for line in [
            "C_Sing fail CKR_DEVICE_ERROR",
            "C_Sign fail",
            "C_Sign fail CKR_NO_SUCH",
            "C_Sign delay soon",
            "C_Sign delay 1 2 3",
            "C_Sign pass often",
            "C_Sign",
        ] {
            assert_eq!(Rules::parse(line), Err(line.to_owned()));
        }
    }
}
