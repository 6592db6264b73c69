//! taskseal: sign messages with keys that never leave the HSM.
pub mod certificate;
pub mod error;
pub mod pss;
pub mod public_key;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod signer;

pub use certificate::{Certificate, CertificateError};
pub use public_key::PublicKey;
pub use signer::{SignError, Signature, Signer, SigningKey};
#[cfg(feature = "software")]
pub use signer::software::{KeyError, SoftwareKey, SoftwareSigner};
