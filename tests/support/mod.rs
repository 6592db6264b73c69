//! What several integration tests need.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[cfg(feature = "software")]
pub mod keys;
pub mod python;
pub mod redis;
