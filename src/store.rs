//! [`CertStore`]: hands out the certificates that messages are verified with.

mod assembly;
mod error;
mod files;
pub mod fs;
mod lookup;
mod memory;
mod reading;
mod role;
mod set;
mod shelf;

pub use self::error::{Described, StoreError};
pub use self::lookup::{CertStore, Lookup};
pub use self::memory::MemoryCertStore;
pub use self::role::Role;
pub use self::set::Snapshot;
