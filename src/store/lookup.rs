//! [`CertStore`]: what every store answers.

use std::fmt;
use std::sync::Arc;

use crate::certificate::Certificate;

/// Looks a signer id up. A certificate in a store is trusted as it is; whether it is valid *now* is checked by whoever
/// opens a message, on every message.
///
/// Implementers owe: `lookup` takes the same time whatever the store holds, and what it finds has exactly that id.
pub trait CertStore: Send + Sync + fmt::Debug {
    /// The certificate of that id ([`Certificate::id`]), if the store has it.
    fn lookup(&self, id: &str) -> Lookup;

    /// All certificates at this moment, ordered by id.
    fn certificates(&self) -> Vec<Certificate>;

    /// The certificate of that id, if the store has it now.
    fn get(&self, id: &str) -> Option<Certificate> {
        match self.lookup(id) {
            Lookup::Found(certificate) => Some(certificate),
            Lookup::Unknown | Lookup::Unsettled(_) => None,
        }
    }
}

/// What a store says of a signer id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Lookup {
    /// The signer's certificate.
    Found(Certificate),
    /// There is no such signer.
    Unknown,
    /// There is none now, and that says nothing: a part of the store cannot be read, for this reason. A message of such a
    /// signer is not to be lost.
    Unsettled(Arc<str>),
}

impl<S: CertStore + ?Sized> CertStore for Arc<S> {
    fn lookup(&self, id: &str) -> Lookup {
        (**self).lookup(id)
    }

    fn certificates(&self) -> Vec<Certificate> {
        (**self).certificates()
    }

    fn get(&self, id: &str) -> Option<Certificate> {
        (**self).get(id)
    }
}
