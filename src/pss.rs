//! RSASSA-PSS (RFC 8017, section 8.1): digest and salt length make the signature scheme, the size of the key its limits.
//!
//! MGF1 always uses the digest of the scheme, and the trailer field is `0xbc`, as in Celery, COSE and X.509 practice.

use std::fmt;
use std::str::FromStr;

use sha2::digest::DynDigest;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroize;

/// A digest for RSA-PSS; MGF1 uses the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Digest {
    /// SHA-256, 32 bytes. Celery's default (`security_digest = 'sha256'`).
    #[default]
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Digest {
    /// Every digest that is supported.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Length of the digest in bytes (`hLen`).
    #[must_use]
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Celery's name for it, as in `security_digest`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Hashes `message` on the host.
    #[must_use]
    pub fn hash(self, message: &[u8]) -> Hash {
        self.hash_parts(&[message])
    }

    /// Hashes the concatenation of `parts` on the host.
    #[must_use]
    pub(crate) fn hash_parts(self, parts: &[&[u8]]) -> Hash {
        fn run(mut state: impl DynDigest, parts: &[&[u8]], out: &mut [u8]) {
            for part in parts {
                state.update(part);
            }
            // The slice has the digest's length by construction, the one thing this can fail on.
            let done = state.finalize_into(out);
            debug_assert!(done.is_ok());
        }
        let mut bytes = [0; Hash::MAX];
        let (out, _) = bytes.split_at_mut(self.output_len());
        match self {
            Self::Sha256 => run(Sha256::default(), parts, out),
            Self::Sha384 => run(Sha384::default(), parts, out),
            Self::Sha512 => run(Sha512::default(), parts, out),
        }
        Hash {
            digest: self,
            bytes,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Digest {
    type Err = SchemeError;

    /// Takes `sha256`, `sha384` and `sha512` in any case, as Celery does.
    fn from_str(text: &str) -> Result<Self, SchemeError> {
        Self::ALL
            .into_iter()
            .find(|digest| digest.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| SchemeError::UnknownDigest(text.into()))
    }
}

/// The hash of a message, with the digest that made it.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    digest: Digest,
    bytes: [u8; Self::MAX],
}

impl Hash {
    const MAX: usize = 64;

    pub(crate) fn from_slice(digest: Digest, hash: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes
            .get_mut(..hash.len())
            .filter(|_| hash.len() == digest.output_len())?
            .copy_from_slice(hash);
        Some(Self { digest, bytes })
    }

    /// The digest that made it.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes, [`Digest::output_len`] of them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.split_at(self.digest.output_len()).0
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash of a body with little entropy tells the body, so it stays out of logs.
        write!(f, "Hash({})", self.digest)
    }
}

/// How long the random salt of a signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Salt {
    /// As long as the digest (`sLen = hLen`): what FIPS tokens allow, what COSE `PS256` is, and what any Celery that
    /// speaks the present format accepts when its `cryptography` is 42 or newer.
    #[default]
    DigestLength,
    /// As long as the key allows (`sLen = emLen - hLen - 2`): what stock Celery signs with, and all that a Celery with
    /// `cryptography` 41 or older accepts.
    Maximum,
}

impl Salt {
    /// Both lengths, the default first.
    pub const ALL: [Self; 2] = [Self::DigestLength, Self::Maximum];

    /// Its name on the command line: `digest` or `max`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DigestLength => "digest",
            Self::Maximum => "max",
        }
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Salt {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        Self::ALL
            .into_iter()
            .find(|salt| salt.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| SchemeError::UnknownSalt(text.into()))
    }
}

/// An RSA-PSS signature scheme: digest, MGF1 with the same digest, salt length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Scheme {
    /// The digest of message and mask.
    pub digest: Digest,
    /// The length of the salt.
    pub salt: Salt,
}

impl Scheme {
    /// A scheme of this digest and salt.
    #[must_use]
    pub const fn new(digest: Digest, salt: Salt) -> Self {
        Self { digest, salt }
    }

