//! What a token says of itself.

use std::fmt;

/// What a token and its slot say (`C_GetTokenInfo`, PKCS#11 v3.1, section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenInfo {
    /// The slot's number. Many modules change it at any time; label and serial number last.
    pub slot_id: u64,
    /// The label, at most 32 bytes; empty while the token is not initialised.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// The model.
    pub model: String,
    /// The serial number.
    pub serial: String,
    /// What state it is in.
    pub flags: TokenFlags,
    /// Hardware version, major and minor.
    pub hardware: (u8, u8),
    /// Firmware version, major and minor.
    pub firmware: (u8, u8),
    /// Shortest PIN, in bytes.
    pub min_pin_len: usize,
    /// Longest PIN, in bytes.
    pub max_pin_len: usize,
    /// How many sessions there are, and may be.
    pub sessions: SessionCounts,
    /// Why the rest could not be read. Such a token is still found by its slot id.
    pub unreadable: Option<String>,
}

/// The flags of a token that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TokenFlags {
    /// `CKF_TOKEN_INITIALIZED`.
    pub initialized: bool,
    /// `CKF_LOGIN_REQUIRED`.
    pub login_required: bool,
    /// `CKF_USER_PIN_INITIALIZED`.
    pub user_pin_initialized: bool,
    /// `CKF_PROTECTED_AUTHENTICATION_PATH`: the PIN is entered on the token itself.
    pub protected_authentication_path: bool,
    /// `CKF_WRITE_PROTECTED`.
    pub write_protected: bool,
    /// `CKF_ERROR_STATE`: a self-test failed.
    pub error_state: bool,
    /// `CKF_USER_PIN_COUNT_LOW`: the last PIN was wrong.
    pub user_pin_count_low: bool,
    /// `CKF_USER_PIN_FINAL_TRY`: one more wrong PIN locks the token.
    pub user_pin_final_try: bool,
    /// `CKF_USER_PIN_LOCKED`.
    pub user_pin_locked: bool,
    /// `CKF_USER_PIN_TO_BE_CHANGED`.
    pub user_pin_to_be_changed: bool,
    /// `CKF_SO_PIN_FINAL_TRY`.
    pub so_pin_final_try: bool,
    /// `CKF_SO_PIN_LOCKED`.
    pub so_pin_locked: bool,
}

/// The sessions of one application, which is a process to most modules, with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SessionCounts {
    /// `ulSessionCount`: how many are open; `None` when the token does not say.
    pub open: Option<u64>,
    /// `ulMaxSessionCount`.
    pub max: SessionLimit,
    /// `ulRwSessionCount`: how many of them may write.
    pub open_writable: Option<u64>,
    /// `ulMaxRwSessionCount`.
    pub max_writable: SessionLimit,
}

/// How many sessions there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionLimit {
    /// So many.
    Most(u64),
    /// As many as one likes (`CK_EFFECTIVELY_INFINITE`).
    Unlimited,
    /// The token does not say (`CK_UNAVAILABLE_INFORMATION`).
    #[default]
    Unknown,
}

impl fmt::Display for SessionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Most(most) => write!(f, "at most {most}"),
            Self::Unlimited => f.write_str("any number"),
            Self::Unknown => f.write_str("limit not told"),
        }
    }
}

impl SessionCounts {
    /// Whether the token will refuse the next session.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!((self.open, self.max), (Some(open), SessionLimit::Most(most)) if open >= most)
    }
}

impl fmt::Display for SessionCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |open: Option<u64>| open.map_or("not told".to_owned(), |open| open.to_string());
        write!(
            f,
            "open: {} ({}); writable: {} ({})",
            count(self.open),
            self.max,
            count(self.open_writable),
            self.max_writable
        )
    }
}

impl TokenInfo {
    /// A token of which only the slot is known.
    #[must_use]
    pub fn new(slot_id: u64) -> Self {
        Self {
            slot_id,
            label: String::new(),
            manufacturer: String::new(),
            model: String::new(),
            serial: String::new(),
            flags: TokenFlags::default(),
            hardware: (0, 0),
            firmware: (0, 0),
            min_pin_len: 0,
            max_pin_len: 0,
            sessions: SessionCounts::default(),
            unreadable: None,
        }
    }

    /// Tells tokens of one module apart, across slots that change their numbers.
    pub(crate) fn identity(&self) -> String {
        if self.unreadable.is_some() || (self.serial.is_empty() && self.label.is_empty()) {
            format!("slot {}", self.slot_id)
        } else {
            format!("{}\0{}\0{}", self.manufacturer, self.serial, self.label)
        }
    }
}

impl fmt::Display for TokenInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.unreadable {
            return write!(
                f,
                "token in slot {} (it cannot be read: {reason})",
                self.slot_id
            );
        }
        if !self.flags.initialized && self.label.is_empty() {
            return write!(
                f,
                "uninitialised token in slot {} ({:?})",
                self.slot_id, self.model
            );
        }
        write!(
            f,
            "token {:?} (serial {:?}, manufacturer {:?}, model {:?}, slot {})",
            self.label, self.serial, self.manufacturer, self.model, self.slot_id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_counts_that_a_token_does_not_tell_are_no_numbers() {
        let mut counts = SessionCounts::default();
        assert_eq!(
            counts.to_string(),
            "open: not told (limit not told); writable: not told (limit not told)"
        );
        assert!(!counts.is_full());
        counts = SessionCounts {
            open: Some(3),
            max: SessionLimit::Most(3),
            open_writable: Some(1),
            max_writable: SessionLimit::Unlimited,
        };
        assert_eq!(
            counts.to_string(),
            "open: 3 (at most 3); writable: 1 (any number)"
        );
        assert!(counts.is_full());
        counts.max = SessionLimit::Most(4);
        assert!(!counts.is_full());
    }
}
