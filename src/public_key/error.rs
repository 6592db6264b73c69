//! [`PublicKeyError`]: public keys that cannot be used.

use const_oid::ObjectIdentifier;

use crate::pss::KeySizes;

/// A public key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// Another algorithm than RSA. Celery refuses these too.
    #[error("non-RSA keys are not supported; this one is {algorithm}")]
    NotRsa {
        /// Name or OID of the algorithm.
        algorithm: String,
    },
    /// The structure is no RSA public key.
    #[error("the RSA public key is malformed")]
    Malformed,
    /// The modulus is too small or too large to consider at all.
    #[error(
        "an RSA modulus of {bits} bits is refused; {} to {} bits are read",
        KeySizes::ABSOLUTE_MIN,
        KeySizes::MAX
    )]
    Size {
        /// Size of the modulus, in bits.
        bits: usize,
    },
    /// The modulus is even, so it is no product of two odd primes.
    #[error("the RSA modulus is even")]
    EvenModulus,
    /// The exponent is even, too small or too large.
    #[error("an RSA public exponent of {bits} bits is refused; odd ones of 2 to 33 bits are read")]
    Exponent {
        /// Size of the exponent, in bits.
        bits: usize,
    },
    /// An `id-RSASSA-PSS` key whose parameters no scheme here fulfils.
    #[error(
        "the RSASSA-PSS parameters of the key ask for another digest than SHA-256, SHA-384 or SHA-512, or for a mask (MGF1) with \
         another one than the digest; openssl genpkey makes such keys unless rsa_pss_keygen_mgf1_md is given beside \
         rsa_pss_keygen_md"
    )]
    Parameters,
}

/// Name and OID of an algorithm.
pub(crate) fn algorithm_name(oid: ObjectIdentifier) -> String {
    const_oid::db::DB
        .by_oid(&oid)
        .map_or_else(|| oid.to_string(), |name| format!("{name} ({oid})"))
}
