//! The ten lines of Rust of the README. `KEY` is the URI of a key on a token, `trusted/worker.pem` its certificate.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use taskseal::pkcs11::PinSource;
use taskseal::{Certificate, FsCertStore, Opener, Pkcs11Signer, Pkcs11Uri, Sealer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri: Pkcs11Uri = std::env::var("KEY")?.parse()?;
    let certificate = Certificate::from_pem(&std::fs::read("trusted/worker.pem")?)?;
    let pin = PinSource::Env("TASKSEAL_PIN".into());
    let signer = Pkcs11Signer::builder()
        .uri(&uri)
        .pin(pin)
        .open_signer(certificate)?;
    let sealer = Sealer::new(Arc::new(signer));
    let sealed = sealer.seal(&serde_json::json!([[2, 3], {}, {}]))?;

    let opener = Opener::new(FsCertStore::open("trusted/*.pem")?);
    let opened = opener.open_message(sealed.content_type(), sealed.as_bytes())?;
    let body: serde_json::Value = opened.json()?;
    println!("{} signed {body}", opened.signer().id());
    Ok(())
}
