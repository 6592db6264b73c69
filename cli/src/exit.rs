//! Exit codes.

/// The command did what it was asked for.
pub(crate) const DONE: u8 = 0;
/// A message was refused, or something failed.
pub(crate) const FAILED: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// `doctor` has found something to look after, and nothing that fails.
#[cfg(feature = "pkcs11")]
pub(crate) const WARNED: u8 = 3;
