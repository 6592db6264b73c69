//! [`PublicKey`]: the RSA public key of a certificate or of a token's key, parsed once.

mod error;
mod parameters;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use aws_lc_rs::digest as lc_digest;
use aws_lc_rs::signature::{
    ParsedPublicKey, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPssSaltLength,
};
use const_oid::db::rfc5912::RSA_ENCRYPTION;
use der::asn1::UintRef;
use der::{Decode, Encode, Sequence};
use num_bigint::BigUint;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};

pub use self::error::PublicKeyError;
#[cfg(feature = "software")]
pub(crate) use self::error::algorithm_name;
pub(crate) use self::parameters::{PssParameters, PssRestriction};
use crate::pss::{Digest, Hash, KeySizes, Salt, Scheme, SchemeError, emsa_pss_verify};

/// An RSA public key of 1024 to 8192 bits, with an odd exponent from 3 to 2^33 - 1.
///
/// Whether its size is accepted is a matter of policy ([`KeySizes`]), not of this type. Two keys are equal when modulus
/// and exponent are.
pub struct PublicKey {
    modulus: Box<[u8]>,
    exponent: Box<[u8]>,
    bits: usize,
    /// The `SubjectPublicKeyInfo` with the algorithm `rsaEncryption`.
    spki: Box<[u8]>,
    restriction: Option<PssRestriction>,
    /// One prepared key per digest and salt; each is made when it is first used, so that a store of 100,000
    /// certificates costs memory only for the signers that are seen.
    prepared: [OnceLock<Option<ParsedPublicKey>>; Digest::ALL.len() * Salt::ALL.len()],
    /// The salt that last verified: index into [`Salt::ALL`].
    last_salt: AtomicU8,
}

