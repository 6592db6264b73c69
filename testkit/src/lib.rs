#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
pub mod faults;
mod library;
mod softhsm;
#[doc(hidden)]
pub mod wrap;

pub use crate::error::Error;
pub use crate::softhsm::{SoftHsm, SoftHsmOptions};
