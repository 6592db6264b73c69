//! What a token tells of its keys.

use std::fmt;

use super::module::KeyType;
use crate::hex::hex;
use crate::public_key::PublicKey;

/// A private key on a token. What the token does not tell is `None`, which is not the same as `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// Whether it is an RSA key.
    pub is_rsa: Option<bool>,
    /// The public half, if it can be read and is supported: from the key, from the public key beside it, or from a
    /// certificate on the token that has its modulus.
    pub public_key: Option<PublicKey>,
    /// `CKA_MODULUS`, big-endian and without leading zeros. Some tokens tell it and not the exponent.
    pub modulus: Option<Vec<u8>>,
    /// `CKA_SENSITIVE`: its value cannot be read.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`: it can be wrapped and taken out.
    pub extractable: Option<bool>,
    /// `CKA_ALWAYS_SENSITIVE`. Some tokens report it wrongly.
    pub always_sensitive: Option<bool>,
    /// `CKA_NEVER_EXTRACTABLE`. Some tokens report it wrongly.
    pub never_extractable: Option<bool>,
    /// `CKA_ALWAYS_AUTHENTICATE`: it wants a login for each signature.
    pub always_authenticate: Option<bool>,
    /// `CKA_LOCAL`: it was generated on the token. Some tokens report it wrongly.
    pub local: Option<bool>,
    /// `CKA_SIGN`.
    pub sign: Option<bool>,
    /// How many X.509 certificates on the token have its public half. Only [`list_keys`](super::list_keys) counts them.
    pub certificates: usize,
}

impl KeyInfo {
    /// Size of the modulus in bits, if it is known.
    #[must_use]
    pub fn bits(&self) -> Option<usize> {
        self.public_key.as_ref().map(PublicKey::bits)
    }

    /// Whether that is its public half, as far as the token tells it: `None` when it tells nothing.
    #[must_use]
    pub fn is_half_of(&self, public_key: &PublicKey) -> Option<bool> {
        match (&self.public_key, &self.modulus) {
            (Some(own), _) => Some(own == public_key),
            (None, Some(modulus)) => Some(modulus == public_key.modulus()),
            (None, None) => None,
        }
    }

    /// Label and id, as errors show them.
    pub(super) fn name(&self) -> String {
        object_name(&self.label, &self.id)
    }

    /// The id in lower-case hexadecimal.
    #[must_use]
    pub fn id_hex(&self) -> String {
        hex(&self.id)
    }
}

impl fmt::Display for KeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&object_name(&self.label, &self.id))?;
        match (self.is_rsa, self.bits()) {
            (Some(false), _) => f.write_str(", not RSA"),
            (_, Some(bits)) => write!(f, ", RSA {bits}"),
            (_, None) => Ok(()),
        }
    }
}

/// A secret key on a token. What the token does not tell is `None`, which is not the same as `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretKeyInfo {
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    pub(super) key_type: Option<KeyType>,
    /// `CKA_VALUE_LEN`, in bytes.
    pub len: Option<u64>,
    /// `CKA_SENSITIVE`: its value cannot be read.
    pub sensitive: Option<bool>,
    /// `CKA_EXTRACTABLE`: it can be wrapped and taken out.
    pub extractable: Option<bool>,
    /// `CKA_LOCAL`: it was generated on the token. Some tokens report it wrongly.
    pub local: Option<bool>,
}

impl SecretKeyInfo {
    /// What it is, as a word: `AES`, `generic secret`, or `other`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.key_type {
            Some(KeyType::Aes) => "AES",
            Some(KeyType::GenericSecret | KeyType::Sha256Hmac) => "generic secret",
            _ => "other",
        }
    }

    /// The id in lower-case hexadecimal.
    #[must_use]
    pub fn id_hex(&self) -> String {
        hex(&self.id)
    }

    pub(super) const fn is_hmac_key(&self) -> bool {
        matches!(
            self.key_type,
            Some(KeyType::GenericSecret | KeyType::Sha256Hmac)
        )
    }

    pub(super) fn name(&self) -> String {
        object_name(&self.label, &self.id)
    }
}

impl fmt::Display for SecretKeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.name(), self.kind())
    }
}

/// Label and id of an object, as errors and logs show them.
pub(crate) fn object_name(label: &str, id: &[u8]) -> String {
    format!(
        "{label:?} (id {})",
        if id.is_empty() {
            "empty".to_owned()
        } else {
            hex(id)
        }
    )
}