    /// Length in bytes of the salt under a key of `bits` bits.
    ///
    /// # Errors
    /// [`SchemeError::KeyTooSmall`] when the encoded message does not hold digest and salt (RFC 8017, 9.1.1, step 3).
    pub fn salt_len(self, bits: usize) -> Result<usize, SchemeError> {
        let room = em_len(bits)
            .checked_sub(self.digest.output_len() + 2)
            .ok_or(SchemeError::KeyTooSmall { bits, scheme: self })?;
        match self.salt {
            Salt::Maximum => Ok(room),
            Salt::DigestLength if self.digest.output_len() <= room => Ok(self.digest.output_len()),
            Salt::DigestLength => Err(SchemeError::KeyTooSmall { bits, scheme: self }),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RSA-PSS {}, salt {}", self.digest, self.salt)
    }
}

/// Which RSA modulus sizes are taken, in bits. The default is 2048 to 8192.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySizes {
    min: usize,
}

impl KeySizes {
    /// The smallest size that is taken by default, in bits.
    pub const MIN: usize = 2048;
    /// The largest size, in bits. Larger keys cost a verifier more than they bring.
    pub const MAX: usize = 8192;
    /// The smallest size that even [`KeySizes::dangerous_allow_small`] takes, in bits.
    pub const ABSOLUTE_MIN: usize = 1024;

    /// Takes keys from `min_bits` on (never less than [`KeySizes::ABSOLUTE_MIN`]), although RSA below 2048 bits can be
    /// broken. For reading what an old system signed while it is being replaced.
    #[must_use]
    pub const fn dangerous_allow_small(min_bits: usize) -> Self {
        Self {
            min: if min_bits < Self::ABSOLUTE_MIN {
                Self::ABSOLUTE_MIN
            } else {
                min_bits
            },
        }
    }

    /// The smallest size that is taken, in bits.
    #[must_use]
    pub const fn min_bits(self) -> usize {
        self.min
    }

    /// Checks the size of a key.
    ///
    /// # Errors
    /// [`SchemeError::KeySize`] when it is not taken.
    pub const fn check(self, bits: usize) -> Result<(), SchemeError> {
        if bits < self.min || bits > Self::MAX {
            return Err(SchemeError::KeySize {
                bits,
                min: self.min,
            });
        }
        Ok(())
    }
}

impl Default for KeySizes {
    fn default() -> Self {
        Self { min: Self::MIN }
    }
}

/// A scheme that does not exist here, or does not fit a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemeError {
    /// No such digest.
    #[error("digest {0} is not supported; use sha256, sha384 or sha512")]
    UnknownDigest(crate::error::Untrusted),
    /// No such salt length.
    #[error("salt {0} is not supported; use digest or max")]
    UnknownSalt(crate::error::Untrusted),
    /// The key is outside the range that the policy takes.
    #[error(
        "an RSA key of {bits} bits is refused; keys of {min} to {} bits are accepted",
        KeySizes::MAX
    )]
    KeySize {
        /// Size of the key, in bits.
        bits: usize,
        /// The smallest size that the policy takes, in bits.
        min: usize,
    },
    /// The key is an `id-RSASSA-PSS` one whose parameters do not allow this scheme.
    #[error(
        "the key is restricted to RSA-PSS {digest} with a salt of at least {min_salt} bytes; {scheme} is not that"
    )]
    Restricted {
        /// The digest that it is for.
        digest: Digest,
        /// The shortest salt that it is for, in bytes.
        min_salt: u32,
        /// The scheme that is not allowed.
        scheme: Scheme,
    },
    /// The key cannot hold a signature of this scheme.
    #[error("an RSA key of {bits} bits is too small for {scheme}")]
    KeyTooSmall {
        /// Size of the key, in bits.
        bits: usize,
        /// The scheme that does not fit.
        scheme: Scheme,
    },
}

