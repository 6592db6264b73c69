//! What several integration tests need.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]

pub mod celery;
#[cfg(feature = "pkcs11")]
pub use taskseal_testkit::faults as fault;
#[cfg(feature = "software")]
pub mod fernet;
#[cfg(all(feature = "pkcs11", feature = "software"))]
pub mod fernet_pair;
#[cfg(all(feature = "pkcs11", unix))]
pub mod fork;
#[cfg(feature = "software")]
pub mod keys;
pub mod log;
#[cfg(feature = "pkcs11")]
pub mod matrix;
pub mod mutate;
pub mod odd;
#[cfg(feature = "software")]
pub mod pem_keys;
pub mod python;
#[cfg(feature = "pkcs11")]
pub mod recovery;
pub mod redis;
#[cfg(all(feature = "pkcs11", target_os = "linux"))]
pub mod remote;
#[cfg(feature = "pkcs11")]
pub mod softhsm;
#[cfg(feature = "pkcs11")]
pub mod spy;
pub mod worker;
