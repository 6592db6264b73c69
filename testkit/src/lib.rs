#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod library;
mod softhsm;

pub use crate::error::Error;
pub use crate::softhsm::{SoftHsm, SoftHsmOptions};
