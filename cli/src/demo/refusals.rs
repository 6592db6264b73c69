//! Messages that must not be opened, and the reasons for which they are refused.

use std::sync::Arc;

use serde::Serialize;
use taskseal::envelope::dangerous_inspect_unverified;
use taskseal::pkcs11::Pkcs11Signer;
use taskseal::store::fs::{ExpiredCertificates, Options};
use taskseal::{Envelope, Format, OpenError, Opened, Opener, Sealed, Sealer, Signer as _};

use super::place::{BODY, Place, broken};
use super::show::Show;
use crate::failure::Failure;

/// Who and what takes part.
pub(super) struct Cast<'a> {
    pub(super) place: &'a Place,
    /// With the default policy and the worker's certificate.
    pub(super) opener: &'a Opener,
    /// The good message.
    pub(super) sealed: &'a Sealed,
    pub(super) sealer: &'a Sealer,
    /// Somebody with a key and a certificate that are not in the store.
    pub(super) stranger: Arc<Pkcs11Signer>,
    /// The worker's key under an expired certificate.
    pub(super) expired: Arc<Pkcs11Signer>,
}

/// A message that was refused.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    what: &'static str,
    reason: &'static str,
    error: String,
}

/// Tries every one of them.
pub(super) fn try_all(cast: &Cast<'_>, show: &Show) -> Result<Vec<Refusal>, Failure> {
    let refused = vec![
        flipped_bit(cast)?,
        unknown_signer(cast)?,
        borrowed_name(cast)?,
        expired_certificate(cast)?,
        forbidden_content_type(cast)?,
        unsigned(cast)?,
    ];
    for refusal in &refused {
        show.refused(refusal.what, refusal.reason, &refusal.error)?;
    }
    Ok(refused)
}

fn flipped_bit(cast: &Cast<'_>) -> Result<Refusal, Failure> {
    let wire = repacked(cast.sealed, |envelope, wire| {
        let mut body = envelope.body.to_vec();
        if let Some(byte) = body.get_mut(3) {
            *byte ^= 1;
        }
        wire(&Envelope {
            body: &body,
            ..*envelope
        })
    })?;
    refused(
        "one bit of the body flipped",
        "bad-signature",
        cast.opener.open(&wire),
    )
}

fn unknown_signer(cast: &Cast<'_>) -> Result<Refusal, Failure> {
    let sealed = Sealer::new(cast.stranger.clone()).seal_bytes(BODY.as_bytes())?;
    let result = cast.opener.open(sealed.as_bytes());
    refused(
        "a message of a signer that nobody trusts",
        "unknown-signer",
        result,
    )
}

fn borrowed_name(cast: &Cast<'_>) -> Result<Refusal, Failure> {
    let theirs = Sealer::new(cast.stranger.clone()).seal_bytes(BODY.as_bytes())?;
    let worker = cast.sealer.signer().certificate().id();
    let wire = repacked(&theirs, |envelope, wire| {
        wire(&Envelope {
            signer_id: worker,
            ..*envelope
        })
    })?;
    let result = cast.opener.open(&wire);
    refused("the same, under the worker's name", "bad-signature", result)
}

fn expired_certificate(cast: &Cast<'_>) -> Result<Refusal, Failure> {
    // A store of its own, told to keep what has expired: by default it would not even load.
    let path = cast.place.directory.join("expired.pem");
    std::fs::write(&path, cast.expired.certificate().to_pem())
        .map_err(|error| Failure::file("write", &path, &error))?;
    let store = Options::new()
        .expired(ExpiredCertificates::Keep)
        .open(&path)?;
    let sealed = Sealer::new(cast.expired.clone()).seal_bytes(BODY.as_bytes())?;
    let opener = Opener::new(store);
    refused(
        "a certificate that ended yesterday",
        "expired",
        opener.open(sealed.as_bytes()),
    )
}

fn forbidden_content_type(cast: &Cast<'_>) -> Result<Refusal, Failure> {
    // What Celery registers pickle under. Unpickling runs whatever the sender wants.
    let sealer = cast
        .sealer
        .clone()
        .with_content("application/x-python-serialize", "binary");
    let sealed = sealer.seal_bytes(b"\x80\x05N.")?;
    let result = cast.opener.open(sealed.as_bytes());
    refused("a pickle, signed by the worker", "content-type", result)
}

fn unsigned(cast: &Cast<'_>) -> Result<Refusal, Failure> {
    let result = cast
        .opener
        .open_message("application/json", BODY.as_bytes());
    refused("the body alone, not signed at all", "not-sealed", result)
}

/// The parts of a message, changed and packed again.
fn repacked(
    sealed: &Sealed,
    change: impl FnOnce(
        &Envelope<'_>,
        &dyn Fn(&Envelope<'_>) -> Result<Vec<u8>, Failure>,
    ) -> Result<Vec<u8>, Failure>,
) -> Result<Vec<u8>, Failure> {
    let unpacked = dangerous_inspect_unverified(sealed.as_bytes(), Some(Format::Celery))?;
    change(&unpacked.envelope(), &|envelope| {
        Ok(Format::Celery.pack(envelope)?)
    })
}

/// A refusal for exactly that reason; anything else breaks the demo's promise.
fn refused(
    what: &'static str,
    reason: &'static str,
    result: Result<Opened<'_>, OpenError>,
) -> Result<Refusal, Failure> {
    match result {
        Err(error) if error.reason() == reason => Ok(Refusal {
            what,
            reason,
            error: error.to_string(),
        }),
        Err(error) => Err(broken(&format!(
            "{what}: refused, but for {}: {error}",
            error.reason()
        ))),
        Ok(_) => Err(broken(&format!("{what}: it was opened"))),
    }
}
