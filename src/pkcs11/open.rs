//! Opening a key, with or without its certificate.

use std::sync::Arc;

use super::builder::{Builder, CertificateChoice};
use super::certificates::certificate_of;
use super::error::Error;
use super::find::{FoundKey, KeyFilter, Match, find_key};
use super::key::{Opened, Pkcs11Key};
use super::module::ModuleSession;
use super::pool::Ready;
use super::recovery::Connection;
use super::session::Access;
use super::signer::Pkcs11Signer;
use super::uri::{ObjectType, Uri};
use crate::certificate::Certificate;
use crate::signer::{SignError, SigningKey as _, check_pair};

impl Builder {
    /// Opens the key that the label and id name, without a certificate.
    ///
    /// # Errors
    /// [`Error`]: module, token, PIN, key or scheme.
    pub fn open_key(&self) -> Result<Pkcs11Key, Error> {
        let filter = self.key_filter()?;
        let (key, ()) = self.open_found(move |access, session| {
            let key = find_key(access, session, &filter)?;
            Ok(Ok::<_, Error>((key, ())))
        })?;
        tracing::info!(key = key.name(), token = %key.token(), scheme = %key.scheme(), path = key.signature_path().as_str(), "key opened");
        Ok(key)
    }

    /// Opens the signer with this certificate.
    ///
    /// # Errors
    /// As for [`Pkcs11Signer::open`].
    pub fn open_signer(self, certificate: Certificate) -> Result<Pkcs11Signer, SignError> {
        self.certificate(certificate).open()
    }

    /// Opens the signer with the certificate that was chosen by [`certificate`](Self::certificate) or
    /// [`certificate_from_token`](Self::certificate_from_token).
    ///
    /// # Errors
    /// As for [`Pkcs11Signer::open`]; [`Error::NoCertificate`] when none was chosen.
    pub fn open(&self) -> Result<Pkcs11Signer, SignError> {
        let mut filter = self.key_filter()?;
        let chosen = self.certificate.clone();
        let mismatch = |certificate: &Certificate| SignError::KeyMismatch {
            certificate: certificate.id().to_owned(),
        };
        let (key, certificate) = self.open_found(move |access, session| match &chosen {
            CertificateChoice::None => Ok(Err(SignError::from(Error::NoCertificate))),
            CertificateChoice::Given(certificate) => {
                filter.public_key = Some(certificate.public_key().clone());
                Ok(match filter.find(access, session)? {
                    Match::One(key) => Ok((*key, certificate.clone())),
                    Match::Other(_) => Err(mismatch(certificate)),
                })
            }
            CertificateChoice::FromToken => {
                let key = find_key(access, session, &filter)?;
                let certificate = certificate_of(access, session, &key.info)?;
                let key = key.with_half(certificate.public_key(), true);
                let key = key.ok_or_else(|| mismatch(&certificate));
                Ok(key.map(|key| (key, certificate)))
            }
        })?;
        check_pair(
            key.public_key(),
            &certificate,
            key.scheme(),
            self.options.sizes,
        )?;
        tracing::info!(
            signer = certificate.id(),
            key = key.name(),
            token = %key.token(),
            bits = key.public_key().bits(),
            scheme = %key.scheme(),
            path = key.signature_path().as_str(),
            "signer opened: the key is on a token"
        );
        Ok(Pkcs11Signer::new(key, certificate))
    }

    /// Opens a session on a thread of its own and finds the key in it, all within the deadline. What may pass by itself
    /// is tried again.
    fn open_found<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        mut find: impl FnMut(&Access, &dyn ModuleSession) -> Result<Result<(FoundKey, T), E>, Error>
        + Send
        + 'static,
    ) -> Result<(Pkcs11Key, T), E> {
        let deadline = self.deadline_from_now();
        let connection = Arc::new(Connection::new(&self.place, self.options.limits)?);
        let (place, theirs) = (self.place.clone(), connection.clone());
        let (access, found, with) = connection.run(deadline, move |line, _| {
            theirs.climb_to_open(deadline, |step| {
                let access = theirs.access(&place, None, true, deadline)?;
                let (session, stamp) = access.open(false, step.login, deadline)?;
                let found = find(&access, session.as_ref())?;
                Ok(found.map(|(found, with)| {
                    line.ready = Some(Ready {
                        session,
                        keys: found.handle,
                        stamp,
                    });
                    (access, found, with)
                }))
            })?
        })?;
        let opened = Opened {
            place: self.place.clone(),
            connection,
            access,
            deadline,
        };
        Ok((Pkcs11Key::new(opened, found, &self.options)?, with))
    }

    pub(super) fn key_filter(&self) -> Result<KeyFilter, Error> {
        if let Some(other) = self.object_type.filter(|kind| *kind != ObjectType::Private) {
            return Err(Error::Argument(format!(
                "type={} names no private key; leave type out of the URI or write type=private",
                other.as_str()
            )));
        }
        Ok(KeyFilter {
            label: self.label.clone(),
            id: self.id.clone(),
            public_key: None,
        })
    }
}

impl Pkcs11Key {
    /// Opens the key that `uri` names, with the default choices of the [`Builder`].
    ///
    /// # Errors
    /// [`Error`]: module, token, PIN, key or scheme.
    pub fn open(uri: &Uri) -> Result<Self, Error> {
        Builder::new().uri(uri).open_key()
    }
}

impl Pkcs11Signer {
    /// Opens the key that `uri` names and that belongs to `certificate`, with the default choices of the [`Builder`].
    ///
    /// # Errors
    /// [`SignError::KeyMismatch`] when the key that the URI names is not the certificate's, else [`SignError::Token`]
    /// and [`SignError::Scheme`].
    pub fn open(uri: &Uri, certificate: Certificate) -> Result<Self, SignError> {
        Self::builder().uri(uri).open_signer(certificate)
    }

    /// Starts with the default choices.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }
}
