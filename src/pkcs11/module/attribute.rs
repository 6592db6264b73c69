//! Attributes of objects (PKCS#11 v3.1, section 4).

use cryptoki::object as co;
use cryptoki::types::Ulong;

/// One attribute of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Which one, `CKA_…`.
    pub kind: AttributeKind,
    /// Its value.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// `CK_BBOOL`.
    Flag(bool),
    /// Bytes or text.
    Bytes(Vec<u8>),
    /// A number.
    Number(u64),
    /// `CKA_CLASS`.
    Class(ObjectClass),
    /// `CKA_KEY_TYPE`.
    KeyType(KeyType),
    /// `CKA_CERTIFICATE_TYPE`: X.509, or another.
    X509(bool),
}

/// Classes of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectClass {
    /// `CKO_PRIVATE_KEY`.
    PrivateKey,
    /// `CKO_PUBLIC_KEY`.
    PublicKey,
    /// `CKO_CERTIFICATE`.
    Certificate,
    /// `CKO_SECRET_KEY`.
    SecretKey,
    /// Any other.
    Other,
}

/// Types of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// `CKK_RSA`.
    Rsa,
    /// `CKK_AES`.
    Aes,
    /// `CKK_GENERIC_SECRET`.
    GenericSecret,
    /// `CKK_SHA256_HMAC`.
    Sha256Hmac,
    /// Any other.
    Other,
}

macro_rules! attribute_kinds {
    ($($group:ident { $($kind:ident),* $(,)? })*) => {
        /// The attributes in use, by their names in the standard (`CKA_…`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum AttributeKind {
            Class,
            KeyType,
            CertificateType,
            ModulusBits,
            ValueLen,
            $($($kind,)*)*
        }

        impl AttributeKind {
            pub(super) const fn to_crate(self) -> co::AttributeType {
                match self {
                    Self::Class => co::AttributeType::Class,
                    Self::KeyType => co::AttributeType::KeyType,
                    Self::CertificateType => co::AttributeType::CertificateType,
                    Self::ModulusBits => co::AttributeType::ModulusBits,
                    Self::ValueLen => co::AttributeType::ValueLen,
                    $($(Self::$kind => co::AttributeType::$kind,)*)*
                }
            }
        }

        impl Attribute {
            pub(super) fn from_crate(attribute: co::Attribute) -> Option<Self> {
                let (kind, value) = match attribute {
                    co::Attribute::Class(class) => {
                        (AttributeKind::Class, AttributeValue::Class(ObjectClass::from_crate(class)))
                    }
                    co::Attribute::KeyType(key) => {
                        (AttributeKind::KeyType, AttributeValue::KeyType(KeyType::from_crate(key)))
                    }
                    co::Attribute::CertificateType(kind) => (
                        AttributeKind::CertificateType,
                        AttributeValue::X509(kind == co::CertificateType::X_509),
                    ),
                    co::Attribute::ModulusBits(bits) => {
                        (AttributeKind::ModulusBits, AttributeValue::Number(*bits))
                    }
                    co::Attribute::ValueLen(len) => {
                        (AttributeKind::ValueLen, AttributeValue::Number(*len))
                    }
                    $($(co::Attribute::$kind(value) => {
                        (AttributeKind::$kind, AttributeValue::$group(value))
                    })*)*
                    _ => return None,
                };
                Some(Self { kind, value })
            }

            pub(super) fn to_crate(&self) -> Option<co::Attribute> {
                Some(match (self.kind, &self.value) {
                    (AttributeKind::Class, AttributeValue::Class(class)) => {
                        co::Attribute::Class(class.to_crate()?)
                    }
                    (AttributeKind::KeyType, AttributeValue::KeyType(key)) => {
                        co::Attribute::KeyType(key.to_crate()?)
                    }
                    (AttributeKind::CertificateType, AttributeValue::X509(true)) => {
                        co::Attribute::CertificateType(co::CertificateType::X_509)
                    }
                    (AttributeKind::ModulusBits, AttributeValue::Number(bits)) => {
                        co::Attribute::ModulusBits(Ulong::new(*bits))
                    }
                    (AttributeKind::ValueLen, AttributeValue::Number(len)) => {
                        co::Attribute::ValueLen(Ulong::new(*len))
                    }
                    $($((AttributeKind::$kind, AttributeValue::$group(value)) => {
                        co::Attribute::$kind(value.clone())
                    })*)*
                    _ => return None,
                })
            }
        }
    };
}

attribute_kinds! {
    Flag {
        Token, Private, Sensitive, Extractable, AlwaysSensitive, NeverExtractable, AlwaysAuthenticate, Local, Sign,
        Verify, Encrypt, Decrypt, Wrap, Unwrap,
    }
    Bytes { Label, Id, Subject, Issuer, SerialNumber, Value, Modulus, PublicExponent }
}

