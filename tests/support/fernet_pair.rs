//! Fernet's two keys on a token, and the same in memory.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use taskseal::fernet::software::SoftwareKeys;
use taskseal::fernet::{Fernet, FernetError};
use taskseal::pkcs11::module::MechanismKind;
use taskseal::pkcs11::{self, Builder, Error};

use super::fault::{Fault, Faults};
use super::softhsm::Token;

/// A Fernet key as its bytes, for tests.
pub const KEY: [u8; 32] = *b"signing 16 bytesencrypt 16 bytes";

/// For what has this label on the token.
pub fn named(token: &Token, label: &str) -> Builder {
    token.builder().object_label(label)
}

/// The same key on a token that leaves padding to us and on one that pads, whatever it is given.
pub fn both(token: &Token, key: &[u8; 32]) -> [Fernet; 2] {
    pkcs11::import_fernet_keys(&named(token, "queue"), key).unwrap();
    let pads = offering_all_but(token, &[MechanismKind::AesCbc]);
    let builders = [named(token, "queue"), pads];
    builders.map(|builder| Fernet::new(builder.open_fernet_keys().unwrap()))
}

/// For the pair `queue` behind a module that neither offers these mechanisms nor does them.
pub fn offering_all_but(token: &Token, not_offered: &[MechanismKind]) -> Builder {
    let (builder, spy) = token.spied();
    spy.hooks.lock().unwrap().not_offered = not_offered.to_vec();
    builder.object_label("queue")
}

/// [`KEY`] on a token, to be opened.
pub fn imported(token: &Token) -> Builder {
    let builder = named(token, "q");
    pkcs11::import_fernet_keys(&builder, &KEY).unwrap();
    builder
}

/// A pair on a token behind a module that gets faults.
pub fn faulted(token: &Token) -> (Fernet, Arc<Faults>) {
    faulted_with(token, [])
}

/// The same, with these faults when the pair is opened and encrypts for the first time.
pub fn faulted_with<const N: usize>(token: &Token, first: [Fault; N]) -> (Fernet, Arc<Faults>) {
    let _ = imported(token);
    let (builder, faults) = token.faulty();
    faults.script("C_Encrypt", first);
    let keys = builder
        .object_label("q")
        .deadline(Duration::from_secs(2))
        .open_fernet_keys()
        .unwrap();
    (Fernet::new(keys), faults)
}

/// [`KEY`] in memory.
pub fn in_memory() -> Fernet {
    Fernet::new(SoftwareKeys::from_bytes(&KEY).unwrap())
}

/// The error of the token's side under a Fernet error.
pub fn cause(error: &FernetError) -> &Error {
    error.source().unwrap().downcast_ref().unwrap()
}
