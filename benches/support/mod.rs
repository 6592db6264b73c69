//! What the benchmarks share: the example key, messages, and a way to compare two things on a noisy machine.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

pub mod celery;
pub mod compare;
pub mod fernet;
#[cfg(feature = "pkcs11")]
pub mod token;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::RsaKeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use taskseal::pss::Scheme;
use taskseal::{Certificate, Opener, Policy, Sealer, SoftwareKey, SoftwareSigner};

/// Says why something is not measured.
#[allow(clippy::print_stderr)]
pub fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// The example's RSA-2048 key.
pub fn key_pem() -> &'static [u8] {
    include_bytes!("../../docs/examples/worker.key")
}

pub fn certificate() -> Certificate {
    Certificate::from_pem(include_bytes!("../../docs/examples/worker.pem")).unwrap()
}

/// The same key as `aws-lc-rs` has it, without anything of ours.
pub fn bare_key() -> RsaKeyPair {
    let der = PrivateKeyDer::from_pem_slice(key_pem()).unwrap();
    RsaKeyPair::from_pkcs8(der.secret_der()).unwrap()
}

pub fn sealer(scheme: Scheme) -> Sealer {
    let key = SoftwareKey::from_pem(key_pem(), None, scheme).unwrap();
    Sealer::new(Arc::new(SoftwareSigner::new(key, certificate()).unwrap()))
}

/// An opener with a store on the disk, as in production, that takes messages of any size used here.
pub fn opener() -> Opener {
    let store = taskseal::FsCertStore::open(root().join("docs/examples/worker.pem")).unwrap();
    Opener::new(store).with_policy(Policy::new().max_message_len(128 * MIB))
}

/// A body of so many bytes that is JSON: text that needs no escapes.
pub fn body(len: usize) -> Vec<u8> {
    let text = b"The quick brown fox jumps over the lazy dog 0123456789. ";
    let mut body = vec![b'"'];
    body.extend(text.iter().cycle().take(len - 2));
    body.push(b'"');
    body
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file under `target/`, where results are left.
pub fn result_file(name: &str) -> PathBuf {
    let directory = root().join("target/bench");
    std::fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}
