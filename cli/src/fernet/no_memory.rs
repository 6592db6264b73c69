//! Stands where Fernet keys in memory would be: this build has no code that loads or makes one.

use std::path::Path;

use taskseal::{Fernet, MultiFernet};

use crate::failure::Failure;

pub(super) fn usual() -> Result<MultiFernet, Failure> {
    Err(refused("no key is named"))
}

pub(super) fn from_variable(name: &str) -> Result<Fernet, Failure> {
    Err(refused(&format!("the variable {name} is not read")))
}

pub(super) fn from_file(path: &Path) -> Result<Vec<Fernet>, Failure> {
    Err(refused(&format!("the file {} is not read", path.display())))
}

pub(super) fn generate(_: Option<&Path>) -> Result<(), Failure> {
    Err(refused("no key is made in memory"))
}

#[cfg(feature = "pkcs11")]
pub(super) fn bytes_of(
    _: &crate::args::source::FernetSource,
) -> Result<zeroize::Zeroizing<[u8; 32]>, Failure> {
    Err(refused("no key is imported"))
}

fn refused(what: &str) -> Failure {
    let text = format!(
        "{what}: this taskseal was built without code that loads keys into memory (feature software)"
    );
    Failure::permanent("key", text).hint("name keys in a token: --key 'pkcs11:token=…;object=…'")
}