impl ObjectClass {
    fn from_crate(class: co::ObjectClass) -> Self {
        match class {
            co::ObjectClass::PRIVATE_KEY => Self::PrivateKey,
            co::ObjectClass::PUBLIC_KEY => Self::PublicKey,
            co::ObjectClass::CERTIFICATE => Self::Certificate,
            co::ObjectClass::SECRET_KEY => Self::SecretKey,
            _ => Self::Other,
        }
    }

    const fn to_crate(self) -> Option<co::ObjectClass> {
        match self {
            Self::PrivateKey => Some(co::ObjectClass::PRIVATE_KEY),
            Self::PublicKey => Some(co::ObjectClass::PUBLIC_KEY),
            Self::Certificate => Some(co::ObjectClass::CERTIFICATE),
            Self::SecretKey => Some(co::ObjectClass::SECRET_KEY),
            Self::Other => None,
        }
    }
}

impl KeyType {
    fn from_crate(key: co::KeyType) -> Self {
        match key {
            co::KeyType::RSA => Self::Rsa,
            co::KeyType::AES => Self::Aes,
            co::KeyType::GENERIC_SECRET => Self::GenericSecret,
            co::KeyType::SHA256_HMAC => Self::Sha256Hmac,
            _ => Self::Other,
        }
    }

    const fn to_crate(self) -> Option<co::KeyType> {
        match self {
            Self::Rsa => Some(co::KeyType::RSA),
            Self::Aes => Some(co::KeyType::AES),
            Self::GenericSecret => Some(co::KeyType::GENERIC_SECRET),
            Self::Sha256Hmac => Some(co::KeyType::SHA256_HMAC),
            Self::Other => None,
        }
    }
}

impl Attribute {
    /// A flag.
    #[must_use]
    pub const fn flag(kind: AttributeKind, value: bool) -> Self {
        Self {
            kind,
            value: AttributeValue::Flag(value),
        }
    }

    /// Bytes or text.
    #[must_use]
    pub fn bytes(kind: AttributeKind, value: &[u8]) -> Self {
        Self {
            kind,
            value: AttributeValue::Bytes(value.to_vec()),
        }
    }

    /// `CKA_CLASS`.
    #[must_use]
    pub const fn class(class: ObjectClass) -> Self {
        Self {
            kind: AttributeKind::Class,
            value: AttributeValue::Class(class),
        }
    }

    /// `CKA_KEY_TYPE` = `CKK_RSA`.
    #[must_use]
    pub const fn rsa() -> Self {
        Self::key_type(KeyType::Rsa)
    }

    /// `CKA_KEY_TYPE`.
    #[must_use]
    pub const fn key_type(key: KeyType) -> Self {
        Self {
            kind: AttributeKind::KeyType,
            value: AttributeValue::KeyType(key),
        }
    }

    /// A number.
    #[must_use]
    pub const fn number(kind: AttributeKind, value: u64) -> Self {
        Self {
            kind,
            value: AttributeValue::Number(value),
        }
    }

    /// `CKA_CERTIFICATE_TYPE` = `CKC_X_509`.
    #[must_use]
    pub const fn x509() -> Self {
        Self {
            kind: AttributeKind::CertificateType,
            value: AttributeValue::X509(true),
        }
    }
}

/// What `C_GetAttributeValue` showed. An attribute that is absent here is unknown, which is not the same as false.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(pub Vec<Attribute>);

impl Attributes {
    /// A flag.
    #[must_use]
    pub fn flag(&self, kind: AttributeKind) -> Option<bool> {
        match self.value(kind)? {
            AttributeValue::Flag(value) | AttributeValue::X509(value) => Some(*value),
            _ => None,
        }
    }

    /// `CKA_KEY_TYPE`.
    #[must_use]
    pub fn key_type(&self) -> Option<KeyType> {
        match self.value(AttributeKind::KeyType)? {
            AttributeValue::KeyType(key) => Some(*key),
            _ => None,
        }
    }

    /// A number.
    #[must_use]
    pub fn number(&self, kind: AttributeKind) -> Option<u64> {
        match self.value(kind)? {
            AttributeValue::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self, kind: AttributeKind) -> Option<&[u8]> {
        match self.value(kind)? {
            AttributeValue::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// Text; what is not UTF-8 shows as U+FFFD.
    #[must_use]
    pub fn text(&self, kind: AttributeKind) -> Option<String> {
        self.bytes(kind)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&self, kind: AttributeKind) -> Option<&AttributeValue> {
        self.0
            .iter()
            .find(|attribute| attribute.kind == kind)
            .map(|attribute| &attribute.value)
    }
}