impl PublicKey {
    /// Reads a DER `SubjectPublicKeyInfo` (RFC 5280, 4.1.2.7) with the algorithm `rsaEncryption` or `id-RSASSA-PSS`.
    ///
    /// # Errors
    /// [`PublicKeyError`] when it is no RSA key, or one with an absurd size or exponent.
    pub fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| PublicKeyError::Malformed)?;
        let restriction = PssRestriction::of(spki.algorithm)?;
        let key = spki
            .subject_public_key
            .as_bytes()
            .ok_or(PublicKeyError::Malformed)?;
        Ok(Self::from_pkcs1(key)?.restricted(restriction))
    }

    /// The same key, for the signatures that the parameters of its algorithm allow.
    pub(crate) fn restricted(mut self, restriction: Option<PssRestriction>) -> Self {
        self.restriction = restriction;
        self
    }

    /// Reads a DER `RSAPublicKey` (RFC 8017, A.1.1).
    ///
    /// # Errors
    /// [`PublicKeyError`] when it is none, or one with an absurd size or exponent.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, PublicKeyError> {
        let RsaPublicKeyDer { modulus, exponent } =
            RsaPublicKeyDer::from_der(der).map_err(|_| PublicKeyError::Malformed)?;
        Self::from_components(modulus.as_bytes(), exponent.as_bytes())
    }

    /// Takes modulus and exponent, big-endian; leading zero bytes are ignored.
    ///
    /// # Errors
    /// [`PublicKeyError`] when the size or the exponent is absurd.
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        let modulus = strip_zeros(modulus);
        let exponent = strip_zeros(exponent);
        let bits = bit_len(modulus);
        if !(KeySizes::ABSOLUTE_MIN..=KeySizes::MAX).contains(&bits) {
            return Err(PublicKeyError::Size { bits });
        }
        if modulus.last().is_none_or(|byte| byte % 2 == 0) {
            return Err(PublicKeyError::EvenModulus);
        }
        // What aws-lc takes, and far more than any key in use has: RFC 8017 knows no bound, but verification time
        // grows with the exponent, which an attacker would choose.
        let exponent_bits = bit_len(exponent);
        if !(2..=33).contains(&exponent_bits) || exponent.last().is_none_or(|byte| byte % 2 == 0) {
            return Err(PublicKeyError::Exponent {
                bits: exponent_bits,
            });
        }
        let spki = encode_spki(modulus, exponent).map_err(|_| PublicKeyError::Malformed)?;
        Ok(Self {
            modulus: modulus.into(),
            exponent: exponent.into(),
            bits,
            spki: spki.into(),
            restriction: None,
            prepared: Default::default(),
            last_salt: AtomicU8::new(0),
        })
    }

    /// The size of the modulus in bits.
    #[must_use]
    pub const fn bits(&self) -> usize {
        self.bits
    }

    /// The length of a signature in bytes: that of the modulus.
    #[must_use]
    pub const fn signature_len(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// The modulus, big-endian, without leading zeros.
    #[must_use]
    pub fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// The public exponent, big-endian, without leading zeros.
    #[must_use]
    pub fn exponent(&self) -> &[u8] {
        &self.exponent
    }

    /// The DER `SubjectPublicKeyInfo`, always with the algorithm `rsaEncryption`.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Length in bytes of the salt of this key's signatures under `scheme`.
    ///
    /// # Errors
    /// [`SchemeError::KeyTooSmall`] when it cannot hold them; [`SchemeError::Restricted`] when it is an `id-RSASSA-PSS` key
    /// whose parameters do not allow them.
    pub fn salt_len(&self, scheme: Scheme) -> Result<usize, SchemeError> {
        let salt_len = scheme.salt_len(self.bits)?;
        match self.restriction {
            Some(PssRestriction { digest, min_salt })
                if digest != scheme.digest || salt_len < min_salt as usize =>
            {
                Err(SchemeError::Restricted {
                    digest,
                    min_salt,
                    scheme,
                })
            }
            _ => Ok(salt_len),
        }
    }

    /// Whether `signature` is this key's RSA-PSS signature of `message` under exactly `scheme`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8], scheme: Scheme) -> bool {
        signature.len() == self.signature_len()
            && self.verifies_hash(&lc_hash(scheme.digest, message), signature, scheme)
    }

    /// Like [`verifies`](Self::verifies), with any of `salts`, the one that last verified under this key first. Says
    /// which it was. The message is hashed once.
    pub(crate) fn verifies_any(
        &self,
        message: &[u8],
        signature: &[u8],
        digest: Digest,
        salts: &[Salt],
    ) -> Option<Salt> {
        if signature.len() != self.signature_len() {
            return None;
        }
        let hash = lc_hash(digest, message);
        // A hint only: it saves a second try, and no outcome depends on it.
        let last = Salt::ALL.get(usize::from(self.last_salt.load(Ordering::Relaxed)));
        let first = salts.iter().filter(|salt| Some(*salt) == last);
        let others = salts.iter().filter(|salt| Some(*salt) != last);
        let found = first
            .chain(others)
            .find(|salt| self.verifies_hash(&hash, signature, Scheme::new(digest, **salt)))?;
        if Some(found) != last {
            self.last_salt.store(salt_index(*found), Ordering::Relaxed);
        }
        Some(*found)
    }

    pub(crate) fn verifies_hash(
        &self,
        hash: &lc_digest::Digest,
        signature: &[u8],
        scheme: Scheme,
    ) -> bool {
        let Ok(salt_len) = self.salt_len(scheme) else {
            return false;
        };
        // aws-lc-rs refuses PSS under keys below 2048 bits; only the policy that is named dangerous asks for it.
        if self.bits < KeySizes::MIN {
            return self.verifies_small(hash, signature, scheme, salt_len);
        }
        self.prepared(scheme)
            .is_some_and(|key| key.verify_digest_sig(hash, signature).is_ok())
    }

    fn prepared(&self, scheme: Scheme) -> Option<&ParsedPublicKey> {
        let slot = scheme.digest as usize * Salt::ALL.len() + usize::from(salt_index(scheme.salt));
        self.prepared
            .get(slot)?
            .get_or_init(|| ParsedPublicKey::new(parameters(scheme), &self.spki).ok())
            .as_ref()
    }

    /// RSASSA-PSS-VERIFY (RFC 8017, 8.1.2) for keys that are too small for `aws-lc-rs`.
    fn verifies_small(
        &self,
        hash: &lc_digest::Digest,
        signature: &[u8],
        scheme: Scheme,
        salt_len: usize,
    ) -> bool {
        let modulus = BigUint::from_bytes_be(&self.modulus);
        let signature = BigUint::from_bytes_be(signature);
        if signature >= modulus {
            return false;
        }
        let message = signature.modpow(&BigUint::from_bytes_be(&self.exponent), &modulus);
        let bytes = message.to_bytes_be();
        let Some(zeros) = self.signature_len().checked_sub(bytes.len()) else {
            return false;
        };
        let block: Vec<u8> = std::iter::repeat_n(0, zeros).chain(bytes).collect();
        Hash::from_slice(scheme.digest, hash.as_ref())
            .is_some_and(|hash| emsa_pss_verify(&hash, &block, salt_len, self.bits))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.modulus == other.modulus && self.exponent == other.exponent
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey(RSA, {} bits)", self.bits)
    }
}

