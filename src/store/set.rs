//! [`CertSet`]: certificates by id; and [`Snapshot`], a set that nobody changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use super::error::{Described, StoreError};
use super::lookup::{CertStore, Lookup};
use crate::certificate::Certificate;

/// Certificates by id, with the files they came from.
#[derive(Debug, Default, Clone)]
pub(super) struct CertSet {
    by_id: HashMap<Box<str>, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    certificate: Certificate,
    origin: Option<Arc<Path>>,
}

impl CertSet {
    /// Adds a certificate. The same one may be added many times.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when another one of that id is there.
    pub(super) fn insert(
        &mut self,
        certificate: Certificate,
        origin: Option<Arc<Path>>,
    ) -> Result<(), StoreError> {
        match self.by_id.entry(certificate.id().into()) {
            Entry::Vacant(place) => {
                place.insert(Held {
                    certificate,
                    origin,
                });
                Ok(())
            }
            Entry::Occupied(held) if held.get().certificate == certificate => Ok(()),
            Entry::Occupied(held) => Err(StoreError::Duplicate {
                id: certificate.id().to_owned(),
                first: Box::new(Described::new(
                    &held.get().certificate,
                    held.get().origin.clone(),
                )),
                second: Box::new(Described::new(&certificate, origin)),
            }),
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Certificate> {
        self.by_id.get(id).map(|held| &held.certificate)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Certificate> {
        self.by_id.remove(id).map(|held| held.certificate)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn certificates(&self) -> Vec<Certificate> {
        let mut all: Vec<_> = self
            .by_id
            .values()
            .map(|held| held.certificate.clone())
            .collect();
        all.sort_by(|a, b| a.id().cmp(b.id()));
        all
    }
}

/// A store at one moment: it never changes, and a lookup takes no lock.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Arc<State>);

#[derive(Debug, Clone, Default)]
struct State {
    set: CertSet,
    unsettled: Option<Arc<str>>,
}

impl Snapshot {
    pub(super) fn new(set: CertSet, unsettled: Option<Arc<str>>) -> Self {
        Self(Arc::new(State { set, unsettled }))
    }

    pub(super) fn set_mut(&mut self) -> &mut CertSet {
        &mut Arc::make_mut(&mut self.0).set
    }

    /// How many certificates it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.set.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both are the store at one and the same moment. Two moments may hold the same certificates.
    #[must_use]
    pub fn is_same_moment(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Why it cannot be told whether a signer that is not here is unknown, if that is so.
    #[must_use]
    pub fn unsettled(&self) -> Option<&str> {
        self.0.unsettled.as_deref()
    }

    /// The certificates of `self` that `other` does not hold, ordered by id.
    pub(super) fn missing_from(&self, other: &Self) -> Vec<Certificate> {
        let mut all = self.certificates();
        all.retain(|certificate| other.0.set.get(certificate.id()) != Some(certificate));
        all
    }
}

impl CertStore for Snapshot {
    fn lookup(&self, id: &str) -> Lookup {
        match (self.0.set.get(id), &self.0.unsettled) {
            (Some(certificate), _) => Lookup::Found(certificate.clone()),
            (None, Some(reason)) => Lookup::Unsettled(Arc::clone(reason)),
            (None, None) => Lookup::Unknown,
        }
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.0.set.certificates()
    }
}