/// Length in bytes of the encoded message under a key of `bits` bits: `ceil((bits - 1) / 8)`.
pub(crate) const fn em_len(bits: usize) -> usize {
    bits.saturating_sub(1).div_ceil(8)
}

/// EMSA-PSS-ENCODE (RFC 8017, 9.1.1) of a hash, for a key of `bits` bits, as a block of the modulus' length: what
/// a token with `CKM_RSA_X_509` signs when it refuses the wanted salt.
///
/// # Errors
/// [`SchemeError::KeyTooSmall`] when digest and salt do not fit.
#[cfg_attr(not(feature = "pkcs11"), allow(dead_code))]
pub(crate) fn emsa_pss_encode(
    hash: &Hash,
    salt: &[u8],
    bits: usize,
) -> Result<Vec<u8>, SchemeError> {
    let digest = hash.digest();
    let em_len = em_len(bits);
    let h_len = digest.output_len();
    let db_len = em_len
        .checked_sub(h_len + 1)
        .filter(|db_len| *db_len > salt.len())
        .ok_or(SchemeError::KeyTooSmall {
            bits,
            scheme: Scheme::new(digest, Salt::DigestLength),
        })?;
    let h = digest.hash_parts(&[&[0; 8], hash.as_bytes(), salt]);
    // DB = PS || 0x01 || salt, masked.
    let mut db = vec![0; db_len - salt.len() - 1];
    db.push(0x01);
    db.extend_from_slice(salt);
    mgf1_xor(digest, h.as_bytes(), &mut db);
    clear_top_bits(&mut db, 8 * em_len - (bits - 1));
    // The modulus may be one byte longer than the encoded message.
    let mut block = vec![0; bits.div_ceil(8) - em_len];
    block.extend_from_slice(&db);
    block.extend_from_slice(h.as_bytes());
    block.push(0xbc);
    db.zeroize();
    Ok(block)
}

/// EMSA-PSS-VERIFY (RFC 8017, 9.1.2) of a block of the modulus' length against a hash, with a salt of exactly `salt_len`
/// bytes. Public data on both sides, so nothing here needs constant time.
pub(crate) fn emsa_pss_verify(hash: &Hash, block: &[u8], salt_len: usize, bits: usize) -> bool {
    let digest = hash.digest();
    let em_len = em_len(bits);
    let Some((head, em)) = block.len().checked_sub(em_len).map(|at| block.split_at(at)) else {
        return false;
    };
    let Some(db_len) = em_len
        .checked_sub(digest.output_len() + 1)
        .filter(|len| *len > salt_len)
    else {
        return false;
    };
    let (masked_db, rest) = em.split_at(db_len);
    let Some((0xbc, h)) = rest.split_last().map(|(trailer, h)| (*trailer, h)) else {
        return false;
    };
    let unused = 8 * em_len - (bits - 1);
    let mut db = masked_db.to_vec();
    clear_top_bits(&mut db, unused);
    if head.iter().any(|byte| *byte != 0) || db != masked_db {
        return false;
    }
    mgf1_xor(digest, h, &mut db);
    clear_top_bits(&mut db, unused);
    let (padding, salt) = db.split_at(db_len - salt_len);
    let Some((0x01, zeros)) = padding.split_last().map(|(one, zeros)| (*one, zeros)) else {
        return false;
    };
    zeros.iter().all(|byte| *byte == 0)
        && digest
            .hash_parts(&[&[0; 8], hash.as_bytes(), salt])
            .as_bytes()
            == h
}

/// XORs the MGF1 mask (RFC 8017, B.2.1) of `seed` onto `data`.
fn mgf1_xor(digest: Digest, seed: &[u8], data: &mut [u8]) {
    for (counter, chunk) in (0_u32..).zip(data.chunks_mut(digest.output_len())) {
        let mask = digest.hash_parts(&[seed, &counter.to_be_bytes()]);
        for (byte, mask) in chunk.iter_mut().zip(mask.as_bytes()) {
            *byte ^= mask;
        }
    }
}