impl Clone for PublicKey {
    fn clone(&self) -> Self {
        Self {
            modulus: self.modulus.clone(),
            exponent: self.exponent.clone(),
            bits: self.bits,
            spki: self.spki.clone(),
            restriction: self.restriction,
            prepared: Default::default(),
            last_salt: AtomicU8::new(self.last_salt.load(Ordering::Relaxed)),
        }
    }
}

/// `RSAPublicKey` (RFC 8017, A.1.1).
#[derive(Sequence)]
struct RsaPublicKeyDer<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

fn encode_spki(modulus: &[u8], exponent: &[u8]) -> der::Result<Vec<u8>> {
    let key = RsaPublicKeyDer {
        modulus: UintRef::new(modulus)?,
        exponent: UintRef::new(exponent)?,
    };
    SubjectPublicKeyInfoOwned {
        algorithm: x509_cert::spki::AlgorithmIdentifier {
            oid: RSA_ENCRYPTION,
            parameters: Some(der::Any::null()),
        },
        subject_public_key: der::asn1::BitString::from_bytes(&key.to_der()?)?,
    }
    .to_der()
}

fn parameters(scheme: Scheme) -> &'static RsaParameters {
    use RsaPssSaltLength::{Digest as SameAsDigest, Max};
    match (scheme.digest, scheme.salt) {
        (Digest::Sha256, Salt::DigestLength) => {
            &const { RSA_PSS_2048_8192_SHA256.with_pss_salt_length(SameAsDigest) }
        }
        (Digest::Sha384, Salt::DigestLength) => {
            &const { RSA_PSS_2048_8192_SHA384.with_pss_salt_length(SameAsDigest) }
        }
        (Digest::Sha512, Salt::DigestLength) => {
            &const { RSA_PSS_2048_8192_SHA512.with_pss_salt_length(SameAsDigest) }
        }
        (Digest::Sha256, Salt::Maximum) => {
            &const { RSA_PSS_2048_8192_SHA256.with_pss_salt_length(Max) }
        }
        (Digest::Sha384, Salt::Maximum) => {
            &const { RSA_PSS_2048_8192_SHA384.with_pss_salt_length(Max) }
        }
        (Digest::Sha512, Salt::Maximum) => {
            &const { RSA_PSS_2048_8192_SHA512.with_pss_salt_length(Max) }
        }
    }
}

/// Hashes with aws-lc, whose verification takes only its own kind of hash.
pub(crate) fn lc_hash(digest: Digest, message: &[u8]) -> lc_digest::Digest {
    let algorithm = match digest {
        Digest::Sha256 => &lc_digest::SHA256,
        Digest::Sha384 => &lc_digest::SHA384,
        Digest::Sha512 => &lc_digest::SHA512,
    };
    lc_digest::digest(algorithm, message)
}

const fn salt_index(salt: Salt) -> u8 {
    match salt {
        Salt::DigestLength => 0,
        Salt::Maximum => 1,
    }
}

pub(crate) fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    bytes.split_at(start).1
}

fn bit_len(stripped: &[u8]) -> usize {
    stripped.first().map_or(0, |first| {
        stripped.len() * 8 - first.leading_zeros() as usize
    })
}
