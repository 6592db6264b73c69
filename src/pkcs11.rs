//! RSA keys on PKCS#11 tokens: [`Pkcs11Signer`], and what is needed to make and find keys.
//!
//! The private key never leaves the token; what crosses to it is a hash. See `docs/hsm.md` for what is known of the
//! modules.
//!
//! ```no_run
//! use taskseal::pkcs11::{Pkcs11Signer, Uri};
//! use taskseal::{Certificate, Signer};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let uri: Uri = "pkcs11:token=payments;object=worker-7?module-name=softhsm2&pin-source=file:/run/secrets/pin".parse()?;
//! let certificate = Certificate::from_pem(&std::fs::read("worker-7.pem")?)?;
//! let signer = Pkcs11Signer::open(&uri, certificate)?;
//! let signature = signer.sign(b"a message")?;
//! # let _ = signature;
//! # Ok(())
//! # }
//! ```
//!
//! Rules that hold whatever the module does:
//!
//! * **A wrong PIN costs one try.** A PIN that the token refused is not shown to it again by this process; with one try
//!   left no login is made.
//! * **Keys that can be read are refused**, unless the unsafe choice is named.
//! * **Each signature is verified before it is released**; one that is not this key's is an error.
//! * **A signature ends within its deadline** ([`Builder::deadline`]), whatever the module does. A call that does not
//!   return is written off with its thread. So does making, importing and listing keys
//!   ([`Builder::provision_deadline`]), and what comes too late is destroyed again.
//! * **What can pass by itself is tried again**: with another session, another login, and a new start of the module, in
//!   this order. See `docs/hsm.md`.
//! * **One owner per module**: it is loaded once per process, started anew only by that owner and never while a call is
//!   inside, and no session but our own is ever closed or logged out.
//! * **Sessions are pooled**: at most `max_sessions`, opened one at a time, kept, and never put back after an error.
//! * **A forked child opens its own**: nothing that it inherits is called, closed or locked.

mod absence;
mod builder;
mod certificates;
mod connections;
mod errand;
pub(crate) mod error;
mod executor;
mod fernet;
mod filter;
mod find;
mod fork;
mod guard;
mod health;
mod import;
mod info;
mod inspect;
mod key;
mod ladder;
mod limits;
mod make;
#[doc(hidden)]
pub mod module;
mod open;
mod pin;
mod place;
mod pool;
mod process;
mod provision;
mod recovery;
mod rv;
mod session;
mod signer;
mod slots;
mod token;
mod trouble;
mod uri;
mod whereabouts;
mod worker;

pub use self::builder::Builder;
pub use self::certificates::TokenCertificate;
pub use self::error::{Error, TokenWanted};
pub use self::fernet::{
    Pkcs11FernetKeys, generate_fernet_keys, import_fernet_keys, list_secret_keys,
};
#[doc(hidden)]
pub use self::guard::{library, load, load_with};
pub use self::health::{Health, Histogram, Statistics};
pub use self::import::{find_certificates, import_certificate};
pub use self::info::{KeyInfo, SecretKeyInfo};
pub use self::inspect::{Inspection, Mechanism};
pub use self::key::{Pkcs11Key, SignaturePath};
pub use self::pin::{Pin, PinCallback, PinError, PinSource};
pub use self::provision::{NewKey, generate_key, init_token, list_keys, list_tokens};
pub use self::rv::Rv;
pub use self::session::forget_refused_pins;
pub use self::signer::Pkcs11Signer;
pub use self::token::{SessionCounts, SessionLimit, TokenFlags, TokenInfo};
pub use self::uri::{ObjectType, Uri, UriError};
