//! [`MemoryCertStore`]: filled by the program itself.

use std::sync::{PoisonError, RwLock};

use super::error::StoreError;
use super::lookup::{CertStore, Lookup};
use super::set::Snapshot;
use crate::certificate::Certificate;

/// A [`CertStore`] in memory, filled by the program itself.
///
/// ```
/// use taskseal::{Certificate, CertStore, MemoryCertStore};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryCertStore::new();
/// store.add(Certificate::from_pem(include_bytes!("../../docs/examples/worker.pem"))?)?;
/// assert!(store.get("Example CA worker-7 7").is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemoryCertStore {
    current: RwLock<Snapshot>,
}

impl MemoryCertStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a certificate, valid or not. The same one may be added many times.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] when the store holds another one of that id.
    pub fn add(&self, certificate: Certificate) -> Result<(), StoreError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.set_mut().insert(certificate, None)
    }

    /// Takes the certificate of that id out.
    pub fn remove(&self, id: &str) -> Option<Certificate> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.set_mut().remove(id)
    }

    /// The certificates at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl CertStore for MemoryCertStore {
    fn lookup(&self, id: &str) -> Lookup {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.lookup(id)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.snapshot().certificates()
    }
}
