//! taskseal: sign messages with keys that never leave the HSM.
pub mod certificate;
pub mod envelope;
pub mod error;
pub mod open;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod pss;
pub mod public_key;
pub mod seal;
pub mod signer;
pub mod store;

pub use certificate::{BadSignature, Certificate, CertificateError};
pub use envelope::{Envelope, EnvelopeError, Format};
pub use error::ErrorClass;
pub use open::{OpenError, Opened, Opener, Policy};
pub use public_key::{PublicKey, PublicKeyError};
pub use seal::{SealError, Sealed, Sealer};
#[cfg(feature = "software")]
pub use signer::software::{KeyError, SoftwareKey, SoftwareSigner};
pub use signer::{SignError, Signature, Signer, SigningKey};
pub use store::fs::FsCertStore;
pub use store::{CertStore, MemoryCertStore, StoreError};
