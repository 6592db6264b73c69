//! Whole messages: [`MessageSealer`] signs, encrypts, or signs and then encrypts a message as it goes to the broker, with its
//! body, headers, properties and content type. [`MessageOpener`] is the other side.
//!
//! | form | what the broker stores | hides | proves |
//! |---|---|---|---|
//! | [`encrypted`](MessageSealer::encrypted) | one Fernet token over the JSON | everything | that a holder of the Fernet key made it |
//! | [`signed`](MessageSealer::signed) | one envelope in base64 | nothing | who sent it, when, and to which destination |
//! | [`signed_and_encrypted`](MessageSealer::signed_and_encrypted) | one Fernet token over the envelope | everything | who sent it, when, and to which destination |
//!
//! The first is what the plain scheme of "one Fernet token in place of the JSON" stores, and is read by it. In the signed
//! forms the signature covers the message together with the time, an id, and the destination: see [`BOUND_CONTENT_TYPE`] and
//! `docs/wire-format.md`. An opener takes the form that it was made for and no other.
//!
//! ```
//! # #[cfg(feature = "software")] {
//! # use std::sync::Arc;
//! # use taskseal::fernet::{Fernet, MultiFernet, software::SoftwareKeys};
//! # use taskseal::{Certificate, MemoryCertStore, Opener, SoftwareKey, SoftwareSigner, pss::Scheme};
//! use taskseal::message::{Destination, KombuMessage, MessageOpener, MessageSealer};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let key = SoftwareKey::from_pem(include_bytes!("../docs/examples/worker.key"), None, Scheme::default())?;
//! # let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
//! # let store = MemoryCertStore::new();
//! # store.add(certificate.clone())?;
//! # let signer = Arc::new(SoftwareSigner::new(key, certificate)?);
//! # let fernet = MultiFernet::from(Fernet::new(SoftwareKeys::generate()?));
//! let mut message = KombuMessage::new(b"[[1, 2], {}, {}]", "application/json", "utf-8");
//! message.headers_mut().set("task", "tasks.add")?;
//!
//! let sealer = MessageSealer::signed_and_encrypted(signer, fernet.clone());
//! let to = Destination::any().with_routing_key("celery").with_queue("celery");
//! let stored = sealer.seal(&message, &to)?;
//!
//! let opener = MessageOpener::signed_and_encrypted(Opener::new(store), fernet);
//! let opened = opener.open(stored.as_bytes(), &[Destination::any().with_queue("celery")])?;
//! assert_eq!(opened.message()?.headers().get::<String>("task").unwrap()?, "tasks.add");
//! # Ok(()) }
//! # main().unwrap();
//! # }
//! ```
//!
//! # Domains
//!
//! The same keys may serve two places: staging and production, two databases, two virtual hosts. A sealer with a domain
//! ([`with_domain`](MessageSealer::with_domain)) makes messages and payloads that an opener of that domain alone takes.
//!
//! # Payloads
//!
//! Anything else is sealed by the same means with [`seal_payload`](MessageSealer::seal_payload), which binds it to a purpose
//! and a context: a task's result to `result` and the task's id, for example. What was sealed for one purpose or context
//! does not open for another.

pub(crate) mod bound;
mod clock;
mod destination;
mod error;
mod eta;
mod kombu;
mod open;
mod opened;
mod replay;
mod seal;

pub use bound::{BOUND_CONTENT_TYPE, BoundError, MessageId};
pub use clock::{ClockWatch, Evidence, Judgement, Step};
pub use destination::Destination;
pub use error::{MessageError, MessageSealError};
pub use kombu::{Fields, KombuError, KombuMessage};
pub use open::MessageOpener;
pub use opened::{OpenedMessage, Timing, UntimedMessage};
pub use replay::{MemoryReplay, Recall, ReplayError, ReplayKey, ReplayMemory};
pub use seal::MessageSealer;
