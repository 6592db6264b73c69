//! Keys in memory, and certificates for them.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use taskseal::issue;
use taskseal::pss::Scheme;
use taskseal::{Certificate, MemoryCertStore, Opener, Signer, SoftwareKey, SoftwareSigner};

/// PKCS#8 of one key of each size, made once per process: 2048, 3072, 4096 bits.
static PKCS8: [LazyLock<Vec<u8>>; 3] = [
    LazyLock::new(|| generate(KeySize::Rsa2048)),
    LazyLock::new(|| generate(KeySize::Rsa3072)),
    LazyLock::new(|| generate(KeySize::Rsa4096)),
];

/// Another 2048-bit key.
static OTHER: LazyLock<Vec<u8>> = LazyLock::new(|| generate(KeySize::Rsa2048));

fn generate(size: KeySize) -> Vec<u8> {
    let pair = KeyPair::generate(size).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    der.as_ref().to_vec()
}

/// The PKCS#8 of the key of that size.
pub fn pkcs8(bits: usize) -> &'static [u8] {
    match bits {
        2048 => &PKCS8[0],
        3072 => &PKCS8[1],
        4096 => &PKCS8[2],
        other => panic!("no key of {other} bits here"),
    }
}

/// The key of that size.
pub fn key(bits: usize, scheme: Scheme) -> SoftwareKey {
    SoftwareKey::from_pkcs8(pkcs8(bits), scheme).unwrap()
}

/// A 2048-bit key that is not [`key`]'s.
pub fn other_key(scheme: Scheme) -> SoftwareKey {
    SoftwareKey::from_pkcs8(&OTHER, scheme).unwrap()
}

/// A certificate for a key, valid from an hour ago for a day.
pub fn certificate(key: &SoftwareKey, subject: &str) -> Certificate {
    let now = SystemTime::now();
    issue::self_sign(key, subject, now - hours(1), now + hours(24)).unwrap()
}

/// A signer of that size with a certificate valid now.
pub fn signer(bits: usize, scheme: Scheme, subject: &str) -> Arc<dyn Signer> {
    let key = key(bits, scheme);
    let certificate = certificate(&key, subject);
    Arc::new(SoftwareSigner::new(key, certificate).unwrap())
}

/// An opener that trusts this certificate.
pub fn opener(certificate: &Certificate) -> Opener {
    let store = MemoryCertStore::new();
    store.add(certificate.clone()).unwrap();
    Opener::new(store)
}

/// So many hours.
pub fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// The certificate with the serial number 2^120 + `serial`. Its own signature no longer verifies; a store, which trusts
/// certificates as they are, does not look at it.
pub fn with_serial(certificate: &Certificate, serial: u64) -> Certificate {
    Certificate::from_der(&patch_serial(certificate.der(), serial)).unwrap()
}

/// Writes over the 16 bytes of the serial number that `issue::self_sign` makes.
fn patch_serial(der: &[u8], serial: u64) -> Vec<u8> {
    // [0] version 2 (v3), then INTEGER of 16 bytes.
    const BEFORE: [u8; 7] = [0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x10];
    let at = der
        .windows(BEFORE.len())
        .position(|window| window == BEFORE)
        .unwrap()
        + BEFORE.len();
    let mut der = der.to_vec();
    // 2^120 added keeps the length of the INTEGER minimal for any number.
    der[at..at + 16].copy_from_slice(&((1_u128 << 120) + u128::from(serial)).to_be_bytes());
    der
}
