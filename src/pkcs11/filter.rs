//! [`TokenFilter`]: which token is meant.

use std::fmt;

/// Which token is meant: every attribute that is given must be the token's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenFilter {
    pub(crate) label: Option<String>,
    pub(crate) manufacturer: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) slot_id: Option<u64>,
    pub(crate) slot_description: Option<String>,
    pub(crate) slot_manufacturer: Option<String>,
}

impl fmt::Display for TokenFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("label", &self.label),
            ("manufacturer", &self.manufacturer),
            ("serial", &self.serial),
            ("model", &self.model),
            ("slot description", &self.slot_description),
            ("slot manufacturer", &self.slot_manufacturer),
        ];
        let mut parts: Vec<String> = texts
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value:?}")))
            .collect();
        parts.extend(self.slot_id.map(|slot| format!("slot {slot}")));
        if parts.is_empty() {
            return f.write_str("any attributes (none are given)");
        }
        f.write_str(&parts.join(", "))
    }
}
