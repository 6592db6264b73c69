//! taskseal signs messages with RSA-PSS keys that never leave the HSM, packs them as Celery's `auth` serializer does, and
//! opens them again with a store of X.509 certificates. A stock Celery opens what taskseal seals, and the other way round.
//!
//! # Seal and open
//!
//! ```
//! use std::sync::Arc;
//! use taskseal::{FsCertStore, Opener, Sealer};
//! # use taskseal::{Certificate, SoftwareKey, SoftwareSigner, pss::Scheme};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let key = SoftwareKey::from_pem(include_bytes!("../docs/examples/worker.key"), None, Scheme::default())?;
//! # let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
//! # let signer = SoftwareSigner::new(key, certificate)?;
//! // `signer`: a Pkcs11Signer, or whatever else implements Signer.
//! let sealer = Sealer::new(Arc::new(signer));
//! let sealed = sealer.seal(&(["Alice"], {}, {}))?;
//!
//! // On the other side: everything that is not signed by a certificate of the store is refused.
//! let opener = Opener::new(FsCertStore::open("docs/examples/*.pem")?);
//! let opened = opener.open_message(sealed.content_type(), sealed.as_bytes())?;
//! assert_eq!(opened.signer().id(), "Example CA worker-7 7");
//! let (args, (), ()): ([String; 1], (), ()) = opened.json()?;
//! assert_eq!(args, ["Alice"]);
//! # Ok(())
//! # }
//! ```
//!
//! # The surface
//!
//! * **Sealing**: [`Sealer`] = a [`Signer`] + a [`Format`] + what the bodies are. A signer gets the message, never a digest.
//! * **Signers**: [`Pkcs11Signer`] (feature `pkcs11`), whose key is an object on a token, and [`SoftwareSigner`] (feature
//!   `software`), whose key is in memory and which nobody falls back to. Digest and salt length are a [`pss::Scheme`].
//! * **Opening**: [`Opener`] = a [`CertStore`] + a [`Policy`], which is closed by default. There is no way to get at a
//!   body without verifying it, except [`envelope::dangerous_inspect_unverified`].
//! * **Certificates**: [`Certificate`], whose [`id`](Certificate::id) is Celery's signer id; [`MemoryCertStore`] and
//!   [`FsCertStore`]; [`issue`] makes self-signed ones and requests.
//! * **Encryption**: [`fernet`], what Python's `cryptography.fernet` reads and writes.
//! * **Whole messages**: [`message`] signs, encrypts, or signs and encrypts a message with its headers and properties.
//! * **Errors**: one type per boundary in [`error`], each with an [`ErrorClass`] to decide by.
//!
//! # What it refuses to do
//!
//! * Fall back: from a token to memory, from a wanted salt to another, from a sealed message to an unsigned one.
//! * Use a key that can be read out of its token, or try a PIN again that the token has called wrong.
//! * Believe a content type because a message says so. The signature of Celery's formats covers the body alone: see the
//!   [threat model](https://docs.rs/crate/taskseal/latest/source/docs/threat-model.md) for what that leaves open.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `pkcs11` | yes | keys on PKCS#11 tokens |
//! | `software` | yes | keys in memory |
//! | `metrics` | no | counts and times of keys on tokens through the facade `metrics` |
//!
//! With `default-features = false, features = ["pkcs11"]` no code that loads or generates a private key in memory is
//! compiled in. A test proves it.

mod base64;
pub mod certificate;
pub mod envelope;
pub mod error;
pub mod fernet;
mod hex;
pub mod issue;
pub mod message;
pub mod open;
mod pem;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod pss;
pub mod public_key;
mod refusals;
pub mod seal;
pub mod secret;
pub mod signer;
pub mod store;
pub mod tally;

// Sealing and opening.
pub use envelope::{Envelope, Format};
pub use open::{Opened, Opener, Policy};
pub use seal::{Sealed, Sealer};

// Encryption and whole messages.
pub use fernet::{Fernet, MultiFernet};
pub use message::{Destination, KombuMessage, MessageOpener, MessageSealer};

// Signers.
#[cfg(feature = "pkcs11")]
pub use pkcs11::{Pkcs11Key, Pkcs11Signer, Uri as Pkcs11Uri};
pub use signer::failover::FailoverSigner;
#[cfg(feature = "software")]
pub use signer::software::{SoftwareKey, SoftwareSigner};
pub use signer::{Signature, Signer, SigningKey};

// Certificates.
pub use certificate::Certificate;
pub use public_key::PublicKey;
pub use store::fs::FsCertStore;
pub use store::{CertStore, MemoryCertStore};

// Errors.
pub use certificate::{BadSignature, CertificateError};
pub use envelope::EnvelopeError;
pub use error::ErrorClass;
pub use fernet::FernetError;
pub use fernet::body::BodyError;
pub use issue::IssueError;
pub use message::{BoundError, KombuError, MessageError, MessageSealError, ReplayError};
pub use open::{NotIgnorable, OpenError};
pub use pss::SchemeError;
pub use public_key::PublicKeyError;
pub use seal::SealError;
pub use signer::SignError;
pub use signer::failover::FailoverError;
#[cfg(feature = "software")]
pub use signer::software::KeyError;
pub use store::StoreError;

#[cfg(all(doctest, feature = "pkcs11"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "software"))]
#[doc = include_str!("../docs/encryption.md")]
struct Encryption;