/// Clears the topmost `bits` (0 to 8) bits of the first byte.
fn clear_top_bits(data: &mut [u8], bits: usize) {
    if let Some(first) = data.first_mut() {
        *first &= u8::try_from(0xff_u32 >> bits).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `emLen - hLen - 2` that stock Celery's signatures were measured to have.
    #[test]
    fn maximum_salt_lengths() {
        let lengths = |bits| {
            Digest::ALL.map(|digest| Scheme::new(digest, Salt::Maximum).salt_len(bits).unwrap())
        };
        assert_eq!(lengths(1024), [94, 78, 62]);
        assert_eq!(lengths(2048), [222, 206, 190]);
        assert_eq!(lengths(3072), [350, 334, 318]);
        assert_eq!(lengths(4096), [478, 462, 446]);
        assert_eq!(lengths(1025)[0], 94);
        assert_eq!(lengths(2050)[0], 223);
    }

    #[test]
    fn digest_salt_needs_room() {
        let scheme = Scheme::new(Digest::Sha512, Salt::DigestLength);
        assert_eq!(scheme.salt_len(2048).unwrap(), 64);
        assert_eq!(
            scheme.salt_len(1024),
            Err(SchemeError::KeyTooSmall { bits: 1024, scheme })
        );
        assert!(
            Scheme::new(Digest::Sha512, Salt::Maximum)
                .salt_len(512)
                .is_err()
        );
    }

    #[test]
    fn hashes_are_the_standard_ones() {
        let hex = |hash: Hash| {
            hash.as_bytes()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hex(Digest::Sha256.hash(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(hex(Digest::Sha384.hash(b"abc")).starts_with("cb00753f45a35e8bb5a03d699ac65007"));
        assert!(hex(Digest::Sha512.hash(b"abc")).starts_with("ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn encode_and_verify_agree_for_every_bit_length_class() {
        for bits in [2048, 2049, 2050, 2055, 2056, 3072] {
            for digest in Digest::ALL {
                let hash = digest.hash(b"message");
                let salt = vec![7; digest.output_len()];
                let block = emsa_pss_encode(&hash, &salt, bits).unwrap();
                assert_eq!(block.len(), bits.div_ceil(8));
                assert!(emsa_pss_verify(&hash, &block, salt.len(), bits));
                assert!(!emsa_pss_verify(
                    &digest.hash(b"messagf"),
                    &block,
                    salt.len(),
                    bits
                ));
                assert!(!emsa_pss_verify(&hash, &block, salt.len() - 1, bits));
                for at in 0..block.len() {
                    let mut bad = block.clone();
                    bad[at] ^= 0x80;
                    assert!(
                        !emsa_pss_verify(&hash, &bad, salt.len(), bits),
                        "{bits} {at}"
                    );
                }
            }
        }
        assert!(emsa_pss_encode(&Digest::Sha512.hash(b""), &[0; 64], 1024).is_err());
        assert!(!emsa_pss_verify(
            &Digest::Sha512.hash(b""),
            &[0; 3],
            64,
            1024
        ));
    }

    #[test]
    fn names_parse_back() {
        for digest in Digest::ALL {
            assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
        for salt in Salt::ALL {
            assert_eq!(salt.to_string().parse::<Salt>().unwrap(), salt);
        }
        assert_eq!("SHA512".parse::<Digest>().unwrap(), Digest::Sha512);
        assert!(
            "md5"
                .parse::<Digest>()
                .unwrap_err()
                .to_string()
                .contains("md5")
        );
    }

    #[test]
    fn small_keys_only_by_the_dangerous_policy() {
        assert!(KeySizes::default().check(2048).is_ok());
        assert!(KeySizes::default().check(2047).is_err());
        assert!(KeySizes::default().check(8193).is_err());
        assert!(KeySizes::dangerous_allow_small(1024).check(1024).is_ok());
        assert!(KeySizes::dangerous_allow_small(0).check(1023).is_err());
    }
}
