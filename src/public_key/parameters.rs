//! `RSASSA-PSS-params` (RFC 4055, section 3.1), of keys that carry them and of the certificates that are made here.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{
    ID_MGF_1, ID_RSASSA_PSS, ID_SHA_256, ID_SHA_384, ID_SHA_512, RSA_ENCRYPTION,
};
use der::asn1::AnyRef;
use der::{Any, Sequence};
use x509_cert::spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

use super::error::{PublicKeyError, algorithm_name};
use crate::pss::{Digest, Scheme, SchemeError};

/// What an `id-RSASSA-PSS` key says about the signatures made with it (RFC 4055, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PssRestriction {
    pub(super) digest: Digest,
    pub(super) min_salt: u32,
}

impl PssRestriction {
    /// That of the algorithm of a key, public or private: none for `rsaEncryption`, and where there are no parameters.
    pub(crate) fn of(
        algorithm: AlgorithmIdentifierRef<'_>,
    ) -> Result<Option<Self>, PublicKeyError> {
        match algorithm.oid {
            RSA_ENCRYPTION => Ok(None),
            ID_RSASSA_PSS => Self::from_parameters(algorithm.parameters),
            other => Err(PublicKeyError::NotRsa {
                algorithm: algorithm_name(other),
            }),
        }
    }

    fn from_parameters(parameters: Option<AnyRef<'_>>) -> Result<Option<Self>, PublicKeyError> {
        let Some(parameters) = parameters else {
            return Ok(None);
        };
        let pss: PssParameters = parameters
            .decode_as()
            .map_err(|_| PublicKeyError::Malformed)?;
        let digest = pss.hash.as_ref().and_then(PssParameters::digest_of);
        let mask = pss.mask.as_ref().and_then(PssParameters::mask_digest);
        match (digest, mask) {
            (Some(digest), Some(mask)) if digest == mask && pss.trailer.unwrap_or(1) == 1 => {
                Ok(Some(Self {
                    digest,
                    min_salt: pss.salt_len.unwrap_or(20),
                }))
            }
            // The defaults are SHA-1, which is not supported.
            _ => Err(PublicKeyError::Parameters),
        }
    }
}

/// All fields explicit and optional, as they are on the wire; absent ones mean SHA-1, MGF1 with SHA-1, 20, 1.
#[derive(Sequence)]
pub(crate) struct PssParameters {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierOwned>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_len: Option<u32>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u32>,
}

impl PssParameters {
    fn digest_of(id: &AlgorithmIdentifierOwned) -> Option<Digest> {
        match id.oid {
            ID_SHA_256 => Some(Digest::Sha256),
            ID_SHA_384 => Some(Digest::Sha384),
            ID_SHA_512 => Some(Digest::Sha512),
            _ => None,
        }
    }

    fn mask_digest(id: &AlgorithmIdentifierOwned) -> Option<Digest> {
        let inner = id.parameters.as_ref().filter(|_| id.oid == ID_MGF_1)?;
        Self::digest_of(&inner.decode_as().ok()?)
    }

    /// The `AlgorithmIdentifier` of signatures made with `scheme` under a key of `bits` bits.
    pub(crate) fn algorithm(
        scheme: Scheme,
        bits: usize,
    ) -> Result<AlgorithmIdentifierOwned, SchemeError> {
        let salt_len = scheme.salt_len(bits)?;
        let encode = || -> der::Result<AlgorithmIdentifierOwned> {
            let hash = AlgorithmIdentifierOwned {
                oid: digest_oid(scheme.digest),
                // RFC 4055, 2.1: encoders write NULL, readers take both.
                parameters: Some(Any::null()),
            };
            let parameters = Self {
                mask: Some(AlgorithmIdentifierOwned {
                    oid: ID_MGF_1,
                    parameters: Some(Any::encode_from(&hash)?),
                }),
                hash: Some(hash),
                salt_len: u32::try_from(salt_len).ok(),
                trailer: None,
            };
            Ok(AlgorithmIdentifierOwned {
                oid: ID_RSASSA_PSS,
                parameters: Some(Any::encode_from(&parameters)?),
            })
        };
        encode().map_err(|_| SchemeError::KeyTooSmall { bits, scheme })
    }
}

const fn digest_oid(digest: Digest) -> ObjectIdentifier {
    match digest {
        Digest::Sha256 => ID_SHA_256,
        Digest::Sha384 => ID_SHA_384,
        Digest::Sha512 => ID_SHA_512,
    }
}
