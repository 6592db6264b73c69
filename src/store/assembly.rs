//! [`Assembly`]: the one set of signers that the files of a store make together.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::error::StoreError;
use super::reading::Found;
use super::role::{Issued, Role};
use super::set::CertSet;
use crate::certificate::{Certificate, rfc3339};

/// What an [`FsCertStore`](crate::FsCertStore) does with an expired certificate at the start. Later on they are left to the opener, which
/// refuses what was signed under them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ExpiredCertificates {
    /// Refuse to load, as Celery does.
    #[default]
    Refuse,
    /// Leave it out, with a warning in the log, then and later.
    Skip,
    /// Take it; messages signed under it are refused when they are opened.
    Keep,
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) set: CertSet,
    /// Why a certificate that is meant to be a signer's is not in the set.
    pub(super) problems: Vec<StoreError>,
    /// How many certificates are there for a chain alone.
    pub(super) chain: usize,
}

/// What to do with certificates that have expired, and when that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expiry {
    pub(super) expired: ExpiredCertificates,
    pub(super) at: SystemTime,
}

impl Assembly {
    /// Of what the files give now, and of what those in trouble gave before. What is there now comes first. Of `past`,
    /// nothing counts but who issued it.
    pub(super) fn new<'a>(
        found: impl Iterator<Item = &'a Found> + Clone,
        kept: impl Iterator<Item = &'a Found> + Clone,
        past: impl Iterator<Item = &'a Found>,
        expiry: Expiry,
    ) -> Self {
        let all = found.clone().chain(kept.clone()).chain(past);
        let issued = Issued::new(all.map(|one| &one.link));
        let mut assembly = Self::default();
        let mut ambiguous = HashSet::new();
        for one in found {
            if !role(one, &issued).is_signer() {
                assembly.chain += 1;
            } else if let Some(error) = assembly.add(one, expiry) {
                if let StoreError::Duplicate { id, .. } = &error {
                    ambiguous.insert(id.clone());
                }
                assembly.problems.push(error);
            }
        }
        for one in kept.filter(|one| role(one, &issued).is_signer()) {
            // Whatever is wrong with it was said when it was there.
            let _ = assembly.add(one, expiry);
        }
        for id in &ambiguous {
            assembly.set.remove(id);
        }
        assembly
    }

    fn add(&mut self, found: &Found, expiry: Expiry) -> Option<StoreError> {
        let certificate = match &found.certificate {
            Ok(certificate) => certificate,
            Err(error) => return Some(error.clone()),
        };
        match expiry.takes(certificate, found) {
            Ok(true) => {
                let origin = Arc::clone(&found.path);
                self.set.insert(certificate.clone(), Some(origin)).err()
            }
            Ok(false) => None,
            Err(error) => Some(error),
        }
    }
}

/// What a certificate counts as, as far as the whole store says.
pub(super) fn role(found: &Found, issued: &Issued<'_>) -> Role {
    match found.role {
        Role::Signer if found.link.is_authority && issued.by(&found.link) => {
            Role::AuthorityOfOthers
        }
        // Alone in its file. One that signed itself may be a signer's: `openssl req -x509` makes them so.
        Role::Signer if found.link.is_authority && !found.link.is_self_issued() => Role::Authority,
        role => role,
    }
}

impl Expiry {
    fn takes(self, certificate: &Certificate, found: &Found) -> Result<bool, StoreError> {
        if !certificate.has_expired(self.at) {
            return Ok(true);
        }
        match self.expired {
            ExpiredCertificates::Keep => Ok(true),
            ExpiredCertificates::Skip => {
                tracing::warn!(
                    file = %found.path.display(),
                    certificate = certificate.id(),
                    not_after = rfc3339(certificate.not_after()),
                    "expired certificate skipped"
                );
                Ok(false)
            }
            ExpiredCertificates::Refuse => Err(StoreError::Expired {
                path: found.path.to_path_buf(),
                id: certificate.id().to_owned(),
                not_after: certificate.not_after(),
            }),
        }
    }
}
